"""The examples of docs/PYTHON.md run as they are written, and answer what they say."""

import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_detection import PORTRAIT

from evaluation.evaluate import evaluate_batches
from models.checkpoint import PUBLISHED, load_model
from photos.predictor import AgePredictor

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/PYTHON.md").read_text(), re.DOTALL)


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A smooth picture, the current folder's photo.jpg."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((90, 90), Image.Resampling.BICUBIC)
    picture.save("photo.jpg", quality=95)
    return picture


def test_the_examples_run(photo, capsys):
    namespace = {}
    PORTRAIT.save("photo.jpg")
    for block in BLOCKS:
        exec(compile(block, "docs/PYTHON.md", "exec"), namespace)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5].startswith("(1, ") and lines[-5].endswith(")")
    assert lines[-4] == "photo.jpg 1"
    assert lines[-3].startswith("missing.jpg ")
    first, *others = map(float, lines[-2].strip("[]").split(", "))
    assert others == [first, first]
    assert lines[-1].endswith(" classes")
    assert len(BLOCKS) == 6


def test_arrays_and_tensors_are_the_same_photograph(photo):
    predictor, array = AgePredictor(detect=False), np.asarray(photo)
    grey = array[:, :, 1]
    [colour], [tensor], [image] = predictor([array, torch.from_numpy(array.copy()).movedim(-1, 0), photo])
    assert colour == tensor == image
    [flat], [single], [channel] = predictor([grey, grey[:, :, None], torch.from_numpy(grey.copy())[None]])
    assert flat == single == channel != colour


def test_features_are_those_in_front_of_the_last_layer(photo):
    predictor, array = AgePredictor(detect=False, precision="fp32"), np.asarray(photo)
    features, mirrored = (torch.from_numpy(predictor.embed(pixels)) for pixels in (array, array[:, ::-1].copy()))
    model = predictor.models[0]
    assert features.shape == (1, model.fc.in_features)
    with torch.inference_mode():
        temperature = model.record["temperature"]
        mean = (model.fc.probabilities(model.fc(torch.cat([features, mirrored])))).mean(0)
        probabilities = mean.log().div(temperature).softmax(0)
    [face] = predictor(array)
    assert list(face.probabilities.values()) == pytest.approx(probabilities.tolist(), abs=1e-4)


def test_metrics_of_any_batches():
    """Right by construction: the labels are the network's own answers, by hand, and then one class beside them."""
    model, images = (
        load_model(PUBLISHED),
        torch.randint(0, 256, (6, 3, 120, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    )
    size = (model.image_size, model.image_size)
    small = torch.nn.functional.interpolate(images.float(), size, mode="bilinear", antialias=True).round()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    with torch.inference_mode():
        own = model((small / 255 - mean) / std).argmax(1).clamp_max(99)
    assert evaluate_batches(model, [(images[:4], own[:4]), (images[4:], own[4:])])["top1"] == 1.0
    shifted = evaluate_batches(model, [(images, own + 1)])
    assert (shifted["top1"], shifted["one_off"], shifted["mae"]) == (0.0, 1.0, 1.0)
