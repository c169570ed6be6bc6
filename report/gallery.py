"""The faces of the page: the gallery of mistakes, thumbnails of the photographs, and saliency maps.

The thumbnails of one report have the same side and quality, and so the same JPEG header, which is half of a small
picture: it is stored once.
"""

import base64
import io

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from augment.pipeline import to_network_input
from data.images import decode_face, in_threads
from evaluation.saliency import grad_cam, has_feature_maps, min_max
from report.data import image_size, line_references
from utils.cli import printable

BUDGET = 20_000_000  # characters of all thumbnails
SIDES = range(32, 241, 8)  # of thumbnails, in pixels
QUALITY = 70
# Bytes of a face's thumbnail without its header, about: for every one, and for each pixel.
THUMBNAIL_BYTES, PIXEL_BYTES = 300, 0.14
START_OF_SCAN = b"\xff\xda"
MOST_MISTAKES, MOST_PROBABILITIES = 20_000, 1_000_000  # in the gallery
RIGHT_PREDICTIONS = 192  # about; they are shown beside the mistakes, as many of each class
MEAN_FACES = 64  # of each class, for the mean map
LARGEST_GRID = 14  # cells of a saliency map; finer ones are averaged
BATCH = 32


def choose_faces(evaluations):
    """The faces of the gallery: mistakes, the most confident first, then some right predictions of each class.

    Returns:
        (A table with one row per shown prediction, the number of all mistakes). The table has model (the position of
        its evaluation), position (in this evaluation), row (of the cache), prediction, confidence, reference (file and
        line of the label) and the columns of the faces' table; where the classes are ages, also age (in words) and
        years (the error). Many single years are taken by decade, and mapped_label and mapped_prediction are the years.
    """
    tables = [
        evaluation.faces.table.assign(
            model=number,
            position=np.arange(len(evaluation)),
            row=evaluation.faces.table.index,
            label=coarse.labels,
            prediction=coarse.predicted,
            confidence=coarse.confidence,
            reference=line_references(evaluation.faces.table),
            mapped_label=evaluation.labels,
            mapped_prediction=evaluation.predicted,
            **years_of(evaluation),
        )
        for number, (evaluation, coarse) in enumerate((evaluation, evaluation.coarse()) for evaluation in evaluations)
    ]
    table = pd.concat(tables, ignore_index=True).sort_values(["confidence", "path"], ascending=[False, True])
    wrong, right = table[table.label != table.prediction], table[table.label == table.prediction]
    classes = len(evaluations[0].classes.coarse())
    each = max(1, RIGHT_PREDICTIONS // classes)
    some = [group.iloc[evenly(len(group), each)] for _, group in right.groupby("label")]
    most = min(MOST_MISTAKES, MOST_PROBABILITIES // classes)
    return pd.concat([wrong.head(most), *some], ignore_index=True), len(wrong)


def years_of(evaluation):
    """{"age": the predicted age in words, "years": its error, NaN where it is not known} of each face."""
    if evaluation.ages is None:
        return {"age": "", "years": np.nan}
    words = [f"{age:.0f} ({low:.0f}-{high:.0f})" for age, low, high in zip(*evaluation.ages, strict=True)]
    true = evaluation.faces.ages
    words = [text + ("" if age != age else f", truly {age:g}") for text, age in zip(words, true, strict=True)]
    return {"age": words, "years": evaluation.ages[0] - true}


def evenly(count, most):
    """At most `most` positions out of `count`, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def face_columns(evaluations, table):
    """The gallery's faces for the page's script, and the sizes of their maps.

    Args:
        table: of `choose_faces`.

    Returns:
        (A table of plain values, one row per face, (h, w) of the maps for each model). The maps of the true and of the
        predicted class are base64 texts of uint8 (h, w), each scaled to 0 to 255; None without a network or images.
    """
    missing = pd.Series([None] * len(table), dtype=object)
    maps, grids = {"label": missing.copy(), "prediction": missing.copy()}, [(0, 0)] * len(evaluations)
    for number, evaluation in enumerate(evaluations):
        own = table[table.model == number]
        for name in maps if has_maps(evaluation) and len(own) else ():
            found = map_faces(evaluation, own.row.to_numpy(), own[f"mapped_{name}"].to_numpy())
            grids[number] = found.shape[1:]
            maps[name][own.index] = list(map(map_text, found))
    coarse = [evaluation.coarse() for evaluation in evaluations]
    probabilities = [
        (1000 * coarse[model].probabilities[position]).round().astype(int).tolist()
        for model, position in zip(table.model, table.position, strict=True)
    ]
    columns = {
        "path": table.path.map(printable),
        # A CSV file has no albums, and without people the path stands for both.
        "person": table.person.mask(table.person == table.path, "").map(printable),
        "album": table.album.mask(table.album == table.person, "").map(printable),
        "gender": [gender if gender in ("f", "m") else "" for gender in table.get("gender", missing)],
        "yaw": [None if yaw is None or yaw != yaw else float(yaw) for yaw in table.get("yaw", missing)],
        "age": table.age,
        "model": table.model,
        "label": table.label,
        "prediction": table.prediction,
        "confidence": (1000 * table.confidence).round().astype(int),
        "probabilities": probabilities,
        "true_map": maps["label"],
        "predicted_map": maps["prediction"],
        "reference": table.reference,
    }
    if table.years.notna().all():
        columns["years"] = table.years.round(1)
    return pd.DataFrame(columns, dtype=object), grids


def make_thumbnails(paths):
    """Encode photographs as JPEG thumbnails, the larger the fewer there are, but not larger than the first photograph.

    Args:
        paths: of the photographs; None for one that is not known.

    Returns:
        A dict with side; header (base64), which all of them start with; scans, a list of the rest of each (base64),
        None for a photograph that cannot be read.
    """
    room = 0.75 * BUDGET / max(1, len(paths))  # bytes of each; base64 has four characters for three bytes
    sizes = (image_size(path) for path in paths if path is not None)
    largest = min(*next((size for size in sizes if None not in size), (0, 0)))
    fitting = [side for side in SIDES if side <= largest and THUMBNAIL_BYTES + PIXEL_BYTES * side**2 <= room]
    side = max(fitting, default=SIDES[0])

    def encode(path):
        if path is None:
            return None
        picture = to_jpeg(decode_face(path, side))
        start = picture.index(START_OF_SCAN)
        return to_text(picture[:start]), to_text(picture[start:])

    pictures = [picture or ("", None) for picture, _ in in_threads(encode, paths, "thumbnails")]
    return {
        "side": side,
        "header": next((header for header, _ in pictures if header), ""),
        "scans": [scan for _, scan in pictures],
    }


def to_jpeg(face):
    """Pixels uint8 (3, S, S) -> the bytes of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(face.transpose(1, 2, 0)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def to_text(content):
    return base64.b64encode(content).decode()


def map_text(values):
    """A map, float (h, w) from 0 to 1, as base64 of uint8."""
    return to_text((255 * values).round().astype(np.uint8).tobytes())


def has_maps(evaluation):
    """Whether the images and a network with feature maps are at hand."""
    model = evaluation.model
    return model is not None and evaluation.images is not None and has_feature_maps(model)


def map_faces(evaluation, rows, classes):
    """Grad-CAM of some rows of the cache for the given classes, float (N, h, w), each map from 0 to 1."""
    model, maps = evaluation.model, []
    device = next(model.parameters()).device
    bar = tqdm(range(0, len(rows), BATCH), desc=f"saliency of {printable(evaluation.name)}", disable=None, leave=False)
    for start in bar:
        chosen = slice(start, start + BATCH)
        images = torch.from_numpy(np.ascontiguousarray(evaluation.images[rows[chosen]])).to(device)
        inputs = to_network_input(images, model.mean, model.std)
        found = grad_cam(model, inputs, torch.from_numpy(classes[chosen].astype(np.int64)).to(device)).float().cpu()
        if max(found.shape[1:]) > LARGEST_GRID:
            found = F.adaptive_avg_pool2d(found[:, None], LARGEST_GRID)[:, 0]
        maps.append(min_max(found).numpy())
    return np.concatenate(maps)


def mean_maps(evaluations):
    """For each class, or decade, the mean face and the mean map of the true class, over faces of all models.

    Returns:
        A list of dicts for the page with name, count (of faces), picture (a data URL of the face), map (base64) and
        grid, "h,w"; empty without a network or an image.
    """
    usable, shown = list(filter(has_maps, evaluations)), []
    groups = [evaluation.coarse() for evaluation in usable]
    for group, name in enumerate(groups[0].classes.names if usable else ()):
        faces, maps = [], []
        for evaluation, coarse in zip(usable, groups, strict=True):
            own = np.flatnonzero(coarse.labels == group)
            own = own[evenly(len(own), -(-MEAN_FACES // len(usable)))]
            if len(own):
                rows = evaluation.faces.table.index[own].to_numpy()
                maps.append(map_faces(evaluation, rows, evaluation.labels[own]))
                faces.append(evaluation.images[rows])
        shapes = {array.shape[1:] for array in (*maps, *faces)}
        if len(shapes) == 2:  # one of the maps, one of the faces: the models agree
            face = np.concatenate(faces).mean(0, dtype=np.float64).round().astype(np.uint8)
            mean = torch.from_numpy(np.concatenate(maps).mean(0, keepdims=True, dtype=np.float64))
            heat = min_max(mean)[0].numpy()
            picture = "data:image/jpeg;base64," + to_text(to_jpeg(face))
            count, grid = f"{sum(map(len, faces)):,}", ",".join(map(str, heat.shape))
            shown.append({"name": name, "count": count, "picture": picture, "map": map_text(heat), "grid": grid})
    return shown
