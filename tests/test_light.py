"""The table of light forms: fair turns, the faster layout, cells and answers by hand; and one small whole run."""

import dataclasses
import functools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, call

onnx = pytest.importorskip("onnx", reason="pip install -r requirements-export.txt")
for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="pip install -r requirements-export.txt")

sys.path.insert(0, str(ROOT / "benchmarks"))

import light  # noqa: E402
from test_export import exported_once, save_small_model  # noqa: E402

from tools import export as tool  # noqa: E402
from utils.errors import UserError  # noqa: E402


def test_sides_take_turns_in_both_orders(monkeypatch):
    order, threads, pauses, now = [], [], [], [0.0]
    # Of each turn the first call is not timed, and of all turns the first one does not count.
    durations = {
        "a": iter([9, 9, 9, 9, 50, 1, 5, 3, 50, 2, 2, 8]),
        "b": iter([9, 9, 9, 50, 4, 6, 50, 7, 7]),
    }

    def call(name):
        order.append(name)
        now[0] += next(durations[name])

    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    sides = {"a": (functools.partial(call, "a"), 3, 1), "b": (functools.partial(call, "b"), 2, 2)}
    found = light.take_turns(sides, 2, clock=lambda: now[0], sleep=pauses.append)
    assert found == {"a": [3, 2], "b": [5, 7]}  # medians of 1 5 3, of 2 2 8; of 4 6, of 7 7
    assert "".join(order) == "aaaabbb" + "bbbaaaa" + "aaaabbb"
    assert threads == [1, 2, 2, 1, 1, 2]
    assert pauses == [light.PAUSE] * 6


def make_form(name, one, mib, options, top1=None):
    """A measured Form with these seconds for one face on either number of threads, and this difference in top-1."""
    description = {"name": "resnet18", "head": "softmax", "num_classes": 8, **options}
    seconds = {("one", 1): one, ("one", 2): [t / 2 for t in one], ("batch", 1): [0.25, 0.5, 0.2], ("batch", 2): [0.05]}
    metrics = {"top1": 0.667, "one_off": 0.9544, "mae": 0.39, "loss": 1.0, "ece": 0.0798}
    differences = {} if top1 is None else {"top1": (top1, -0.0125, 0.005), "one_off": (0.0, -0.001, 0.001)}
    model = SimpleNamespace(description=description, image_size=64)
    return light.Form(name, model, mib, seconds=seconds, metrics=metrics, differences=differences)


def test_table_by_hand():
    forms = [
        make_form("reference, PyTorch fp32", [0.016, 0.0185, 0.9], 48.88, {}),
        light.Form("reference, OpenVINO", missing="not installed"),
        make_form("a|b, ONNX INT8", [0.001], 4.7, {"width": 0.625}, top1=-0.004),
    ]
    assert light.table(forms).splitlines() == [
        "| form | MiB | GMAC | ms for one face, 1 / 2 threads | faces/s in batches, 1 / 2 threads | top-1 | one-off"
        " | MAE | ECE | top-1 against the reference | one-off against the reference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        # Medians of 18.5 ms and 0.25 s; 64 / 0.25 = 256 and 64 / 0.05 = 1,280 faces/s.
        "| reference, PyTorch fp32 | 48.88 | 0.161 | 18.50 / 9.25 | 256 / 1,280 | 66.70% | 95.44% | 0.390 | 7.98%"
        " |  |  |",
        "| reference, OpenVINO | not installed |  |  |  |  |  |  |  |  |  |",
        "| a\\|b, ONNX INT8 | 4.70 | 0.065 | 1.00 / 0.50 | 256 / 1,280 | 66.70% | 95.44% | 0.390 | 7.98%"
        " | -0.40 (-1.25 to +0.50) | +0.00 (-0.10 to +0.10) |",
    ]


def test_names_of_models(tmp_path):
    (tmp_path / "a=b").mkdir()
    odd = tmp_path / "a=b" / "fold_0.pt"
    odd.touch()
    found = light.name_files("runs/x/fold_0.pt", ["runs/narrow/fold_0.pt", "small=runs/y/fold_0.pt", str(odd)])
    assert {name: str(path) for name, path in found.items()} == {
        "reference": "runs/x/fold_0.pt",
        "narrow": "runs/narrow/fold_0.pt",
        "small": "runs/y/fold_0.pt",
        "a=b": str(odd),
    }
    with pytest.raises(UserError, match=r"'n=b\.pt': another model is called 'n'; NAME=b\.pt gives this one another"):
        light.name_files("a.pt", ["n=a.pt", "n=b.pt"])


