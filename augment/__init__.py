"""Batched augmentation on the tensor's own device, with parameters of its own for each sample.

Images are float (B, 3, S, S) in [0, 1] unless a function says otherwise. Each transform
equals `torchvision.transforms.v2.functional`, applied image by image with the same
parameters; the tests say to what tolerance.
"""

from augment.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, normalize
from augment.geometry import flip, rotate, source_of, warp
from augment.gridmask import GridMask, grid_masks, gridmask_probability
from augment.mixing import Targets
from augment.pipeline import Strengths, TrainAugment, to_network_input

__all__ = [
    "GridMask",
    "Strengths",
    "Targets",
    "TrainAugment",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "flip",
    "grid_masks",
    "gridmask_probability",
    "normalize",
    "rotate",
    "source_of",
    "to_network_input",
    "warp",
]
