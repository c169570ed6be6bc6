"""Copies of photographs with the boxes of their faces and the predicted groups."""

import contextlib
import re
import sys
from pathlib import Path

from PIL import ImageDraw, ImageFont

from data.images import write_image
from photos.photographs import DRAWING, load_photograph
from photos.video import frames_of, upright
from utils.cli import printable
from utils.errors import UserError
from utils.files import replaced_outputs
from utils.reading import exists, reason

COLOUR, TEXT_COLOUR = "#ffd400", "#000000"


@contextlib.contextmanager
def drawing_writer(folder):
    """Yield a function that draws a Photograph with its boxes; the copies replace those of an earlier call at the end.

    Args:
        folder: where to draw; see `check_folder`.

    Raises:
        UserError: the folder cannot be written.
    """
    drawn = []
    try:
        with replaced_outputs(folder, None, DRAWING.fullmatch) as staging:

            def draw(photograph):
                if not photograph.faces:
                    return
                stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(photograph.path).stem)[-80:] or "_"
                name = f"{len(drawn) + 1:06d}_{stem}.drawn"
                try:
                    if photograph.tracks is None:
                        write_image(staging / f"{name}.jpg", draw_faces(photograph))
                    else:
                        draw_video(photograph, staging / f"{name}.mp4")
                    drawn.append(name)
                except UserError as error:  # it vanished since it was searched
                    print(f"note: not drawn: {printable(error)}", file=sys.stderr)

            yield draw
    except OSError as error:
        raise UserError(f"--draw: cannot write to '{folder}': {reason(error)}") from None


def check_folder(folder, paths):
    """Check that a folder is empty or holds drawings of an earlier call only, and none of the photographs to read.

    Raises:
        UserError: it does not.
    """
    if not exists(folder):
        return
    if not Path(folder).is_dir():
        raise UserError(f"--draw '{folder}': expected a folder, this is a file")
    here = Path(folder).resolve()
    if read := next((path for path in paths if Path(path).resolve().parent == here), None):
        raise UserError(f"--draw '{folder}': '{read}' there is to be read; choose another folder")
    for path in here.iterdir():
        if not DRAWING.fullmatch(path.name) and not path.name.startswith("."):
            raise UserError(f"--draw '{folder}': '{path.name}' is no drawing of predict.py; choose an empty folder")


def draw_faces(photograph):
    """Draw the boxes of a Photograph's faces, their numbers if there are several, and groups into a copy, a PIL image.

    Raises:
        UserError: it cannot be read.
    """
    image, scale = load_photograph(photograph.path)
    for number, face in enumerate(photograph.faces, 1):
        text = f"{number}:  {label(face)}" if len(photograph.faces) > 1 else label(face)
        draw_box(image, [pixels / scale for pixels in face.box], text)
    return image


def label(face):
    """The text beside a face: its age where the classes are single years, otherwise its group."""
    if face.age is not None and face.group not in face.probabilities:  # a decade of single years
        return f"{face.age:.0f}  ({face.age_interval[0]:.0f}-{face.age_interval[1]:.0f})"
    return f"{face.group}  {face.confidence:.0%}"


def draw_box(image, box, text):
    """Draw a box and its text, as large as the face allows, into a PIL image.

    Args:
        box: left, top, width and height in pixels.
    """
    left, top, width, height = box
    draw, size = ImageDraw.Draw(image), max(10, min(max(image.size) // 45, round(width / 6)))
    font, line = ImageFont.load_default(size), max(2, size // 8)
    draw.rectangle((left, top, left + width, top + height), outline=COLOUR, width=line)
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    wide, high = x1 - x0 + 4 * line, y1 - y0 + 4 * line
    x = min(max(left, 0), max(image.width - wide, 0))
    y = top - high if top >= high else top + height  # above the face, or else below it, or else within
    y = y if y + high <= image.height else max(top, 0)
    draw.rectangle((x, y, x + wide, y + high), fill=COLOUR)
    draw.text((x + 2 * line - x0, y + 2 * line - y0), text, fill=TEXT_COLOUR, font=font)


def draw_video(photograph, path):
    """Write a copy of a video with the boxes of its tracks and their ages, as far as it can be read."""
    import av

    with av.open(str(path), "w") as container, contextlib.suppress(UserError):  # which its error already says
        stream = None
        for second, frame in frames_of(photograph.path):
            image = upright(frame)
            if stream is None:
                with av.open(str(photograph.path)) as video:
                    rate = video.streams.video[0].average_rate or 25
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = image.width // 2 * 2, image.height // 2 * 2, "yuv420p"
            for face, track in zip(photograph.faces, photograph.tracks, strict=True):
                if (box := track.box_at(second)) is not None:
                    draw_box(image, box, label(face))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        if stream is not None:
            container.mux(stream.encode())
