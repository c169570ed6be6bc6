"""Feed broken label files, images and model files to the readers that the scripts use.

    python benchmarks/mutation_test.py [--labels 4000] [--images 4000] [--checkpoints 3000] [--seed 0]

Every case must end in success or in a UserError whose message names the file: no other exception, no hang, no file
left behind.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import load_faces, make_demo_faces, open_cache
from data.cache import decode_face
from models import create_model
from models.checkpoint import load_model, load_plain, save_model, save_plain
from utils.errors import UserError

SECONDS_PER_CASE = 20
TOKENS = [
    b"\t",
    b"\n",
    b"\r",
    b"\x00",
    b"../",
    b"/etc/passwd",
    b"(25, 32)",
    b"None",
    b"\xff\xfe",
    b"9" * 40,
    b'"',
    b"-1",
]


def mutate(content, chance):
    """A broken copy of some bytes: flipped, cut, doubled, shuffled or sprinkled with tokens."""
    broken = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(broken) + 1)
        length = chance.choice([1, 2, 8, 64, 512])
        kind = chance.randrange(6)
        if kind == 0 and broken:
            broken[min(start, len(broken) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del broken[start:]
        elif kind == 2:
            del broken[start : start + length]
        elif kind == 3:
            broken[start:start] = broken[start : start + length]
        elif kind == 4:
            broken[start : start + length] = chance.randbytes(length)
        else:
            broken[start:start] = chance.choice(TOKENS)
    return bytes(broken)


class Hang(BaseException):
    """A case took too long. Not an Exception, so that no handler in the tested code catches it."""


def on_alarm(*_):
    raise Hang


def run_cases(name, count, folder, target, read, chance):
    """Break the file `target` in `count` ways, read each one and print the outcomes; returns the number of failures."""
    original, before = target.read_bytes(), names(folder)
    outcomes, failures = Counter(), []
    start = time.monotonic()
    for case in range(count):
        target.write_bytes(mutate(original, chance))
        signal.alarm(SECONDS_PER_CASE)
        try:
            read()
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            if target.name not in str(error) or "\n" in str(error):
                failures.append((case, f"the message does not name the file: {error}"))
        except Hang:
            failures.append((case, "hung"))
        except Exception as error:
            failures.append((case, f"{type(error).__name__}: {error}"))
        finally:
            signal.alarm(0)
        if names(folder) != before:
            failures.append((case, f"left behind: {sorted(names(folder) - before)}"))
            before = names(folder)
    target.write_bytes(original)
    print(f"{name}: {count:,} cases in {time.monotonic() - start:.0f} s,", end=" ")
    print(f"{outcomes['read']:,} read, {outcomes['refused']:,} refused, {len(failures):,} failures", flush=True)
    for case, failure in failures[:10]:
        print(f"    case {case}: {failure[:300]}")
    return len(failures)


def names(folder):
    return {path for path in folder.rglob("*") if path.name != ".lock"}


def label_cases(count, folder, chance):
    make_demo_faces(folder / "faces", people_per_class=1, images_per_person=1)
    target, images = folder / "faces" / "fold_2_data.txt", folder / "faces" / "aligned"

    def read():
        load_faces(target.parent, images, allow_missing=True)

    return run_cases("label files", count, folder, target, read, chance)


def image_cases(count, folder, chance):
    """Baseline and progressive JPEG, and PNG; each is decoded alone and by building a cache."""
    y, x = np.mgrid[0:90, 0:70]
    picture = Image.fromarray(np.stack([x * 3, y * 2, x + y], axis=-1).astype(np.uint8))
    failures = 0
    for name, options in (("a.jpg", {}), ("b.jpg", {"progressive": True}), ("c.png", {})):
        place = folder / name[0]
        place.mkdir()
        picture.save(place / name, **options)
        target = place / name
        failures += run_cases(
            f"images ({name})", count // 3, place, target, lambda target=target: decode_face(target, 40), chance
        )

        def through_the_cache(target=target):
            with tempfile.TemporaryDirectory() as cache:
                try:
                    open_cache(target.parent, [target.name], 40, cache, progress=False)
                finally:
                    assert not [path for path in Path(cache).iterdir() if "unfinished" in path.name]

        failures += run_cases(f"caches ({name})", count // 30, place, target, through_the_cache, chance)
    return failures


def model_cases(count, folder, chance):
    """A whole model file, but with one stored number per tensor, so that it is small."""
    target = folder / "fold_0.pt"
    model = create_model("resnet18", "softmax", 2, shortcut="1x1")
    model.class_names, model.image_size = ("young", "old"), 40
    record = dict.fromkeys(("decoder", "data_fingerprint", "train_fingerprint", "trained_on", "commit"), "text")
    record |= {"fold": 0, "train_people": ["album/1"], "val_albums": [], "metrics": {"top1": 0.5}, "history": []}
    save_model(target, model, {**record, "config": {"epochs": 1}, "versions": {"torch": "2"}})
    content = load_plain(target)
    for name, value in content["state_dict"].items():
        content["state_dict"][name] = torch.zeros((), dtype=value.dtype).expand(value.shape)
    save_plain(target, content)
    return run_cases("model files", count, folder, target, lambda: load_model(target), chance)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=4000)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--checkpoints", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, on_alarm)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for cases, count in (
            (label_cases, options.labels),
            (image_cases, options.images),
            (model_cases, options.checkpoints),
        ):
            place = Path(folder) / cases.__name__
            place.mkdir()
            failures += cases(count, place, random.Random(options.seed))
    print("no failures" if not failures else f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
