"""The engine: schedule, meter, divergence, steps that resume, and an evaluation that covers every face once."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.dataset import FaceDataset, shuffled_batches
from data.faces import Faces
from evaluation.evaluate import evaluate
from models.heads import SoftmaxHead
from models.network import Network
from training.config import Config
from training.engine import EpochMeter, epoch_pipeline, train_one_epoch
from training.losses import Criterion, cross_entropy
from training.schedule import learning_rate
from training.setup import make_state, set_up_folds
from training.state import TrainState
from utils.classes import Classes
from utils.device import Runtime, choose_device
from utils.errors import UserError
from utils.seeds import make_generator

CPU = Runtime(torch.device("cpu"), "fp32")
CLASSES = Classes(tuple("abcdefgh"))


def test_learning_rate_steps():
    published = {"lr": 0.1, "epochs": 100, "lr_steps": (20, 50, 75)}
    rates = [learning_rate(epoch, **published) for epoch in (0, 19.99, 20, 49.99, 50, 74.99, 75, 99.99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_cosine_and_linear_after_a_warm_up():
    # Half-way up at epoch 1; half-way down the cosine at epoch 6; (1 + cos(pi / 4)) / 2 a quarter down, at epoch 4.
    rates = [learning_rate(epoch, 0.4, 10, "cosine", 2.0) for epoch in (1, 2, 4, 6, 10)]
    assert rates == pytest.approx([0.2, 0.4, 0.4 * 0.853553, 0.2, 0.0], abs=1e-6)
    assert [learning_rate(epoch, 0.4, 10, "linear") for epoch in (0, 2.5, 10)] == pytest.approx([0.4, 0.3, 0.0])


def one_hot(predictions):
    return torch.eye(3)[torch.tensor(predictions)]


def test_the_meter_weighs_batches_by_their_faces():
    meter = EpochMeter(CPU)
    meter.begin()
    meter.update(torch.tensor(1.0), one_hot([0, 1, 2]), torch.tensor([0, 1, 0]))  # 2 of 3 right
    meter.update(torch.tensor(5.0), one_hot([0]), torch.tensor([0]))  # 1 of 1 right
    assert meter.read() == (2.0, 0.75)
    resumed = EpochMeter(CPU)
    resumed.load_state_dict(meter.state_dict())
    resumed.begin()
    resumed.update(torch.tensor(2.0), one_hot([0] * 4), torch.tensor([1] * 4))
    assert resumed.read() == (2.0, 3 / 8)
    resumed.finish()
    assert (resumed.faces, resumed.seconds > 0) == (8, True)


def faces_of(labels, classes=CLASSES):
    count = len(labels)
    table = pd.DataFrame({"path": [f"{k}.jpg" for k in range(count)], "label": labels, "fold": 0})
    return Faces(table.assign(person=table.path, album="album"), classes)


def byte_images(values, side=4):
    return np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, side, side), np.uint8)


def byte_faces(values, labels, classes=CLASSES):
    return FaceDataset(byte_images(values), faces_of(labels, classes))


class Brightness(Network):
    """Answers class k for an image whose bytes are all k."""

    def __init__(self, num_classes=8):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.fc = SoftmaxHead(1, num_classes)

    def forward(self, images):
        level = images[:, 0, 0, 0] * 0.229 * 255 + 0.485 * 255  # undoes the normalisation
        return -self.scale * (level[:, None] - torch.arange(float(self.fc.num_classes))).square()


def test_evaluation_keeps_the_order_and_the_last_small_batch():
    values, labels = [0, 1, 2, 3, 4, 5, 6, 7, 3], [0, 1, 2, 3, 4, 5, 6, 6, 7]
    predictions = evaluate(Brightness(), byte_faces(values, labels), 4, CPU)
    assert predictions.predicted.tolist() == values
    assert predictions.labels.tolist() == labels
    assert predictions.probabilities.sum(1) == pytest.approx(np.ones(9))
    metrics = predictions.metrics()
    assert [metrics[name] for name in ("top1", "one_off", "mae")] == pytest.approx([7 / 9, 8 / 9, 5 / 9])


def test_evaluation_knows_any_number_of_classes():
    predictions = evaluate(Brightness(3), byte_faces([0, 2, 2], [0, 1, 2], Classes(("young", "middle", "old"))), 2, CPU)
    assert predictions.probabilities.shape == (3, 3)
    assert predictions.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert list(predictions.table().columns[-3:]) == ["p_young", "p_middle", "p_old"]


def test_probabilities_that_are_not_finite_are_refused():
    model = Brightness()
    model.scale.data.fill_(float("nan"))
    with pytest.raises(UserError, match="the probabilities are not finite numbers: training diverged"):
        evaluate(model, byte_faces([1, 2], [1, 2]), 2, CPU)


class Linear(Network):
    """One linear layer on the pixels."""

    def __init__(self):
        super().__init__()
        self.fc = SoftmaxHead(48, 8)

    def features(self, images):
        return images.flatten(1)


def stand_in_state(model, lr, steps):
    """What the loop needs of a TrainState, without a configuration."""
    state = SimpleNamespace(
        seed=(0, 0), step=0, steps_per_epoch=steps, model=model, network=model, average=None,
        optimizer=torch.optim.SGD([{"params": model.parameters(), "lr_factor": 1.0}], lr),
        criterion=Criterion(cross_entropy),
        learning_rate=lambda epoch: lr, train_mode=model.train,
    )  # fmt: skip
    state.set_learning_rate = lambda lr: TrainState.set_learning_rate(state, lr)
    return state


def unchanged(images, positions):
    return images.float()


def train(state, dataset, after_step=lambda meter: False):
    meter = EpochMeter(CPU)
    batches = shuffled_batches(dataset, 4, make_generator(0))
    return train_one_epoch(state, batches, unchanged, meter, CPU, lambda: after_step(meter)), meter


def test_an_epoch_drops_the_incomplete_batch_and_lowers_the_loss():
    torch.manual_seed(0)
    state, dataset, seen = stand_in_state(Linear(), 0.01, 4), byte_faces([0, 7] * 9, [0, 7] * 9), []
    complete, first = train(state, dataset, lambda meter: seen.append(meter.faces))
    assert complete
    assert seen == [4, 8, 12, 16]  # 18 faces
    assert state.step == 4
    _, last = train(state, dataset)
    assert last.read()[0] < first.read()[0]


def test_a_request_to_stop_ends_the_epoch_after_the_step():
    state, dataset = stand_in_state(Linear(), 0.01, 4), byte_faces([0, 7] * 9, [0, 7] * 9)
    complete, meter = train(state, dataset, lambda meter: state.step == 2)
    assert not complete
    assert (state.step, meter.faces) == (2, 8)


def test_a_loss_that_is_not_finite_stops_the_epoch():
    with pytest.raises(UserError, match=r"the training loss became (nan|inf): training diverged; use a smaller --lr"):
        train(stand_in_state(Linear(), 1e38, 4), byte_faces([0, 7] * 9, [0, 7] * 9))


@pytest.mark.parametrize("network", [{"width": 0.125}, {"model": "mobilenet_v3_small"}])
def test_a_stopped_epoch_resumes_to_the_same_bits(network):
    config = Config(**network, image_size=40, epochs=1, batch_size=4, lr=0.01, folds=(1,))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (14, 3, 40, 40), dtype=torch.uint8, generator=generator).numpy()
    faces = faces_of([k % 8 for k in range(14)])

    _, setups = set_up_folds(config, faces, world_size=1)

    def run(state, stop_at=None):
        pipeline = epoch_pipeline(config, 0, images, faces, state, CPU)
        train_one_epoch(state, *pipeline, EpochMeter(CPU), CPU, lambda: state.step == stop_at)
        return state

    whole = run(make_state(config, setups[1], CPU))
    stopped = run(make_state(config, setups[1], CPU), stop_at=2)
    resumed = make_state(config, setups[1], CPU)
    resumed.load_state_dict(stopped.state_dict())
    run(resumed)
    assert (whole.step, resumed.step) == (3, 3)
    for ours, theirs in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class NoFloat64(TorchDispatchMode):
    """Apple's GPUs have no float64; torch's "meta" device stands for one, where nothing is computed."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self.calls += 1
                assert tensor.dtype != torch.float64, function
        return result


