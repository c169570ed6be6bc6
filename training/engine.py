"""Training for one epoch, and evaluating a split."""

import dataclasses
import functools
import math
import time

import torch

from augment import make_mix, make_transforms
from augment.geometry import resize
from augment.pipeline import TrainAugment
from data.dataset import FaceDataset, prefetch, shuffled_batches
from evaluation.decode import best_decoder
from evaluation.evaluate import evaluate
from models.network import Network
from training.schedule import training_progress, training_size
from utils.errors import UserError
from utils.seeds import Stream, derive_seed, make_generator


def train_one_epoch(state, batches, augment, meter, compute, progress, interruption):
    """Train on the batches of an epoch, or on the rest of them.

    Args:
        state: the TrainState, updated in place. `state.network` is `state.model`, wrapped for several processes or
            compiled where they are used.
        batches: Batches of uint8 images, labels and positions in the epoch's order.
        augment: (images uint8 (B, 3, S, S), labels (B,), positions (B,)) -> (images float (B, 3, S, S), Targets).
        meter: the EpochMeter to update.
        compute: the Compute: device, precision and processes.
        progress: shows the meter after each step.
        interruption: checked after each step.

    Returns:
        Whether the epoch is complete; False if training was interrupted.

    Raises:
        UserError: the loss is not finite.
    """
    state.train_mode()
    meter.begin()
    for batch in prefetch(batches, compute.device):
        # Learning rate and dropout follow from the step number, so that a resumed run repeats them.
        epochs_done = state.step / state.steps_per_epoch  # with a fraction
        state.set_learning_rate(state.learning_rate(epochs_done))
        torch.manual_seed(derive_seed(*state.seed, state.step, Stream.DROPOUT))

        images, targets = augment(batch.images, batch.labels, batch.positions)  # (B, 3, S, S)
        with compute.autocast():
            outputs = state.network(images)  # (B, D)
        loss = state.criterion(outputs, targets, images)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(state.model)
        state.step += 1

        meter.update(loss.detach(), state.model.head.probabilities(outputs.detach()), batch.labels)
        progress.update(meter)
        if interruption.agreed():
            return False
    meter.finish()
    return True


def epoch_pipeline(config, epoch, images, faces, state, compute):
    """The batches of an epoch, from the state's step on, and their augmentation."""
    dataset = FaceDataset(images, faces)
    distributed = compute.distributed
    batches = shuffled_batches(
        dataset,
        config.batch_size,
        make_generator(*state.seed, epoch, Stream.SHUFFLE),
        first_step=state.step - epoch * state.steps_per_epoch,
        rank=distributed.rank,
        world_size=distributed.world_size,
        sampling=state.sampling,
    )
    return batches, make_augment(config, epoch, len(dataset), state.model, state.seed, compute.compiled)


def make_augment(config, epoch, count, model, seed, compiled=False):
    """The training augmentation of an epoch of `count` faces; seed: (seed, fold)."""
    size = training_size(epoch, config.epochs, config.image_size, config.first_size)
    transforms = make_transforms(config, size, training_progress(epoch, config.epochs), model.mean, model.std)
    generator = make_generator(*seed, epoch, Stream.AUGMENT)
    return TrainAugment(transforms, make_mix(config, size), size, count, generator, compiled)


def preview_augment(config, count):
    """The last epoch's augmentation of `count` faces, for the preview plot."""
    return make_augment(config, config.epochs - 1, count, Network, (config.seed, config.folds[0]))


def evaluate_split(config, epoch, images, faces, state, compute):
    """The Predictions for a split at the size that the network was trained on in this epoch; None if it is empty."""
    if not len(faces):
        return None
    size = training_size(epoch, config.epochs, config.image_size, config.first_size)
    view = functools.partial(resize, size=size) if size < config.image_size else None
    decoder = "argmax" if config.decode == "val" else config.decode
    return evaluate(state.evaluated_model, FaceDataset(images, faces), config.batch_size, compute, decoder, view)


def final_predictions(config, images, test, val, state, compute):
    """The reported Predictions for the held-out fold, with the decoder that is best on the validation faces.

    Returns:
        (Predictions for the held-out fold, Predictions for the validation faces or None where there are none).
    """
    tested, validated = (
        evaluate_split(config, config.epochs - 1, images, faces, state, compute) for faces in (test, val)
    )
    if config.decode == "val":
        tested = dataclasses.replace(tested, decoder=best_decoder(validated.probabilities, validated.labels))
    return tested, validated


class EpochMeter:
    """Sums over the faces of an epoch, kept on the device so that no step has to synchronize."""

    def __init__(self, compute):
        self.distributed, self.device = compute.distributed, compute.device
        self.reset()

    def reset(self):
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, right answers, faces
        self.faces = 0  # of all processes
        self.start, self.seconds = None, 0.0

    def begin(self):
        """Start the clock."""
        self.start = time.perf_counter()

    def update(self, loss, probabilities, labels):
        """loss: mean over this process's part of the batch; probabilities (B, K); labels (B,)."""
        self.faces += len(labels) * self.distributed.world_size
        self.sums[0] += loss * len(labels)
        self.sums[1] += (probabilities.argmax(1) == labels).sum()
        self.sums[2] += len(labels)

    def read(self):
        """(mean loss, top-1): of this process's faces, or of all of them once the epoch is finished.

        Raises:
            UserError: the loss is not finite.
        """
        loss, correct, faces = self.sums.tolist()
        if not math.isfinite(loss):
            raise UserError(f"the training loss became {loss}: training diverged; use a smaller --lr")
        return loss / faces, correct / faces

    def finish(self):
        """Sum over the processes and stop the clock."""
        self.distributed.sum(self.sums)
        self.read()
        self.seconds += time.perf_counter() - self.start

    def state_dict(self):
        sums = self.distributed.sum(self.sums.clone()).cpu()
        return {"sums": sums, "faces": self.faces, "seconds": self.seconds + time.perf_counter() - self.start}

    def load_state_dict(self, state):
        """Raises KeyError, TypeError or ValueError where the state is not one of `state_dict`."""
        sums, faces, seconds = state["sums"], state["faces"], state["seconds"]
        if (sums.shape, sums.dtype) != (self.sums.shape, self.sums.dtype) or not sums.isfinite().all():
            raise ValueError(f"its sums are {sums}")
        if type(faces) is not int or type(seconds) is not float or not faces >= 0 or not 0 <= seconds < math.inf:
            raise ValueError(f"it counts {faces} faces in {seconds} seconds")
        # Saved sums include all processes, so the main process alone restores them; `finish` adds them up again.
        self.sums += state["sums"].to(self.sums.device) * self.distributed.is_main_process
        self.faces, self.seconds = state["faces"], state["seconds"]
