"""CenterFace, the face detector: a small network that sees a face as its centre, size and five points.

Xu, Yan, Yang, Luo, Zhu and Lin, "CenterFace: Joint Face Detection and Alignment Using Face as Point", Scientific
Programming, 2020. The weights are the authors' (https://github.com/Star-Clouds/CenterFace, MIT licence), in 16 bits in
centerface.pt and in 8 in centerface.int8.onnx (benchmarks/convert_centerface.py made both). The network is a
MobileNetV2 (Sandler et al., CVPR 2018) whose stages are added up, the deepest first, to one map of a quarter of the
image's resolution.
"""

import functools
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.export import open_session
from utils.errors import UserError
from utils.serialization import first_line, load_plain

WEIGHTS = Path(__file__).with_name("centerface.pt")
WEIGHTS_IN_8_BITS = WEIGHTS.with_suffix(".int8.onnx")
STRIDE = 4  # pixels of the image between two places of the map
MULTIPLE = 32  # the network needs sides that are multiples of it; black pixels fill them up to the right and below
LEAST_SCORE = 0.05  # places of the map with less are no faces
OVERLAP = 0.3  # two boxes show one face if they share more of the smaller one
CHANNELS = 24  # channels of the map before the last layer
# Expansion, channels, blocks and first stride, as MobileNetV2's Table 2 has them; a stage for each resolution.
STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 2)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class CenterFace(nn.Module):
    """Images in RGB from 0 to 255, (B, 3, H, W), -> the map (B, 15, H / 4, W / 4).

    Its channels: the logit of the score, the logarithms of height and width in strides, the shifts of the centre in y
    and x, and y and x of the five points as shares of the box.
    """

    def __init__(self):
        super().__init__()
        self.stages, channels = nn.ModuleList(), 32
        blocks = [convolution(3, channels, 3, stride=2)]
        for stage in STAGES:
            for expansion, width, count, stride in stage:
                for number in range(count):
                    blocks.append(InvertedResidual(channels, width, 1 if number else stride, expansion))
                    channels = width
            self.stages.append(nn.Sequential(*blocks))
            blocks = []
        self.deepest = convolution(channels, CHANNELS)
        self.enlarge = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, stride=2), nn.ReLU()) for _ in STAGES[1:]
        )
        self.lateral = nn.ModuleList(convolution(stage[-1][1], CHANNELS) for stage in STAGES[-2::-1])
        self.merged = convolution(CHANNELS, CHANNELS, 3)
        self.outputs = nn.Conv2d(CHANNELS, 15, 1)

    def forward(self, images):
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        merged = self.deepest(maps.pop())
        for enlarge, lateral in zip(self.enlarge, self.lateral, strict=True):
            merged = enlarge(merged) + lateral(maps.pop())
        merged = self.merged(merged)
        with torch.autocast(images.device.type, enabled=False):  # sizes in bf16 would be off by 1 %
            return self.outputs(merged.float())


class InvertedResidual(nn.Module):
    """MobileNetV2's block; its normalisation is part of the convolutions."""

    def __init__(self, channels, width, stride, expansion):
        super().__init__()
        inner = channels * expansion
        self.residual = stride == 1 and channels == width
        self.layers = nn.Sequential(
            *([convolution(channels, inner)] if expansion > 1 else []),
            convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, width, 1),
        )

    def forward(self, images):
        return images + self.layers(images) if self.residual else self.layers(images)


def convolution(channels, width, kernel=1, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups), nn.ReLU(inplace=True))


@functools.cache
def load_centerface():
    """The network with its weights. Raises UserError where their file is damaged."""
    network = CenterFace().eval().to(memory_format=torch.channels_last)
    network.load_state_dict({name: tensor.float() for name, tensor in load_plain(WEIGHTS).items()})
    return network


@functools.cache
def load_fast_centerface():
    """The network in 8 bits, for onnxruntime; where that is not installed, the other one.

    It finds the same faces in half the time; the boxes differ by 1 % (benchmarks/RESULTS.md). Raises UserError where
    the file is damaged or onnxruntime does not work.
    """
    try:
        session = open_session(WEIGHTS_IN_8_BITS)
    except ImportError:
        return load_centerface()
    except Exception as error:  # onnxruntime raises kinds of its own
        problem = f"onnxruntime cannot load '{WEIGHTS_IN_8_BITS}': {first_line(error)}"
        raise UserError(f"{problem}; --precision fp32 does without it") from None
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.inference_mode()
def search(image, network):
    """Find faces of about 20 to 400 pixels.

    Args:
        image: uint8 (H, W, 3), RGB.
        network: a CenterFace, or what does the same.

    Returns:
        A row per face, float64 (N, 15): confidence from 0 to 1, left, top, width, height, then x and y of five points.
    """
    (found,) = network(to_images(image)).numpy()
    y, x = np.nonzero(found[0] > math.log(LEAST_SCORE / (1 - LEAST_SCORE)))
    found = found[:, y, x].astype(np.float64)
    scores = 1 / (1 + np.exp(-found[0]))
    high, wide = STRIDE * np.exp(found[1:3])
    top = STRIDE * (y + found[3] + 0.5) - high / 2
    left = STRIDE * (x + found[4] + 0.5) - wide / 2
    points = np.stack([left + wide * found[6::2], top + high * found[5::2]], -1)  # (5, N, 2)
    rows = np.column_stack([scores, left, top, wide, high, *points])
    return without_overlaps(rows, OVERLAP)


def to_images(image):
    """An image uint8 (H, W, 3) as the network's input, float32 (1, 3, H', W'), filled up with black."""
    height, width = image.shape[:2]
    pixels = np.pad(image.transpose(2, 0, 1), [(0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE)])
    return torch.from_numpy(pixels)[None].float()


def without_overlaps(rows, most):
    """The rows of `search` whose boxes share at most this part of the smaller one with any more confident row's box."""
    start, size = rows[:, 1:3], rows[:, 3:5]
    end, areas = start + size, size.prod(1)
    kept, order = [], np.argsort(-rows[:, 0], kind="stable")
    while len(order):
        first, order = order[0], order[1:]
        kept.append(first)
        shared = (np.minimum(end[first], end[order]) - np.maximum(start[first], start[order])).clip(0).prod(1)
        order = order[shared <= most * np.maximum(np.minimum(areas[first], areas[order]), 1e-9)]
    return rows[kept]