def test_openvino_gives_the_same_answers():
    pytest.importorskip("openvino", reason="pip install openvino")
    # The softmax of each channel's mean, without an export, which takes seconds.
    kinds = {"Cast": {"to": onnx.TensorProto.FLOAT}, "GlobalAveragePool": {}, "Flatten": {}, "Softmax": {"axis": 1}}
    names = ["images", "a", "b", "c", "probabilities"]
    make = onnx.helper.make_node
    nodes = [make(kind, [names[k]], [names[k + 1]], **kinds[kind]) for k, kind in enumerate(kinds)]
    ends = [(names[0], onnx.TensorProto.UINT8, ["n", 3, 4, 4]), (names[-1], onnx.TensorProto.FLOAT, ["n", 3])]
    inputs, outputs = ([onnx.helper.make_tensor_value_info(*end)] for end in ends)
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs)
    opset = [onnx.helper.make_opsetid("", 18)]
    content = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    form = light.openvino_form(SimpleNamespace(), content)
    assert form.name in ("reference, OpenVINO fp32", "reference, OpenVINO bf16")
    assert form.mib == len(content) / 2**20
    images = np.zeros((70, 3, 4, 4), np.uint8)  # more than one batch
    images[:, 1], images[69, 2] = 1, 2
    found = form.prepare(1)(images)
    assert found.shape == (70, 3)
    # exp of 0 1 0 over 4.71828, and of 0 1 2 over 11.10734; bf16 has three digits.
    assert found[0] == pytest.approx([0.21194, 0.57612, 0.21194], abs=0.003)
    assert found[69] == pytest.approx([0.09003, 0.24473, 0.66524], abs=0.003)
    refused = light.openvino_form(SimpleNamespace(), b"no network")
    assert (refused.name, refused.missing) == ("reference, OpenVINO", "it cannot read this network")


def test_without_openvino_the_table_says_so(monkeypatch):
    monkeypatch.setattr(light.importlib.util, "find_spec", lambda name: None)
    row = light.openvino_form(SimpleNamespace(), b"")
    assert (row.name, row.missing) == ("reference, OpenVINO", "not installed")


@pytest.fixture
def path(small_faces, tmp_path, monkeypatch):
    """A small model file, for a quick run of the script."""
    monkeypatch.setattr(tool, "to_onnx", lambda model, metadata: exported_once(json.dumps(metadata)))
    monkeypatch.setattr(light, "THREADS", (1,))  # with two, a busy machine is slow
    monkeypatch.setattr(light, "CALLS", {"one": 2, "batch": 1})
    monkeypatch.setattr(light, "PAUSE", 0)
    monkeypatch.setattr(light, "has_bf16", lambda: False)
    monkeypatch.setattr(light, "keep_large_buffers", lambda: None)
    return save_small_model(tmp_path / "small" / "fold_0.pt", small_faces)


def test_a_whole_run(path, tmp_path, capsys):
    output = tmp_path / "LIGHT.md"
    assert call(light, path, f"duplicate={path}", "--output", output, "--repeats", 1) == 0
    assert capsys.readouterr().out.endswith(f"wrote {output}\n")
    lines = output.read_text().splitlines()
    assert lines[:2] == [light.MARK, "# Light forms of a trained model"]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    forms = ["PyTorch fp32", "PyTorch bf16", "ONNX fp32", "ONNX INT8"]
    assert [row[0] for row in table[:4]] == [f"reference, {form}" for form in forms]
    assert table[4][0].startswith("reference, OpenVINO")
    assert [row[0] for row in table[5:]] == ["duplicate, PyTorch fp32", "duplicate, ONNX INT8"]
    assert table[1][1] == "this processor has no bf16 instructions"
    full, float32, eight, duplicate = table[0], table[2], table[3], table[5]
    assert float(full[1]) == pytest.approx(path.stat().st_size / 2**20, abs=0.005)
    assert float(eight[1]) < 0.4 * float(float32[1])
    assert full[5:8] == float32[5:8] == duplicate[5:8]  # the same answers
    assert full[9:] == ["", ""]
    assert duplicate[9:] == ["+0.00 (+0.00 to +0.00)"] * 2
    assert all(float(cell.replace(",", "")) > 0 for row in (full, float32, eight, duplicate) for cell in row[1:5])
    assert "The faces are the 8 of fold 0, which every model held out; 0 of them" in output.read_text()
    assert "- **duplicate**: levi\\_hassner, 48 px, " in output.read_text()
    assert light.is_document(output)  # and may be replaced


def test_bad_input_is_one_line(path, tmp_path, capsys):
    notes, gone = tmp_path / "notes.md", tmp_path / "gone.pt"
    notes.write_text("mine\n")
    cases = {
        (path, "--repeats", 0): "--repeats 0: expected a number from 1",
        (gone,): "gone.pt",
        (path, "--output", notes): "exists and is not a table of benchmarks/light.py",
        (path, "--colour"): "unrecognized arguments: --colour",
    }
    for arguments, message in cases.items():
        assert call(light, "--output", tmp_path / "LIGHT.md", *arguments) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1, errors
    assert notes.read_text() == "mine\n"
    assert not (tmp_path / "LIGHT.md").exists()


def test_models_of_other_faces_are_refused(path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["light.py", str(path)])
    source = light.find_source(path, light.read_command_line())
    light.check_alike({"reference": source, "b": source})
    test = source.test
    for other, message in (
        (
            dataclasses.replace(test, table=test.table.assign(fold=3)),
            r"'b\.pt' held out fold 3 and '.*fold_0\.pt' fold 0",
        ),
        (test.where(test.labels > 0), r"'b\.pt' held out other faces than '.*fold_0\.pt'; --label-dir says where"),
        (test.where(test.labels > 7), r"'b\.pt' held out a fold that these label files do not have"),
    ):
        with pytest.raises(UserError, match=message):
            light.check_alike({"reference": source, "b": source._replace(path="b.pt", test=other)})
