"""Learning and evaluating: one epoch of training, one pass of evaluation."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from augment import to_network_input
from data.adience import AGE_GROUPS
from data.loader import ordered_batches, share_of
from utils import UserError
from utils.decode import DECODERS
from utils.metrics import confusion_matrix, summary


class Totals:
    """Sums over the faces of an epoch, kept on the device so that no step waits for them.

    faces: seen so far, by all processes. record: of an interrupted epoch, to go on with it.
    """

    def __init__(self, compute, record=None):
        record = record or {"faces": 0, "sums": torch.zeros(3, dtype=torch.float64), "seconds": 0.0}
        self.world = compute.world
        self.faces = record["faces"]
        # Loss, correct and faces, of this process; what was recorded is the first one's to bring in.
        self.sums = record["sums"].to(compute.device) * self.world.leads
        self.seconds = record["seconds"]
        self.start = time.perf_counter() - self.seconds

    def record(self):
        sums = self.world.sum(self.sums.clone()).cpu()
        return {"faces": self.faces, "sums": sums, "seconds": time.perf_counter() - self.start}

    def add(self, loss, predictions, labels, faces=None, copies=1):
        """loss: mean over this process's labels; faces: in the whole batch; copies: processes that add each face."""
        self.faces += faces or len(labels)
        count = len(labels) / copies
        self.sums[0] += loss * count
        self.sums[1] += (predictions == labels).sum() / copies
        self.sums[2] += count

    def read(self):
        """(mean loss, top1): of this process's faces, or of all once the epoch is finished.

        Raises UserError when the loss is no longer a finite number.
        """
        loss, correct, faces = self.sums.tolist()
        if not math.isfinite(loss):
            raise UserError(f"the training loss became {loss}: it diverged; a smaller --lr would be right")
        return loss / faces, correct / faces

    def finish(self):
        """Join the processes' sums, check the whole epoch and stop its clock."""
        self.world.sum(self.sums)
        self.read()
        self.seconds = time.perf_counter() - self.start


def train_one_epoch(network, batches, augment, objective, optimizer, compute, totals):
    """One pass over the training batches, added to the totals; yields after each step.

    batches: of `shuffled_batches`. augment: (images uint8 (B, 3, S, S), labels (B,), positions (B,)) -> (images
    float (B, 3, S, S), Targets). Raises UserError when the loss diverges.
    """
    network.train()
    for batch in compute.bring(batches):
        images, targets = augment(batch.images, batch.labels, batch.positions)
        with compute.autocast():
            outputs = network(images)
        outputs = outputs.float()
        loss = objective(outputs, targets)
        optimizer.zero_grad(set_to_none=True)
        # The gradient is averaged over processes, whose parts of a batch may differ in size by one.
        share = len(batch.labels) * compute.world.size / (batch.faces * batch.copies)
        (loss * share).backward()
        optimizer.step()
        predictions = objective.loss.probabilities(outputs.detach()).argmax(1)
        totals.add(loss.detach(), predictions, batch.labels, batch.faces, batch.copies)
        yield
    totals.finish()


@dataclass(frozen=True)
class Evaluation:
    """What a model says of N faces. probabilities: float (N, K); labels: int64 (N,)."""

    probabilities: np.ndarray
    labels: np.ndarray
    seconds: float  # of the whole pass: reading, preparing, predicting
    decode: str = "argmax"

    @property
    def loss(self):
        """Mean cross entropy of the probabilities, whatever the network was trained with."""
        right = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(right.clip(np.finfo(np.float32).tiny)).mean(dtype=np.float64))

    @property
    def predictions(self):
        return DECODERS[self.decode](self.probabilities)

    @property
    def confusion(self):
        return confusion_matrix(self.labels, self.predictions, self.probabilities.shape[1])

    def summary(self):
        return summary(self.confusion)

    def record(self):
        """What a checkpoint holds of it."""
        return {**self.summary(), "confusion": torch.from_numpy(self.confusion), "decode": self.decode}

    def table(self, faces):
        """One row per face, as in predictions.csv; faces: the evaluated ones, whose index is kept."""
        table = faces[["path", "subject", "fold", "label"]].assign(prediction=self.predictions)
        for group in range(self.probabilities.shape[1]):
            table[f"p{group}"] = self.probabilities[:, group]
        return table


@torch.inference_mode()
def evaluate(model, dataset, batch_size, compute, loss, decode="argmax", view=None):
    """The Evaluation of every face in the dataset, in its order; serves training and testing alike.

    loss: what the model was trained with, which knows its probabilities. view: another look at a batch of
    normalised images, such as a flip. Processes take a share each and all get the whole.
    """
    model.eval()
    start, place = time.perf_counter(), (compute.world.rank, compute.world.size)
    mine, own = share_of(len(dataset), *place), []
    for images, _ in compute.bring(ordered_batches(dataset, batch_size, *place)):
        images = to_network_input(images)
        with compute.autocast():
            outputs = model(images if view is None else view(images))
        own.append(loss.probabilities(outputs.float()))
    probabilities = torch.zeros(len(dataset), len(AGE_GROUPS), device=compute.device)
    if own:
        probabilities[mine[0] : mine[-1] + 1] = torch.cat(own)
    probabilities = compute.world.sum(probabilities).cpu()
    if not probabilities.isfinite().all():
        raise UserError("the network's answers are no finite numbers: training diverged; a smaller --lr would be right")
    return Evaluation(probabilities.numpy(), dataset.labels.cpu().numpy(), time.perf_counter() - start, decode)


def seed_noise(seed, interrupted=None):
    """Fix what the network itself draws in an epoch, its dropout; interrupted: a record that knows how far it was."""
    torch.manual_seed(seed)
    if interrupted:
        torch.set_rng_state(interrupted["noise"])
        if "gpu_noise" in interrupted:
            torch.cuda.set_rng_state(interrupted["gpu_noise"])


def noise():
    """How far the network's own draws are, for the record of an interrupted epoch."""
    gpu = {"gpu_noise": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
    return {"noise": torch.get_rng_state(), **gpu}


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
