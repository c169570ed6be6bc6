"""GridMask (Chen, Liu, Zhao and Jia, "GridMask Data Augmentation", arXiv:2001.04086, 2020)."""

import torch

from augment.geometry import pixel_coordinates

# The authors draw the period from [96, 224) pixels for images of 224 pixels.
REFERENCE_SIZE, SHORTEST_PERIOD = 224, 96


class GridMask:
    """Masks that drop a grid of squares.

    ratio: r. Stripes of width ceil(r d) are kept in both directions, so squares of side
        (1 - r) d are dropped and the kept area is 1 - (1 - r)^2; r itself is not the kept area.
    rotated: turn each grid by a random whole number of degrees, as the authors' code does.

    The period d is drawn per image from [96, 224) pixels at 224 pixels, scaled with the image's
    size, and the offsets from [0, d). Multiplied with normalised images, dropped pixels take the mean
    colour. Raises ValueError for a ratio outside (0, 1).
    """

    def __init__(self, ratio=0.6, rotated=True):
        if not 0 < ratio < 1:
            raise ValueError(f"GridMask's ratio is {ratio}; it lies between 0 and 1")
        self.ratio = ratio
        self.rotated = rotated

    def draw(self, count, size, generator):
        """Per image: period and two offsets in pixels, clockwise angle in degrees; four (count,) tensors."""
        shortest = max(2, round(SHORTEST_PERIOD * size / REFERENCE_SIZE))
        period = torch.randint(shortest, max(size, shortest + 1), (count,), generator=generator)
        offsets = (torch.rand(2, count, generator=generator, dtype=torch.float64) * period).long()
        angle = torch.randint(360 if self.rotated else 1, (count,), generator=generator)
        return period, offsets[0], offsets[1], angle

    def grids(self, size, period, offset_x, offset_y, angle):
        """The drawn grids as (lines, share), float (N, 2, 3) and (N,), for `grid_masks`."""
        radians = torch.deg2rad(angle.double())
        cos, sin, half = radians.cos(), radians.sin(), size / 2
        # Turned coordinates from the image's corner, counted in periods.
        lines = [half * cos, half * sin, half + offset_x, -half * sin, half * cos, half + offset_y]
        share = torch.ceil(self.ratio * period.double()) / period
        return (torch.stack(lines, dim=1) / period[:, None]).view(-1, 2, 3).float(), share.float()


def grid_masks(size, lines, share):
    """Float (B, size, size): 1 where an image is kept, else 0.

    lines: (B, 2, 3), from pixel coordinates to the places across the two sets of stripes, in periods.
    share: (B,), the stripes' share of a period; 1 keeps everything.
    """
    across = lines @ pixel_coordinates(size, lines.device)  # (B, 2, S * S)
    across.sub_(across.floor())
    within = torch.minimum(across[:, 0], across[:, 1])
    return within.lt_(share[:, None]).view(-1, size, size)


def gridmask_probability(epoch, epochs, start, end):
    """Linear from `start` in epoch 0 to `end` in the last of `epochs`."""
    return start + (end - start) * epoch / max(epochs - 1, 1)
