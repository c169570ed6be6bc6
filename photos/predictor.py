"""Age groups of the faces in photographs: decoded, searched, cut out and classified."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from augment.pipeline import to_network_input
from data.images import centre_square, decode_face
from evaluation.calibration import apply_temperature
from evaluation.label_shift import class_weights, recorded_answer, weighted
from models.ages import MASS, ages_of
from models.checkpoint import PUBLISHED, load_model, model_files
from models.decode import decode
from photos.centerface import load_centerface, load_fast_centerface
from photos.crop import crop_face
from photos.detection import SEARCHED_SIDE, THRESHOLD, angle_of, detect_faces
from photos.framing import USUAL_FRAMING
from photos.output import shown_groups
from photos.photographs import FORMATS, load_photograph, upright_size
from photos.quality import doubts
from photos.video import VIDEO_SUFFIXES, Camera, follow
from utils.cli import percent
from utils.device import Runtime, cpu_threads, one_core_threads
from utils.errors import UserError
from utils.options import check_limits, check_type

NOTICE = """A predicted age group says how old a face looks to a network, not how old a person is: for any one person it
is uncertain, and it is worse for groups that are rare in the training data and for pictures unlike them. Do not base
decisions about people on it. A model carries the licence terms of the data that it was trained on."""
NOTES = {  # {field that a model file lacks: what follows from it}
    "framing": "has no framing: faces are cut as Adience's aligned images are, which may not be how it was trained;"
    " `python -m tools.add_framing MODEL --image-dir DIR` measures it",
    "detector": "has a framing of an earlier detector, which is off by 3 %; tools.add_framing measures it again",
    "temperature": "has no temperature: its confidences are the network's own, which are often too high",
}
PIXELS_PER_BATCH = 64 * 224**2  # the most; a model file may name any image size
PIXELS_PER_PART = 256 * 224**2  # of the crops of one photograph that are held at once
AHEAD = 4  # with fewer, threads wait for each other
PHOTOGRAPHS_PER_BATCH = 64  # whatever the number of their faces, so that results do not wait for long


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        box: left, top, width and height in pixels of the upright photograph; it may reach beyond it. None for a person.
        detection_confidence: of the detector, from 0 to 1; None where the whole image was taken for a face.
        angle: degrees that the face is turned clockwise, -180 to 180; None like the above.
        group: the name of the predicted class; of single years, the most probable decade.
        probabilities: {class name: probability}, scaled by the models' temperatures.
        confidence: the probability of `group`.
        age: the median age in years; None where the classes are not ages.
        age_interval: (low, high) around it, in years, which holds four of five faces like those of the training.
        doubts: reasons why the answer may mean little, see photos/quality.py; texts.
        unscaled: float (K,), the probabilities before any temperature, from which class and age follow.
    """

    box: tuple
    detection_confidence: float | None
    angle: float | None
    group: str
    probabilities: dict
    confidence: float
    age: float | None = None
    age_interval: tuple | None = None
    doubts: tuple = ()
    unscaled: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass
class Photograph:
    """The faces that were found in a photograph, the largest first, or the reason why it could not be read.

    `reduction` is how many of its pixels were searched as one, in each direction; small faces may be missed. In a video
    each face stands for one of the `tracks`.
    """

    path: Path
    faces: list = field(default_factory=list)
    error: str | None = None
    reduction: float = 1.0
    tracks: list | None = None


