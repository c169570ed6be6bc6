"""The framing of a data set: where the face lies in its images.

How much of the head a face image shows differs between data sets, and a network knows the one that it learned from. A
framing holds the place of the detector's box and of its five points (the eyes, the tip of the nose, the corners of the
mouth) in the training images: centre x, centre y, width and height of the box, then x and y of each point, as fractions
of the image. A framing of four numbers is of the box alone. photos/crop.py cuts faces out accordingly.
"""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from data.images import decode_face
from photos.detection import detect_faces
from utils.cli import printable, python_command
from utils.device import cpu_threads, one_core_threads
from utils.errors import UserError

MOST_IMAGES = 300
FACE_SIDE, MARGIN = 160, 80  # pixels of a face image, and of noise on each side of it
# Adience's aligned images have this framing; it serves models whose file has none.
USUAL_FRAMING = [0.5, 0.473, 0.342, 0.437]


def measure_framing(image_dir, paths):
    """`find_framing` after a training, which a failure must not end: it becomes a line to print.

    Args:
        image_dir: folder of the images.
        paths: of the images, relative to `image_dir`.

    Returns:
        (framing, line); where the framing could not be measured, None and a line with the reason and the command that
        adds it later.
    """
    try:
        return find_framing([Path(image_dir) / path for path in paths])
    except UserError as error:
        command = python_command("-m", "tools.add_framing", "MODEL", "--image-dir", str(image_dir))
        return None, f"note: no framing for predict.py: {printable(error)}; later: {printable(command)}"


def find_framing(paths, limit=MOST_IMAGES):
    """Measure where the detector's box and points lie in face images.

    Args:
        paths: of the images; `limit` of them are searched, drawn at random but always the same.

    Returns:
        (framing, line): the medians over the found faces, 14 floats, or None where under half of the images show a
        face; and the result in words.

    Raises:
        UserError: an image cannot be decoded.
    """
    paths = [paths[position] for position in np.random.default_rng(0).permutation(len(paths))[:limit]]
    places, seen = [], 0
    with one_core_threads(cpu_threads()) as pool:
        while seen < len(paths) and len(places) >= seen / 4:  # drawings, say, are given up after the first batch
            batch = paths[seen : seen + 30]
            places += filter(None, pool.map(place_of_face, batch))
            seen += len(batch)
    found = len(places)
    if not seen or found < seen / 2:
        return None, f"framing: not measured, since only {found} of {seen} training images show the detector a face"
    framing = symmetrical(np.median(places, axis=0)).round(4).tolist()
    x, y, width, height = framing[:4]
    return framing, (
        f"framing: the face's box is {width:.0%} of the image wide and {height:.0%} high, its centre at {x:.0%} of the"
        f" width and {y:.0%} of the height (medians of {found} faces in {seen} training images)"
    )


def symmetrical(framing):
    """The mean of a framing and its mirror image, (14,): the network learns from both."""
    points = framing[4:].reshape(5, 2)
    turned = [1, 0] + points[[1, 0, 2, 4, 3]] * [-1, 1]  # left and right change places
    return np.concatenate([[0.5], framing[1:4], ((points + turned) / 2).ravel()])


def place_of_face(path):
    """A framing's numbers for the largest face in the image that the network sees, or None.

    The detector sees the image within noise. On close crops the face reaches beyond the image, and without anything
    around it the detector's box ends at the border, unlike that of the same face in a photograph; pixels of the border
    repeated or mirrored prolong the face too far (benchmarks/RESULTS.md).
    """
    surrounded = noise().copy()
    inner = slice(MARGIN, MARGIN + FACE_SIDE)
    surrounded[inner, inner] = decode_face(path, FACE_SIDE).transpose(1, 2, 0)
    boxes, points, _ = detect_faces(surrounded, turned=False)
    if not len(boxes):
        return None
    left, top, width, height = (boxes[0] - [MARGIN, MARGIN, 0, 0]) / FACE_SIDE
    return [left + width / 2, top + height / 2, width, height, *((points[0] - MARGIN) / FACE_SIDE).flat]


@functools.cache
def noise():
    """Blurred grey noise, uint8 (H, W, 3); always the same."""
    side = FACE_SIDE + 2 * MARGIN
    pixels = np.random.default_rng(0).normal(128, 15, (side // 4, side // 4, 3)).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
