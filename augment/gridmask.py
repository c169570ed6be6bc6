"""GridMask (Chen, Liu, Zhao and Jia, "GridMask Data Augmentation", arXiv:2001.04086, 2020)."""

import torch

# The authors draw the period from [96, 224) pixels for images of 224 pixels.
REFERENCE_SIZE, SHORTEST_PERIOD = 224, 96


class GridMask:
    """Multiply images by a grid of dropped squares.

    ratio: r. Stripes of width ceil(r d) are kept in both directions, so squares of side
        (1 - r) d are dropped and the kept area is 1 - (1 - r)^2; r itself is not the kept area.
    rotated: turn each grid by a random whole number of degrees, as the authors' code does.

    The period d is drawn per image from [96, 224) pixels at 224 pixels, scaled with the image's
    size, and the offsets from [0, d). Applied to normalised images, dropped pixels take the mean
    colour. Raises ValueError for a ratio outside (0, 1).
    """

    def __init__(self, ratio=0.6, rotated=True):
        if not 0 < ratio < 1:
            raise ValueError(f"GridMask's ratio is {ratio}; it lies between 0 and 1")
        self.ratio = ratio
        self.rotated = rotated

    def __call__(self, images, probability, generator):
        """images: float (B, C, S, S); each is masked with the given probability."""
        batch, size = len(images), images.shape[-1]
        chosen = torch.rand(batch, generator=generator) < probability
        kept = self.kept(size, *self.draw(batch, size, generator), device=images.device)
        kept |= ~chosen.to(images.device)[:, None, None]
        return images * kept.unsqueeze(1)

    def draw(self, batch, size, generator):
        """Per image: period and two offsets in pixels, clockwise angle in degrees; four (B,) tensors on the CPU."""
        shortest = max(2, round(SHORTEST_PERIOD * size / REFERENCE_SIZE))
        period = torch.randint(shortest, max(size, shortest + 1), (batch,), generator=generator)
        offsets = (torch.rand(2, batch, generator=generator, dtype=torch.float64) * period).long()
        angle = torch.randint(360 if self.rotated else 1, (batch,), generator=generator)
        return period, offsets[0], offsets[1], angle

    def kept(self, size, period, offset_x, offset_y, angle, device="cpu"):
        """The masks, bool (B, S, S), True where the image is kept."""
        stripe = torch.ceil(self.ratio * period.double())
        radians = torch.deg2rad(angle.double())
        # One column of parameters per image; the grid is laid in coordinates about the image's centre.
        columns = torch.stack([period, stripe, offset_x, offset_y, radians.cos(), radians.sin()])
        period, stripe, offset_x, offset_y, cos, sin = columns.float().to(device)[:, :, None, None]
        centre = size / 2
        across = torch.arange(size, device=device) + 0.5 - centre
        x, y = across[None, None, :], across[None, :, None]
        u = torch.remainder(cos * x + sin * y + centre + offset_x, period)  # (B, S, S)
        v = torch.remainder(cos * y - sin * x + centre + offset_y, period)
        return (u < stripe) | (v < stripe)


def gridmask_probability(epoch, epochs, start, end):
    """Linear from `start` in epoch 0 to `end` in the last of `epochs`."""
    return start + (end - start) * epoch / max(epochs - 1, 1)
