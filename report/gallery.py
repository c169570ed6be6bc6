"""The faces that a report shows: which, their photographs as thumbnails, and where the network looks.

The thumbnails of one report have the same side and quality, and so the same JPEG header, which is half of a small
picture: it is stored once.
"""

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from augment.pipeline import to_network_input
from data.cache import IMAGE_FORMATS, IMAGE_LIMIT, decode_face
from evaluation.saliency import grad_cam
from utils.cli import printable
from utils.errors import UserError
from utils.foreign import open_regular

SIDES = (240, 200, 160, 144, 128, 112, 96, 80, 72, 64, 60, 56, 52, 48, 44, 40, 36, 32)  # of thumbnails, in pixels
QUALITY = 70
SAMPLE = 48  # pictures from which the size of all is estimated
START_OF_SCAN = b"\xff\xda"
RIGHT_PER_CLASS = 24  # right answers that are shown beside the mistakes
MEAN_FACES = 64  # of each class, for the mean map
LARGEST_GRID = 14  # cells of a saliency map; finer ones are averaged
BATCH = 32


def choose_faces(study, most):
    """The faces of the gallery: mistakes, the most confident first, then some right answers of each class.

    Args:
        most: the number of mistakes at most.

    Returns:
        (A table with one row per shown answer, the number of all mistakes). The table has model (position in
        `study.answers`), position (in its predictions), confidence, prediction, and what the faces' table has.
    """
    tables = []
    for number, answers in enumerate(study.answers):
        predictions = answers.predictions
        confidence = predictions.probabilities[np.arange(len(predictions.faces)), predictions.predicted]
        table = predictions.faces.table.assign(model=number, position=np.arange(len(predictions.faces)))
        tables.append(table.assign(prediction=predictions.predicted, confidence=confidence, row=table.index))
    every = pd.concat(tables, ignore_index=True).sort_values(["confidence", "path"], ascending=[False, True])
    wrong = every[every.label != every.prediction]
    right = every[every.label == every.prediction]
    some = [part.iloc[evenly(len(part), RIGHT_PER_CLASS)] for _, part in right.groupby("label")]
    return pd.concat([wrong.head(most), *some], ignore_index=True), len(wrong)


def evenly(count, most):
    """At most `most` positions out of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else []


def make_thumbnails(paths, budget):
    """Encode photographs as JPEG thumbnails of the largest side in SIDES at which all fit.

    Args:
        paths: of the photographs, the most important first; None where one is not known.
        budget: bytes of all thumbnails in base64.

    Returns:
        A dict with side; header (base64), which all of them start with; scans, a list of the rest of each (base64),
        None for a photograph that cannot be read, and shorter than `paths` where even the smallest side does not fit.
    """
    side = choose_side(paths, budget)
    header, scans, used = b"", [], 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = pool.map(lambda path: encode(path, side), paths)
        for picture in tqdm(pending, total=len(paths), desc="thumbnails", unit="img", disable=None):
            if picture is None:
                scans.append(None)
                continue
            header, scan = split_header(picture)
            used += len(to_text(scan)) + 3  # and its quotes and comma
            if used > budget:
                pool.shutdown(wait=False, cancel_futures=True)
                break
            scans.append(to_text(scan))
    return {"side": side, "header": to_text(header), "scans": scans}


def choose_side(paths, budget):
    """The largest side at which the thumbnails fit, judged by a sample; not larger than the photographs."""
    chosen = [paths[k] for k in evenly(len(paths), SAMPLE)]
    sample = [face for face in (decode(path, SIDES[0]) for path in chosen) if face is not None]
    if not sample:
        return SIDES[-1]
    known = [min(size) for size in map(image_size, chosen) if None not in size]
    for side in [side for side in SIDES if side <= max(known)] or SIDES[-1:]:
        lengths = [len(to_text(split_header(to_jpeg(face, side))[1])) + 3 for face in sample]
        # The sample's error: two standard errors of the mean.
        error = 2 * np.std(lengths) / np.sqrt(len(lengths))
        if (np.mean(lengths) + error) * len(paths) <= budget:
            return side
    return SIDES[-1]


def decode(path, side):
    """A photograph as uint8 (3, side, side), cut out as the network sees it; None where it cannot be read."""
    if path is None:
        return None
    try:
        return decode_face(path, side)
    except UserError:
        return None


def image_size(path):
    """(width, height) from the head of an image file, (None, None) where it cannot be read."""
    if path is None:
        return None, None
    try:
        with open_regular(path, IMAGE_LIMIT) as file, Image.open(file, formats=IMAGE_FORMATS) as image:
            return image.size
    except (UserError, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None, None


def encode(path, side):
    face = decode(path, side)
    return None if face is None else to_jpeg(face, side)


def to_jpeg(face, side):
    """Pixels uint8 (3, S, S) -> the bytes of a JPEG of the given side."""
    image = Image.fromarray(face.transpose(1, 2, 0))
    if image.width != side:
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def split_header(picture):
    """A JPEG -> (everything before its pixels, the rest)."""
    start = picture.index(START_OF_SCAN)
    return picture[:start], picture[start:]


def to_text(content):
    return base64.b64encode(content).decode()


def data_url(jpeg):
    """The bytes of a JPEG as the address of a picture that a page holds itself."""
    return "data:image/jpeg;base64," + to_text(jpeg)


def photographs(study, table):
    """The path of each shown answer's photograph, None where the folder is not known."""
    folders = [Path(answers.image_dir) if answers.image_dir else None for answers in study.answers]
    return [folders[row.model] and folders[row.model] / row.path for row in table.itertuples()]


