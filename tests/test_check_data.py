"""The check of a download: counts of the real files, and every kind of finding."""

import json
import shutil
import sys

import numpy as np
import pytest
from conftest import AGES, REAL_LABELS, needs_real_labels, row, write_images, write_labels
from PIL import Image

from data.duplicates import same_pictures
from tools import check_data
from utils.cli import run_script


def run(monkeypatch, *arguments):
    """The exit status of the script."""
    monkeypatch.setattr(sys, "argv", ["check_data", *map(str, arguments)])
    try:
        run_script(check_data.main)
    except SystemExit as end:
        return end.code
    return 0


@needs_real_labels
def test_the_real_label_files(monkeypatch, capsys, tmp_path):
    report_file = tmp_path / "report.json"
    assert run(monkeypatch, "--label-dir", REAL_LABELS, "--labels-only", "--json", report_file) == 0
    labels = json.loads(report_file.read_text())["labels"]
    assert (labels["rows"], labels["repeats"], labels["people"], labels["albums"]) == (19487, 117, 2284, 168)
    assert labels["ages"]["(25, 32)"] == 4950
    assert labels["policies"]["fixed"]["rows_per_fold"] == [4389, 3124, 3339, 3080, 3698]
    nearest = labels["policies"]["nearest"]["faces_per_class"]
    assert list(nearest.values()) == [2509, 2140, 2293, 1791, 5589, 2490, 909, 901]
    assert list(nearest) == ["0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+"]
    printed = capsys.readouterr().out
    assert (
        "19,487 rows (4,496 3,745 3,953 3,459 3,834 in folds 0 to 4), 117 repeats, 2,284 people, 168 albums" in printed
    )
    assert printed.endswith("no findings\n")


def test_a_clean_folder(small_faces, monkeypatch, capsys):
    labels, images = small_faces
    assert run(monkeypatch, "--label-dir", labels, "--image-dir", images) == 0
    assert "images: 40 listed, 40 readable, 0 same picture" in capsys.readouterr().out


def test_every_finding_is_named(small_faces, monkeypatch, capsys, tmp_path):
    _, images = small_faces
    rows = {k: [row(f"album{k}", f"{j}.jpg", 100 * k + j, AGES[j]) for j in range(8)] for k in range(5)}
    rows[1].append(row("album0", "x.jpg", 1, AGES[1]))  # person and album of fold 0
    rows[2].append(row("album2", "y.jpg", 200, AGES[5]))  # a second age
    labels = write_labels(tmp_path / "labels2", rows)
    write_images(images, {1: [rows[1][-1]], 2: [rows[2][-1]]}, seed=1)

    def image(k, j):
        return images / f"album{k}" / f"landmark_aligned_face.{100 * k + j}.{j}.jpg"

    shutil.copy(image(3, 0), image(4, 1))  # the same picture in another fold and under another age
    image(3, 4).write_bytes(image(3, 4).read_bytes()[:600])
    image(3, 5).unlink()
    assert run(monkeypatch, "--label-dir", labels, "--image-dir", images) == 1
    printed = capsys.readouterr().out
    for finding in (
        "1 people in several folds\n    1: folds 0, 1",
        "1 albums in several folds\n    album0: folds 0, 1",
        "1 people with several ages\n    album2/200: (0, 2), (38, 43)",
        "1 missing images\n    album3/landmark_aligned_face.305.5.jpg",
        "1 unreadable or truncated images",
        "1 the same picture in different folds\n    album3/landmark_aligned_face.300.0.jpg (fold 3, (0, 2)) and",
        "1 the same picture under different ages",
    ):
        assert finding in printed


def test_what_training_refuses_is_a_finding(monkeypatch, capsys, tmp_path):
    face = row("album", "a.jpg", 1)
    labels = write_labels(tmp_path, {2: [face], 3: [face]})
    assert run(monkeypatch, "--label-dir", labels, "--labels-only") == 1
    printed = capsys.readouterr().out
    assert "1 reasons why no training can start" in printed
    assert "fold_3_data.txt, line 2: face 1 of album/a.jpg is listed with another age or in another fold" in printed
    assert "1 people in several folds\n    1: folds 2, 3" in printed


def test_could_not_look(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "--label-dir", tmp_path / "nowhere", "--labels-only") == 2
    assert "nowhere' does not exist" in capsys.readouterr().err
    assert run(monkeypatch, "--label-dir", tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: one of the arguments --image-dir --labels-only is required")


def smooth_picture(rng):
    """A random picture with structure at the scale of a face's features."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
    return coarse.resize((32, 32), Image.Resampling.BICUBIC)


def test_copies_are_found_and_strangers_are_not():
    rng = np.random.default_rng(0)
    pictures = [smooth_picture(rng) for _ in range(300)]
    changed = pictures[7].resize((20, 20)).resize((32, 32))  # scaled down and up again
    brighter = pictures[9].point(lambda value: min(255, value * 1.1 + 5))
    thumbnails = np.stack([np.asarray(picture) for picture in [*pictures, changed, brighter]])
    assert [(first, second) for first, second, _ in same_pictures(thumbnails)] == [(7, 300), (9, 301)]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures_to_compare(count):
    assert same_pictures(np.zeros((count, 32, 32), dtype=np.uint8)) == []
