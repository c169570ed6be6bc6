"""What the page of tools.demo_page shows of a photograph: boxes, probabilities as bars, and where the network looks.

Pictures are part of the text, as data URLs, so that no picture of a face is written to a disk.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from evaluation.predictor import Photograph, without_path
from report.gallery import data_url
from report.page import TEMPLATES, template
from report.photographs import draw_faces
from utils.errors import UserError

PHOTOGRAPH_SIDE = 1280  # the most pixels of a photograph on the page
FACE_SIDE = 224  # pixels of a face on the page; a network may see fewer
COLOURS, STRENGTH = "turbo", 0.45  # of the saliency; the strength is the share of the colours in a pixel


@dataclass
class Explained:
    """A photograph and what a predictor says of it.

    Attributes:
        name: the file's name.
        drawn: the photograph with its boxes, a PIL image; None where it could not be read.
        faces: a list of Face, the largest first.
        crops: for each face what the network saw, a PIL image.
        overlays: the same under the saliency for the face's group; None where no part speaks for it.
        error: why the photograph could not be read.
    """

    name: str
    drawn: Image.Image | None = None
    faces: list = field(default_factory=list)
    crops: list = field(default_factory=list)
    overlays: list = field(default_factory=list)
    error: str | None = None


def explain_photograph(predictor, path):
    """Predict the faces of a photograph and draw what the page shows of them.

    Args:
        predictor: an AgePredictor.
        path: of the photograph.

    Returns:
        Explained; of a photograph that cannot be read it says why.
    """
    path = Path(path)
    try:
        found = predictor.explain(path)
        faces = [face for face, _, _ in found]
        drawn = draw_faces(Photograph(path, faces), numbered=len(faces) > 1)
    except UserError as error:
        return Explained(path.name, error=without_path(str(error), path))
    drawn.thumbnail((PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE))
    crops = [enlarge(crop.transpose(1, 2, 0)) for _, crop, _ in found]
    overlays = [overlay(crop, saliency) for crop, (_, _, saliency) in zip(crops, found, strict=True)]
    return Explained(path.name, drawn, faces, crops, overlays)


def overlay(image, saliency):
    """A PIL image in RGB under the colours of a saliency map, float (S, S) from 0 to 1; None for a map of zeros."""
    if not saliency.any():
        return None
    heat = np.asarray(enlarge((255 * saliency).round().astype(np.uint8)).resize(image.size))
    return Image.blend(image, Image.fromarray(colormaps[COLOURS](heat, bytes=True)[:, :, :3]), STRENGTH)


def enlarge(pixels):
    """Pixels uint8 (S, S, 3) or (S, S) -> a PIL image of FACE_SIDE."""
    return Image.fromarray(pixels).resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BICUBIC)


def results_html(explained, models=1):
    """What the page shows of a photograph, HTML; names of files and classes are escaped.

    Args:
        explained: of `explain_photograph`.
        models: how many are fused; the saliency is that of the first one.
    """
    return template("demo.html").render(photograph=explained, models=models, picture=picture)


def style():
    """The style sheet of the results."""
    return (TEMPLATES / "demo.css").read_text(encoding="utf-8")


def picture(image):
    """A PIL image as the address of a picture that the page holds itself."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return data_url(file.getvalue())
