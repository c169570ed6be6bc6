"""One pass of a model over a set of faces; serves training, testing and tools alike."""

import time

import numpy as np
import torch

from augment.pipeline import to_network_input
from data.dataset import ordered_batches, prefetch, share_of
from evaluation.predictions import Predictions
from utils.errors import UserError


@torch.inference_mode()
def evaluate(model, dataset, batch_size, compute, decoder="argmax", view=None):
    """The Predictions of a model for every face of a dataset, in its order.

    Args:
        model: a Network; its head gives the class probabilities.
        dataset: a FaceDataset of N faces.
        compute: the Compute to run on. Several processes take a part each, and all get the whole.
        view: a function of normalised images (B, 3, S, S), such as a flip, applied before the network.

    Raises:
        UserError: a probability is not a finite number.
    """
    model.eval()
    start = time.perf_counter()
    rank, world_size = compute.distributed.rank, compute.distributed.world_size
    compute.distributed.share_buffers(model)
    parts = []
    for images, _ in prefetch(ordered_batches(dataset, batch_size, rank, world_size), compute.device):
        images = to_network_input(images, model.mean, model.std)
        with compute.autocast():
            parts.append(model.probabilities(images if view is None else view(images)))
    probabilities = torch.zeros(len(dataset), len(dataset.faces.class_names), device=compute.device)
    if parts:
        mine = share_of(len(dataset), rank, world_size)
        probabilities[mine[0] : mine[-1] + 1] = torch.cat(parts)
    probabilities = compute.distributed.sum(probabilities).cpu()
    if not probabilities.isfinite().all():
        raise UserError("the probabilities are not finite numbers: training diverged; use a smaller --lr")
    return Predictions(dataset.faces, probabilities.numpy(), decoder, time.perf_counter() - start)


@torch.inference_mode()
def measure_latency(model, dataset, batch_size, compute):
    """Median seconds from cached bytes to the network's outputs, for one face and for a batch."""
    latency = {}
    for name, count in (("one", 1), ("batch", min(batch_size, len(dataset)))):
        images = dataset[torch.arange(count)][0].to(compute.device)

        def forward(images=images):
            with compute.autocast():
                model(to_network_input(images, model.mean, model.std))

        latency[name] = {"images": count, "seconds": median_seconds(forward, compute)}
    return latency


def median_seconds(function, compute, repeats=20, warm_up=5):
    """Median wall time of a call after a warm-up; waits for the device."""
    times = []
    for _ in range(warm_up + repeats):
        compute.synchronize()
        start = time.perf_counter()
        function()
        compute.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[warm_up:]))
