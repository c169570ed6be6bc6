"""Faces in photographs: found, and cut out as the training images are framed."""

import dataclasses
import hashlib
import math
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from conftest import REAL_FACES, call, needs_real_faces
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_model_file import RECORD, make_model

from models.checkpoint import load_model, save_model
from photos import centerface, detection, predictor
from photos.centerface import load_centerface, load_fast_centerface, search, without_overlaps
from photos.crop import Square, crop_face, cut_square, square_of_box, square_of_face, square_of_points
from photos.detection import angle_of, detect_faces, turn_back, uprightness
from photos.framing import find_framing, measure_framing, symmetrical
from photos.predictor import AgePredictor
from tools import add_framing
from utils.errors import UserError
from utils.serialization import digest, load_plain, save_plain

PORTRAIT_FILE = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"  # in the public domain
PORTRAIT = Image.open(PORTRAIT_FILE).convert("RGB")  # 512x600
CENTRED = (0.5, 0.5, 0.5, 0.5)
SHA256 = {
    "centerface.pt": "e4278bd0780132b499bf9a34bd2bd024f9b1ec3e91760b6c408175b3b93c68bf",
    "centerface.int8.onnx": "4cfe923a292a001832c5cc853e8454b4018ab264f036bd4f9f700d07e165be81",
}


@pytest.fixture(scope="module")
def portrait_box():
    """Where the face is, by eye and within a few pixels: from the cap to the chin, from cheek to cheek."""
    (box,), _, _ = detect_faces(PORTRAIT)
    assert box == pytest.approx([180, 120, 175, 212], abs=15)
    return box


