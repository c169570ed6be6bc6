"""Photographs of any size and kind: found in folders, decoded upright."""

import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data.cache import open_image, to_rgb
from utils.errors import UserError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Of what a large JPEG decodes to at least, which takes a fraction of the time and memory of all its pixels.
DECODED_SIDE = 2048


def find_photographs(places):
    """The files to read: photographs as they are named, and those in folders, sorted, at any depth.

    In folders only files with PHOTO_SUFFIXES count; names that begin with a dot are skipped, links to folders too.

    Args:
        places: paths of files and folders.

    Returns:
        A list of Paths, each once, in the order of `places`.

    Raises:
        UserError: there is nothing at one of the places, or no photograph at all.
    """
    found = {}
    for place in map(Path, places):
        if place.is_dir():
            found |= dict.fromkeys(walk(place))
        elif os.path.lexists(place):
            found[place] = None
        else:
            raise UserError(f"'{place}': there is no such photograph or folder")
    if not found:
        named = ", ".join(f"'{place}'" for place in places)
        raise UserError(f"no photograph in {named}; expected files that end in {', '.join(sorted(PHOTO_SUFFIXES))}")
    return list(found)


def walk(folder):
    """Yield the photographs of a folder, those of a subfolder in its place. Raises UserError."""

    def refuse(error):
        raise UserError(f"cannot read the folder '{error.filename}': {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES:
                yield Path(root) / name


def load_photograph(photo):
    """Decode a photograph, upright as its EXIF orientation says.

    Args:
        photo: a path, a PIL image, or an array uint8 (H, W, 3), RGB.

    Returns:
        (image, scale): a PIL image in RGB, and how many pixels of the photograph one of its pixels stands for: 1, or
        more for a large JPEG, which is decoded at a lower resolution.

    Raises:
        UserError: the file cannot be decoded (`data.cache.open_image`), or this is no such image or array.
    """
    if isinstance(photo, Image.Image):
        return to_rgb(ImageOps.exif_transpose(photo)), 1.0
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise UserError(f"an array {photo.shape} of {photo.dtype} is no photograph; expected uint8 (H, W, 3)")
        return Image.fromarray(photo), 1.0
    with open_image(photo) as image:
        width, height = image.size
        share = DECODED_SIDE / max(width, height)
        if share < 1:
            image.draft("RGB", (max(1, round(width * share)), max(1, round(height * share))))
        scale = width / image.width
        return to_rgb(ImageOps.exif_transpose(image)), scale


def upright_size(path):
    """Width and height of an image file as its EXIF orientation says. Raises UserError."""
    with open_image(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size
