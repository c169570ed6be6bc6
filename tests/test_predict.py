"""predict.py: age groups of the faces in whole photographs, from the command line and from Python."""

import doctest
import json
import re
import shutil
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call
from PIL import Image
from test_detection import PORTRAIT, PORTRAIT_FILE
from test_model_file import NAMES, RECORD, make_model

import predict
import test_code
from data.duplicates import both_signatures
from data.images import decode_face
from models.checkpoint import DETECTOR, load_model, save_model
from photos import detection
from photos import predictor as predictor_module
from photos.crop import crop_face
from photos.drawing import draw_box, drawing_writer
from photos.output import row_writer, rows_of
from photos.photographs import find_photographs, load_photograph, upright_size
from photos.predictor import AgePredictor, Face, Photograph, map_ahead
from training.config import Config
from utils.classes import Classes
from utils.errors import UserError
from utils.options import to_record

FRAMING = [0.5, 0.45, 0.5, 0.6]


def write_model(path, seed=0, names=NAMES, **record):
    torch.manual_seed(seed)
    model = make_model()
    model.classes = Classes(names)
    torch.nn.init.normal_(model.fc.weight, std=0.5)  # so that its answers differ
    save_model(path, model, {**RECORD, "temperature": 2.0, "framing": FRAMING, "detector": DETECTOR, **record})
    return path


def run(*arguments):
    """Run predict.py's main in this process; returns its exit status."""
    return call(predict, "--threads", 1, "--precision", "fp32", *arguments)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model():
    return write_model(Path("fold_0.pt"))


@pytest.fixture
def photographs():
    return write_photographs(Path("photos"))


def write_photographs(folder):
    """A folder with one face, two faces, none, and what is no photograph."""
    (folder / "b" / ".hidden").mkdir(parents=True)
    PORTRAIT.save(folder / "a.jpg", quality=95)
    two = Image.new("RGB", (480, 320), (90, 120, 90))
    two.paste(PORTRAIT.resize((205, 240)), (230, 60))
    two.paste(PORTRAIT.resize((102, 120)), (40, 20))
    two.save(folder / "b" / "two.PNG")
    Image.new("RGB", (60, 40), (0, 90, 0)).save(folder / "none.webp")
    (folder / "broken.jpg").write_bytes(PORTRAIT_FILE.read_bytes()[:5000])
    (folder / "notes.txt").write_text("no photograph")
    PORTRAIT.save(folder / ".hidden.jpg")
    PORTRAIT.save(folder / "b" / ".hidden" / "x.jpg")
    return folder


