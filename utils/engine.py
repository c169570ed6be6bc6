"""Learning and evaluating: one epoch of training, one pass of evaluation, the learning rate."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from augment import to_network_input
from data.loader import ordered_batches
from utils import UserError
from utils.metrics import confusion_matrix, summary


class Totals:
    """Sums over the faces of an epoch, kept on the device so that no step waits for them.

    record: of an interrupted epoch, to go on with it.
    """

    def __init__(self, device, record=None):
        record = record or {"faces": 0, "sums": torch.zeros(2, dtype=torch.float64), "seconds": 0.0}
        self.faces = record["faces"]
        self.sums = record["sums"].to(device)  # loss, correct
        self.seconds = record["seconds"]
        self.start = time.perf_counter() - self.seconds

    def record(self):
        return {"faces": self.faces, "sums": self.sums.cpu(), "seconds": time.perf_counter() - self.start}

    def add(self, loss, logits, labels):
        self.faces += len(labels)
        self.sums[0] += loss * len(labels)
        self.sums[1] += (logits.argmax(1) == labels).sum()

    def read(self):
        """(mean loss, top1). Raises UserError when the loss is no longer a finite number."""
        loss, correct = (self.sums / self.faces).tolist()
        if not math.isfinite(loss):
            raise UserError(f"the training loss became {loss}: it diverged; a smaller --lr would be right")
        return loss, correct

    def finish(self):
        """Check the whole epoch and stop its clock."""
        self.read()
        self.seconds = time.perf_counter() - self.start


def train_one_epoch(model, batches, augment, loss_function, optimizer, compute, totals):
    """One pass over the training batches, added to the totals; yields after each step.

    augment: uint8 (B, 3, S, S) -> float (B, 3, S, S). Raises UserError when the loss diverges.
    """
    model.train()
    for images, labels in batches:
        images, labels = (batch.to(compute.device, non_blocking=True) for batch in (images, labels))
        with compute.autocast():
            logits = model(augment(images))
        loss = loss_function(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        totals.add(loss.detach(), logits.detach(), labels)
        yield
    totals.finish()


@dataclass(frozen=True)
class Evaluation:
    """What a model says of N faces. probabilities: float (N, K); labels: int64 (N,)."""

    probabilities: np.ndarray
    labels: np.ndarray
    loss: float  # mean cross entropy
    seconds: float  # of the whole pass: reading, preparing, predicting

    @property
    def predictions(self):
        return self.probabilities.argmax(1)

    @property
    def confusion(self):
        return confusion_matrix(self.labels, self.predictions, self.probabilities.shape[1])

    def summary(self):
        return summary(self.confusion)

    def table(self, faces):
        """One row per face, as in predictions.csv; faces: the evaluated ones, whose index is kept."""
        table = faces[["path", "subject", "fold", "label"]].assign(prediction=self.predictions)
        for group in range(self.probabilities.shape[1]):
            table[f"p{group}"] = self.probabilities[:, group]
        return table


@torch.inference_mode()
def evaluate(model, dataset, batch_size, compute):
    """The Evaluation of every face in the dataset, in its order; serves training and testing alike."""
    model.eval()
    start = time.perf_counter()
    logits = []
    for images, _ in ordered_batches(dataset, batch_size):
        images = to_network_input(images.to(compute.device, non_blocking=True))
        with compute.autocast():
            logits.append(model(images).float())
    logits = torch.cat(logits).cpu()
    if not logits.isfinite().all():
        raise UserError("the network's answers are no finite numbers: training diverged; a smaller --lr would be right")
    seconds = time.perf_counter() - start
    loss = float(F.cross_entropy(logits, dataset.labels))
    return Evaluation(logits.softmax(1).numpy(), dataset.labels.numpy(), loss, seconds)


def learning_rate(epoch, base, steps, gamma):
    """Step decay: `base`, multiplied by `gamma` at each epoch in `steps`."""
    return base * gamma ** sum(epoch >= step for step in steps)


def set_learning_rate(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


def median_seconds(function, compute, repeats=20, warm_up=5):
    """Median wall time of a call, after a warm-up; waits for the device."""
    times = []
    for _ in range(warm_up + repeats):
        compute.synchronize()
        start = time.perf_counter()
        function()
        compute.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[warm_up:]))
