"""Reasons to doubt the answer for a detected face: it is small, cut off, turned away, tilted or blurred."""

import numpy as np

from photos.detection import angle_of

SMALL = 32  # pixels of the box's shorter side: the network sees less than half of the detail that it learned from
CUT_OFF = 0.1  # share of the face that lies beyond the photograph
# Width and height of a whole face, and its centre below the eyes, in distances of the eyes: medians of 120 portraits.
# None of these counts as cut off then; of faces that are cut by a third, 96 to 100 % do.
FACE_SIZE, BELOW_EYES = np.array([2.2, 2.8]), 0.28
TURNED = 0.35  # how far the nose lies from the middle of the eyes, as a share of their distance
TILTED = 30  # degrees
BLURRED = 25.0  # variance of the Laplacian of the face at 64 pixels; half of sharp portraits have over 400
SIDE = 64


def doubts(image, box, points):
    """The reasons to doubt an answer, in words; an empty tuple without any.

    Args:
        image: a PIL image in RGB, the photograph as it was searched.
        box: left, top, width and height in its pixels.
        points: float (5, 2), x and y of the eyes, the nose and the corners of the mouth.
    """
    left, top, width, height = box
    found = {
        f"small ({min(width, height):.0f} pixels)": min(width, height) < SMALL,
        "cut off": share_inside(points, image.size) < 1 - CUT_OFF,
        "turned away": off_centre(points) > TURNED,
        "tilted": abs((angle_of(points) + 180) % 360 - 180) > TILTED,
        "blurred": sharpness(image, (left, top, left + width, top + height)) < BLURRED,
    }
    return tuple(reason for reason, holds in found.items() if holds)


def share_inside(points, size):
    """The share of the whole face around the eyes that lies within a photograph of a size (width, height), 0 to 1.

    The detector's box does not tell: it ends where the photograph ends.
    """
    across = points[1] - points[0]
    down = np.array([-across[1], across[0]])
    centre = points[:2].mean(0) + BELOW_EYES * down
    half = np.hypot(FACE_SIZE[0] * across, FACE_SIZE[1] * down) / 2  # of the box around a turned ellipse
    inside = (np.minimum(centre + half, size) - np.maximum(centre - half, 0)).clip(0)
    return inside.prod() / max((2 * half).prod(), 1e-9)


def off_centre(points):
    """The distance of the nose from the line that halves the eyes' line, as a fraction of the eyes' distance."""
    left, right, nose = points[:3]
    across = right - left
    return abs((nose - (left + right) / 2) @ across) / max(across @ across, 1e-9)


def sharpness(image, corners):
    """The variance of the Laplacian of a part of an image, at SIDE pixels (Pech-Pacheco et al., ICPR 2000)."""
    grey = np.asarray(image.crop(tuple(map(round, corners))).convert("L").resize((SIDE, SIDE)), np.float32)
    inner = 4 * grey[1:-1, 1:-1]
    return float((inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]).var())