def expected_probabilities(path, image, temperature):
    """By hand, of an image that is a face: normalised, the mean softmax with the mirror image, and the temperature."""
    network = load_model(path)
    pixels = torch.tensor(np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    with torch.no_grad():
        images = torch.stack([(pixels - mean) / std, (pixels.flip(-1) - mean) / std])
        probabilities = network(images).double().softmax(1).mean(0)
    return torch.softmax(probabilities.log() / temperature, 0).numpy()


class TestPhotographs:
    def test_folders_are_searched_in_order(self, photographs):
        found = find_photographs(["photos/none.webp", "photos", "photos/notes.txt"])
        names = ["none.webp", "a.jpg", "broken.jpg", "b/two.PNG", "notes.txt"]
        assert found == [photographs / name for name in names]

    def test_trainings_read_no_videos_and_no_formats_of_phones(self, photographs):
        for name in ("clip.mp4", "phone.HEIC", "web.avif"):
            (photographs / "b" / name).write_bytes(b"x")
        skipped = []
        assert [path.name for path in find_photographs(["photos/b"], skipped)] == ["two.PNG"]
        assert [path.name for path in skipped] == ["clip.mp4", "phone.HEIC", "web.avif"]
        assert len(find_photographs(["photos/b"], suffixes={".png", ".mp4"})) == 2

    def test_nothing_there(self):
        Path("empty").mkdir()
        Path("a.jpg").touch()
        with pytest.raises(UserError, match=r"no photograph in 'empty'; expected files that end in \.jfif, \.jpe, "):
            find_photographs(["a.jpg", "empty"])
        with pytest.raises(UserError, match=r"'gone\.jpg': there is no such photograph or folder"):
            find_photographs(["a.jpg", "gone.jpg"])

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

    def test_large_photographs_are_decoded_smaller(self):
        PORTRAIT.resize((5000, 4200)).save("x.jpg")
        image, scale = load_photograph("x.jpg")
        assert (image.size, scale) == ((2500, 2100), 2)  # 1250 would be under 2048

    @pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
    def test_other_arrays_are_refused(self, array):
        with pytest.raises(UserError, match=r"is no photograph; expected uint8 \(H, W, 3\)"):
            load_photograph(array)


class TestPredictor:
    def test_the_example_of_its_documentation(self, model):
        shutil.copy(PORTRAIT_FILE, "photo.jpg")
        runner = doctest.DocTestRunner()
        for example in doctest.DocTestFinder(recurse=False).find(AgePredictor, "AgePredictor"):
            runner.run(example)
        assert runner.tries == 4
        assert runner.failures == 0

    def test_paths_images_and_arrays_give_the_same(self, model):
        PORTRAIT.save("x.png")
        predictor = AgePredictor(model, precision="fp32")
        (face,), others = predictor("x.png"), [predictor(PORTRAIT), predictor(np.asarray(PORTRAIT))]
        assert others == [[face]] * 2
        assert list(face.probabilities) == ["young", "middle", "old"]
        assert sum(face.probabilities.values()) == pytest.approx(1)
        assert face.confidence == face.probabilities[face.group] == max(face.probabilities.values())
        assert face.box == pytest.approx((180, 120, 175, 212), abs=15)

    def test_the_orientation_counts(self, model):
        exif = Image.Exif()
        exif[0x0112] = 8  # turn it a quarter to the left to see it upright
        PORTRAIT.transpose(Image.Transpose.ROTATE_270).save("turned.png", exif=exif)
        predictor = AgePredictor(model, precision="fp32")
        assert predictor("turned.png") == predictor(PORTRAIT)

    def test_a_cropped_face_is_taken_whole(self, model):
        """The shorter side becomes the image's side, and the centre counts, as in training."""
        PORTRAIT.save("x.png")
        (face,) = AgePredictor(model, detect=False, precision="fp32")("x.png")
        assert face.box == (0, 44, 512, 512)
        assert face.detection_confidence is None
        square = PORTRAIT.resize((48, 48), Image.Resampling.BILINEAR, box=(0, 44, 512, 556))
        expected = expected_probabilities(model, square, 2.0)
        assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        (again,) = AgePredictor(model, detect=False, precision="fp32")(np.asarray(PORTRAIT))
        assert list(again.probabilities.values()) == pytest.approx(expected, abs=1e-5)

    def test_several_models_are_averaged(self, model):
        """Each with its own temperature; the class is that of the probabilities without it."""
        other = write_model("other.pt", seed=1, temperature=0.5)
        square = PORTRAIT.crop((0, 44, 512, 556))
        (face,) = AgePredictor(model, other, detect=False, precision="fp32")(square)
        scaled = (expected_probabilities(model, square, 2.0) + expected_probabilities(other, square, 0.5)) / 2
        plain = (expected_probabilities(model, square, 1.0) + expected_probabilities(other, square, 1.0)) / 2
        assert list(face.probabilities.values()) == pytest.approx(scaled, abs=1e-5)
        assert face.group == ("young", "middle", "old")[plain.argmax()]

    def test_the_decoder_decides(self):
        """The median of these three is the middle one, whichever is most probable."""
        path = write_model("median.pt", decoder="median")
        predictor = AgePredictor(path, detect=False)
        predictor.probabilities = lambda model, crops: np.array([[0.4, 0.15, 0.45]], np.float32)
        (face,) = predictor(PORTRAIT)
        assert face.group == "middle"
        # Square roots, a temperature of 2, over their sum: 0.387 / (0.632 + 0.387 + 0.671).
        assert face.confidence == pytest.approx(0.2291, abs=1e-4)

    def test_an_answer_below_the_least_confidence_is_doubtful(self, model):
        settings = {"detect": False, "precision": "fp32"}
        [face] = AgePredictor(model, **settings)(PORTRAIT)
        below, above = face.confidence - 0.01, face.confidence + 0.01
        [sure] = AgePredictor(model, **settings, least_confidence=below)(PORTRAIT)
        [unsure] = AgePredictor(model, **settings, least_confidence=above)(PORTRAIT)
        assert sure == face and face.doubts == ()
        assert unsure.doubts == (f"under {100 * above:.0f} %",)

    def test_answers_are_adapted_to_a_population(self):
        """As in test_label_shift.py, and of probabilities that a temperature of 2 has softened.

        These are (2, 1) / 3; times 1.381356 and 0.618644, the first is 2.762712 / 3.381356 = 0.8170.
        """
        path = write_model("two.pt", usual_answer=[0.5, 0.5, 0.0])
        predictor = AgePredictor(path, detect=False, least_confidence=0.75)
        predictor.probabilities = lambda model, crops: np.tile(np.array([0.8, 0.2, 0.0], np.float32), (len(crops), 1))
        photographs = [Photograph("a.jpg", predictor(PORTRAIT) * 3), Photograph("b.jpg", error="it is damaged")]
        photographs += [Photograph("c.jpg", predictor(PORTRAIT) * 7)]
        adapted = predictor.adapt(photographs)
        assert [(photo.path, len(photo.faces), photo.error) for photo in adapted] == [
            ("a.jpg", 3, None), ("b.jpg", 0, "it is damaged"), ("c.jpg", 7, None)
        ]  # fmt: skip
        before, face = photographs[0].faces[0], adapted[2].faces[6]
        assert before.confidence == pytest.approx(2 / 3, abs=1e-4) and before.doubts == ("under 75 %",)
        assert face.confidence == pytest.approx(0.8170, abs=1e-4) and face.doubts == ()
        assert face.unscaled[:2] == pytest.approx([0.899312, 0.100688], abs=1e-4)
        assert (face.group, face.box) == ("young", before.box)
        assert predictor.adapt([]) == []
        assert [len(photo.faces) for photo in predictor.adapt(iter(photographs))] == [3, 0, 7]

    def test_models_of_other_classes_are_refused(self, model):
        write_model("other.pt", names=("young", "middle", "senior"))
        with pytest.raises(UserError, match=r"'other\.pt' knows the classes young, middle, senior; 'fold_0\.pt' knows"):
            AgePredictor(model, "other.pt", detect=False)

    def test_the_face_is_framed_as_the_model_asks(self, model):
        (box,), _, _ = detection.detect_faces(PORTRAIT)
        (face,) = AgePredictor(model, precision="fp32")(PORTRAIT)
        crop = Image.fromarray(crop_face(PORTRAIT, box, FRAMING, 48).transpose(1, 2, 0))
        expected = expected_probabilities(model, crop, 2.0)
        assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        without = Path("without.pt")
        save_model(without, make_model(), RECORD)
        notes = AgePredictor(model, without).notes
        assert [note.split(":")[0] for note in notes] == ["without.pt has no framing", "without.pt has no temperature"]
        assert len(AgePredictor(without, detect=False).notes) == 1
        save_model(without, make_model(), {**RECORD, "temperature": 2.0, "framing": FRAMING})
        [note] = AgePredictor(without).notes
        assert note.startswith("without.pt has a framing of an earlier detector")
        assert AgePredictor(without, detect=False).notes == []

    def test_few_photographs_are_in_memory_at_once(self, model, monkeypatch):
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
            PORTRAIT.resize((51, 60)).save(path)
        found = list(AgePredictor(model, batch_size=4).predict(paths))
        assert [photograph.path for photograph in found] == paths
        assert 1 <= most <= 3 + 1  # one may still be on its way out

    def test_threads_stay_close_ahead(self):
        begun = []
        results = map_ahead(lambda item: begun.append(item) or item, range(100), 2)
        assert next(results) == 0
        assert len(begun) <= 2 * 4 + 1
        assert list(results) == list(range(1, 100))

    def test_a_result_that_is_there_does_not_wait_for_others(self):
        def items():
            yield 0
            time.sleep(0.2)
            yield 1
            pytest.fail("the first result is there")

        assert next(map_ahead(abs, items(), 2)) == 0


def test_crops_in_parts_of_bounded_size(model, photographs, monkeypatch):
    """A photograph with many faces and a large network: the same answers from a face at a time."""
    predictor = AgePredictor(model, precision="fp32", threads=1)
    whole = predictor("photos/b/two.PNG")
    monkeypatch.setattr("photos.predictor.PIXELS_PER_PART", 48**2)
    assert len(predictor.find_faces("photos/b/two.PNG")[1]) == len(whole) == 2
    parts = predictor("photos/b/two.PNG")
    assert [face.box for face in parts] == [face.box for face in whole]
    assert [face.confidence for face in parts] == pytest.approx([face.confidence for face in whole], abs=1e-5)


class TestScript:
    def test_good_and_bad_photographs(self, model, photographs, capsys):
        outputs = ["--csv", "out.csv", "--json", "out.json", "--draw", "drawn"]
        assert run(model, photographs, *outputs) == 1  # one cannot be read
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
        columns = (
            "photo face faces left top width height detection_confidence angle group confidence age age_low age_high"
            " doubts first_second last_second sightings"
            " p_young p_middle p_old"
        )
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

        assert names_in("drawn") == [".lock", "000001_a.drawn.jpg", "000002_two.drawn.jpg"]
        with Image.open("drawn/000001_a.drawn.jpg") as drawn:
            assert drawn.size == (512, 600)
            left, top, width, height = map(round, face.box)
            for x, y in ((left, top + height // 2), (left + width, top + height // 2), (left + 20, top + height)):
                assert drawn.getpixel((x, y)) == pytest.approx((255, 212, 0), abs=110)  # JPEG's colours

    def test_drawings_in_the_folder_that_is_read_are_no_photographs(self, model, photographs):
        for _ in range(2):
            assert run(model, "photos/b", "--draw", "photos/b/drawn", "--csv", "out.csv") == 0
            assert set(pd.read_csv("out.csv").photo) == {"photos/b/two.PNG"}
        assert names_in("photos/b/drawn") == [".lock", "000001_two.drawn.jpg"]

    def test_a_run_without_a_finished_fold_is_no_folder_of_photographs(self, photographs, capsys):
        Path("run").mkdir()
        Path("run", "fold_0.progress.pt").write_bytes(b"")
        assert run("run", "photos/a.jpg") == 2
        assert (
            capsys.readouterr().err == "error: 'run' is a run without a finished fold; main.py --resume finishes it\n"
        )

    def test_drawings_replace_their_own_only(self, model, photographs, capsys):
        arguments = [model, "photos/a.jpg", "--draw", "drawn"]
        assert run(*arguments, "photos/b/two.PNG") == 0
        assert run(*arguments) == 0
        assert names_in("drawn") == [".lock", "000001_a.drawn.jpg"]
        for name in ("mine.jpg", "000001_a.jpg"):
            Path("drawn", name).write_text("mine")
            before = contents("drawn")
            assert run(*arguments) == 2
            assert f"error: --draw 'drawn': '{name}' is no drawing of predict.py; choose" in capsys.readouterr().err
            assert contents("drawn") == before
            Path("drawn", name).unlink()
        before = contents("photos"), contents("drawn")
        assert run(model, photographs, "--draw", photographs) == 2
        assert "error: --draw 'photos': 'photos/a.jpg' there is to be read" in capsys.readouterr().err
        assert run(model, "drawn/000001_a.drawn.jpg", "--draw", "drawn") == 2
        assert "'drawn/000001_a.drawn.jpg' there is to be read" in capsys.readouterr().err
        assert (contents("photos"), contents("drawn")) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["fold_0.pt"], "only models are given, 'fold_0.pt': name a photograph or a folder, or --camera 0"),
            (["fold_0.pt", "fold_0.pt", "photos"], "'fold_0.pt' is named twice"),
            (["fold_0.pt", "gone.jpg"], "'gone.jpg': there is no such photograph or folder"),
            (["fold_0.pt", "photos", "--threshold", "70"], "threshold 70.0: expected a number from 0 to 1"),
            (["fold_0.pt", "photos", "--threshold", "nan"], "threshold nan: expected a number from 0 to 1"),
            (["fold_0.pt", "photos", "--top", "0"], "--top 0: expected a number from 1"),
            (["fold_0.pt", "photos", "--batch-size", "0"], "batch_size 0: expected a number from 1"),
            (["fold_0.pt", "photos", "--csv", "photos/a.jpg"], "'photos/a.jpg' exists and is not a list of predict.py"),
            (["fold_0.pt", "photos", "--json", "photos/notes.txt"], "'photos/notes.txt' exists and is not a list"),
            (["fold_0.pt", "photos", "--draw", "photos/a.jpg"], "--draw 'photos/a.jpg': expected a folder"),
            (["gone.pt", "photos", "--no-detect"], "no model file at 'gone.pt'"),
            (["fold_0.pt", "photos", "--bright"], "unrecognized arguments: --bright"),
        ],
    )
    def test_bad_arguments(self, arguments, message, model, photographs, capsys):
        before = contents(".")
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert contents(".") == before

    def test_a_cropped_face_has_no_detection(self, model, photographs, capsys):
        assert run(model, "photos/a.jpg", "--no-detect", "--csv", "out.csv", "--top", 1) == 0
        line = capsys.readouterr().out
        row = pd.read_csv("out.csv").iloc[0]
        assert line == f"photos/a.jpg  face 1 of 1  {row.group}  {100 * row.confidence:.0f} %\n"
        assert np.isnan(row.detection_confidence)

    @pytest.mark.parametrize("earlier", [False, True])
    @pytest.mark.parametrize(
        "ending", [KeyboardInterrupt, UserError("the last straw"), BrokenPipeError, OSError(28, "full")]
    )
    def test_what_ends_early(self, ending, earlier, model, photographs, monkeypatch, capsys):
        """An interruption or a closed output keeps the rows so far in new files; files of an earlier call stay."""
        outputs = ["--csv", "out.csv", "--json", "out.json", "--draw", "drawn"]
        arguments = [model, "photos/a.jpg", "photos/b/two.PNG", "--no-detect", *outputs]
        assert run(*arguments) == 0
        whole, before = pd.read_csv("out.csv"), contents(".")
        assert run(*arguments) == 0  # which replaces them by the same
        assert contents(".") == before
        if not earlier:
            Path("out.csv").unlink()
            Path("out.json").unlink()
            shutil.rmtree("drawn")
            before = contents(".")
        predict_all, printing_fails = AgePredictor.predict, ending is BrokenPipeError or isinstance(ending, OSError)

        def predict_one(self, paths):
            yield next(predict_all(self, paths))
            if not printing_fails:
                raise ending
            monkeypatch.setattr(predict.tqdm, "write", lambda line: (_ for _ in ()).throw(ending))
            yield Photograph(paths[1])

        monkeypatch.setattr(AgePredictor, "predict", predict_one)
        capsys.readouterr()
        assert run(*arguments) == {KeyboardInterrupt: 130, BrokenPipeError: 141}.get(ending, 2)
        if isinstance(ending, UserError):
            assert {name: text for name, text in contents(".").items() if "drawn" not in str(name) or earlier} == before
            return
        done = 2 if printing_fails else 1
        line = f"stopped: new outputs hold {done} of 2 photographs; those that were there stay as they were\n"
        assert line in capsys.readouterr().err
        if earlier:
            assert contents(".") == before
            return
        rows = pd.read_csv("out.csv")
        assert rows.photo.tolist() == ["photos/a.jpg", "photos/b/two.PNG"][:done]
        pd.testing.assert_series_equal(rows.iloc[0], whole.iloc[0])
        assert names_in("drawn") == [".lock", "000001_a.drawn.jpg"]
        assert [row["photo"] for row in json.loads(Path("out.json").read_text())] == rows.photo.tolist()
        assert names_in("drawn") == [".lock", "000001_a.drawn.jpg"]

    @pytest.mark.parametrize(
        ("outputs", "message"),
        [
            (["--csv", "x", "--json", "./x"], "--csv 'x' and --json './x': one is, or holds, the other"),
            (
                ["--csv", "drawn/x.csv", "--draw", "drawn"],
                "--csv 'drawn/x.csv' and --draw 'drawn': one is, or holds, the other",
            ),
        ],
    )
    def test_outputs_that_are_given_twice(self, model, photographs, outputs, message, capsys):
        assert run(model, "photos/a.jpg", "--no-detect", *outputs) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
        assert not Path("x").exists() and not Path("drawn").exists()

    def test_help_is_honest(self, capsys):
        assert run("--help") in (None, 0)
        text = " ".join(capsys.readouterr().out.split())
        assert text.endswith("A model carries the licence terms of the data that it was trained on.")
        assert "Do not base decisions about people on it." in text


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


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
    face = Face((1.26, -2.0, 30.04, 40.0), 0.95, -3.25, "old", {"young": 0.25, "old": 0.75}, 0.75)
    row = {
        "photo": "x.jpg", "face": 1, "faces": 1, "left": 1.3, "top": -2.0, "width": 30.0, "height": 40.0,
        "detection_confidence": 0.95, "angle": -3.2, "group": "old", "confidence": 0.75, "age": None, "age_low": None,
        "age_high": None, "doubts": None, "first_second": None, "last_second": None, "sightings": None,
        "p_young": 0.25, "p_old": 0.75, "error": None,
    }  # fmt: skip
    assert rows_of(Photograph(Path("x.jpg"), [face]), ("young", "old")) == [row]
    nothing = {**dict.fromkeys(row), "photo": "x.jpg"}
    assert rows_of(Photograph(Path("x.jpg")), ("young", "old")) == [{**nothing, "faces": 0}]
    assert rows_of(Photograph(Path("x.jpg"), error="gone"), ("young", "old")) == [{**nothing, "error": "gone"}]


