"""Exports: the same answers as PyTorch, from the file alone; whole files or none; a card that says what is known."""

import functools
import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, call
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_model_file import RECORD
from torch import nn

from data.cache import decode_face
from data.faces import Faces
from evaluation.evaluation import Evaluation
from evaluation.metrics import CLASS_METRICS
from models import create_model, resnet
from models.ages import ages_of
from models.checkpoint import load_model, save_model
from models.decode import DECODERS, decode
from models.export import FacePipeline, kept_in_float, metadata_of, open_session, to_int8, to_onnx
from models.heads import HEADS
from models.network import Network
from report import card
from tools import export as tool
from training.config import Config
from utils.classes import Classes
from utils.errors import UserError
from utils.options import to_record

for package in tool.PACKAGES:
    pytest.importorskip(package, reason="pip install -r requirements-export.txt")
onnx = pytest.importorskip("onnx")

NAMES = ("young", "middle", "old")
CLASSES = Classes(NAMES)
SIZE = 48
EXAMPLE = ROOT / "examples" / "onnx_predict.py"
TWO_LAYERS = (resnet.BasicBlock, (1, 1, 1, 1))  # blocks of each layer: a ResNet-10, which is exported sooner


class ColourNet(Network):
    """The mean of each normalised channel, and a head."""

    def __init__(self, head="softmax", num_classes=3, scale=0.5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 1)
        self.fc = HEADS[head](3, num_classes)
        self.image_size, self.classes = SIZE, Classes(tuple(f"class {k}" for k in range(num_classes)))
        self.record = {}
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=scale)

    def features(self, images):
        return self.conv1(images).mean(dim=(2, 3))


@pytest.fixture(scope="module", autouse=True)
def one_registry():
    """The exporter reads the sources of 500 operators at every call, which takes a second; here it does so once."""
    from torch.onnx._internal.exporter import _registration

    with pytest.MonkeyPatch.context() as patch:
        read = functools.cache(_registration.ONNXRegistry.from_torchlib)
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(read))
        yield


def random_images(count, size, seed=0):
    """Bytes of all sizes, and two images of the smallest and of the largest one."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    images[0] = 0
    images[-1] = 255
    return images


def answers(proto, images):
    return open_session(proto.SerializeToString()).run(["probabilities"], {"images": images})[0]


def expected_answers(model, images):
    """As float64, normalised by hand: the mean of the faces and their mirror images."""
    pixels = images.astype(np.float64) / 255
    pixels = (pixels - np.reshape(model.mean, (3, 1, 1))) / np.reshape(model.std, (3, 1, 1))
    with torch.no_grad():
        views = (model.eval().probabilities(torch.tensor(view).float()) for view in (pixels, pixels[..., ::-1].copy()))
        return sum(views).double().numpy() / 2


def check_parity(model, proto, tolerance=5e-6):
    for count in (1, 7):
        images = random_images(count, model.image_size)
        found = answers(proto, images)
        assert found.dtype == np.float32
        assert found.shape == (count, len(model.classes))
        np.testing.assert_allclose(found, expected_answers(model, images), atol=tolerance)


class AllHeads(ColourNet):
    """The probabilities of all heads, side by side: one export instead of five."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(head(3, 8) for head in HEADS.values())
        self.classes = Classes(tuple(f"{name} {k}" for name in HEADS for k in range(8)))
        for tensor in self.heads.parameters():
            nn.init.normal_(tensor)

    def probabilities(self, images):
        features = self.features(images)
        return torch.cat([head.probabilities(head(features)) for head in self.heads], 1)


def test_every_head_gives_the_same_answers():
    assert list(HEADS) == ["softmax", "binomial", "coral", "corn", "normal"]
    model = AllHeads()
    check_parity(model, to_onnx(model.eval(), {}))