@pytest.mark.parametrize("recipe", ["original", "modern", "robust"])
def test_no_float64_reaches_a_gpu_without_it(recipe, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # "meta" has none
    runtime = Runtime(torch.device("meta"), "fp32")
    augmentation = {"rotation": 15, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
    usual = {"width": 0.125, "image_size": 40, "epochs": 2, "batch_size": 4, "folds": (1,), "optimizer": "muon"}
    config = Config(recipe=recipe, **usual, **augmentation)  # torch's fused SGD refuses "meta"
    faces, images = faces_of([k % 8 for k in range(14)]), np.zeros((14, 3, 40, 40), np.uint8)
    setup = set_up_folds(config, faces, world_size=1)[1][1]
    with NoFloat64() as mode:
        state = make_state(config, setup, runtime)
        pipeline = epoch_pipeline(config, 0, images, faces, state, runtime)
        train_one_epoch(state, *pipeline, EpochMeter(runtime), runtime, lambda: state.step == 2)
    assert state.step == 2
    assert mode.calls > 1000


def test_the_head_computes_in_fp32_under_bf16():
    model, images = Linear(), torch.randn(3, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images)
    assert outputs.dtype == torch.float32
    assert torch.allclose(outputs, model.fc(images.flatten(1)))


def test_auto_leaves_apples_gpus_alone(monkeypatch):
    """Nobody has run the code on one."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(name).type for name in ("auto", "mps")] == ["cpu", "mps"]
