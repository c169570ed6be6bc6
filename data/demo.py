"""Demo faces: drawn people in Adience's exact layout, so that every command can be tried at once.

Age shows as it does in people, only plainer: a child's round head with large, low eyes; a grown
face's length, nose and brows; wrinkles, grey and receding hair later. Odd labels and repeated
rows are there as in the real files. The same seed draws the same files.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data import DataError
from data.adience import CANONICAL, FOLDS, HEADER

DEMO_DIR = "demo_faces"
SIDE, FINE = 128, 2  # pixels of a saved face, and how much larger it is drawn
GROUP_AGES = ((0, 2), (4, 6), (8, 13), (15, 20), (25, 32), (38, 43), (48, 53), (60, 85))
SKINS = ((255, 224, 196), (241, 194, 152), (224, 172, 122), (198, 134, 88), (141, 92, 58), (96, 62, 42))
HAIRS = ((28, 22, 20), (62, 40, 26), (110, 72, 40), (168, 122, 66), (214, 176, 112), (140, 58, 30))
GREY = (222, 222, 220)


def make_demo_faces(folder, people_per_group=6, images_per_person=2, seed=0):
    """Draw the faces and write the five label files, unless the same ones are there already.

    Each fold gets `people_per_group` people of each of the eight groups, with `images_per_person`
    images each; two people share an album. The images go to `folder/aligned`. Raises DataError.
    """
    folder = Path(folder)
    recipe = {"version": 1, "people_per_group": people_per_group, "images_per_person": images_per_person, "seed": seed}
    stamp = folder / "demo.json"
    if stamp.exists() and stamp.read_text() == json.dumps(recipe):
        return
    if folder.exists() and not stamp.exists():
        raise DataError(f"'{folder}' exists and was not made by --demo; move it away first")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        draw_folds(unfinished, people_per_group, images_per_person, np.random.default_rng(seed))
        (unfinished / "demo.json").write_text(json.dumps(recipe))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(unfinished, folder)
    except OSError as error:
        raise DataError(f"cannot write the demo faces to '{folder}': {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def draw_folds(folder, people_per_group, images_per_person, rng):
    person_number = 0
    for fold in FOLDS:
        rows = []
        for position in range(people_per_group * len(GROUP_AGES)):
            person_number += 1
            album = f"demo{fold}{position // 2:02d}@N00"
            person = Person.draw(rng, group=position % len(GROUP_AGES))
            rows += draw_person(folder / "aligned" / album, person, album, person_number, images_per_person, rng)
        rows = rows_with_oddities(rows, rng)
        lines = ["\t".join(HEADER), *("\t".join(row) for row in rows)]
        (folder / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")


def draw_person(album_folder, person, album, number, images, rng):
    """Draw and save one person's images; returns their rows of the label file."""
    album_folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for image in range(images):
        name = f"{number:05d}_{image:03d}_o.jpg"
        face = draw_face(person, rng)
        face.save(album_folder / f"landmark_aligned_face.{number}.{name}", quality=90)
        age = list(CANONICAL)[person.group]
        yaw = str(int(rng.choice([-15, 0, 0, 0, 15])))
        rows.append([album, name, str(number), age, person.gender, "0", "0", str(SIDE), str(SIDE), "0", yaw, "90"])
    return rows


def rows_with_oddities(rows, rng):
    """What the real files have too: faces without an age, single ages, odd intervals, repeated rows."""
    age = HEADER.index("age")
    for text in ("None", "35", "(38, 42)"):
        rows[rng.integers(len(rows))][age] = text
    repeated = rows[rng.integers(len(rows))]
    return [*rows, repeated]


@dataclass
class Person:
    """What stays the same over a person's images. Colours are RGB, 0-255; `age` is in years."""

    group: int
    age: float
    gender: str
    skin: np.ndarray
    hair: np.ndarray
    parting: float  # of the hair, -1 (left) to 1 (right)
    width: float  # of the head, about 1
    bearded: bool
    balding: bool
    glasses: bool
    clothes: np.ndarray

    @classmethod
    def draw(cls, rng, group):
        age = rng.uniform(*GROUP_AGES[group])
        gender = str(rng.choice(["f", "m"]))
        grown_man = gender == "m" and age > 18
        return cls(
            group=group,
            age=age,
            gender=gender,
            skin=np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.94, 1.04),
            hair=np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.85, 1.15),
            parting=rng.uniform(-1, 1),
            width=rng.uniform(0.95, 1.06),
            bearded=bool(grown_man and rng.random() < 0.4),
            balding=bool(grown_man and age > 30 and rng.random() < 0.6),
            glasses=bool(rng.random() < np.interp(age, [3, 6, 40, 70], [0.0, 0.05, 0.2, 0.5])),
            clothes=rng.integers(40, 220, 3),
        )