def test_files_of_other_formats_are_counted(model, photographs, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a.bmp", "b.TIF", "notes.txt"):
        (folder / name).write_bytes(b"x")
    shutil.copy("photos/a.jpg", folder / "c.jfif")
    assert run(model, folder, "--no-detect") == 0
    output = capsys.readouterr().out
    assert "c.jfif  face 1 of 1" in output
    assert output.endswith("note: skipped 2 files of other formats (.bmp, .tif): save them as JPEG or PNG\n")


def test_a_run_directory_stands_for_its_models(model, photographs, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for fold in (0, 3):
        shutil.copy(model, run_dir / f"fold_{fold}.pt")
    assert [len(AgePredictor(path, detect=False).models) for path in (run_dir, model)] == [2, 1]
    assert run(run_dir, "photos/a.jpg", "--no-detect") == 0
    assert "photos/a.jpg  face 1 of 1" in capsys.readouterr().out


def test_test_code_finds_faces_as_predict_does(photographs, capsys):
    """Of whole photographs: the largest face of each counts, and a photograph without any is left out."""
    shutil.copy("photos/a.jpg", "photos/c.jpg")
    rows = ["path,label,person,fold", "a.jpg,old,1,0", "b/two.PNG,old,2,0", "none.webp,old,3,0", "c.jpg,old,4,1"]
    Path("x.csv").write_text("\n".join(rows) + "\n")
    config = to_record(Config(label_file="x.csv", image_dir="photos", age_groups=NAMES, epochs=1))
    path = write_model(Path("m.pt"), fold=0, config=config, history=[])
    assert call(test_code, path, "--detect", "--threads", 1, "--precision", "fp32", "--json", "r.json") == 0
    assert "note: in 1 of 3 photographs no face is found; they are left out" in capsys.readouterr().out
    predictor = AgePredictor(path, precision="fp32", threads=1)
    groups = [predictor(f"photos/{name}")[0].group for name in ("a.jpg", "b/two.PNG")]
    (report,) = json.loads(Path("r.json").read_text())
    counts = dict(zip(NAMES, report["confusion"][NAMES.index("old")], strict=True))
    assert report["faces"] == 2 and counts == {name: groups.count(name) for name in NAMES}


def test_one_path_is_a_list_of_one(model, photographs):
    [photograph] = AgePredictor(model).predict("photos/a.jpg")
    assert (str(photograph.path), len(photograph.faces), photograph.error) == ("photos/a.jpg", 1, None)


def test_adapted_rows(photographs, capsys):
    """Those of the same faces, in the same order; a model that does not know its usual answer is refused at once."""
    path = write_model("fold_0.pt", usual_answer=[0.2, 0.2, 0.6])
    assert run(path, "photos", "--json", "plain.json") == 1
    assert run(path, "photos", "--json", "adapted.json", "--adapt") == 1
    plain, adapted = (json.loads(Path(name).read_text()) for name in ("plain.json", "adapted.json"))
    assert [(row["photo"], row["left"]) for row in plain] == [(row["photo"], row["left"]) for row in adapted]
    predictor = AgePredictor(path, precision="fp32")
    expected = [
        face for photo in predictor.adapt(list(predictor.predict(find_photographs(["photos"])))) for face in photo.faces
    ]
    found = [row["p_old"] for row in adapted if row["face"]]
    assert found == pytest.approx([face.probabilities["old"] for face in expected], abs=1e-5)
    assert found != pytest.approx([row["p_old"] for row in plain if row["face"]], abs=1e-3)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: --adapt")]
    assert notes == ["note: --adapt corrected the answers for the age distribution of these 3 faces"]
    assert run(write_model("earlier.pt"), "photos", "--adapt", "--csv", "x.csv") == 2
    out, err = capsys.readouterr()
    assert (
        out == ""
        and "error: --adapt: 'earlier.pt' does not record its usual answer: it is of an earlier version" in err
    )
    assert not Path("x.csv").exists()


def test_a_label_is_as_large_as_its_face_allows():
    """Within the picture, above the face, or below where there is no room."""

    def drawn(box):
        image = Image.new("RGB", (900, 600))
        draw_box(image, box, "29  (24-35)")
        y, x = np.nonzero((np.asarray(image) == (255, 212, 0)).all(2))
        return x.min(), y.min(), x.max(), y.max()

    assert drawn((400, 200, 30, 40))[1] > 200 - 25  # of letters of 10 pixels
    assert drawn((400, 200, 300, 300))[1] < 200 - 25  # of 20, a 45th of the picture
    assert drawn((400, 3, 60, 60))[1] == 3 and drawn((400, 3, 60, 60))[3] > 63 + 10


def test_lists_and_grey_arrays(model, photographs):
    predictor = AgePredictor(model, detect=False, precision="fp32", threads=1)
    grey = np.asarray(PORTRAIT.convert("L"))
    together = predictor(["photos/a.jpg", grey])
    assert [len(faces) for faces in together] == [1, 1]
    assert together[0][0].confidence == pytest.approx(predictor("photos/a.jpg")[0].confidence, abs=1e-5)
    assert together[1][0].confidence == pytest.approx(predictor(PORTRAIT.convert("L"))[0].confidence, abs=1e-5)
    assert predictor([]) == []


def test_a_note_about_whole_photographs(photographs, capsys):
    """The face of the portrait is 175 of 512 pixels wide; the model's training faces are wider, or alike."""
    rows = ["path,label,person,fold", "a.jpg,old,1,0", "b/c.jpg,old,2,0", "d.jpg,old,4,1"]
    for name in ("b/c.jpg", "d.jpg"):
        shutil.copy("photos/a.jpg", f"photos/{name}")
    Path("x.csv").write_text("\n".join(rows) + "\n")
    config = to_record(Config(label_file="x.csv", image_dir="photos", age_groups=NAMES, epochs=1))
    for width, noted in ((0.8, True), (0.35, False)):
        path = write_model(Path("m.pt"), fold=0, config=config, history=[], framing=[0.5, 0.4, width, width])
        assert call(test_code, path, "--threads", 1, "--precision", "fp32") == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": use --detect")]
        assert len(lines) == noted
        these, training = r"3\d% of the width at \d\d% of the height", "80% of the width at 40% of the height"
        expected = f"note: faces take {these} of these images, and {training} of the training images: use --detect"
        assert not lines or re.fullmatch(expected, lines[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 7}, "threshold 7: expected a number from 0 to 1"),
        ({"threshold": "a"}, "threshold a: expected a number"),
        ({"batch_size": 0}, "batch_size 0: expected a number from 1"),
        ({"batch_size": 1.5}, "batch_size 1.5: expected a whole number"),
        ({"device": "tpu"}, "--device tpu: choose from auto, cpu, cuda, mps"),
        ({"precision": "fp8"}, "--precision fp8: choose from auto, fp32, bf16"),
        ({"threads": -3}, "--threads -3: expected a number from 0"),
    ],
)
def test_bad_settings_from_python(model, settings, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        AgePredictor(model, detect=False, **settings)


def test_bad_images_from_python(model, photographs):
    predictor = AgePredictor(model, detect=False, precision="fp32", threads=1)
    closed, cut = PORTRAIT.copy(), Path("cut.jpg")
    closed.close()
    cut.write_bytes(PORTRAIT_FILE.read_bytes()[:5000])
    with Image.open(cut) as truncated:
        for image in (closed, truncated, Image.new("RGB", (0, 5))):
            with pytest.raises(UserError, match=r"^the image cannot be read: "):
                predictor(image)
    for value in (None, 5, b"\xff\xd8", {}):
        with pytest.raises(
            UserError, match=r"^a \w+ is no photograph; expected a path, a PIL image, an array or a tensor"
        ):
            predictor(value)
    grey = PORTRAIT.convert("L")
    assert predictor(grey.convert("I"))[0].probabilities == predictor(grey)[0].probabilities
    assert predictor((grey,)) == [predictor(grey)]


def test_a_list_without_a_row_is_valid_and_ours(model, photographs):
    """As an interruption before the first photograph leaves it."""
    with row_writer("json", "out.json", NAMES):
        pass
    assert json.loads(Path("out.json").read_text()) == []
    assert run(model, "photos/a.jpg", "--no-detect", "--json", "out.json") == 0
    assert len(json.loads(Path("out.json").read_text())) == 1


def test_a_photograph_that_vanishes_is_not_drawn(model, photographs, tmp_path, capsys):
    with drawing_writer("drawn") as draw:
        face = Face((0, 0, 10, 10), None, None, "old", {"old": 1.0}, 1.0)
        draw(Photograph(Path("photos/gone.jpg"), [face]))
        draw(Photograph(Path("photos/a.jpg"), [face]))
    assert "note: not drawn: cannot read 'photos/gone.jpg'" in capsys.readouterr().err
    assert names_in("drawn") == [".lock", "000001_a.drawn.jpg"]


@pytest.mark.parametrize(
    "outputs",
    [
        ["--csv", "y", "--draw", "y"],
        ["--csv", "y", "--draw", "y/z"],
        ["--csv", "y/a/b.csv", "--draw", "y"],
        ["--csv", "y", "--json", "y/b.json"],
        ["--csv", "y/../x.csv", "--json", "x.csv"],
    ],
)
def test_outputs_that_are_or_hold_one_another_are_refused(outputs, model, photographs, capsys):
    before = contents(".")
    assert run(model, "photos/a.jpg", "--no-detect", *outputs) == 2
    first, second = f"{outputs[0]} '{outputs[1]}'", f"{outputs[2]} '{outputs[3]}'"
    assert f"{first} and {second}: one is, or holds, the other; give two apart" in capsys.readouterr().err
    assert contents(".") == before


def test_a_linked_folder_is_searched_once(photographs):
    Path("photos/c").symlink_to("b")
    Path("photos/loop").symlink_to(".")
    Path("elsewhere").mkdir()
    shutil.copy("photos/a.jpg", "elsewhere/d.jpg")
    Path("photos/more").symlink_to("../elsewhere")
    found = find_photographs(["photos"])
    assert (
        list(map(str, found))
        == "photos/a.jpg photos/broken.jpg photos/none.webp photos/b/two.PNG photos/more/d.jpg".split()
    )


def test_faces_that_are_found_are_of_photographs_that_are_compared(photographs, capsys):
    """The cut-out face is another picture than the photograph, which the model was trained on under another name."""
    rows = ["path,label,person,fold", "a.jpg,old,1,0", "b/two.PNG,old,2,0", "none.webp,old,4,1"]
    Path("x.csv").write_text("\n".join(rows) + "\n")
    config = to_record(Config(label_file="x.csv", image_dir="photos", age_groups=NAMES, epochs=1))
    seen = torch.from_numpy(both_signatures(decode_face("photos/a.jpg", 48)[None])[0]).repeat(3, 1)
    path = write_model(Path("m.pt"), fold=0, config=config, history=[], train_pictures=seen)
    for detect in ([], ["--detect"]):
        assert call(test_code, path, *detect, "--threads", 1) == 2
        line = "m.pt' was trained on pictures of these faces, under other names: 1 of 2 in fold 0, first a.jpg"
        assert line in capsys.readouterr().err
        assert call(test_code, path, *detect, "--leave-out-seen", "--threads", 1, "--json", "r.json") == 0
        assert json.loads(Path("r.json").read_text())[0]["faces"] == 1
