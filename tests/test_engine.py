"""The engine: schedule, totals, divergence, and an evaluation that covers every face once."""

import numpy as np
import pytest
import torch

from augment import Targets
from data.loader import FaceDataset, epoch_generator, shuffled_batches
from utils import UserError
from utils.config import Config
from utils.device import Compute
from utils.engine import Totals, evaluate, train_one_epoch
from utils.losses import LOSSES, Objective
from utils.schedule import learning_rate

CPU = Compute(torch.device("cpu"), "fp32")


def test_learning_rate_steps():
    rates = [learning_rate(epoch, Config()) for epoch in (0, 19.99, 20, 49.99, 50, 74.99, 75, 99.99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_cosine_and_linear_after_a_warm_up():
    cosine = Config(schedule="cosine", warmup=2.0, epochs=10, lr=0.4)
    # Half-way up at epoch 1; half-way down the cosine at epoch 6; (1 + cos(pi / 4)) / 2 a quarter down, at epoch 4.
    rates = [learning_rate(progress, cosine) for progress in (1, 2, 4, 6, 10)]
    assert rates == pytest.approx([0.2, 0.4, 0.4 * 0.853553, 0.2, 0.0], abs=1e-6)
    linear = Config(schedule="linear", epochs=10, lr=0.4)
    assert [learning_rate(progress, linear) for progress in (0, 2.5, 10)] == pytest.approx([0.4, 0.3, 0.0])


def test_totals_weigh_batches_by_their_faces():
    totals = Totals(CPU)
    totals.add(torch.tensor(1.0), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0]))  # 2 of 3 right
    totals.add(torch.tensor(5.0), torch.tensor([0]), torch.tensor([0]))  # 1 of 1 right
    assert totals.read() == (2.0, 0.75)


class Brightness(torch.nn.Module):
    """Answers group k for an image whose bytes are all k."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        level = images[:, 0, 0, 0] * 0.229 * 255 + 0.485 * 255  # undoes the normalisation
        return -self.scale * (level[:, None] - torch.arange(8.0)).square()


def byte_faces(values, labels):
    images = np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    return FaceDataset(images, range(len(values)), labels)


def test_evaluation_keeps_the_order_and_the_last_small_batch():
    values = [0, 1, 2, 3, 4, 5, 6, 7, 3]
    evaluation = evaluate(
        Brightness(), byte_faces(values, [0, 1, 2, 3, 4, 5, 6, 6, 7]), 4, CPU, LOSSES["cross_entropy"]
    )
    assert evaluation.predictions.tolist() == values
    assert evaluation.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert evaluation.probabilities.sum(1) == pytest.approx(np.ones(9))
    assert evaluation.summary() == pytest.approx({"top1": 7 / 9, "one_off": 8 / 9, "mae": 5 / 9})


def as_they_are(images, labels, positions):
    return images.float(), Targets(labels)


def train(model, learning_rate, dataset):
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    batches = shuffled_batches(dataset, 4, epoch_generator(0, 0, 0))
    totals, seen = Totals(CPU), []
    objective = Objective(LOSSES["cross_entropy"])
    for _ in train_one_epoch(model, batches, as_they_are, objective, optimizer, CPU, totals):
        seen.append(totals.faces)
    return totals, seen


def test_an_epoch_sees_every_face_and_lowers_the_loss():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(8))
    dataset = byte_faces([0, 7] * 9, [0, 7] * 9)
    first, seen = train(model, 0.01, dataset)
    assert seen == [4, 8, 12, 16, 18]
    assert first.faces == 18
    last, _ = train(model, 0.01, dataset)
    assert last.read()[0] < first.read()[0]


def test_answers_that_are_not_finite_are_no_evaluation():
    model = Brightness()
    model.scale.data.fill_(float("nan"))
    with pytest.raises(UserError, match="answers are no finite numbers"):
        evaluate(model, byte_faces([1, 2], [1, 2]), 2, CPU, LOSSES["cross_entropy"])


def test_a_loss_that_is_not_finite_stops_the_epoch():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(8))
    with pytest.raises(UserError, match=r"the training loss became (nan|inf): it diverged; a smaller --lr"):
        train(model, 1e38, byte_faces([0, 7] * 9, [0, 7] * 9))
