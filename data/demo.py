"""Demo faces: drawn people in Adience's layout, so that every command can be tried without a download.

Age shows in the head's shape, the eyes' size and height, wrinkles and grey hair. The same seed draws the same bytes.
"""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.adience import CANONICAL, FOLDS, HEADER
from data.images import write_image
from utils.errors import UserError
from utils.files import locked
from utils.reading import read_json, reason

DEMO_DIR = "demo_faces"
SIDE, FINE = 128, 2  # pixels of a saved face, and how many times larger it is drawn
AGES = ((0, 2), (4, 6), (8, 13), (15, 20), (25, 32), (38, 43), (48, 53), (60, 85))  # years of each class
SKINS = ((255, 224, 196), (241, 194, 152), (224, 172, 122), (198, 134, 88), (141, 92, 58), (96, 62, 42))
HAIRS = ((28, 22, 20), (62, 40, 26), (110, 72, 40), (168, 122, 66), (214, 176, 112), (140, 58, 30))


def make_demo_faces(folder, people_per_class=6, images_per_person=2, seed=0):
    """Draw the faces and write their label files, unless the same ones exist already.

    Args:
        folder: the label directory; the image directory is `folder/aligned`.
        people_per_class: people of each class in each fold; two people share an album.
        images_per_person: images of each person.
        seed: decides every byte.

    Raises:
        UserError: the folder exists and holds something else, or it cannot be written.
    """
    folder = Path(folder)
    recipe = {"version": 2, "people_per_class": people_per_class, "images_per_person": images_per_person, "seed": seed}
    try:
        if not is_drawn(folder, recipe):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.with_name(f".{folder.name}.lock")):
                if not is_drawn(folder, recipe):  # another process may have drawn it meanwhile
                    draw_folder(folder, recipe)
    except OSError as error:
        raise UserError(f"cannot write the demo faces to '{folder}': {reason(error)}") from None


def is_drawn(folder, recipe):
    """Whether the faces are there. Raises UserError for any other content of the folder, which stays."""
    if not folder.exists():
        return False
    if (folder / "demo.json").is_file() and read_json(folder / "demo.json") == recipe:
        return True
    raise UserError(f"'{folder}' exists and does not hold the demo faces of this version; move it away first")


def draw_folder(folder, recipe):
    """Draw into another folder and rename that once it is complete."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    if unfinished.exists() and any(unfinished.iterdir()) and not (unfinished / "demo.json").is_file():
        raise UserError(f"'{unfinished}' exists and was not made by --demo; move it away first")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
    try:
        unfinished.mkdir()
        (unfinished / "demo.json").write_text(json.dumps(recipe))
        rng = np.random.default_rng(recipe["seed"])
        for fold in FOLDS:
            draw_fold(unfinished, fold, recipe["people_per_class"], recipe["images_per_person"], rng)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def draw_fold(folder, fold, people_per_class, images_per_person, rng):
    """Draw and save the images of one fold, and write its label file."""
    rows, people = [], people_per_class * len(AGES)
    for position in range(people):
        number, label = str(fold * people + position + 1), position % len(AGES)
        album, person = f"demo{fold}{position // 2:02d}@N00", draw_person(rng, AGES[label])
        album_dir = folder / "aligned" / album
        album_dir.mkdir(parents=True, exist_ok=True)
        for image in range(images_per_person):
            name, yaw = f"{number:0>5}_{image:03d}_o.jpg", str(rng.choice([-15, 0, 0, 0, 15]))
            write_image(album_dir / f"landmark_aligned_face.{number}.{name}", draw_face(person, rng))
            rows.append([album, name, number, list(CANONICAL)[label], person.gender, *"00000", yaw, "90"])
    for age in ("None", "35", "(38, 42)"):  # as in the real files: no age, a single age, an odd interval
        rows[rng.integers(len(rows))][HEADER.index("age")] = age
    rows.append(rows[rng.integers(len(rows))])  # and a repeated row
    (folder / f"fold_{fold}_data.txt").write_text("".join("\t".join(row) + "\n" for row in [HEADER, *rows]))


def draw_person(rng, ages):
    """Draw the traits of a person. Colours are RGB, 0 to 255; lengths are in half-heights of the head."""
    age, gender = rng.uniform(*ages), str(rng.choice(["f", "m"]))
    # Infants' heads are round; faces lengthen until about twenty (Farkas, "Anthropometry of the Head and Face").
    growth = np.interp(age, [0, 5, 12, 20], [0, 0.3, 0.7, 1])
    ageing = np.interp(age, [24, 40, 50, 65, 85], [0, 0.28, 0.55, 0.9, 1])
    hair = np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.85, 1.15)
    person = SimpleNamespace(gender=gender, growth=growth, ageing=ageing)
    person.skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.94, 1.04)
    person.hair = hair + (222 - hair) * np.interp(age, [34, 45, 55, 65], [0, 0.3, 0.65, 1])  # grey in the end
    person.width = (0.90 - 0.20 * growth) * rng.uniform(0.95, 1.06)
    person.eye, person.eye_y = 0.19 - 0.065 * growth - 0.02 * ageing, 0.22 - 0.28 * growth
    person.nose_y, person.mouth_y = 0.34 - 0.10 * growth + 0.06 * ageing, 0.60 - 0.06 * growth
    receding = ageing * rng.uniform(0, 0.3) if gender == "m" else 0
    person.hairline = np.interp(age, [0, 2, 5], [-0.74, -0.64, -0.52]) - receding
    person.hair_length = np.interp(age, [0, 2, 15, 50, 70], [-0.1, 0.1, 0.85, 0.6, 0.4]) if gender == "f" else -0.1
    return person


class Canvas:
    """Pillow's drawing in the coordinates of a face: x and y from about -1 to 1, y downwards; lengths likewise."""

    def __init__(self, centre, scale, background):
        self.image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), to_rgb(background))
        self.pen, self.centre, self.scale = ImageDraw.Draw(self.image), centre * SIDE * FINE, scale * SIDE * FINE

    def at(self, points):
        return [tuple(point) for point in self.centre + np.array(points) * self.scale]

    def ellipse(self, x, y, rx, ry, colour):
        self.pen.ellipse(self.at([(x - rx, y - ry), (x + rx, y + ry)]), to_rgb(colour))

    def line(self, points, colour, width):
        self.pen.line(self.at(points), to_rgb(colour), max(1, round(width * self.scale)), joint="curve")

    def arc(self, x, y, rx, bend, colour, width):
        """A parabola from x - rx to x + rx whose middle lies `bend` below its ends at height y."""
        self.line([(x + rx * t, y + bend * (1 - t * t)) for t in np.linspace(-1, 1, 15)], colour, width)


