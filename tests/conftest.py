"""Small face folders in Adience's layout, made for each test."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.adience import HEADER
from utils.cli import run_script

# One thread for each test and the scripts that it starts: small networks wait more than they gain with several, and
# very long where something else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
REAL_LABELS = SHARED / "adience_folds"
REAL_FACES = SHARED / "faces"

needs_real_labels = pytest.mark.skipif(not REAL_LABELS.is_dir(), reason="Adience's label files are not here")
needs_real_faces = pytest.mark.skipif(not REAL_FACES.is_dir(), reason="the real photographs are not here")


# Those that take longest come first: a process takes a whole file at a time, and none should be left with a long one.
SLOW_FILES = "scripts ablate resume report run_machine distributed compare_runs fails_closed augment pruning".split()


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))  # stable: otherwise as collected


def call(script, *arguments):
    """Run a script's main in this process; returns its exit status.

    Args:
        script: a module with `main`; main.py's two constants count as unset.
        arguments: of its command line.
    """
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        for name in ("LABEL_DIR", "IMAGE_DIR"):
            if hasattr(script, name):
                patch.setattr(script, name, "")
        try:
            run_script(script.main)
        except SystemExit as ending:
            return ending.code
        finally:
            torch.set_num_threads(threads)
    return 0


def row(album, image, person, age="(25, 32)", gender="f"):
    return [album, image, str(person), age, gender, "0", "0", "64", "64", "0", "0", "90"]


def write_labels(folder, rows_of_folds):
    """rows_of_folds: {fold: rows}; a fold that is not named gets one plain face."""
    folder.mkdir(parents=True, exist_ok=True)
    for fold in range(5):
        rows = rows_of_folds.get(fold, [row(f"album{fold}", "a.jpg", 100 + fold)])
        text = "\n".join("\t".join(fields) for fields in [HEADER, *rows])
        (folder / f"fold_{fold}_data.txt").write_text(text + "\n")
    return folder


def write_images(folder, rows_of_folds, prefix="landmark_aligned_face", side=48, seed=0):
    """A picture of noise for every row."""
    rng = np.random.default_rng(seed)
    for fold in range(5):
        for fields in rows_of_folds.get(fold, [row(f"album{fold}", "a.jpg", 100 + fold)]):
            path = folder / fields[0] / f"{prefix}.{fields[2]}.{fields[1]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path, quality=90, format="JPEG")
    return folder


AGES = ["(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)"]


def small_rows(faces_per_fold=8):
    return {
        fold: [row(f"album{fold}", f"{k}.jpg", 100 * fold + k, AGES[k % 8]) for k in range(faces_per_fold)]
        for fold in range(5)
    }


@pytest.fixture
def small_faces(tmp_path):
    """Forty faces, eight per fold: (label folder, image folder)."""
    rows = small_rows()
    return write_labels(tmp_path / "labels", rows), write_images(tmp_path / "aligned", rows)


@pytest.fixture(scope="session")
def small_faces_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    rows = small_rows()
    return write_labels(folder / "labels", rows), write_images(folder / "aligned", rows)
