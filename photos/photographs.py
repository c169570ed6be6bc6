"""Photographs of any size and kind: found in folders, decoded upright."""

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, features

from data.images import IMAGE_FORMATS, open_image, orientation, to_rgb
from photos.video import VIDEO_SUFFIXES
from utils.errors import UserError

HEIC, AVIF = importlib.util.find_spec("pillow_heif") is not None, features.check("avif")
FORMATS = (*IMAGE_FORMATS, *["HEIF"] * HEIC, *["AVIF"] * AVIF)
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp"}  # a training reads no others
PICTURE_SUFFIXES = PHOTO_SUFFIXES | {*[".heic", ".heif"] * HEIC, *[".avif"] * AVIF}
PREDICTED_SUFFIXES = PICTURE_SUFFIXES | (VIDEO_SUFFIXES if importlib.util.find_spec("av") else set())
# Photographs of formats that may not be read; in folders they are counted.
OTHER_SUFFIXES = {".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".dng"} | VIDEO_SUFFIXES
# Shortest longer side that a large JPEG decodes to, in a fraction of the time and memory of all its pixels.
DECODED_SIDE = 2048
DRAWING = re.compile(r"\d{6}_[A-Za-z0-9._-]+\.drawn\.(jpg|mp4)")  # a file of predict.py --draw


def find_photographs(paths, skipped=None, suffixes=PHOTO_SUFFIXES):
    """Find photographs: files as they are named, and those in folders, sorted, at any depth.

    In folders only files with these suffixes count; drawings, and names that begin with a dot, are skipped. Each folder
    is searched once, however many links lead to it.

    Args:
        paths: files and folders.
        skipped: a list that gets the paths in folders that have others of OTHER_SUFFIXES.
        suffixes: in small letters, with their dots.

    Returns:
        A list of Paths, each once, in the order of `paths`.

    Raises:
        UserError: a path does not exist, or a folder cannot be read or holds no photograph.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = list(walk(path, [] if skipped is None else skipped, suffixes))
            if not inside:
                expected = ", ".join(sorted(suffixes))
                raise UserError(f"no photograph in '{path}'; expected files that end in {expected}")
            found += inside
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise UserError(f"'{path}': there is no such photograph or folder")
    return list(dict.fromkeys(found))


def walk(folder, skipped, suffixes):
    """Yield the photographs of a folder, its subfolders' last; see `find_photographs`. Raises UserError."""

    def refuse(error):
        raise UserError(f"cannot read the folder '{error.filename}': {error.strerror}")

    known = {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        found = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(folders) if name[0] != "."}
        folders[:] = [name for name, path in found.items() if path not in known and not known.add(path)]
        names = (name for name in sorted(names) if not name.startswith(".") and not DRAWING.fullmatch(name))
        for path in (Path(root, name) for name in names):
            if path.suffix.lower() in suffixes:
                yield path
            elif path.suffix.lower() in OTHER_SUFFIXES:
                skipped.append(path)


def open_photograph(path):
    """`data.images.open_image`, also for HEIC and AVIF where the packages for them are installed."""
    if HEIC:
        import pillow_heif  # not while this module is imported, since that takes a while

        pillow_heif.register_heif_opener()
    return open_image(path, formats=FORMATS)


def load_photograph(photo):
    """Decode a photograph, upright as its EXIF orientation says.

    Args:
        photo: a path, a PIL image, an array uint8 (H, W, 3), RGB, or (H, W), or a tensor uint8 (3, H, W) or (1, H, W).

    Returns:
        (image, scale): a PIL image in RGB, and the pixels of the photograph per pixel of the image: 1, or more for a
        large JPEG, which is decoded at a lower resolution.

    Raises:
        UserError: the file cannot be decoded (`data.images.open_image`), or this is no such image or array.
    """
    if isinstance(photo, Image.Image):
        try:
            if 0 not in photo.size:
                return to_rgb(photo), 1.0
            problem = f"it is {photo.width}x{photo.height}"
        except Exception as error:  # closed, or read from a truncated file
            problem = error
        raise UserError(f"the image cannot be read: {problem}")
    if hasattr(photo, "movedim") and photo.ndim == 3:  # a tensor; this module does not need torch
        photo = photo.movedim(0, -1).cpu().numpy()
    if isinstance(photo, np.ndarray):
        given = f"an array {photo.shape} of {photo.dtype}"
        if photo.ndim == 3 and photo.shape[2] == 1:
            photo = photo[:, :, 0]
        if photo.ndim == 2:  # grey
            photo = np.repeat(photo[:, :, None], 3, axis=2)
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise UserError(f"{given} is no photograph; expected uint8 (H, W, 3) or (H, W)")
        return Image.fromarray(photo), 1.0
    if not isinstance(photo, (str, os.PathLike)):
        raise UserError(
            f"a {type(photo).__name__} is no photograph; expected a path, a PIL image, an array or a tensor (3, H, W)"
        )
    with open_photograph(photo) as image:
        width = image.width
        reduction = DECODED_SIDE / max(image.size)
        if reduction < 1:
            image.draft("RGB", tuple(max(1, round(side * reduction)) for side in image.size))
        return to_rgb(image), width / image.width


def upright_size(path):
    """Width and height of an image file as its EXIF orientation says. Raises UserError."""
    with open_photograph(path) as image:
        turned = orientation(image) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size