class TestGeometry:
    @pytest.mark.parametrize(
        ("box", "framing", "expected"),
        [
            # A side of sqrt(40 * 10 / 0.25) = 40 around the box's centre, (30, 25).
            ((10, 20, 40, 10), CENTRED, Square(30, 25, 40)),
            # sqrt(400 / 0.16) = 50; the box's centre is a quarter from the left and three quarters from the top.
            ((10, 20, 40, 10), (0.25, 0.75, 0.2, 0.8), Square(42.5, 12.5, 50)),
            # The face reaches beyond the image: the square is smaller than the box is high.
            ((0, 0, 100, 144), (0.5, 0.5, 1.0, 1.44), Square(50, 72, 100)),
        ],
    )
    def test_the_square_puts_the_box_where_the_framing_says(self, box, framing, expected):
        assert dataclasses.astuple(square_of_box(box, framing)) == pytest.approx(dataclasses.astuple(expected))

    def test_the_points_turn_the_square(self):
        """A quarter turn clockwise takes right to down and down to left; by hand, with a side of 200."""
        shares = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.5], [0.3, 0.8], [0.7, 0.8]])
        points = np.array([[120, 60], [120, 140], [100, 100], [40, 60], [40, 140]], float)
        assert dataclasses.astuple(square_of_points(points, shares)) == pytest.approx((100, 100, 200, 90))

    def test_box_and_points_are_averaged(self):
        """Points ask for a side of 45 around (40, 30), the box for 80 around (50, 50): 45 * 80 = 60 * 60."""
        shares = np.array([[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.75, 0.75]])
        points = [40, 30] + 45 * (shares - 0.5)
        framing = [*CENTRED, *shares.flat]
        found = square_of_face((30, 30, 40, 40), points, framing)
        assert dataclasses.astuple(found) == pytest.approx((45, 40, 60, 0))
        # Points that all but coincide say nothing.
        found = square_of_face((30, 30, 40, 40), [40, 30] + (shares - 0.5), framing)
        assert dataclasses.astuple(found) == pytest.approx((50, 50, 80, 0))

    @pytest.mark.parametrize("angle", [90, -90, 180, 30])
    @pytest.mark.parametrize("size", [100, 40])
    def test_a_turned_square_comes_out_upright(self, angle, size):
        """Cut out of a photograph that Pillow has turned; the square's upper left quarter is red."""
        upright = Image.new("RGB", (300, 300), (0, 0, 90))
        upright.paste((255, 0, 0), (100, 100, 150, 150))
        turned = upright.rotate(-angle, Image.Resampling.BICUBIC)  # clockwise
        face = cut_square(turned, Square(150, 150, 100, angle), size)
        expected = np.asarray(upright.crop((100, 100, 200, 200)).resize((size, size), Image.Resampling.NEAREST))
        wrong = (abs(face.astype(int) - expected) > 64).any(2)
        assert wrong.mean() < 4 / size  # only along the borders of the quarter
        assert not wrong[2 : size // 3, 2 : size // 3].any() and not wrong[2 * size // 3 :].any()

    @pytest.mark.parametrize(("angle", "quarters"), [(90, 1), (180, 2), (-180, 2), (-90, 3)])
    def test_quarters_of_a_turn_lose_no_pixel(self, angle, quarters):
        image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
        assert (cut_square(Image.fromarray(image), Square(30, 30, 60, angle), 60) == np.rot90(image, quarters)).all()

    @pytest.mark.parametrize("size", [80, 40, 20, 4])
    def test_a_drawn_rectangle_lies_where_the_framing_says(self, size):
        photograph = np.zeros((100, 200, 3), np.uint8)
        photograph[30:70, 60:100] = (255, 0, 0)
        expected = np.zeros((3, size, size), np.uint8)
        expected[0, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 255
        for source in (photograph, Image.fromarray(photograph)):
            face = crop_face(source, (60, 30, 40, 40), CENTRED, size)
            assert np.array_equal(face > 127, expected > 127)  # shrinking softens the edges

    def test_nothing_is_distorted(self):
        """The framing is of tall boxes and this one is wide: a square in the photograph stays a square."""
        photograph = np.zeros((200, 200, 3), np.uint8)
        photograph[90:110, 90:110] = 255
        face = crop_face(photograph, (60, 90, 80, 20), (0.5, 0.5, 0.2, 0.8), 100)  # a side of 100, from 50 to 150
        assert np.argwhere(face[1] > 127).min(0).tolist() == [40, 40]
        assert np.argwhere(face[1] > 127).max(0).tolist() == [59, 59]

    def test_beyond_the_photograph_its_edge_goes_on(self):
        photograph = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        face = crop_face(photograph, (0, 0, 20, 20), CENTRED, 40)  # from -10 to 30
        assert np.array_equal(face[:, 10:, 10:30], photograph.transpose(2, 0, 1))
        assert (face[:, :10, :10] == photograph[0, 0][:, None, None]).all()
        assert (face[:, 12, 30:] == photograph[2, 19][:, None]).all()
        assert (face[:, :10, 17] == photograph[0, 7][:, None]).all()

    @settings(max_examples=60, deadline=None)
    @given(
        left=st.floats(0, 100), top=st.floats(0, 60), width=st.floats(5, 90), height=st.floats(5, 90),
        x=st.floats(0.3, 0.7), y=st.floats(0.3, 0.7), share=st.floats(0.3, 1.2), size=st.sampled_from([16, 33, 64]),
    )  # fmt: skip
    def test_a_gradient_is_sampled_where_the_square_lies(self, left, top, width, height, x, y, share, size):
        """The value of each pixel says where it is from, whatever was averaged on the way."""
        ramp = np.arange(256, dtype=np.uint8)
        photograph = np.zeros((200, 256, 3), np.uint8)
        photograph[..., 0], photograph[..., 1] = ramp, ramp[:200, None]
        framing = (x, y, share, share)
        square = square_of_box((left, top, width, height), framing)
        side, start_x, start_y = square.side, square.x - square.side / 2, square.y - square.side / 2
        face = crop_face(photograph, (left, top, width, height), framing, size).astype(float)
        steps = (np.arange(size) + 0.5) * side / size - 0.5
        margin = 1 + side / size  # of rounding, and of what is averaged at the borders
        for found, start, last in ((face[0].mean(0), start_x, 255), (face[1].mean(1), start_y, 199)):
            assert found == pytest.approx((start + steps).clip(0, last), abs=margin)

    def test_a_tiny_share_and_a_huge_square_take_no_memory(self):
        face = crop_face(np.full((50, 50, 3), 7, np.uint8), (0, 0, 50, 50), (0.5, 0.5, 1e-4, 1e-4), 32)
        assert face.shape == (3, 32, 32)
        assert (face == 7).all()


class TestNetwork:
    @pytest.mark.parametrize("path", [centerface.WEIGHTS, centerface.WEIGHTS_IN_8_BITS], ids=lambda path: path.name)
    def test_its_weights_are_this_file(self, path):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path.name]

    def test_in_8_bits_it_finds_the_same_faces(self):
        """A portrait, two in one picture, turned ones and a small one, which is searched again."""
        pytest.importorskip("onnxruntime")
        fast = load_fast_centerface()
        assert fast is not load_centerface()
        small, two = (Image.new("RGB", size, (90, 120, 90)) for size in ((800, 600), (1100, 700)))
        small.paste(PORTRAIT.resize((77, 90)), (400, 300))
        two.paste(PORTRAIT, (20, 20))
        two.paste(PORTRAIT.resize((256, 300)), (700, 200))
        for image, count in ((PORTRAIT, 1), (two, 2), (PORTRAIT.rotate(90, expand=True), 1), (small, 1)):
            boxes, points, confidences = detect_faces(image)
            found = detect_faces(image, network=fast)
            assert len(boxes) == len(found[0]) == count
            sides = boxes[:, 2:].mean(1)
            assert (np.abs(found[0] - boxes) < 0.05 * sides[:, None]).all()
            assert (np.abs(found[1] - points) < 0.05 * sides[:, None, None]).all()
            assert found[2] == pytest.approx(confidences, abs=0.1)

    def test_without_onnxruntime_it_is_the_other_one(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        assert load_fast_centerface.__wrapped__() is load_centerface()

    @pytest.mark.parametrize("content", [b"", b"half", None], ids=["empty", "cut off", "missing"])
    def test_a_damaged_file_is_refused_at_the_start(self, content, tmp_path, monkeypatch):
        pytest.importorskip("onnxruntime")
        path = tmp_path / "centerface.int8.onnx"
        if content is not None:
            path.write_bytes(content and centerface.WEIGHTS_IN_8_BITS.read_bytes()[:1_000_000])
        monkeypatch.setattr(centerface, "WEIGHTS_IN_8_BITS", path)
        monkeypatch.setattr(predictor, "load_fast_centerface", load_fast_centerface.__wrapped__)
        with pytest.raises(UserError, match=rf"^onnxruntime cannot load '{re.escape(str(path))}': .+--precision fp32"):
            AgePredictor()
        AgePredictor(detect=False)
        assert AgePredictor(precision="fp32").detector is load_centerface()

    def test_a_map_by_hand(self):
        """One face at row 2, column 5 of a map of 4 pixels each; the image is padded to 32 x 64 pixels."""
        found = torch.full((1, 15, 8, 16), -9.0)
        found[0, :, 2, 5] = torch.tensor(
            [0.0, math.log(5), math.log(3), 0.25, -0.5, *(0.2, 0.3), *(0.2, 0.7), *(0.5, 0.5), *(0.8, 0.3), *(0.8, 0.7)]
        )
        seen = []
        image = np.full((20, 40, 3), 7, np.uint8)
        # Height 4 * 5 and width 4 * 3 around the centre, y = 4 * (2 + 0.25 + 0.5) and x = 4 * (5 - 0.5 + 0.5).
        eyes_nose_mouth = [17.6, 5, 22.4, 5, 20, 11, 17.6, 17, 22.4, 17]
        (row,) = search(image, lambda images: seen.append(images) or found)
        assert row == pytest.approx([0.5, 14, 1, 12, 20, *eyes_nose_mouth], abs=1e-5)
        assert seen[0].shape == (1, 3, 32, 64)
        assert (seen[0][:, :, :20, :40] == 7).all() and seen[0].sum() == 7 * 3 * 20 * 40

    def test_uprightness_by_hand(self):
        """0.9 at 60 degrees, 0.5 at none."""
        eyes = [[0, 0, 10, 10 * 3**0.5], [0, 0, 9, 0]]
        rows = np.array([[score, *[0] * 4, *each, *[0] * 6] for score, each in zip((0.9, 0.5), eyes, strict=True)])
        assert uprightness(rows[:1]) == pytest.approx(0.45)
        assert uprightness(rows) == pytest.approx(0.5)
        assert uprightness(rows[:0]) == 0


class TestDetector:
    def test_two_faces_the_largest_first(self, portrait_box):
        two = Image.new("RGB", (640, 400), (90, 120, 90))
        two.paste(PORTRAIT.resize((128, 150)), (20, 200))
        two.paste(PORTRAIT.resize((256, 300)), (300, 50))
        boxes, points, confidences = detect_faces(np.asarray(two))
        assert boxes[0] == pytest.approx(portrait_box / 2 + [300, 50, 0, 0], abs=10)
        assert boxes[1] == pytest.approx(portrait_box / 4 + [20, 200, 0, 0], abs=10)
        assert (confidences > 0.7).all()
        for (left, top, width, height), places in zip(boxes, points, strict=True):
            (right_eye, left_eye, nose, *mouth) = (places - [left, top]) / [width, height]
            assert 0 < right_eye[0] < nose[0] < left_eye[0] < 1
            assert 0 < max(right_eye[1], left_eye[1]) < nose[1] < min(mouth[0][1], mouth[1][1]) < 1

    def test_threads_find_the_same(self):
        images = [np.asarray(PORTRAIT.resize((160 + 8 * k, 190 + 8 * k))) for k in range(8)]
        alone = [detect_faces(image)[0].tolist() for image in images]
        with ThreadPoolExecutor(4) as pool:
            assert [boxes.tolist() for boxes, _, _ in pool.map(detect_faces, images)] == alone

    @pytest.mark.parametrize("scale", [0.1, 0.3, 4])
    def test_large_and_small_photographs(self, portrait_box, scale):
        (box,), _, (confidence,) = detect_faces(PORTRAIT.resize((round(512 * scale), round(600 * scale))))
        assert box / scale == pytest.approx(portrait_box, abs=20)
        assert 0.7 <= confidence <= 1

    def test_no_face(self):
        for shape in ((90, 300, 3), (1, 1, 3), (1, 5000, 3)):
            boxes, points, confidences = detect_faces(np.zeros(shape, np.uint8))
            assert (boxes.shape, points.shape, confidences.shape) == ((0, 4), (0, 5, 2), (0,))
        assert len(detect_faces(PORTRAIT, threshold=0.99)[0]) == 0

    @needs_real_faces
    def test_real_close_crops(self):
        """All of them show a face, which reaches beyond the image: 0.84 wide and 0.95 high where it may not."""
        paths = sorted(REAL_FACES.glob("aligned/*/*.jpg"))[::300]
        framing, line = find_framing(paths)
        assert int(re.search(r"\(medians of (\d+) faces in 31 training images\)", line)[1]) >= 30
        assert framing[:4] == pytest.approx([0.485, 0.435, 0.853, 1.04], abs=0.04)
        assert framing[4:8] == pytest.approx([0.28, 0.29, 0.67, 0.29], abs=0.04)  # the eyes

    def test_a_turned_face_is_turned_upright(self):
        """The portrait and its turned copies give the same crop: their distance is a fraction of that of no turning."""
        framing, box, points = find_framing_of(PORTRAIT)
        expected = crop_face(PORTRAIT, box, framing, 64, points).astype(float)
        for angle in (-25, -10, 10, 25):
            turned = PORTRAIT.rotate(angle, Image.Resampling.BICUBIC, center=(268, 226))
            boxes, points, _ = detect_faces(turned)
            face = crop_face(turned, boxes[0], framing, 64, points[0]).astype(float)
            upright = crop_face(turned, boxes[0], framing, 64).astype(float)
            assert abs(face - expected).mean() < 0.6 * abs(upright - expected).mean()


def find_framing_of(image):
    """The framing of a wide crop of the PORTRAIT."""
    boxes, points, _ = detect_faces(image)
    square = square_of_box(boxes[0], (0.5, 0.45, 0.4, 0.5))
    relative = (points[0] - [square.x - square.side / 2, square.y - square.side / 2]) / square.side
    return [0.5, 0.45, 0.4, 0.5, *relative.flat], boxes[0], points[0]


def write_faces(folder, box, count, framing=(0.5, 0.45, 0.4, 0.5)):
    """Images cut from the portrait with its face at a known place, as wide crops have it."""
    folder.mkdir(parents=True)
    square = square_of_box(box, framing)
    side = square.side
    left, top = square.x - side / 2, square.y - side / 2
    for k in range(count):
        shift = 4 * (k - count // 2)  # their median is none
        area = (left + shift, top + shift, left + shift + side, top + shift + side)
        PORTRAIT.crop(tuple(map(round, area))).save(folder / f"{k}.png")


class TestFraming:
    def test_it_is_the_median_place_of_the_box(self, tmp_path, portrait_box):
        write_faces(tmp_path / "faces", portrait_box, 5)
        framing, line = find_framing(sorted(tmp_path.glob("faces/*")))
        width, height = portrait_box[2:]
        side = (width * height / 0.2) ** 0.5
        assert framing[:4] == pytest.approx([0.5, 0.45, width / side, height / side], abs=0.05)
        assert line.endswith("(medians of 5 faces in 5 training images)")

    def test_faces_cut_by_it_have_it(self, portrait_box, tmp_path):
        """Back and forth: what `crop_face` makes of a photograph is framed as it was asked to be."""
        framing = (0.45, 0.5, 0.35, 0.43)
        face = crop_face(PORTRAIT, portrait_box, framing, 160)
        Image.fromarray(face.transpose(1, 2, 0)).save(tmp_path / "face.png")
        assert find_framing([tmp_path / "face.png"])[0][:4] == pytest.approx(framing, abs=0.05)

    def test_when_it_is_not_measured(self, tmp_path, portrait_box):
        """Too few faces, drawings, which are given up early, a limit; and an image that is none."""
        write_faces(tmp_path / "faces", portrait_box, 2)
        for k in range(3):
            Image.new("RGB", (50, 50)).save(tmp_path / "faces" / f"x{k}.png")
        names = sorted(path.name for path in tmp_path.glob("faces/*"))
        paths = [tmp_path / "faces" / name for name in names]
        too_few = (None, "framing: not measured, since only 2 of 5 training images show the detector a face")
        assert find_framing(paths) == measure_framing(tmp_path / "faces", names) == too_few
        assert "since only 0 of 30 training images" in find_framing([paths[-1]] * 300)[1]
        assert "(medians of 2 faces in 2 training images)" in find_framing(paths[:2] * 3, limit=2)[1]
        (tmp_path / "faces" / "x0.png").write_text("no image")
        framing, line = measure_framing(tmp_path / "faces", names)
        assert framing is None
        assert line.startswith(f"note: no framing for predict.py: '{tmp_path}/faces/x0.png' is no image of the formats")
        with pytest.raises(UserError, match="is no image of the formats"):
            find_framing(paths)


class TestModelFile:
    @pytest.mark.parametrize(
        ("framing", "problem"),
        [
            ([0.5, 0.5, 0.4], "expected 4 numbers"),
            ([0.5] * 13, "expected 4 numbers"),
            ([0.5] * 13 + [9.0], "expected places from -2 to 2"),
            ([0.5, 0.5, 0.4, float("nan")], "expected 4 numbers"),
            ("centre", "expected 4 numbers"),
            (None, "expected 4 numbers"),
            ([0.5, 0.5, 0.0, 0.4], "over 0 and up to 2"),
            ([0.5, 0.5, 0.4, 2.5], "over 0 and up to 2"),
            ([9.0, 0.5, 0.4, 0.4], "expected places from -2 to 2"),
        ],
    )
    def test_a_wrong_framing_is_refused(self, framing, problem, tmp_path):
        save_model(tmp_path / "x.pt", make_model(), RECORD)
        save_plain(tmp_path / "x.pt", {**load_plain(tmp_path / "x.pt"), "framing": framing})
        with pytest.raises(UserError, match=rf"x\.pt' is damaged: its 'framing' is .*{problem}"):
            load_model(tmp_path / "x.pt")

    def test_the_mean_with_the_mirror_image(self):
        """Eyes at 0.3 and 0.6 are, mirrored, at 0.4 and 0.7; their means lie as far from the middle."""
        framing = symmetrical(np.array([0.45, 0.5, 0.4, 0.6, 0.3, 0.4, 0.6, 0.42, 0.45, 0.6, 0.35, 0.8, 0.55, 0.8]))
        expected = [0.5, 0.5, 0.4, 0.6, 0.35, 0.41, 0.65, 0.41, 0.5, 0.6, 0.4, 0.8, 0.6, 0.8]
        assert framing.tolist() == pytest.approx(expected)

    def test_add_framing_changes_nothing_else(self, tmp_path, portrait_box, capsys):
        write_faces(tmp_path / "faces" / "album", portrait_box, 3)
        paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
        for path in paths:
            save_model(path, make_model(), {**RECORD, "temperature": 1.5})
        before = [load_plain(path) for path in paths]
        assert call(add_framing, *paths, "--image-dir", tmp_path / "faces") == 0
        assert "medians of 3 faces in 3 training images" in capsys.readouterr().out
        for path, old in zip(paths, before, strict=True):
            assert load_model(path).record["framing"][:4] == pytest.approx([0.5, 0.45, 0.4, 0.5], abs=0.05)
            new = load_plain(path)
            assert new.keys() == old.keys() | {"framing", "detector"}
            assert digest({name: new[name] for name in old}) == digest(old)

    def test_add_framing_is_all_or_nothing(self, tmp_path, portrait_box, capsys):
        write_faces(tmp_path / "faces", portrait_box, 1)
        save_model(tmp_path / "a.pt", make_model(), RECORD)
        (tmp_path / "b.pt").write_text("no model")
        before = (tmp_path / "a.pt").read_bytes()
        images = ["--image-dir", tmp_path / "faces"]
        assert call(add_framing, tmp_path / "a.pt", tmp_path / "b.pt", *images) == 2
        assert "b.pt' is" in capsys.readouterr().err
        Image.new("RGB", (50, 50)).save(tmp_path / "faces" / "0.png")  # and now without a face
        assert call(add_framing, tmp_path / "a.pt", *images) == 2
        assert "too few faces are found there" in capsys.readouterr().err
        assert (tmp_path / "a.pt").read_bytes() == before


class TestCloserLook:
    @pytest.mark.parametrize("quarter", [0, 1, 2, 3])
    def test_where_it_looks_by_hand(self, monkeypatch, quarter):
        """A box of 30 x 40 at (10, 100) asks for 80 pixels around (25, 120); 15 of them are beyond the left border."""
        seen = []

        def found(pixels, network):
            seen.append(pixels)
            rows = np.array([[0.3, *[0] * 14], [0.6, 13, 16, 26, 32, *[39, 64] * 5]])  # in the part before it is turned
            height, width = np.rot90(pixels, -quarter).shape[:2]
            return turn_back(rows, (4 - quarter) % 4, np.zeros((width, height) if quarter % 2 else (height, width)))

        monkeypatch.setattr(detection, "search", found)
        image = Image.new("RGB", (200, 300), (9, 9, 9))
        (row,) = detection.look_closer(image, np.array([0.4, 10, 100, 30, 40, *[0] * 10]), quarter, None)
        # 65 x 80 pixels become 104 x 128, 1.6 times as large.
        assert sorted(seen[0].shape) == [3, 104, 128]
        assert row == pytest.approx([0.6, 8.125, 90, 16.25, 20, *[24.375, 120] * 5])

    def test_a_small_face_becomes_sure(self):
        small = Image.new("RGB", (800, 600), (90, 120, 90))
        small.paste(PORTRAIT.resize((51, 60)), (400, 300))
        pixels, _ = detection.shrink(small, 160, 416)
        assert 0.15 < search(pixels, load_centerface())[:, 0].max() < 0.4
        (box,), _, (confidence,) = detect_faces(small)
        assert confidence > 0.7
        assert box == pytest.approx([418, 312, 17.5, 21], abs=3)  # a tenth of the portrait's own


class TestTurnedPhotographs:
    """Pixels that are turned, without an EXIF entry that says so."""

    @pytest.mark.parametrize(
        ("quarter", "box", "point"),
        [(1, (65, 20, 5, 10), (70, 20)), (2, (70, 25, 10, 5), (80, 30)), (3, (30, 30, 5, 10), (30, 40))],
    )
    def test_boxes_and_points_by_hand(self, quarter, box, point):
        """Of a photograph of 100 x 60: turned once counter-clockwise, (x, y) is at (y, 100 - x)."""
        row = [90, 20, 30, 10, 5, *[20, 30] * 5]
        (found,) = turn_back(np.array([row], float), quarter, np.zeros((60, 100, 3)))
        assert tuple(found[1:5]) == box
        assert found[5:].reshape(5, 2).tolist() == [list(point)] * 5

    @pytest.mark.parametrize("degrees", [90, 180, 270])
    def test_the_crop_is_upright(self, degrees):
        framing = [0.5, 0.46, 0.35, 0.45, 0.38, 0.4, 0.62, 0.4, 0.5, 0.52, 0.4, 0.65, 0.6, 0.65]
        crops = []
        for image in (PORTRAIT, PORTRAIT.rotate(degrees, expand=True)):
            boxes, points, _ = detect_faces(image)
            crops.append(crop_face(image, boxes[0], framing, 64, points[0]).astype(float))
        assert np.corrcoef(crops[0].ravel(), crops[1].ravel())[0, 1] > 0.9


class TestGroupPictures:
    """Large photographs are also searched at a higher resolution."""

    def test_small_faces_in_a_large_photograph(self, monkeypatch):
        """Nine faces of 40 x 49 pixels in 3000 x 2000. Each is found once."""
        small = PORTRAIT.resize((118, 138))
        places = [(x, y) for x in (100, 1150, 2500) for y in (100, 1000, 1700)]
        photograph = Image.new("RGB", (3000, 2000), (90, 120, 90))
        for place in places:
            photograph.paste(small, place)
        boxes, _, _ = detect_faces(photograph)
        centres = boxes[:, :2] + boxes[:, 2:] / 2 - [61, 52]
        assert centres[np.lexsort(centres.T[::-1].round(-2))] == pytest.approx(np.array(places), abs=8)
        monkeypatch.setattr(detection, "LARGE_SIDE", 10**6)
        assert len(detect_faces(photograph)[0]) < 9

    @pytest.mark.parametrize("degrees", [0, 90, 180])
    def test_a_large_face_is_found_once(self, degrees):
        boxes, points, _ = detect_faces(PORTRAIT.resize((2048, 2400)).rotate(degrees, expand=True))
        assert len(boxes) == 1
        assert abs(angle_of(points[0])) % 360 == pytest.approx({0: 0, 90: 90, 180: 180}[degrees], abs=12)

    def test_repeats_by_hand(self):
        """The second lies within the first; the third shares a third of its area; the fourth contains the third."""
        boxes = [[0, 0, 30, 30], [10, 10, 10, 10], [20, 0, 30, 30], [15, 0, 60, 60]]
        rows = np.array([[0.9 - k / 10, *box, *[0] * 10] for k, box in enumerate(boxes)], float)
        assert without_overlaps(rows, 0.5).tolist() == rows[[0, 2]].tolist()
        assert without_overlaps(rows, 0.3).tolist() == rows[:1].tolist()
        assert without_overlaps(rows[:0], 0.3).tolist() == []
