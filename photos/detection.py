"""Faces in a photograph of any size, also a turned one: boxes, points and confidences."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from photos.centerface import load_centerface, search, without_overlaps

THRESHOLD = 0.4
# A face that scores under SURE is searched again, in a crop of REACH box sides at CLOSER_SIDE pixels: 95 % of faces
# then score over 0.4, and false detections under 0.3.
CANDIDATE, SURE, CLOSER_SIDE, REACH = 0.15, 0.5, 128, 2
# Bounds of an image's longer side. Small images are enlarged, since their boxes are coarse otherwise.
SHORTEST_SIDE, LONGEST_SIDE = 160, 416
# A photograph with a longer side than LARGE_SIDE is also searched at SEARCHED_SIDE, for small faces; of the first
# search, faces over COARSE pixels stay.
LARGE_SIDE, SEARCHED_SIDE, COARSE = 1500, 1280, 48
# Confidence times the cosine of the angle: 95 % of upright portraits have more, and 4 % of those turned by a quarter.
UPRIGHT = 0.75
TURNED = 0.5  # less shows nobody, whichever way the photograph is turned


def detect_faces(image, threshold=THRESHOLD, turned=True, network=None):
    """Find the faces in a photograph, also in one that is turned by 90, 180 or 270 degrees.

    Args:
        image: uint8 (H, W, 3), RGB, or a PIL image in RGB.
        threshold: the least confidence, from 0 to 1.
        turned: where no face is surely upright, search the photograph turned, too; the most upright face decides.
        network: of photos/centerface.py; None stands for that in full precision.

    Returns:
        (boxes, points, confidences), the largest face first: float (N, 4) of left, top, width and height in pixels,
        which may reach beyond the image; float (N, 5, 2), x and y of the eyes, the nose and the corners of the mouth;
        and float (N,) from 0 to 1.
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    network = network or load_centerface()
    pixels, scales = shrink(image, SHORTEST_SIDE, LONGEST_SIDE)
    rows, quarter = search(pixels, network), 0
    if turned and uprightness(rows) < UPRIGHT and (quarter := upright_quarter(image, network)):
        rows = search(np.rot90(pixels, quarter), network)
    is_large = max(image.size) > LARGE_SIDE
    rows = turn_back(rows[rows[:, 4] > COARSE * is_large], quarter, pixels) / scales
    if is_large:
        small = search_turned(*shrink(image, SHORTEST_SIDE, SEARCHED_SIDE), quarter, network)
        rows = without_overlaps(np.concatenate([rows, small]), 0.5)
    rows = rows[rows[:, 0] >= CANDIDATE]
    closer = (row[None] if row[0] >= SURE else look_closer(image, row, quarter, network) for row in rows)
    rows = np.concatenate([rows[:0], *closer])
    rows = rows[rows[:, 0] >= threshold]
    boxes, points = rows[:, 1:5], rows[:, 5:].reshape(-1, 5, 2)
    order = np.lexsort((boxes[:, 0], -boxes[:, 2] * boxes[:, 3]))
    return boxes[order], points[order], rows[order, 0]


def look_closer(image, row, quarter, network):
    """The row of a face that is searched again in a part of a PIL image turned by `quarter`: (1, 15), or (0, 15)."""
    left, top, width, height = row[1:5]
    reach = REACH * max(width, height) / 2
    x, y = left + width / 2, top + height / 2
    corner = max(0, round(x - reach)), max(0, round(y - reach))
    part = image.crop((*corner, min(image.width, round(x + reach)), min(image.height, round(y + reach))))
    rows = search_turned(*shrink(part, CLOSER_SIDE, CLOSER_SIDE), quarter, network)
    rows += [0, *corner, 0, 0, *corner * 5]
    return rows[np.argsort(-rows[:, 0])[:1]]


def search_turned(pixels, scales, quarter, network):
    """Rows of `search` in what `shrink` gives, turned counter-clockwise by quarters, in pixels of the image before."""
    return turn_back(search(np.rot90(pixels, quarter), network), quarter, pixels) / scales


def upright_quarter(image, network):
    """How many quarters of a turn counter-clockwise, 0 to 3, make the faces of a PIL image upright; 0 without faces."""
    pixels, _ = shrink(image, 0, LONGEST_SIDE // 2)  # half the size takes a quarter of the time and shows larger faces
    found = [uprightness(search(np.rot90(pixels, quarter), network)) for quarter in (1, 2, 3)]
    is_turned = max(found) > TURNED and max(found) > uprightness(search(pixels, network))
    return 1 + int(np.argmax(found)) if is_turned else 0


def shrink(image, shortest, longest):
    """A PIL image whose longer side is brought between two bounds, as an array, and how it scales a row of `search`."""
    scale = min(max(max(image.size), shortest), longest) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = torch.from_numpy(np.array(image)).movedim(-1, 0)[None]
    pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)  # faster than Pillow's
    scales = np.tile(np.divide((width, height), image.size), 7)  # for each x and y of a row
    return pixels[0].movedim(0, -1).numpy(), np.concatenate([[1], scales])


def angle_of(points):
    """Degrees that a face is turned clockwise, from the line between the eyes of its points, float (5, 2)."""
    return math.degrees(math.atan2(*(points[1] - points[0])[::-1]))


def uprightness(rows):
    """The largest product of a row's confidence and the cosine of its angle, 0 without any.

    The network also finds turned faces, and sees that they are turned.
    """
    angles = [angle_of(row[5:].reshape(5, 2)) for row in rows]
    return (rows[:, 0] * np.cos(np.radians(angles))).max(initial=0)


def turn_back(rows, quarter, pixels):
    """Rows of `search` in an image that was turned counter-clockwise, in pixels of the image before.

    Args:
        rows: (N, 15).
        quarter: how many quarters of a turn it was turned by, 0 to 3.
        pixels: the image before, (H, W, 3).
    """
    height, width = pixels.shape[:2]
    corners = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5], rows[:, 5:]], axis=1).reshape(len(rows), 7, 2)
    x, y = corners[..., 0], corners[..., 1]
    x, y = [(x, y), (width - y, x), (width - x, height - y), (y, height - x)][quarter]
    points = np.stack([x, y], axis=-1)  # (N, 7, 2): two corners of the box, five points
    first, last = points[:, :2].min(1), points[:, :2].max(1)
    return np.concatenate([rows[:, :1], first, last - first, points[:, 2:].reshape(len(rows), 10)], axis=1)