class BlocksNet(Network):
    """One residual block of each kind, and standardised images."""

    def __init__(self):
        super().__init__()
        self.layer1 = resnet.BasicBlock(3, 8, 2, 0.2, "3x3")
        self.layer2 = resnet.Bottleneck(8, 4, 2, 0.0, "1x1")
        self.fc = HEADS["softmax"](16, 3)
        self.image_size, self.classes = 33, CLASSES

    def features(self, images):
        return self.layer2(self.layer1(resnet.standardize(images, 0.75))).mean(dim=(2, 3))


def test_every_kind_of_block_gives_the_same_answers():
    torch.manual_seed(0)
    model = BlocksNet()
    with torch.no_grad():
        model.train()(torch.randn(16, 3, 33, 33))  # running statistics other than 0 and 1
    proto = to_onnx(model.eval(), {})
    check_parity(model, proto)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}  # it is part of the convolutions


def test_colours_temperature_and_metadata_by_hand():
    model = ColourNet(num_classes=2).eval()
    with torch.no_grad():
        model.conv1.weight.copy_(torch.eye(3)[:, :, None, None])
        model.conv1.bias.zero_()
        model.fc.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
        model.fc.bias.zero_()
    model.classes = Classes(("0-2", "«60+»"))
    model.record = {"temperature": 2.0, "decoder": "median", "fold": 3, "commit": "abc", "framing": [0.5, 0.4, 1, 1]}
    proto = to_onnx(model, metadata_of(model, "Research only."))
    red = np.zeros((1, 3, SIZE, SIZE), np.uint8)
    red[:, 0] = 255
    # Red is (1 - 0.485) / 0.229 = 2.24891; temperature 2 halves the logit, and 1 / (1 + exp(-1.12445)) = 0.75481.
    assert answers(proto, red)[0] == pytest.approx([0.75481, 0.24519], abs=1e-5)
    # Without it (0 - 0.485) / 0.229 = -2.11790, and 1 / (1 + exp(1.05895)) = 0.25751.
    assert answers(proto, red[:, ::-1].copy())[0] == pytest.approx([0.25751, 0.74249], abs=1e-5)
    content = proto.SerializeToString()
    assert open_session(content).get_modelmeta().custom_metadata_map == {
        "class_names": '["0-2", "\\u00ab60+\\u00bb"]',
        "image_size": "48",
        "framing": "[0.5, 0.4, 1, 1]",
        "temperature": "2.0",
        "decoder": "median",
        "fold": "3",
        "commit": "abc",
        "licence": "Research only.",
    }
    assert b".py" not in content  # nothing of the source or of this machine
    assert str(ROOT).encode() not in content
    (images,), (probabilities, predicted) = proto.graph.input, proto.graph.output
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == ["batch", 3, 48, 48]
    assert [dim.dim_param or dim.dim_value for dim in probabilities.type.tensor_type.shape.dim] == ["batch", 2]
    assert (predicted.name, predicted.type.tensor_type.elem_type) == ("predicted", onnx.TensorProto.INT64)
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def constant_model(*probabilities, **record):
    model = ColourNet(num_classes=len(probabilities))
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor(probabilities).log())
    model.record = record
    return model.eval()


def test_temperature_of_a_probability_of_zero():
    model = constant_model(0.5, 0.5)
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([0.0, -200.0]))
    found, _ = FacePipeline(model, temperature=4.0)(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))
    # The smallest number above 0 is 1.1755e-38, whose fourth root is 3.2927e-10.
    assert found.detach().numpy()[0] == pytest.approx([1, 3.2927e-10], rel=1e-3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_predicted_class_is_that_of_evaluation(decoder):
    """Of the probabilities before the temperature, by the model's own decoder."""
    model = ColourNet(num_classes=5, scale=2.0).eval()
    model.record = {"temperature": 3.0, "decoder": decoder}
    images = random_images(60, SIZE)
    session = open_session(to_onnx(model, {}).SerializeToString())
    _, predicted = session.run(["probabilities", "predicted"], {"images": images})
    expected = decode(expected_answers(model, images), decoder)
    assert (predicted.dtype, predicted.tolist()) == (np.int64, expected.tolist())
    assert len(set(expected)) > 1


def test_a_network_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("models.export.LARGEST", 0)
    with pytest.raises(UserError, match=r"this network has 0 MiB; one ONNX file holds at most 0"):
        to_onnx(ColourNet(), {})


def shaded_images(count, seed):
    """Noise around one of three brightnesses: (uint8 (count, 3, 32, 32), labels)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = 60 + 60 * labels[:, None, None, None] + rng.normal(0, 40, (count, 3, 32, 32))
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def trained():
    """A small ResNet that tells three brightnesses apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.LAYOUTS, 18, TWO_LAYERS)
        torch.manual_seed(0)
        model = create_model("resnet18", "softmax", 3, width=0.0625)
    model.image_size, model.classes, model.record = 32, CLASSES, {"temperature": 1.5}
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    images, labels = shaded_images(256, seed=1)
    pixels = (torch.from_numpy(images) / 255 - 0.45) / 0.225
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels), torch.from_numpy(labels)).backward()
        optimizer.step()
    return model.eval()