def saliency_maps(study, table):
    """Grad-CAM of each shown answer, for its true and for its predicted class.

    Returns:
        (maps of the true class, maps of the predicted class, grids): lists of base64 texts of uint8 (h, w), each map
        scaled to 0 to 255, None where there is no network or no image; and (h, w) for each model.
    """
    maps = [[None] * len(table), [None] * len(table)]
    grids = [(0, 0)] * len(study.answers)
    for number, answers in enumerate(study.answers):
        own = np.flatnonzero(table.model == number)
        if answers.model is None or answers.images is None or not len(own):
            continue
        part = table.iloc[own]
        found = [map_faces(answers, part.row.to_numpy(), part[name].to_numpy()) for name in ("label", "prediction")]
        grids[number] = found[0].shape[1:]
        for texts, bytes_of_maps in zip(maps, found, strict=True):
            for at, one in zip(own, bytes_of_maps, strict=True):
                texts[at] = to_text(one.tobytes())
    return *maps, grids


def map_faces(answers, rows, classes):
    """Grad-CAM of some rows of the cache for the given classes, uint8 (N, h, w), each scaled to 0 to 255."""
    model, parts = answers.model, []
    device = next(model.parameters()).device
    bar = tqdm(range(0, len(rows), BATCH), desc=f"saliency of {printable(answers.name)}", disable=None, leave=False)
    for start in bar:
        chosen = slice(start, start + BATCH)
        images = torch.from_numpy(np.ascontiguousarray(answers.images[rows[chosen]])).to(device)
        inputs = to_network_input(images, model.mean, model.std)
        maps = grad_cam(model, inputs, torch.from_numpy(classes[chosen].astype(np.int64)).to(device)).float()
        if max(maps.shape[1:]) > LARGEST_GRID:
            maps = F.adaptive_avg_pool2d(maps[:, None], LARGEST_GRID)[:, 0]
        parts.append((255 * scaled(maps)).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


def scaled(maps):
    """Maps (B, h, w), each from its least value, 0, to its largest, 1; a map of one value becomes 0."""
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def mean_maps(study):
    """For each class the mean face and the mean map of the true class, over faces of all models.

    Returns:
        A list of dicts with name, count (of faces), face uint8 (3, S, S) and map float (h, w) from 0 to 1; empty where
        there is no network or no image.
    """
    parts = [one for one in study.answers if one.model is not None and one.images is not None]
    if not parts:
        return []
    shown = []
    for label, name in enumerate(parts[0].predictions.faces.class_names):
        faces, maps = [], []
        for answers in parts:
            table = answers.predictions.faces.table
            rows = table.index[table.label == label].to_numpy()
            rows = rows[evenly(len(rows), -(-MEAN_FACES // len(parts)))] if len(rows) else rows
            if len(rows):
                maps.append(map_faces(answers, rows, np.full(len(rows), label)))
                faces.append(answers.images[rows])
        if maps and len({(one.shape[1:], face.shape[1:]) for one, face in zip(maps, faces, strict=True)}) == 1:
            shown.append({"name": name, **mean_of(np.concatenate(faces), np.concatenate(maps))})
    return shown


def mean_of(faces, maps):
    """The mean of faces (N, 3, S, S) and of their maps (N, h, w)."""
    return {
        "count": len(faces),
        "face": faces.mean(0, dtype=np.float64).round().astype(np.uint8),
        "map": scaled(torch.from_numpy(maps.mean(0, keepdims=True, dtype=np.float64)))[0].numpy(),
    }


def embedded_map(mean):
    """One of `mean_maps` as the page holds it: name, faces, picture (a data URL), map (base64), grid "h,w"."""
    height, width = mean["map"].shape
    return {
        "name": mean["name"],
        "faces": f"{mean['count']:,}",
        "picture": data_url(to_jpeg(mean["face"], min(mean["face"].shape[-1], 160))),
        "map": to_text((255 * mean["map"]).round().astype(np.uint8).tobytes()),
        "grid": f"{height},{width}",
    }


def face_columns(study, table, probabilities, maps, pictures):
    """The gallery's faces for the page's script: one list per column.

    Args:
        probabilities: float (N, K) of the shown answers.
        maps: of `saliency_maps`.
        pictures: the number of each one's thumbnail.
    """
    missing = [None] * len(table)
    yaw = table.get("yaw", pd.Series(missing))
    # A CSV file has no albums, and where it has no people either, the path stands for both.
    album = table.album.mask(table.album == table.subject, "")
    person = table.subject.mask(table.subject == table.path, "")
    return {
        "path": [printable(path) for path in table.path],
        "person": [printable(name) for name in person],
        "album": [printable(name) for name in album],
        "gender": ["" if g not in ("f", "m") else g for g in table.get("gender", pd.Series(missing))],
        "yaw": [None if y is None or y != y else float(y) for y in yaw],
        "model": table.model.tolist(),
        "fold": table.fold.tolist(),
        "label": table.label.tolist(),
        "prediction": table.prediction.tolist(),
        "confidence": (1000 * table.confidence).round().astype(int).tolist(),
        "probabilities": (1000 * probabilities).round().astype(int).tolist(),
        "true_map": maps[0],
        "predicted_map": maps[1],
        "picture": pictures,
        "place": [study.places.get(path, "") for path in table.path],
    }
