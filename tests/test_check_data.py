"""The check of a download: counts of the real files, and every kind of finding."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import AGES, REAL_LABELS, needs_real_labels, row, write_images, write_labels
from PIL import Image

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
    assert "images: 40 listed, 40 readable, 0 pairs of one picture" in capsys.readouterr().out


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
        "people in several folds: 1\n    1: folds 0, 1",
        "albums in several folds: 1\n    album0: folds 0, 1",
        "people with several ages: 1\n    album2/200: (0, 2), (38, 43)",
        "missing images: 1\n    album3/landmark_aligned_face.305.5.jpg",
        "unreadable or truncated images: 1",
        "pairs of one picture in different folds: 1\n    album3/landmark_aligned_face.300.0.jpg (fold 3, (0, 2)) and",
        "pairs of one picture under different ages: 1",
    ):
        assert finding in printed


def test_what_training_refuses_is_a_finding(monkeypatch, capsys, tmp_path):
    face = row("album", "a.jpg", 1)
    labels = write_labels(tmp_path, {2: [face], 3: [face]})
    assert run(monkeypatch, "--label-dir", labels, "--labels-only") == 1
    printed = capsys.readouterr().out
    assert "reasons why no training can start: 1" in printed
    assert "fold_3_data.txt, line 2: face 1 of album/a.jpg is listed with another age or in another fold" in printed
    assert "people in several folds: 1\n    1: folds 2, 3" in printed


def test_could_not_look(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "--label-dir", tmp_path / "nowhere", "--labels-only") == 2
    assert "nowhere' does not exist" in capsys.readouterr().err
    assert run(monkeypatch, "--label-dir", tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: one of the arguments --image-dir --labels-only is required")


def test_what_is_no_image_file_is_a_finding_and_nothing_waits_for_it(small_faces, monkeypatch, capsys):
    labels, images = small_faces
    path = images / "album3" / "landmark_aligned_face.304.4.jpg"
    path.unlink()
    os.mkfifo(path)
    assert run(monkeypatch, "--label-dir", labels, "--image-dir", images) == 1
    printed = capsys.readouterr().out
    assert "images: 40 listed, 39 readable" in printed
    assert "unreadable or truncated images: 1" in printed
    assert "landmark_aligned_face.304.4.jpg' is a named pipe; expected a regular file" in printed


def test_findings_are_printed_as_plain_text(monkeypatch, capsys, tmp_path):
    """A name may hold invisible characters that turn the text around; a terminal sees only their codes."""
    face = row("album", "a.jpg", "1\u202e")
    labels = write_labels(tmp_path, {2: [face], 3: [face]})
    assert run(monkeypatch, "--label-dir", labels, "--labels-only") == 1
    printed = capsys.readouterr().out
    assert "1\\u202e: folds 2, 3" in printed
    assert all(character.isprintable() for line in printed.splitlines() for character in line)


class TestJson:
    """--json writes to what is free or was written by this tool, and to nothing else."""

    def check(self, monkeypatch, tmp_path, file):
        labels = write_labels(tmp_path / "labels", {})
        return run(monkeypatch, "--label-dir", labels, "--labels-only", "--json", file)

    def test_an_earlier_report_is_replaced(self, monkeypatch, tmp_path):
        file = tmp_path / "report.json"
        assert self.check(monkeypatch, tmp_path, file) == 0
        first = file.read_bytes()
        file.write_text(json.dumps({"labels": {}, "findings": {}}))
        assert self.check(monkeypatch, tmp_path, file) == 0
        assert file.read_bytes() == first

    @pytest.mark.parametrize("content", ["precious", '{"labels": {}}', '["labels", "findings"]', "[" * 200_000, "\0"])
    def test_other_files_are_kept(self, monkeypatch, capsys, tmp_path, content):
        file = tmp_path / "mine.json"
        file.write_text(content)
        assert self.check(monkeypatch, tmp_path, file) == 2
        assert file.read_text() == content
        error = f"error: '{file}' exists and is not a report of this tool; it is not replaced: choose another name\n"
        assert capsys.readouterr().err == error

    def test_a_full_device_is_an_error(self, monkeypatch, capsys, tmp_path):
        assert self.check(monkeypatch, tmp_path, "/dev/full") == 2
        assert capsys.readouterr().err.startswith("error: cannot write '/dev/full': No space left on device")


def test_a_csv_file_of_ones_own(monkeypatch, capsys, tmp_path):
    """By hand: two faces in each of three groups, one person in two folds, one picture under two ages, one missing."""
    rng = np.random.default_rng(0)
    for name in "abcde":
        Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((64, 64)).save(tmp_path / f"{name}.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    people = (
        "path;Age;person;fold\na.png;3;x;0\nb.png;20;x;1\nc.png;21;y;1\nd.png;70;z;2\ncopy.png;4;u;3\ngone.png;80;v;4\n"
    )
    (tmp_path / "faces.csv").write_text(people)
    given = ["--label-file", tmp_path / "faces.csv", "--image-dir", tmp_path, "--age-groups", "0-12", "13-39", "60+"]
    assert run(monkeypatch, *given) == 1
    printed = capsys.readouterr().out
    assert "note: the columns are separated by semicolons" in printed
    assert "6 rows (1 2 1 1 1 in folds 0 to 4), 0 repeats, 5 people" in printed
    assert "faces.csv, line 3: the person 'x' is in two folds" in printed
    assert "people in several folds: 1\n    x: folds 0, 1" in printed
    assert "missing images: 1\n    gone.png" in printed
    assert "pairs of one picture in different folds: 1\n    a.png (fold 0, 3) and copy.png (fold 3, 4)" in printed
    (tmp_path / "faces.csv").write_text(people.replace("b.png;20;x", "b.png;20;w"))
    assert run(monkeypatch, *given[:2], "--labels-only", *given[4:]) == 0
    printed = capsys.readouterr().out
    assert "strict                       1      2      1      1      1        6        6" in printed
    assert "strict                       2      2      2\nnearest" in printed


def test_the_sets_of_a_split_are_like_folds(small_faces, monkeypatch, capsys, tmp_path):
    """A picture in two of them, and one that is in none."""
    for name, seed in (("a", 0), ("b", 1), ("copy", 0), ("unused", 0)):
        pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(tmp_path / f"{name}.png")
    (tmp_path / "faces.csv").write_text("path,age,split\na.png,3,train\nb.png,20,test\ncopy.png,3,val\nunused.png,3,\n")
    given = ["--label-file", tmp_path / "faces.csv", "--image-dir", tmp_path, "--age-groups", "0-12", "13-39", "60+"]
    assert run(monkeypatch, *given) == 1
    printed = capsys.readouterr().out
    assert (
        "pairs of one picture in different folds" in printed and "a.png (fold 1, 3) and copy.png (fold 2, 3)" in printed
    )