def draw_face(person, rng):
    """One photograph of a person, a PIL image of SIDE pixels; position, expression, light and camera vary."""
    canvas = Canvas(0.5 + rng.uniform(-0.03, 0.03, 2), rng.uniform(0.38, 0.42), rng.integers(90, 200, 3))
    width, skin, hair = person.width, person.skin, person.hair
    canvas.ellipse(0, -0.15, 1.2 * width, 0.92, hair)
    canvas.line([(0, -0.15), (0, person.hair_length)], hair, 2.4 * width)
    canvas.line([(0, 0.6), (0, 1.5)], skin * 0.85, 0.8)  # the neck
    canvas.ellipse(0, 1.62, 1.25, 0.5, rng.integers(40, 220, 3))
    canvas.ellipse(0, person.eye_y + 0.08, width + 0.09, 0.16, skin * 0.9)  # the ears
    canvas.ellipse(0, 0, width, 0.95, skin)
    draw_features(canvas, person, smile=rng.uniform(0, 0.1), gaze=rng.uniform(-0.02, 0.02))
    # The hair over the forehead: the part of the head's ellipse above the hairline, parted.
    outline = [(1.06 * width * np.cos(angle), np.sin(angle)) for angle in np.linspace(np.pi, 2 * np.pi, 41)]
    fringe = [point for point in outline if point[1] < person.hairline]
    canvas.pen.polygon(canvas.at([*fringe, (0, person.hairline - 0.16)]), to_rgb(hair))
    return photograph(canvas.image, rng)


def draw_features(canvas, person, smile, gaze):
    """Eyes, brows, nose, mouth and wrinkles, which have the skin's colour in youth and grow darker with age."""
    skin, y, eye, nose, ageing = person.skin, person.eye_y, person.eye, person.nose_y, person.ageing
    wrinkle = {"colour": skin * (1 - 0.42 * ageing), "width": 0.016 + 0.022 * ageing}
    for line in range(round(1 + 3 * ageing)):
        canvas.arc(0, y - 0.34 - 0.09 * line, 0.55 * person.width, -0.03, **wrinkle)
    for side in np.array([(-1, 1), (1, 1)]):
        x = side[0] * 0.45 * person.width
        canvas.ellipse(x, y, eye, eye * 0.62, (248, 248, 246))
        canvas.ellipse(x + gaze, y, eye * 0.52, eye * 0.56, (78, 56, 40))
        canvas.ellipse(x + gaze, y, eye * 0.26, eye * 0.28, (16, 14, 14))
        canvas.ellipse(x + gaze + eye * 0.16, y - eye * 0.2, eye * 0.12, eye * 0.12, (255, 255, 255))
        canvas.arc(x, y, eye * 1.05, -eye * 0.62, skin * 0.45, 0.02)  # the upper lid
        canvas.arc(x, y - eye * 1.15, eye * 1.25, -0.05, person.hair * 0.7, 0.015 + 0.045 * person.growth)
        canvas.arc(x, y + 0.11, eye, 0.05, **wrinkle)
        canvas.line(side * [(0.15, nose), (0.27, nose + 0.13), (0.30, person.mouth_y + 0.06)], **wrinkle)
        for slope in (-0.05, 0, 0.05)[: round(3 * ageing)]:
            canvas.line([(x, y), (x, y)] + side * [(1.1 * eye, slope), (1.1 * eye + 0.12, 2 * slope)], **wrinkle)
    canvas.line([(-0.05, nose - 0.08), (-0.09, nose), (0, nose + 0.03), (0.09, nose)], skin * 0.68, 0.028)
    canvas.arc(0, person.mouth_y, 0.17 + 0.10 * person.growth, smile, skin * (0.86, 0.52, 0.52), 0.055)


def photograph(image, rng):
    """Tilt, focus, light and noise of a camera; down to SIDE pixels."""
    image = image.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR, fillcolor=image.getpixel((0, 0)))
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    light = rng.uniform(0.88, 1.1) * (1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, SIDE)[:, None])
    pixels = np.asarray(image) * light + rng.normal(0, rng.uniform(1, 5), (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def to_rgb(colour):
    return tuple(int(value) for value in np.clip(colour, 0, 255))
