"""One epoch of training, its batches and meter, and the evaluations of a fold."""

import math
import time

import torch

from augment import make_transforms
from augment.pipeline import TrainAugment
from data.dataset import FaceDataset, prefetch, shuffled_batches
from evaluation.evaluate import evaluate
from models.decode import best_decoder
from models.network import Network
from training.schedule import training_progress
from utils.errors import UserError
from utils.seeds import Stream, derive_seed, make_generator


def train_one_epoch(state, batches, augment, meter, runtime, after_step):
    """Train on the batches of an epoch, or on the rest of them.

    Args:
        state: the TrainState, updated in place.
        batches: Batches of uint8 images, labels and positions in the epoch's order.
        augment: (images uint8 (B, 3, S, S), positions (B,)) -> normalised images float (B, 3, S, S).
        meter: the EpochMeter to update.
        runtime: the Runtime: device, precision and processes.
        after_step: a function without arguments, called after each step; training stops if it returns True.

    Returns:
        Whether the epoch is complete.

    Raises:
        UserError: the loss is not finite.
    """
    state.train_mode()
    meter.begin()
    for batch in prefetch(batches, runtime.device):
        # Learning rate and dropout follow from the step number, so that a resumed run repeats them.
        state.set_learning_rate(state.learning_rate(state.step / state.steps_per_epoch))
        torch.manual_seed(derive_seed(*state.seed, state.step, Stream.DROPOUT))

        images = augment(batch.images, batch.positions)  # (B, 3, S, S)
        with runtime.autocast():
            outputs = state.network(images)  # (B, D), D values of the head
        loss = state.criterion(outputs, batch.labels, batch.intervals, images)  # images: for the teacher
        state.optimizer.zero_grad()
        loss.backward()
        runtime.distributed.average_gradients(state.model)
        state.optimizer.step()
        state.step += 1

        meter.update(loss.detach(), state.model.fc.probabilities(outputs.detach()), batch.labels)
        if after_step():
            return False
    meter.finish()
    return True


def epoch_pipeline(config, epoch, images, faces, state, runtime):
    """The batches of an epoch, from the state's step on, and their augmentation."""
    dataset = FaceDataset(images, faces)
    batches = shuffled_batches(
        dataset,
        config.batch_size,
        make_generator(*state.seed, epoch, Stream.SHUFFLE),
        first_step=state.step - epoch * state.steps_per_epoch,
        rank=runtime.distributed.rank,
        world_size=runtime.distributed.world_size,
        sampling=state.sampling,
        by_shards=config.shuffle == "shards",
    )
    return batches, make_augment(config, epoch, len(dataset), state.model, state.seed, runtime.compiled)


def make_augment(config, epoch, count, model, seed, compiled=False):
    """The training augmentation of an epoch of `count` faces.

    Args:
        model: a Network or its class; its mean and std normalise.
        seed: (seed, fold).
    """
    transforms = make_transforms(
        config, config.image_size, training_progress(epoch, config.epochs), model.mean, model.std
    )
    generator = make_generator(*seed, epoch, Stream.AUGMENT)
    return TrainAugment(transforms, config.image_size, count, generator, compiled)


def preview_augment(config, count):
    """The last epoch's augmentation of `count` faces, for the preview plot."""
    return make_augment(config, config.epochs - 1, count, Network, (config.seed, config.folds[0]))


def evaluate_fold(config, images, setup, state, runtime):
    """The Evaluations of the held-out faces and of the validation faces, each None if there are none."""
    decoder = "argmax" if config.decode == "val" else config.decode
    return [
        evaluate(state.model, FaceDataset(images, faces), config.batch_size, runtime, decoder) if len(faces) else None
        for faces in (setup.test, setup.val)
    ]


def final_evaluations(config, images, setup, state, runtime):
    """The same, with the decoder that is best on the validation faces if --decode val asks for it."""
    tested, validated = evaluate_fold(config, images, setup, state, runtime)
    if config.decode == "val":
        decoder = best_decoder(validated.probabilities, validated.labels)
        tested, validated = (part and part.with_decoder(decoder) for part in (tested, validated))
    return tested, validated


class EpochMeter:
    """Sums over the faces of an epoch, kept on the device so that no step has to synchronize."""

    def __init__(self, runtime):
        self.distributed, self.device = runtime.distributed, runtime.device
        dtype = torch.float64 if self.device.type in ("cpu", "cuda") else torch.float32  # Apple's GPUs have no other
        self.sums = torch.zeros(3, dtype=dtype, device=self.device)  # loss, right answers, faces
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
        """(mean loss, top-1) of the faces summed here; of all processes' after `finish`.

        Raises:
            UserError: the loss is not finite.
        """
        loss, correct, faces = self.sums.tolist()
        if not math.isfinite(loss):
            raise UserError(f"the training loss became {loss}: training diverged; use a smaller --lr")
        return loss / faces, correct / faces

    def finish(self):
        """Sum over the processes, check the loss and stop the clock."""
        self.distributed.sum(self.sums)
        self.read()  # raises where training diverged, before the faces are evaluated
        self.seconds += time.perf_counter() - self.start

    def state_dict(self):
        sums = self.distributed.sum(self.sums.clone()).cpu().double()
        return {"sums": sums, "faces": self.faces, "seconds": self.seconds + time.perf_counter() - self.start}

    def load_state_dict(self, state):
        """Raises KeyError, TypeError or ValueError where the state is not one of `state_dict`."""
        sums, faces, seconds = state["sums"], state["faces"], state["seconds"]
        if (sums.shape, sums.dtype) != (self.sums.shape, torch.float64) or not sums.isfinite().all():
            raise ValueError(f"its sums are {sums}")
        if not (type(faces) is int and type(seconds) is float and faces >= 0 and 0 <= seconds < math.inf):
            raise ValueError(f"it counts {faces} faces in {seconds} seconds")
        # Saved sums include all processes, so the main process alone restores them; `finish` adds them up again.
        self.sums += sums.to(self.sums) * self.distributed.is_main_process
        self.faces, self.seconds = faces, seconds
