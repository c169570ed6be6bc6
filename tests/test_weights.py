"""The model of this repository: the very file, small, with the very answers, and nothing of anybody's picture."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call

from models.checkpoint import PUBLISHED, load_model
from photos.predictor import AgePredictor
from tools import export

SHA256 = "48ca16c52a846e9190a66f9b9ca2efddcdc4f51d65f000f9f79cac195d033ed0"
AGES = [6.35, 23.73, 23.83, 23.1, 24.54]  # of pictures that show no face: any change of the network moves them


def drawn(seed):
    """A smooth picture, uint8 (64, 64, 3)."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")[0]
    return (255 * picture).round().byte().movedim(0, -1).numpy()


def test_it_is_this_file_and_small():
    content = Path(PUBLISHED).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    assert len(content) <= 4 * 2**20
    assert all(name in Path(PUBLISHED).with_name("README.md").read_text() for name in ("research only", "UTKFace"))


def test_its_answers():
    predictor = AgePredictor(detect=False, precision="fp32")
    assert predictor.notes == []
    ages = [face.age for [face] in predictor([drawn(seed) for seed in range(len(AGES))])]
    assert ages == pytest.approx(AGES, abs=0.2)
    [face] = predictor(drawn(3))
    first, last = map(int, face.group.split("-"))
    decade = sum(face.probabilities[str(year)] for year in range(first, last + 1))
    assert last == first + 9 and face.confidence == pytest.approx(decade)  # as the screen shows it


def test_it_holds_hashes_only():
    record = load_model(PUBLISHED).record
    assert record["train_pictures"].shape == (record["train_faces"], 32)
    assert record["train_people"] == [] and record["hashed_people"].shape == (record["train_faces"], 6)
    assert not {"label_dir", "image_dir", "run_dir"} & record["config"].keys()
    assert record["config"]["label_file"] == "release.csv"
    assert np.isfinite(list(record["metrics"].values())).all() and record["metrics"]["mae_years"] < 6


def test_an_export_leaves_its_card_alone(tmp_path, monkeypatch, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install -r requirements-export.txt")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in Path(PUBLISHED).parent.iterdir()}
    assert call(export) == 0
    assert {path: path.read_bytes() for path in Path(PUBLISHED).parent.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MODEL_CARD.md", "ages.onnx"]
    assert "wrote ages.onnx" in capsys.readouterr().out