def test_eight_bits_give_the_same_answers(trained):
    proto = to_onnx(trained, {"licence": "ours"})
    small = to_int8(proto, np.split(shaded_images(100, seed=2)[0], 4))
    images, labels = shaded_images(300, seed=3)
    full, eight = answers(proto, images), answers(small, images)
    assert (full.argmax(1) == labels).mean() > 0.9  # so that agreement means something
    assert (full.argmax(1) == eight.argmax(1)).mean() >= 0.98
    assert np.abs(full - eight).mean() < 0.02
    assert {prop.key: prop.value for prop in small.metadata_props} == {"licence": "ours"}
    made_by = {output: node for node in small.graph.node for output in node.output}
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("LeakyRelu") == kinds.count("Conv") - 3  # those of the shortcuts have none
    for node in small.graph.node:
        sources = [made_by[name].op_type for name in node.input if name in made_by]
        if node.op_type in ("Conv", "LeakyRelu", "Add", "MaxPool"):
            assert set(sources) == {"DequantizeLinear"}, node.name
    weights = [tensor for tensor in small.graph.initializer if tensor.name.endswith("weight_quantized")]
    assert len(weights) == kinds.count("Conv") > 8
    for tensor in weights:  # 7 bits: no sum of two products overflows 16 bits
        values = onnx.numpy_helper.to_array(tensor)
        assert values.dtype == np.int8
        assert np.abs(values.astype(int)).max() <= 64


def test_normalisation_and_head_stay_in_32_bits():
    nodes = "Cast Sub Div Conv Relu Gemm Relu Gemm Add Sigmoid".split()  # as of Levi and Hassner's network with CORAL
    made = [onnx.helper.make_node(kind, ["x"], ["y"], name=f"{k} {kind}") for k, kind in enumerate(nodes)]
    graph = onnx.helper.make_graph(made, "graph", [], [])
    assert kept_in_float(graph) == ["0 Cast", "1 Sub", "2 Div", "7 Gemm", "8 Add", "9 Sigmoid"]


# The script.


def small_model(temperature=None):
    torch.manual_seed(0)
    model = create_model("resnet18", "softmax", 8, width=0.125)
    model.image_size = SIZE
    model.classes = Classes(("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+"))
    model.record = {"temperature": temperature}
    return model.eval()


def save_small_model(path, labels, **changes):
    """A model file of fold 0 that is trained on nobody but knows the small faces' other people."""
    label_dir, image_dir = labels
    record = {
        **RECORD,
        "fold": 0,
        "train_people": [f"album{fold}/{100 * fold + k}" for fold in range(1, 5) for k in range(8)],
        "train_faces": 32,
        "train_pictures": torch.zeros(32, 96, dtype=torch.uint8),
        "duplicates": [],
        "metrics": dict.fromkeys(CLASS_METRICS, 0.5),
        "history": [],
        "config": to_record(Config(label_dir=str(label_dir), image_dir=str(image_dir), epochs=1)),
        "temperature": 1.5,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, small_model(), record)
    return path


