"""Learning from trained networks: what they answer, how much it counts, and whom they may have seen."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import call

import main
from data.duplicates import both_signatures
from data.images import decode_face
from models import create_model
from models.heads import SoftmaxHead
from training.losses import Criterion, cross_entropy
from training.teacher import Teacher
from utils.device import Runtime
from utils.serialization import load_plain, save_plain
from utils.signals import Interruption

CPU = Runtime(torch.device("cpu"), "fp32")
TINY = "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --folds 3 --threads 1 --no-plots".split()


def network(seed, size=40):
    torch.manual_seed(seed)
    model = create_model("resnet18", "softmax", 3, width=0.125).eval()
    model.image_size = size
    return model


def test_a_teacher_answers_for_the_image_and_its_mirror_image():
    first, second = network(0), network(1)
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        views = [model(view).softmax(1) for model in (first, second) for view in (images, images.flip(3))]
    assert torch.allclose(Teacher([first, second], CPU)(images), sum(views) / 4, atol=1e-6)
    assert not Teacher([first], CPU)(images.requires_grad_()).requires_grad


def test_a_teacher_of_another_size_sees_its_own():
    seen = []
    small = network(0, size=32)
    small.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    Teacher([small], CPU)(torch.randn(2, 3, 40, 40))
    assert seen == [(2, 3, 32, 32)] * 2


@pytest.mark.parametrize(
    ("student", "teacher", "weight", "temperature", "expected"),
    [
        # The label 0 costs ln 4, the teacher's 0.2 and 0.8 cost 0.2 ln 4 + 0.8 ln (4 / 3).
        ([1.0, 3.0], [0.2, 0.8], 0.25, 1.0, 0.75 * 1.3862944 + 0.25 * (0.2 * 1.3862944 + 0.8 * 0.2876821)),
        # At T = 2 probabilities of 0.9 and 0.1 become 3 : 1, and the student's of 0.8 and 0.2 become 2 : 1.
        ([0.8, 0.2], [0.9, 0.1], 1.0, 2.0, -4 * (0.75 * math.log(2 / 3) + 0.25 * math.log(1 / 3))),
    ],
)
def test_its_share_of_the_loss_by_hand(student, teacher, weight, temperature, expected):
    criterion = Criterion(cross_entropy, lambda images: torch.tensor([teacher]), weight, SoftmaxHead(2, 2), temperature)
    loss = criterion(torch.tensor([student]).log(), torch.tensor([0]), torch.zeros(1, 3, 4, 4))
    assert loss.item() == pytest.approx(expected)


@pytest.fixture
def taught(small_faces_once, tmp_path):
    """A finished run in `teacher`, and the command that trains a student of it into a folder."""
    labels, images = small_faces_once
    data = ["--label-dir", labels, "--image-dir", images, "--cache-dir", tmp_path / "cache", *TINY]
    assert call(main, *data, "--run-dir", tmp_path / "teacher") == 0
    return lambda run, *more: [*data, "--run-dir", tmp_path / run, "--teacher", tmp_path / "teacher", *more]


def test_a_student_learns_something_else_and_resumes_exactly(taught, tmp_path, monkeypatch, capsys):
    assert call(main, *taught("student")) == 0
    weights = {name: load_plain(tmp_path / name / "fold_3.pt")["state_dict"] for name in ("teacher", "student")}
    assert not torch.equal(weights["teacher"]["conv1.weight"], weights["student"]["conv1.weight"])

    assert call(main, *taught("file", "--teacher", tmp_path / "teacher" / "fold_3.pt")) == 0
    by_file = load_plain(tmp_path / "file" / "fold_3.pt")["state_dict"]
    assert all(torch.equal(by_file[name], value) for name, value in weights["student"].items())

    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "agreed", stop_after(3))
        assert call(main, *taught("stopped")) == 143
    assert call(main, "--run-dir", tmp_path / "stopped", "--resume", "--cache-dir", tmp_path / "cache") == 0
    resumed = load_plain(tmp_path / "stopped" / "fold_3.pt")["state_dict"]
    assert all(torch.equal(resumed[name], value) for name, value in weights["student"].items())


def stop_after(steps):
    def agreed(interruption):
        interruption.steps = getattr(interruption, "steps", 0) + 1
        interruption.requested = 15 if interruption.steps == steps else 0
        return interruption.requested != 0

    return agreed


def test_a_resumed_student_keeps_its_teacher(taught, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "agreed", stop_after(3))
        assert call(main, *taught("stopped")) == 143
    path = tmp_path / "teacher" / "fold_3.pt"
    content = load_plain(path)
    content["state_dict"]["fc.bias"] += 1
    save_plain(path, content)
    capsys.readouterr()
    assert call(main, "--run-dir", tmp_path / "stopped", "--resume", "--cache-dir", tmp_path / "cache") == 2
    assert "fold_3.progress.pt' is damaged: its teachers had other weights\n" in capsys.readouterr().err


def test_a_teacher_that_has_seen_the_held_out_pictures_is_refused(taught, small_faces_once, tmp_path, capsys):
    """Under other names."""
    path, held_out = tmp_path / "teacher" / "fold_3.pt", sorted((small_faces_once[1] / "album3").iterdir())
    content = load_plain(path)
    size = content["image_size"]
    seen = both_signatures(np.stack([decode_face(face, size) for face in held_out]))
    content["train_pictures"][:8] = torch.from_numpy(seen[0])
    save_plain(path, content)
    assert call(main, *taught("student")) == 2
    problem = f"error: '{path}' was trained on pictures of these faces, under other names: 8 of 8 in fold 3"
    assert capsys.readouterr().err.startswith(problem)
    assert not (tmp_path / "student").exists()


def test_a_teacher_that_has_seen_others_is_refused(taught, tmp_path, capsys):
    path = tmp_path / "teacher" / "fold_3.pt"
    content = load_plain(path)
    for changed, message in (
        ({"train_people": [*content["train_people"][1:], "album3/300"]}, "was trained on 1 people who are not in the"),
        ({"class_names": [f"class {k}" for k in range(8)]}, "knows the classes class 0, class 1, class 2, "),
    ):
        save_plain(path, {**content, **changed})
        assert call(main, *taught("student")) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --teacher: '{path}' {message}")
        assert not (tmp_path / "student").exists()
    shutil.rmtree(tmp_path / "teacher")
    assert call(main, *taught("student")) == 2
    assert f"error: no model file at '{path}'" in capsys.readouterr().err
