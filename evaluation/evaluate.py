"""One pass of a model over a set of faces; serves training, testing and tools alike."""

import time

import numpy as np
import torch

from augment.geometry import resize
from augment.pipeline import to_network_input
from data.dataset import ordered_batches, prefetch, share_of
from evaluation.evaluation import Evaluation, sum_within
from evaluation.metrics import compute_metrics
from models.decode import decode
from utils.errors import UserError

VIEWS = {"flip": lambda images: images.flip(-1)}  # other images of the same faces, whose probabilities may be averaged


@torch.inference_mode()
def evaluate(model, dataset, batch_size, runtime, decoder="argmax", view=None):
    """The Evaluation of a model on every face of a dataset, in its order.

    Args:
        model: a Network; its head gives the class probabilities.
        dataset: a FaceDataset of N faces.
        runtime: the Runtime to run on. Several processes take a part each, and all get the whole.
        view: a function of normalised images (B, 3, S, S), such as a flip, applied before the network.

    Raises:
        UserError: a probability is not a finite number.
    """
    model.eval()
    start = time.perf_counter()
    rank, world_size = runtime.distributed.rank, runtime.distributed.world_size
    runtime.distributed.broadcast(model.buffers())
    parts = []
    for images, *_ in prefetch(ordered_batches(dataset, batch_size, rank, world_size), runtime.device):
        images = to_network_input(images, model.mean, model.std)
        with runtime.autocast():
            parts.append(model.probabilities(images if view is None else view(images)))
    classes = dataset.faces.classes
    probabilities = torch.zeros(len(dataset), len(model.classes or classes), device=runtime.device)
    if parts:
        mine = share_of(len(dataset), rank, world_size)
        probabilities[mine[0] : mine[-1] + 1] = torch.cat(parts)
    probabilities = runtime.distributed.sum(probabilities).cpu()
    if not probabilities.isfinite().all():
        raise UserError("the probabilities are not finite numbers: training diverged; use a smaller --lr")
    probabilities, seconds = probabilities.numpy(), time.perf_counter() - start
    if model.classes and model.classes.names != classes.names:  # the faces have coarser classes
        probabilities = sum_within(probabilities, model.classes.within(classes), len(classes))
    return Evaluation(dataset.faces, probabilities, decoder, model=model, seconds=seconds)


@torch.inference_mode()
def evaluate_batches(model, batches, decoder="argmax"):
    """The metrics of a model on the batches of any DataLoader.

    Args:
        model: a Network, on the CPU.
        batches: yields (images uint8 (B, 3, S, S), labels int64 (B,)), of faces framed like the training images; other
            sizes than the model's are resized.
        decoder: a key of `models.decode.DECODERS`.

    Returns:
        {name of `evaluation.metrics.CLASS_METRICS`: value}.
    """
    model.eval()
    parts = [
        (labels, model.probabilities(to_network_input(resize(images, model.image_size), model.mean, model.std)))
        for images, labels in batches
    ]
    labels, probabilities = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
    return compute_metrics(labels, decode(probabilities, decoder), probabilities)


@torch.inference_mode()
def measure_latency(model, dataset, batch_size, runtime, repeats=20, warm_up=5):
    """Median seconds from uint8 images on the device to outputs, after a warm-up, for one face and a batch."""
    latency = {}
    for name, count in (("one", 1), ("batch", min(batch_size, len(dataset)))):
        images = dataset[torch.arange(count)][0].to(runtime.device)
        times = []
        for _ in range(warm_up + repeats):
            runtime.synchronize()
            start = time.perf_counter()
            with runtime.autocast():
                model(to_network_input(images, model.mean, model.std))
            runtime.synchronize()
            times.append(time.perf_counter() - start)
        latency[name] = {"images": count, "seconds": float(np.median(times[warm_up:]))}
    return latency