class Canvas:
    """Pillow's drawing in the face's own coordinates: x and y about from -1 to 1, y downwards."""

    def __init__(self, centre, scale, background):
        self.side = SIDE * FINE
        self.image = Image.new("RGB", (self.side, self.side), background)
        self.pen = ImageDraw.Draw(self.image)
        self.centre, self.scale = centre, scale

    def at(self, x, y):
        return ((self.centre[0] + x * self.scale) * self.side, (self.centre[1] + y * self.scale) * self.side)

    def box(self, x, y, rx, ry):
        return [self.at(x - rx, y - ry), self.at(x + rx, y + ry)]

    def ellipse(self, x, y, rx, ry, colour):
        self.pen.ellipse(self.box(x, y, rx, ry), fill=rgb(colour))

    def polygon(self, points, colour):
        self.pen.polygon([self.at(*point) for point in points], fill=rgb(colour))

    def line(self, points, colour, width):
        points = [self.at(*point) for point in points]
        self.pen.line(points, fill=rgb(colour), width=max(1, round(width * self.scale * self.side)), joint="curve")

    def ring(self, x, y, rx, ry, colour, width):
        self.pen.ellipse(
            self.box(x, y, rx, ry), outline=rgb(colour), width=max(1, round(width * self.scale * self.side))
        )


def draw_face(person, rng):
    """One photograph of a person, a PIL image of SIDE pixels: pose, light, expression and camera vary."""
    centre = (0.5 + rng.uniform(-0.03, 0.03), 0.52 + rng.uniform(-0.03, 0.03))
    top, bottom = rng.integers(60, 230, 3), rng.integers(60, 230, 3)
    canvas = Canvas(centre, 0.40 * rng.uniform(0.95, 1.05), rgb((top + bottom) / 2))
    smile = rng.uniform(0.0, 0.10)
    look = rng.uniform(-0.02, 0.02)
    head = Head(person)
    draw_hair_behind(canvas, person, head)
    draw_neck_and_clothes(canvas, person, head)
    canvas.ellipse(-head.rx, head.eye_y + 0.08, 0.09, 0.16, person.skin * 0.9)
    canvas.ellipse(head.rx, head.eye_y + 0.08, 0.09, 0.16, person.skin * 0.9)
    canvas.ellipse(0, 0, head.rx, head.ry, person.skin)
    draw_beard(canvas, person, head)
    draw_features(canvas, person, head, smile, look)
    draw_wrinkles(canvas, person, head)
    draw_hair(canvas, person, head)
    if person.glasses:
        draw_glasses(canvas, head)
    return photograph(canvas.image, rng)


class Head:
    """Proportions that follow from the age, in the canvas's coordinates."""

    def __init__(self, person):
        age = person.age
        self.ry = 0.95
        # Infants' heads are round; faces lengthen until about twenty (Farkas, "Anthropometry of the Head and Face").
        self.rx = person.width * np.interp(age, [0, 5, 12, 20], [0.90, 0.84, 0.76, 0.70])
        self.eye_y = np.interp(age, [0, 5, 12, 20], [0.22, 0.14, 0.02, -0.06])
        self.eye_size = np.interp(age, [0, 5, 12, 20, 70], [0.19, 0.17, 0.145, 0.125, 0.105])
        self.eye_x = 0.45 * self.rx
        self.nose = np.interp(age, [0, 5, 12, 20, 70], [0.12, 0.16, 0.23, 0.30, 0.36])
        self.mouth_y = np.interp(age, [0, 5, 12, 20], [0.60, 0.58, 0.56, 0.54])
        self.mouth = np.interp(age, [0, 5, 12, 20], [0.17, 0.20, 0.24, 0.27])
        self.brow = np.interp(age, [0, 5, 12, 20], [0.015, 0.03, 0.045, 0.06])
        self.wrinkled = float(np.interp(age, [24, 40, 50, 65, 85], [0.0, 0.28, 0.55, 0.9, 1.0]))
        greying = float(np.interp(age, [34, 45, 55, 65], [0.0, 0.3, 0.65, 1.0]))
        self.hair = person.hair * (1 - greying) + np.array(GREY) * greying
        self.hairline = -0.52 - np.interp(age, [0, 2, 5], [0.22, 0.12, 0.0])
        if person.balding:
            self.hairline -= np.interp(age, [30, 50, 70], [0.08, 0.24, 0.36])


def draw_neck_and_clothes(canvas, person, head):
    width = head.rx * np.interp(person.age, [0, 20], [0.45, 0.62])
    canvas.polygon([(-width, 0.6), (width, 0.6), (width, 1.5), (-width, 1.5)], person.skin * 0.85)
    canvas.ellipse(0, 1.62, 1.25, 0.5, person.clothes)


def draw_hair_behind(canvas, person, head):
    if person.age > 3 and person.gender == "f":
        length = np.interp(person.age, [3, 15, 50, 70], [0.55, 0.85, 0.6, 0.4])
        canvas.ellipse(0, -0.15, head.rx * 1.28, 1.02, head.hair)
        canvas.polygon(
            [(s * head.rx * 1.27, y) for s, y in ((-1, -0.1), (1, -0.1), (1, length), (-1, length))], head.hair
        )
    elif person.age > 2 and not person.balding:
        canvas.ellipse(0, -0.22, head.rx * 1.12, 0.86, head.hair)


