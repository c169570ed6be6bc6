"""Faces cut out of a photograph as the training images are framed (see photos/framing.py).

`crop_face` turns, shifts and scales a detected face so that its box and its points lie where the framing has them.
"""

import cmath
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.images import in_threads
from photos.detection import detect_faces
from photos.framing import USUAL_FRAMING
from photos.photographs import load_photograph
from utils.errors import UserError


@dataclass(frozen=True)
class Square:
    """A square in a photograph: its centre and side in pixels, and how far it is turned clockwise, in degrees."""

    x: float
    y: float
    side: float
    angle: float = 0.0


def cut_largest_face(path, framing, size):
    """The largest face of a photograph as a crop, uint8 (3, S, S); see `crop_face`. Raises UserError without any."""
    image, _ = load_photograph(path)
    boxes, points, _ = detect_faces(image)
    if not len(boxes):
        raise UserError(f"'{path}' shows no face")
    return crop_face(image, boxes[0], framing, size, points[0])


def cut_largest_faces(model, paths):
    """The largest face of each photograph, cut out for a Network as predict.py does: uint8 (3, S, S), or None."""
    key = model.record.get("framing", USUAL_FRAMING), model.image_size
    return [crop for crop, _ in in_threads(lambda path: cut_largest_face(path, *key), paths, "finding faces")]


def crop_face(image, box, framing, size, points=None):
    """Cut a face out of a photograph so that it is framed as the training images are.

    Args:
        image: uint8 (H, W, 3), or a PIL image in RGB.
        box: left, top, width and height in pixels.
        framing: centre x, centre y, width and height of the box as fractions of the result, or all 14 numbers.
        size: the side of the result, S pixels.
        points: float (5, 2), the detector's points of this face in pixels; they serve a framing of 14 numbers.

    Returns:
        uint8 (3, S, S).
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if points is None or len(framing) < 14:
        square = square_of_box(box, framing)
    else:
        square = square_of_face(box, points, framing)
    return cut_square(image, square, size).transpose(2, 0, 1)


def square_of_face(box, points, framing):
    """The Square by box and points: the detector errs in both, and their mean is nearer to the truth than either."""
    by_points = square_of_points(points, np.reshape(framing[4:], (5, 2)))
    by_box = square_of_box(box, framing, by_points.angle)
    if not 0.5 < by_points.side / by_box.side < 2:  # the points of a half-seen face may coincide
        return square_of_box(box, framing)
    side = math.sqrt(by_box.side * by_points.side)
    return Square((by_box.x + by_points.x) / 2, (by_box.y + by_points.y) / 2, side, by_points.angle)


def square_of_box(box, framing, angle=0.0):
    """The Square, turned by an angle, in which the box lies as the framing says.

    One scale serves both axes, so that no face is distorted: the areas of the boxes agree.
    """
    left, top, width, height = map(float, box)
    x, y, relative_width, relative_height = framing[:4]
    side = math.sqrt(width * height / (relative_width * relative_height))
    turn = cmath.rect(1, math.radians(angle))
    centre = complex(left + width / 2, top + height / 2) + side * turn * complex(0.5 - x, 0.5 - y)
    return Square(centre.real, centre.imag, side, angle)


def square_of_points(points, places):
    """The Square in which points lie nearest to their places, in the least squares' sense: a similarity transform.

    As complex numbers, points = offset + factor * places, which is linear regression (without the reflections that
    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, has to exclude).

    Args:
        points: float (N, 2), x and y in pixels.
        places: float (N, 2), where they should lie, as fractions of the square.
    """
    found, wanted = points @ [1, 1j], places @ [1, 1j]
    around = wanted - wanted.mean()
    factor = (around.conj() * found).sum() / max((abs(around) ** 2).sum(), 1e-9)
    centre = found.mean() + factor * (0.5 + 0.5j - wanted.mean())
    return Square(centre.real, centre.imag, abs(factor), math.degrees(cmath.phase(factor)))


def cut_square(image, square, size):
    """Cut a Square out of a PIL image in RGB: uint8 (S, S, 3) of `size` S.

    Outside the photograph the nearest pixel of its edge counts. The face is resampled like a training image
    (`data.images.decode_face`): by averages over 2, 4, 8, ... pixels while it stays as large as `size`, as a JPEG
    decodes to a smaller size, and then by an antialiased bilinear filter. A turned square is turned upright at the end,
    with bicubic interpolation.
    """
    factor = 2 ** max(0, math.floor(math.log2(square.side / size)))
    angle = math.radians(square.angle)
    # Rounded as in Pillow's own `rotate`, so that a quarter of a turn changes no pixel.
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    # The corners of a turned square reach beyond an upright one, and the interpolation needs two pixels more.
    margin = math.ceil(size * (abs(cos) + abs(sin) - 1) / 2) + 2 if square.angle else 0
    wide = size + 2 * margin
    side = square.side * wide / size
    left, right, *across, x = clip(square.x, side, image.width, factor)
    top, bottom, *down, y = clip(square.y, side, image.height, factor)
    region = image.crop((left, top, right, bottom)).reduce(factor)
    if any(across + down):
        region = Image.fromarray(np.pad(np.asarray(region), [down, across, (0, 0)], mode="edge"))
    half = side / factor / 2
    box = (max(x - half, 0), max(y - half, 0), min(x + half, region.width), min(y + half, region.height))
    region = region.resize((wide, wide), Image.Resampling.BILINEAR, box=box)
    if square.angle:
        rows = (cos, -sin, (wide - size * (cos - sin)) / 2, sin, cos, (wide - size * (cos + sin)) / 2)
        region = region.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
    return np.asarray(region)


def clip(centre, side, limit, factor):
    """The pixels of an interval within an image of `limit` pixels, of which `factor` at a time are reduced to one.

    Returns:
        (first, last + 1, before, after, centre): at least one pixel of the image, a multiple of `factor` where
        possible; how often the edge's reduced pixels are repeated on each side; and the centre among all of these.
    """
    start = centre - side / 2
    first = min(max(math.floor(start), 0), limit - 1)
    end = min(first + factor * max(1, math.ceil((start + side - first) / factor)), limit)
    start = (start - first) / factor
    before = max(0, math.ceil(-start))
    after = max(0, math.ceil(start + side / factor - math.ceil((end - first) / factor)))
    return first, end, before, after, (centre - first) / factor + before