@functools.cache
def exported_once(metadata):
    """The models of `save_small_model` with this metadata have the same weights and so the same export."""
    model = small_model(json.loads(json.loads(metadata).get("temperature", "null")))
    model.classes = Classes.guess(model.classes.names)  # as in a model file
    return to_onnx(model, json.loads(metadata))


@pytest.fixture(autouse=True)
def one_export(monkeypatch):
    monkeypatch.setattr(tool, "to_onnx", lambda model, metadata: exported_once(json.dumps(metadata)))


@pytest.fixture
def refused(capsys):
    """A function that runs the tool and checks that it is refused with one line that matches."""

    def run(message, *arguments):
        assert call(tool, *arguments) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and re.search(message, errors), errors

    return run


def options_of(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tools.export", *map(str, arguments)])
    return tool.read_command_line()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_export_int8_and_card(small_faces, tmp_path, monkeypatch, capsys):
    path = save_small_model(tmp_path / "run" / "fold_0.pt", small_faces)
    assert call(tool, path, "--int8", "--output", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "in a probability, on 8 faces of fold 0, which it held out" in shown
    assert "calibrated on 32 training faces" in shown
    assert names_in(tmp_path / "out") == ["MODEL_CARD.md", "fold_0.int8.onnx", "fold_0.onnx"]
    assert names_in(tmp_path / "run") == ["fold_0.pt"]
    model = load_model(path)
    faces = sorted((small_faces[1] / "album0").iterdir())
    images = np.stack([decode_face(face, SIZE) for face in faces])
    expected = at_temperature(expected_answers(model, images))
    found = open_session((tmp_path / "out" / "fold_0.onnx").read_bytes()).run(None, {"images": images})[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    text = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "| fold\\_0\\.onnx | 0 | 50.00% | 50.00% | 0.500 | 0.500 | 1.500 | not known |" in text
    assert "the predictions of its run are not beside it" in text
    rows = [line.split() for line in shown.splitlines() if line.startswith(("PyTorch fp32", "ONNX"))]
    assert [len(row) for row in rows] == [6, 4, 7]  # metrics of PyTorch and of 8 bits, on the same faces
    labels = [int(face.stem.split(".")[-1]) % 8 for face in faces]  # as `small_rows` names and labels them
    assert rows[0][3] == f"{(expected.argmax(1) == labels).mean():.2%}"
    # Our own files may be replaced.
    options = options_of(monkeypatch, path, "--int8", "--output", tmp_path / "out")
    (outputs,) = tool.check_outputs([tool.find_source(path, options)], options)
    assert sorted(file.name for file in outputs.values()) == ["fold_0.int8.onnx", "fold_0.onnx"]
    check_example(tmp_path, tmp_path / "out" / "fold_0.onnx", model)


def at_temperature(probabilities, temperature=1.5):
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def check_example(folder, exported, model):
    """The example prints what PyTorch says of a photograph that lies on its side, and imports no torch."""
    pixels = np.random.default_rng(5).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # orientation: turn by 90 degrees to the right
    Image.fromarray(pixels).save(folder / "50% of a face.jpg", exif=exif, quality=95)
    probabilities = at_temperature(expected_answers(model, decode_face(folder / "50% of a face.jpg", SIZE)[None])[0])
    first, *others = np.argsort(-probabilities)[:3]
    shown = [f"{model.classes.names[k]} {100 * probabilities[k]:.0f} %" for k in others]
    code = (
        "import runpy, sys\nsys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, EXAMPLE, exported, "50% of a face.jpg", "missing.jpg"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    raw = expected_answers(model, decode_face(folder / "50% of a face.jpg", SIZE)[None])
    age, low, high = np.ravel(ages_of(np.asarray(raw), model.classes))
    answer = f"{model.classes.names[first]}  {100 * probabilities[first]:.0f} %  ({', '.join(shown)})"
    assert done.stdout == f"50% of a face.jpg  about {age:.0f} years ({low:.0f}-{high:.0f})  {answer}\n"
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot read 'missing.jpg': ")
    assert done.stderr.count("\n") == 1


def test_without_the_data_random_images_are_compared(tmp_path, monkeypatch, capsys, refused):
    path = save_small_model(tmp_path / "fold_0.pt", (tmp_path / "gone", tmp_path / "gone"))
    monkeypatch.setattr(tool, "PARITY_FACES", 20)
    assert call(tool, path) == 0
    assert "on 20 random images: the faces are not at hand" in capsys.readouterr().out
    before = names_in(tmp_path)
    message = r"the label directory '.*gone' does not exist .*--label-dir or --label-file, and"
    refused(message, path, "--int8", "--output", tmp_path / "other")
    assert names_in(tmp_path) == before


def test_calibration_sees_training_faces_only(small_faces, tmp_path, monkeypatch, refused):
    people = [f"album{fold}/{100 * fold + k}" for fold in (2, 4) for k in range(3)]
    path = save_small_model(tmp_path / "fold_0.pt", small_faces, train_people=people)
    source = tool.find_source(path, options_of(monkeypatch, path, "--int8"))
    assert sorted(source.train.people) == people
    assert set(source.test.table.album) == {"album0"}
    chosen = tool.choose(source.train, 4)
    assert len(set(chosen.table.path)) == 4
    image = decode_face(small_faces[1] / chosen.table.path.iloc[0], SIZE)
    np.testing.assert_array_equal(source.images(chosen)[0], image)
    seen = save_small_model(tmp_path / "seen.pt", small_faces, train_people=["album0/3"])
    refused(r"was trained on people of these faces: 1 of 8 in fold 0", seen)
    strangers = save_small_model(tmp_path / "strangers.pt", small_faces, train_people=["album9/3"])
    refused(r"--int8: none of the people that '.*strangers.pt' was trained on is in these", strangers, "--int8")


@pytest.mark.parametrize(("shift", "shown"), [(1.1e-4, r"1\.1e-04"), (np.nan, "nan")])
def test_a_difference_leaves_no_file(small_faces, tmp_path, monkeypatch, refused, shift, shown):
    path, exact = save_small_model(tmp_path / "fold_0.pt", small_faces), tool.torch_outputs

    def shifted(model, images):
        probabilities, predicted = exact(model, images)
        return probabilities + shift, predicted

    monkeypatch.setattr(tool, "torch_outputs", shifted)
    refused(rf"differ from PyTorch's by {shown} on 8 faces of fold 0, .*; at most 1e-04 is", path, "--int8")
    assert names_in(tmp_path) == ["aligned", "fold_0.pt", "labels"]


@pytest.mark.parametrize("content", [b"hello", b"\x08\x07", onnx.ModelProto(ir_version=8).SerializeToString()])
@pytest.mark.parametrize("name", ["fold_0.onnx", "MODEL_CARD.md"])
def test_somebody_elses_file_is_kept(small_faces, tmp_path, refused, name, content):
    path = save_small_model(tmp_path / "run" / "fold_0.pt", small_faces)
    (tmp_path / "run" / name).write_bytes(content)
    refused(rf"'.*{name}' exists and is not .*; it is not replaced", path)
    assert (tmp_path / "run" / name).read_bytes() == content
    assert names_in(tmp_path / "run") == sorted([name, "fold_0.pt"])


def test_a_damaged_model_and_two_of_one_name_are_refused(small_faces, tmp_path, refused):
    good = save_small_model(tmp_path / "a" / "fold_0.pt", small_faces)
    duplicate = save_small_model(tmp_path / "b" / "fold_0.pt", small_faces)
    refused(r"two models would be written to '.*fold_0\.onnx'", good, duplicate, "--output", tmp_path)
    refused(r"--output '.*fold_0\.pt': expected a folder, this is a file", good, "--output", good)
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    duplicate.write_bytes(content)
    refused(r"'.*b/fold_0\.pt' is (damaged|truncated)", good, duplicate)
    assert names_in(good.parent) == ["fold_0.pt"]


@pytest.mark.parametrize("package", tool.PACKAGES)
def test_without_the_extra_one_line_says_what_to_install(monkeypatch, refused, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = rf"tools.export needs the package {package}: python -m pip install -r requirements-export.txt$"
    refused(f"^error: {line}", "fold_0.pt")


# The example.


def example():
    spec = importlib.util.spec_from_file_location("onnx_predict", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_reads_photographs_as_the_cache_does():
    assert example().decode_face is decode_face


# The card.


def card_evaluation(names, file="a.onnx", faces=4, **record):
    """Four faces: young, young, middle, middle, of which the second one is called old and the last one young."""
    model = constant_model(*[1 / len(names)] * len(names))
    model.classes = Classes(names)
    model.description = {"head": "softmax"}
    model.record = {
        **RECORD,
        "fold": 1,
        "config": {"model": "resnet18", "recipe": "modern", "epochs": 10, "loss": "sord", "seed": 4},
        "train_faces": 7176,
        "train_people": ["Ann", "Bob"],
        "metrics": {"top1": 0.6776, "one_off": 0.955, "mae": 0.38, "loss": 0.82},
        "versions": {"torch": "2.11"},
        **record,
    }
    columns = {"path": [*"abcd"], "album": [*"abcd"], "person": [*"abcd"], "fold": 1, "label": [0, 0, 1, 1]}
    table = pd.DataFrame(columns)[:faces]
    probabilities = np.float32([[0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.6, 0.2, 0.2]])[:faces]
    temperature = record.get("temperature")
    return Evaluation(Faces(table, model.classes), probabilities, name=file, model=model, temperature=temperature)


def groups_table(**changes):
    columns = ["column", "group", "faces", "top1", "gap", "p_corrected", "marked"]
    rows = [
        ["gender", "f", 40, 0.5, -0.123, 0.0004, 1],
        ["gender", "m", 90, 0.6, 0.123, 0.0004, 1],
        ["yaw", "over 30", 31, 0.4, -0.2, 0.2, 0],
        ["label", "old", 31, 0.1, -0.9, 0.0, 1],
        ["score", "unknown", 3, np.nan, np.nan, np.nan, 0],
    ]
    return pd.DataFrame(rows, columns=columns).assign(**changes)


def test_card_by_hand(monkeypatch):
    results = {
        "torch": {"mib": 47.92, "top1": 0.6776, "one_off": 0.955, "mae": 0.38, "loss": 0.82},
        "int8": {"mib": 12.1, "agreement": 0.995},
    }
    monkeypatch.setattr(card.subgroups, "subgroups", lambda evaluation: groups_table())
    evaluation = card_evaluation(NAMES, temperature=1.2345, framing=[0.5, 0.47, 0.84, 0.95])
    lines = card.model_card([evaluation], ["Research only."], [results]).splitlines()
    assert lines[0] == "<!-- model card of tools.export -->"
    for line in (
        "- a\\.onnx: resnet18, head softmax, 24 parameters (0.00 MiB), 48 x 48 px; it held out fold 1",
        "For a\\.onnx the box of a face detector is at 0.50, 0.47, 0.84, 0.95 (centre x, centre y, width, height, as"
        " shares of the image).",
        "| a\\.onnx | 7,176 | 2 | modern, 10 epochs | sord | 4 | argmax |",
        "Of the held-out faces of a\\.onnx, 1 show a picture that is among the training faces under another name.",
        # Each of young and middle has two faces and one right answer; only the face called old is two groups off.
        "| young | 2 | 50.00% | 50.00% |",
        "| middle | 2 | 50.00% | 100.00% |",
        "| old | 0 | - | - |",
        "| yaw | over 30 | 31 | 40.00% | -20.0 | 0.200 | not shown |",
        "| gender | f | 40 | 50.00% | -12.3 | below 0.001 | yes |",
        "| PyTorch, 32 bits | 47.92 | - | 67.76% | 95.50% | 0.380 | 0.820 |",
        "| ONNX, 8 bits | 12.10 | 99.5% | - | - | - | - |",
        "Research only.",
        "| a\\.onnx | unknown | torch 2.11 |",
    ):
        assert line in lines, line
    text = "\n".join(lines)
    assert text.index("over 30") < text.index("| gender | f |")  # the worst first
    # Sorted by confidence, three faces at 0.6 of which two are right, and one at 0.8 that is wrong, each in a bin of
    # its own: (0.4 + 0.4 + 0.6 + 0.8) / 4 = 0.55.
    (metrics,) = [line for line in lines if line.startswith("| a\\.onnx | 1 |")]
    assert metrics.startswith("| a\\.onnx | 1 | 67.76% | 95.50% | 0.380 | 0.820 | 1.234 | 55.00%, ")
    for name in ("Ann", "Bob", "| m |", "| old | 31 |"):
        assert name not in text


def test_a_card_of_single_years_names_the_first_and_the_last(monkeypatch):
    monkeypatch.setattr(card.subgroups, "subgroups", lambda evaluation: groups_table())
    evaluation = card_evaluation(NAMES, faces=0)
    evaluation.model.classes = Classes.of_ages(("0..100+",))
    evaluation = Evaluation(Faces(evaluation.faces.table, evaluation.model.classes), model=evaluation.model, name="a")
    lines = card.model_card([evaluation], ["Research only."], [{}]).splitlines()
    found = lines.index("## Description")
    assert lines[found + 2 : found + 8] == [
        "The network takes one cropped face and gives a probability for each of 101 age groups, single years from 0 to"
        " 100+.",
        "",
        "**Input** `images`: uint8, RGB, (N, 3, S, S); any number N of faces, of 48 px. Normalisation is"
        " part of the file.",
        "",
        "**Outputs** `probabilities`: float32, (N, 101); `predicted`: int64, (N,), the answer by the decoder of the"
        " model; `age`: float32, (N,), the median in years, and `age_interval`: float32, (N, 2), around it.",
        "",
    ]


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "[link](http://evil.example) ![image](x.png) www.evil.example a@evil.example",
    "a | b\n\n# head\n| *c* | `d` | __e__ ~~f~~ &lt; \\ \u202e",
)


def test_text_from_the_data_is_no_markup(monkeypatch):
    markdown = pytest.importorskip("markdown_it", reason="pip install markdown-it-py linkify-it-py")
    parser = markdown.MarkdownIt("gfm-like", {"html": True})
    hostile = card_evaluation(
        HOSTILE, f"{HOSTILE[1]}.onnx", commit=HOSTILE[0], versions={HOSTILE[1]: HOSTILE[2]}, decoder=HOSTILE[0]
    )
    texts = []
    for evaluation, licence, column, group in (
        (hostile, HOSTILE[0], HOSTILE[0], HOSTILE[2]),
        (card_evaluation(NAMES), "ours", "b", "c"),
    ):
        table = groups_table(column=column, group=group)
        monkeypatch.setattr(card.subgroups, "subgroups", lambda evaluation, table=table: table)
        texts.append(card.model_card([evaluation], [licence], [{}]))
    found, expected = map(parser.parse, texts)

    def structure(tokens):
        inner = [token for token in tokens if token.type == "inline"]
        return [token.type for token in tokens], [
            {child.type for child in token.children} - {"text", "text_special"} for token in inner
        ]

    assert structure(found) == structure(expected)
    shown = parser.render(texts[0])
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert "[link](http://evil.example) ![image](x.png) www.evil.example a@evil.example.onnx" in shown
    assert "a | b # head | *c* | `d` | __e__ ~~f~~ &amp;lt; \\ \\u202e" in shown


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("aw.5 \\`*_{}[]()<>#|~&!$:/@^-+\n\t\x1b"), max_size=25))
def test_any_text_stays_text(text):
    markdown = pytest.importorskip("markdown_it", reason="pip install markdown-it-py linkify-it-py")
    parser = markdown.MarkdownIt("gfm-like", {"html": True})
    (cell,) = [token for token in parser.parse(f"| a |\n|---|\n| x{card.escape(text)}x |") if token.type == "inline"][
        1:
    ]
    assert {child.type for child in cell.children} <= {"text", "text_special"}
    expected = "x" + " ".join(text.split()).replace("\x1b", "\\x1b") + "x"
    assert "".join(child.content for child in cell.children) == expected
