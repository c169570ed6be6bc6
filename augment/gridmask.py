"""GridMask (Chen, Liu, Zhao and Jia, "GridMask Data Augmentation", arXiv:2001.04086, 2020)."""

import torch

from augment.geometry import pixel_coordinates

# The authors draw the period from [96, 224) pixels for images of 224 pixels.
REFERENCE_SIZE, SHORTEST_PERIOD = 224, 96


class GridMask:
    """Drops a grid of squares from each image. On normalised images, dropped pixels take the mean colour.

    The period d is drawn per image from [96, 224) pixels at 224 pixels, in proportion at other sizes, and the offsets
    from [0, d).

    Args:
        probability: of masking an image.
        ratio: r. Stripes of width ceil(r d) are kept in both directions, so squares of side (1 - r) d are dropped and
            the kept area is 1 - (1 - r)^2; r itself is not the kept area.
        rotated: rotate each grid by a random whole number of degrees, as the authors' code does.
        image_size: side of the images, in pixels.
    """

    def __init__(self, probability, ratio=0.6, rotated=True, image_size=224):
        self.probability, self.ratio, self.rotated, self.image_size = probability, ratio, rotated, image_size

    def draw(self, count, generator):
        """(count, 2, 4): grids for `grid_masks`."""
        masked = torch.rand(count, generator=generator) < self.probability
        grids = self.make_grids(*self.draw_grids(count, generator))
        grids[~masked, :, 3] = 1
        return grids

    def apply(self, images, grids):
        return images.mul_(grid_masks(images.shape[-1], grids).unsqueeze(1))

    def draw_grids(self, count, generator):
        """Per image: period and two offsets in pixels, clockwise angle in degrees; four (count,) tensors."""
        size = self.image_size
        shortest = max(2, round(SHORTEST_PERIOD * size / REFERENCE_SIZE))
        period = torch.randint(shortest, max(size, shortest + 1), (count,), generator=generator)
        offsets = (torch.rand(2, count, generator=generator, dtype=torch.float64) * period).long()
        angle = torch.randint(360 if self.rotated else 1, (count,), generator=generator)
        return period, offsets[0], offsets[1], angle

    def make_grids(self, period, offset_x, offset_y, angle):
        """The grids of `draw_grids` for `grid_masks`, float (N, 2, 4)."""
        radians, half = torch.deg2rad(angle.double()), self.image_size / 2
        cos, sin = radians.cos(), radians.sin()
        width = torch.ceil(self.ratio * period.double())
        # Rotated coordinates, measured from the image's corner in periods.
        grids = [half * cos, half * sin, half + offset_x, width, -half * sin, half * cos, half + offset_y, width]
        return (torch.stack(grids, dim=1) / period[:, None]).view(-1, 2, 4).float()


def grid_masks(size, grids):
    """Masks of grids.

    Args:
        size: side of the images, in pixels.
        grids: (B, 2, 4). For each of the two sets of stripes, an affine map from coordinates in [-1, 1] to positions
            across the stripes, in periods, and the stripes' width as a fraction of the period; 1 keeps everything.

    Returns:
        Float (B, size, size): 1 where an image is kept, else 0.
    """
    positions = grids[:, :, :3].contiguous() @ pixel_coordinates(size, grids.device)  # (B, 2, S * S)
    positions.sub_(positions.floor())
    within = torch.minimum(positions[:, 0], positions[:, 1])
    return within.lt_(grids[:, 0, 3:]).view(-1, size, size)
