"""Reasons to doubt an answer, each of them by itself."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import call
from PIL import Image, ImageFilter
from test_detection import PORTRAIT

import predict
from photos.photographs import AVIF, HEIC
from photos.predictor import AgePredictor
from photos.quality import doubts, off_centre, share_inside, sharpness

# A face of 40 x 50 pixels at (30, 20), that looks straight ahead.
BOX = (30.0, 20.0, 40.0, 50.0)
POINTS = np.array([[40.0, 40], [60, 40], [50, 50], [43, 60], [57, 60]])


@pytest.fixture(scope="module")
def sharp():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8))


def test_no_doubt(sharp):
    assert doubts(sharp, BOX, POINTS) == ()


def test_each_doubt_by_hand(sharp):
    assert doubts(sharp, (30, 20, 31, 50), POINTS) == ("small (31 pixels)",)
    assert doubts(sharp, (30, 20, 32, 50), POINTS) == ()
    # 20 pixels between the eyes: the whole face is 44 wide, around x = 50, and 56 high, around y = 40 + 5.6.
    assert share_inside(POINTS, (100, 100)) == pytest.approx(1)
    assert share_inside(POINTS - [33, 0], (100, 100)) == pytest.approx(39 / 44)
    assert share_inside(POINTS, (100, 45.6)) == pytest.approx(0.5)
    lying = (POINTS - 50) @ np.array([[0, 1], [-1, 0]]) + 50  # a quarter of a turn: 56 wide and 44 high
    assert share_inside(lying, (100, 100)) == pytest.approx(1)
    assert share_inside(lying - [0, 33], (100, 100)) == pytest.approx((50 + 22 - 33) / 44)
    assert doubts(sharp, (0, 20, 40, 50), POINTS - [33, 0]) == ("cut off",)
    assert doubts(sharp, (0, 20, 40, 50), POINTS - [32, 0]) == ()
    beside = POINTS + np.array([[0, 0], [0, 0], [8, 0], [0, 0], [0, 0]])  # of 20 pixels between the eyes
    assert off_centre(beside) == pytest.approx(0.4)
    assert doubts(sharp, BOX, beside) == ("turned away",)
    lower = POINTS + np.array([[0, 0], [0, 12], [0, 6], [0, 0], [0, 0]])  # 12 down in 20: 31 degrees
    assert doubts(sharp, BOX, lower) == ("tilted",)
    assert doubts(sharp.filter(ImageFilter.GaussianBlur(6)), BOX, POINTS) == ("blurred",)


def test_sharpness_by_hand():
    """Columns of 0 and 255 in turn: the Laplacian is 4 * 255 - 2 * 255 - 0 = 510 or its negative, everywhere."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert sharpness(Image.fromarray(stripes), (0, 0, 64, 64)) == pytest.approx(510**2, rel=0.01)
    assert sharpness(Image.new("L", (64, 64), 9), (0, 0, 64, 64)) == 0


class TestInPhotographs:
    @pytest.fixture(autouse=True)
    def photographs(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for person in ("ann", "bob"):
            Path(person).mkdir()
        PORTRAIT.save("ann/1.jpg", quality=95)
        PORTRAIT.resize((256, 300)).save("ann/2.png")
        PORTRAIT.filter(ImageFilter.GaussianBlur(12)).save("bob/1.png")

    def test_a_doubt_is_printed_and_written(self, capsys):
        assert call(predict, "ann/1.jpg", "bob", "--json", "ages.json", "--threads", 1) == 0
        clear, blurred = capsys.readouterr().out.splitlines()
        assert "doubtful" not in clear and blurred.endswith("(doubtful: blurred)")
        assert [row["doubts"] for row in json.loads(Path("ages.json").read_text())] == [None, "blurred"]

    def test_one_answer_for_the_photographs_of_a_folder(self, capsys):
        assert call(predict, "ann", "bob", "--by-folder", "--csv", "ages.csv", "--threads", 1) == 0
        *faces, ann, bob = capsys.readouterr().out.splitlines()
        assert len(faces) == 3
        assert ann.startswith("ann/  2 photographs with a face  ")
        assert bob.startswith("bob/  1 photograph with a face  ")
        predictor = AgePredictor(threads=1)
        [first], [second] = predictor(["ann/1.jpg", "ann/2.png"])
        fused = predictor.fuse([first, second])
        assert list(fused.probabilities.values()) == pytest.approx(
            [(a + b) / 2 for a, b in zip(first.probabilities.values(), second.probabilities.values(), strict=True)]
        )
        assert f"{fused.age:.0f} years" in ann
        alone = predictor.fuse([second])  # of one photograph: its own answer
        assert (alone.age, alone.group, alone.confidence) == (second.age, second.group, second.confidence)
        *_, row, _ = csv.DictReader(Path("ages.csv").read_text().splitlines())
        assert [row[name] for name in ("photo", "left", "angle", "age")] == ["ann/", "", "", f"{fused.age:.1f}"]

    @pytest.mark.parametrize("suffix", ["heic"] * HEIC + ["avif"] * AVIF)
    def test_formats_of_phones(self, suffix):
        if HEIC:
            import pillow_heif

            pillow_heif.register_heif_opener()
        PORTRAIT.save(f"photo.{suffix}", quality=90)
        predictor = AgePredictor(threads=1)
        [jpeg], [found] = predictor(["ann/1.jpg", f"photo.{suffix}"])
        assert found.box == pytest.approx(jpeg.box, abs=5)
        assert found.age == pytest.approx(jpeg.age, abs=4)
        [whole] = AgePredictor(detect=False, threads=1)(f"photo.{suffix}")
        assert whole.box == pytest.approx((0, 44, 512, 512))  # the centre square of 512 x 600