class AgePredictor:
    """Predicts the age group of each face in a photograph.

    >>> from predict import AgePredictor
    >>> predictor = AgePredictor()
    >>> [face] = predictor("photo.jpg")
    >>> face.age_interval[0] <= face.age <= face.age_interval[1]
    True

    Each face is cut out as the model's training images are framed (see photos/framing.py). Several models are fused:
    their probabilities are averaged. The first model's decoder chooses the class; the probabilities are then scaled by
    the temperatures of the model files, so that confidences are what they promise.

    Args:
        paths: model files, or run directories; none stands for the model of this repository, `weights/ages.pt`.
        detect: False takes each whole image for one face that is cropped already, as the training images are.
        threshold: the detector's least confidence, from 0 to 1.
        least_confidence: from 0 to 1; an answer whose group, or decade, is less probable is doubtful.
        batch_size: faces that are classified at once.
        device, precision, threads: see `Runtime.setup`. The detector runs on the CPU, in 8 bits where onnxruntime is
            installed, unless the precision is 'fp32'.

    Attributes:
        classes: the Classes of the models.
        notes: what a user should know about the model files, one line each.

    Raises:
        UserError: a model file is missing or damaged, the models have different classes, or a setting is out of range.
    """

    def __init__(
        self,
        *paths,
        detect=True,
        threshold=THRESHOLD,
        least_confidence=0.0,
        batch_size=32,
        device="auto",
        precision="auto",
        threads=0,
    ):
        check_type("batch_size", batch_size, int)
        check_limits("batch_size", batch_size, {"low": 1})
        for name, value in {"threshold": threshold, "least_confidence": least_confidence}.items():
            check_type(name, value, float)
            check_limits(name, value, {"low": 0, "high": 1})
        self.detect, self.threshold, self.batch_size = detect, threshold, batch_size
        self.least_confidence = least_confidence
        self.runtime = Runtime.setup(device, precision, threads)
        load_detector = load_centerface if precision == "fp32" else load_fast_centerface
        self.detector = load_detector() if detect else None
        self.paths = paths = model_files(paths or [PUBLISHED])
        self.models = load_models(paths)
        self.classes = self.models[0].classes
        self.decoder = self.models[0].record["decoder"]
        self.mass = np.mean([model.record.get("mass", MASS) for model in self.models])
        self.inputs = [(tuple(model.record.get("framing", USUAL_FRAMING)), model.image_size) for model in self.models]
        self.notes = []
        for name, note in NOTES.items():
            lacking = [path for path, model in zip(paths, self.models, strict=True) if lacks(model.record, name)]
            if lacking and (detect or name == "temperature"):
                self.notes.append(f"{', '.join(lacking)} {note}")
        for model in self.models:
            self.runtime.place(model)

    def __call__(self, photo):
        """The faces of one photograph, a list of Face, the largest first; for a list of photographs a list of those.

        Args:
            photo: a path, a PIL image, an array uint8 (H, W, 3), RGB, or (H, W), or a tensor uint8 (3, H, W) or
                (1, H, W); or a list of such.

        Raises:
            UserError: one cannot be read.
        """
        if isinstance(photo, (list, tuple)):
            return self.classify(list(map(self.find_faces, photo)))
        return self.classify([self.find_faces(photo)])[0]

    @torch.inference_mode()
    def embed(self, photo):
        """The features in front of the last layer of each face in a photograph, for clustering or other models.

        Args:
            photo: as for a call, but only one.

        Returns:
            float32 (N, F), in the order of the faces; the features of several models are side by side.

        Raises:
            UserError: it cannot be read.
        """
        _, parts, _ = self.find_faces(photo)
        parts = [part() if callable(part) else part for part in parts]
        rows = []
        for model, (framing, size) in zip(self.models, self.inputs, strict=True):
            crops = np.concatenate([np.zeros((0, 3, size, size), np.uint8), *(part[framing, size] for part in parts)])
            features = (model.features(images).cpu() for images in self.network_inputs(model, crops) if len(images))
            rows.append(torch.cat([torch.zeros(0, model.fc.in_features), *features]))
        return torch.cat(rows, 1).numpy()

    def predict(self, paths):
        """Yield a Photograph for each path (or of one), in their order, the videos last; an unreadable one says why.

        Of a Camera, yield one for each face that it has seen, until Ctrl-C.

        Threads decode, search and classify a few photographs ahead, so that memory does not grow with their number.
        """

        def search(path):
            try:
                return path, None, self.find_faces(path)
            except UserError as error:
                return path, without_path(str(error), path), ([], [], 1.0)

        def classify(searched):
            faces = self.classify([found for _, _, found in searched])
            rows = zip(searched, faces, strict=True)
            return [Photograph(path, found, error, reduction) for (path, error, (*_, reduction)), found in rows]

        paths = [paths] if isinstance(paths, (str, os.PathLike, Camera)) else list(paths)
        videos = [path for path in paths if isinstance(path, Camera) or Path(path).suffix.lower() in VIDEO_SUFFIXES]
        paths = [path for path in paths if path not in set(videos)]
        with contextlib.closing(map_ahead(search, paths, cpu_threads())) as searched:
            workers = cpu_threads() if self.runtime.device.type == "cpu" else 1
            for photographs in map_ahead(classify, self.batches(searched), workers):
                yield from photographs
        for path in videos:
            yield from self.watch_camera(path) if isinstance(path, Camera) else [self.watch(path)]

    def batches(self, searched):
        """Yield the results of `search` in `predict` in lists, each with enough faces for a batch."""
        batch, count = [], 0
        for result in searched:
            batch.append(result)
            count += len(result[2][0])
            if count >= self.batch_size or len(batch) >= PHOTOGRAPHS_PER_BATCH:
                yield batch
                batch, count = [], 0
        if batch:
            yield batch

    def watch(self, path):
        """The Photograph of a video: a Face for each track, with the mean of its probabilities; see photos/video.py."""
        tracks, error = [], None
        try:
            for track in follow(self, path):
                tracks.append(track)
        except UserError as problem:
            error = without_path(str(problem), path)
        tracks.sort(key=lambda track: -len(track.places))
        return Photograph(path, [self.fuse(track.faces) for track in tracks], error, tracks=tracks)

    def watch_camera(self, camera):
        """Yield a Photograph of one track for each face before a Camera, when it has gone.

        Raises UserError where it cannot be read; if it fails after a first face, a last Photograph has the error.
        """
        seen = False
        try:
            for track in follow(self, camera):
                yield Photograph(camera, [self.fuse(track.faces)], tracks=[track])
                seen = True
        except UserError as problem:
            if not seen:
                raise
            yield Photograph(camera, error=without_path(str(problem), camera))

    def find_faces(self, photo):
        """Detect the faces of a photograph and cut them out.

        Returns:
            (places, parts, reduction): for each of N faces (box, detection confidence, angle, doubts), as in Face;
            their crops in parts of bounded size; and the reduction, as in Photograph. A part is {input of the models
            (framing, image size): uint8 (n, 3, S, S)}; all but the first are functions that make it. No part where N
            is 0.

        Raises:
            UserError: it cannot be read.
        """
        if not self.detect:
            return self.whole_image(photo)
        image, scale = load_photograph(photo)
        with self.runtime.autocast():
            boxes, points, confidences = detect_faces(image, self.threshold, network=self.detector)
        inputs = set(self.inputs)
        size = max(1, PIXELS_PER_PART // sum(size**2 for _, size in inputs))

        def cut(start):
            pairs = list(zip(boxes, points, strict=True))[start : start + size]
            return {key: np.stack([crop_face(image, box, *key, at) for box, at in pairs]) for key in inputs}

        first, *others = [functools.partial(cut, start) for start in range(0, len(boxes), size)] or [dict]
        angles, reduction = map(angle_of, points), max(1.0, max(image.size) * scale / SEARCHED_SIDE)
        reasons = (doubts(image, *place) for place in zip(boxes.tolist(), points, strict=True))
        found = zip(map(tuple, (boxes * scale).tolist()), confidences.tolist(), angles, reasons, strict=True)
        return list(found), [first(), *others] if len(boxes) else [], reduction

    def whole_image(self, photo):
        """`find_faces` for an image that is a face already; it is prepared exactly as the training images were."""
        if isinstance(photo, (str, os.PathLike)):
            width, height = upright_size(photo)
            crops = {key: decode_face(photo, key[1], formats=FORMATS)[None] for key in self.inputs}
        else:
            image, _ = load_photograph(photo)
            width, height = image.size
            crops = {key: np.asarray(centre_square(image, key[1])).transpose(2, 0, 1)[None] for key in self.inputs}
        side = min(width, height)
        return [(((width - side) / 2, (height - side) / 2, side, side), None, None, ())], [crops], 1.0

    def classify(self, found):
        """The lists of Face of several photographs, from one pass of the networks over the results of `find_faces`."""
        first, photographs = self.predict_faces([parts[0] for _, parts, _ in found if parts]), []
        for places, parts, _ in found:
            later = (self.predict_faces([part()]) for part in parts[1:])
            count = len(parts[0][self.inputs[0]]) if parts else 0
            predictions = itertools.chain(itertools.islice(first, count), itertools.chain.from_iterable(later))
            faces = zip(places, predictions, strict=True)
            photographs.append([self.as_face(place, answer, reasons) for (*place, reasons), answer in faces])
        return photographs

    def as_face(self, place, answer, reasons=()):
        """A Face of (box, detection confidence, angle), one of `answers` and reasons to doubt it."""
        predicted, probabilities, *years, unscaled = answer
        group, shown = shown_groups(predicted, probabilities, self.classes)
        confidence, doubt = float(shown[group]), f"under {percent(self.least_confidence)}"
        reasons = tuple(reason for reason in reasons if reason != doubt)
        if confidence < self.least_confidence:
            reasons = (*reasons, doubt)
        return Face(*place, group, probabilities, confidence, *years, reasons, unscaled)

    def predict_faces(self, crops):
        """Yield the `answers` for faces in crops."""
        if not crops:
            return
        per_model = [
            self.probabilities(model, np.concatenate([images[key] for images in crops]))
            for model, key in zip(self.models, self.inputs, strict=True)
        ]
        temperatures = [model.record.get("temperature", 1.0) for model in self.models]
        scaled = np.mean(list(map(apply_temperature, per_model, temperatures)), axis=0)
        yield from self.answers(np.mean(per_model, axis=0), scaled)

    def fuse(self, faces):
        """One answer for several faces of one person: a Face like the first, with the mean of their probabilities."""
        [answer] = self.answers(*(values.mean(0, keepdims=True) for values in probabilities_of(faces)))
        return self.as_face(place_of(faces[0]), answer)

    def adapt(self, photographs):
        """The same photographs with answers that are corrected for how the ages of all of their faces are distributed.

        For faces of one population, unlike the training faces: see evaluation/label_shift.py.

        Args:
            photographs: Photographs, as `predict` yields them.

        Returns:
            A new list.

        Raises:
            UserError: a model file does not have its usual answer.
        """
        usual = [recorded_answer(path, model.record) for path, model in zip(self.paths, self.models, strict=True)]
        photographs = list(photographs)
        faces = [face for photograph in photographs for face in photograph.faces]
        if not faces:
            return photographs
        unscaled, scaled = probabilities_of(faces)
        weights = class_weights(unscaled, np.mean(usual, axis=0))
        answers = self.answers(weighted(unscaled, weights), weighted(scaled, weights))  # yields one for each face
        return [
            dataclasses.replace(
                photograph,
                faces=[self.as_face(place_of(face), next(answers), face.doubts) for face in photograph.faces],
            )
            for photograph in photographs
        ]

    def answers(self, mean, scaled):
        """Yield the class, and probabilities, age, age_interval and unscaled, as in Face, for each of N faces.

        Args:
            mean: class probabilities (N, K), before any temperature; the classes and ages follow from them.
            scaled: the same with the temperatures.
        """
        ages = itertools.repeat((None, None))
        if self.classes.years:
            age, *interval = (years.tolist() for years in ages_of(mean, self.classes, self.mass))
            ages = zip(age, zip(*interval, strict=True), strict=True)
        for label, row, years, unscaled in zip(decode(mean, self.decoder), scaled.tolist(), ages, mean, strict=False):
            yield self.classes.names[label], dict(zip(self.classes.names, row, strict=True)), *years, unscaled

    @torch.inference_mode()
    def probabilities(self, model, crops):
        """Flip-averaged class probabilities float32 (N, K) of faces uint8 (N, 3, S, S), before any temperature.

        Raises:
            UserError: they are not finite.
        """
        with self.runtime.autocast():
            batches = self.network_inputs(model, crops)
            probabilities = torch.cat([model.flip_averaged_probabilities(images).float().cpu() for images in batches])
        if not probabilities.isfinite().all():
            raise UserError("the probabilities are not finite numbers: the training of this model diverged")
        return probabilities.numpy()

    def network_inputs(self, model, crops):
        """Yield faces uint8 (N, 3, S, S) as the normalised input of a model, in batches of bounded size."""
        size = min(self.batch_size, max(1, PIXELS_PER_BATCH // model.image_size**2))
        for images in torch.from_numpy(crops).split(size):
            yield to_network_input(images.to(self.runtime.device), model.mean, model.std)


def place_of(face):
    return [face.box, face.detection_confidence, face.angle]


def probabilities_of(faces):
    """The probabilities of N Faces before and after the temperatures, two arrays (N, K)."""
    return np.stack([face.unscaled for face in faces]), np.array([list(face.probabilities.values()) for face in faces])


def load_models(paths):
    """The networks of model files that can be fused. Raises UserError."""
    models = [load_model(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        first, other = (", ".join(each.classes.names) for each in (models[0], model))
        if first != other:
            raise UserError(f"'{path}' knows the classes {other}; '{paths[0]}' knows {first}: they cannot be fused")
    return models


def lacks(record, name):
    """Whether a model file has no such field; one without a framing needs no detector of it."""
    return name not in record and (name != "detector" or "framing" in record)


def without_path(message, path):
    """An error about a file without the file's name, for a line that begins with it."""
    message = message.removeprefix(f"cannot read '{path}': ")
    return message.replace(f"'{path}' ", "it ", 1) if message.startswith(f"'{path}' ") else message


def map_ahead(function, items, workers):
    """Yield function(item) in the order of the items; each of `workers` threads may be AHEAD items in advance."""
    pool, waiting = one_core_threads(workers), collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while waiting and (len(waiting) > AHEAD * workers or waiting[0].done()):
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)
    finally:
        pool.shutdown(cancel_futures=True)