def draw_hair(canvas, person, head):
    """The hair over the forehead: the part of the head's ellipse above the hairline."""
    if person.age < 1:
        return
    line, points = head.hairline, []
    for step in range(41):
        angle = math.pi + math.pi * step / 40
        points.append((1.06 * head.rx * math.cos(angle), 1.05 * head.ry * math.sin(angle)))
    above = [(x, y) for x, y in points if y < line]
    if len(above) > 2:
        (left, _), (right, _) = above[0], above[-1]
        fringe = [(right, line), (0.35 * person.parting, line - 0.16), (left, line)]
        canvas.polygon([*above, *fringe], head.hair)


def draw_features(canvas, person, head, smile, look):
    dark = person.skin * 0.45
    for side in (-1, 1):
        x, y, size = side * head.eye_x, head.eye_y, head.eye_size
        canvas.ellipse(x, y, size, size * 0.62, (248, 248, 246))
        canvas.ellipse(x + look, y, size * 0.52, size * 0.56, (78, 56, 40))
        canvas.ellipse(x + look, y, size * 0.26, size * 0.28, (16, 14, 14))
        canvas.ellipse(x + look + size * 0.16, y - size * 0.2, size * 0.12, size * 0.12, (255, 255, 255))
        canvas.line(arc(x, y, size * 1.05, -size * 0.62), dark, 0.02)
        canvas.line(arc(x, y - size * 1.15, size * 1.25, -0.05), head.hair * 0.7, head.brow)
    nose_y = head.eye_y + head.nose
    canvas.line(
        [(-0.05, nose_y - 0.08), (-0.09, nose_y), (0, nose_y + 0.03), (0.09, nose_y)], person.skin * 0.68, 0.028
    )
    lips = person.skin * np.array([0.86, 0.52, 0.52])
    canvas.line(arc(0, head.mouth_y, head.mouth, smile), lips, np.interp(person.age, [0, 20, 70], [0.06, 0.065, 0.04]))
    if person.age < 7:
        for side in (-1, 1):
            canvas.ellipse(
                side * 0.55 * head.rx, head.eye_y + 0.28, 0.13, 0.09, person.skin * np.array([1, 0.88, 0.86])
            )


def draw_beard(canvas, person, head):
    if person.bearded:
        canvas.polygon([*arc(0, 0.28, head.rx * 0.92, 0.72), (head.rx * 0.92, 0.28)], head.hair * 0.95)
        canvas.ellipse(0, head.mouth_y - 0.02, head.mouth * 1.15, 0.13, person.skin)


def draw_wrinkles(canvas, person, head):
    """Forehead, crow's feet, the folds beside nose and mouth, bags under the eyes: deeper with age."""
    depth = head.wrinkled
    if depth == 0:
        return
    colour = person.skin * (1 - 0.42 * depth)
    width = 0.016 + 0.022 * depth
    for line in range(round(1 + 3 * depth)):
        canvas.line(arc(0, head.eye_y - 0.34 - 0.09 * line, head.rx * 0.55, -0.03), colour, width)
    nose_y = head.eye_y + head.nose
    for side in (-1, 1):
        canvas.line(
            [(side * 0.15, nose_y), (side * 0.27, nose_y + 0.13), (side * 0.30, head.mouth_y + 0.06)],
            colour,
            width * 1.2,
        )
        canvas.line(arc(side * head.eye_x, head.eye_y + 0.11, head.eye_size, 0.05), colour, width)
        for ray in range(round(3 * depth)):
            x, y = side * (head.eye_x + head.eye_size * 1.1), head.eye_y - 0.05 + 0.05 * ray
            canvas.line([(x, y), (x + side * 0.12, y - 0.05 + 0.05 * ray)], colour, width)


def draw_glasses(canvas, head):
    size = head.eye_size * 1.5
    for side in (-1, 1):
        canvas.ring(side * head.eye_x, head.eye_y, size, size * 0.85, (40, 40, 48), 0.03)
    canvas.line([(-head.eye_x + size, head.eye_y), (head.eye_x - size, head.eye_y)], (40, 40, 48), 0.03)


def photograph(image, rng):
    """Tilt, light, focus and noise of a camera; down to SIDE pixels."""
    image = image.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR, fillcolor=image.getpixel((0, 0)))
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    pixels = np.asarray(image, dtype=np.float64)
    light = np.linspace(1 - rng.uniform(0, 0.15), 1 + rng.uniform(0, 0.15), SIDE)
    pixels = pixels * (light if rng.random() < 0.5 else light[::-1])[None, :, None] * rng.uniform(0.88, 1.1)
    pixels = pixels + rng.normal(0, rng.uniform(1, 5), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def arc(x, y, half_width, bend):
    """A parabola about (x, y): the middle lies `bend` below the ends' height plus half of it."""
    steps = np.linspace(-1, 1, 15)
    return [(x + half_width * t, y + bend * (1 - t * t)) for t in steps]


def rgb(colour):
    return tuple(int(min(max(c, 0), 255)) for c in colour)
