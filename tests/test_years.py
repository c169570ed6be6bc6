"""A model of 101 single years, all the way: training, evaluation, report, export, prediction, comparison."""

import csv
import importlib.util
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call, small_rows, write_images
from PIL import Image

import main
import predict
import test_code
from augment.pipeline import to_network_input
from data.load import load_data
from evaluation.evaluation import Evaluation
from models.checkpoint import load_model
from predict import AgePredictor
from report.card import model_card
from tools import compare_runs, correct_labels, export, report
from utils.serialization import load_plain, save_plain

TINY = (
    "--image-size 40 --width 0.125 --epochs 1 --batch-size 8 --lr 0.01 --lr-steps 1 --threads 1 --precision fp32"
    " --age-groups 0..100+ --no-plots"
).split()
MACHINE = ["--threads", 1, "--precision", "fp32"]
AGES = [1, 5, 10, 17, 28, 40, 50, 77]
ROWS = small_rows()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty pictures of noise, of two people in each of five folds, and a run of two of these."""
    folder = tmp_path_factory.mktemp("years")
    write_images(folder / "aligned", ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_labels(Path("faces.csv"))
        assert (
            call(
                main, "--label-file", "faces.csv", "--image-dir", "aligned", *TINY, "--loss", "normal", "--folds", 0, 1
            )
            == 0
        )
    return folder


def write_labels(path, columns=("path", "age", "person", "fold"), change=lambda row: row):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        for fold in range(5):
            for k, (album, image, person, *_) in enumerate(ROWS[fold]):
                face = f"{album}/landmark_aligned_face.{person}.{image}"
                table.writerow(change({"path": face, "age": AGES[k], "person": f"{fold}{k // 4}", "fold": fold}))


@pytest.fixture(autouse=True)
def within(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_the_run_knows_ages(folder):
    model = load_model("runs/faces/fold_0.pt")
    assert len(model.classes) == 101 and model.fc.borders.tolist()[:2] == [0.5, 1.5]
    results = json.loads(Path("runs/faces/results.json").read_text())
    table = pd.read_csv("runs/faces/predictions.csv")
    assert sorted(table.true_age[table.fold == 0]) == AGES
    errors = (table.age - table.true_age)[table.fold == 0]
    # The file has two decimals of a year.
    assert results["folds"][0]["mae_years"] == pytest.approx(errors.abs().mean(), abs=0.01)
    assert results["folds"][0]["bias_years"] == pytest.approx(errors.mean(), abs=0.01)
    assert 0 < model.record["mass"] < 1  # of the other fold
    assert "MAE years" in Path("runs/faces/results.tex").read_text()


def test_mistakes_are_those_of_the_decades_and_the_farthest_comes_first(folder):
    assert call(test_code, "runs/faces/fold_0.pt", "--show-errors", "--error-dir", "wrong", *MACHINE) == 0
    found, table = pd.read_csv("wrong/errors.csv"), pd.read_csv("runs/faces/predictions.csv")
    table = table[table.fold == 0]
    years = table[[f"p_{year}" for year in range(100)] + ["p_100+"]].to_numpy()
    decades = np.array([[row[start : start + 10].sum() for start in range(0, 101, 10)] for row in years])
    table = table[table.label // 10 != decades.argmax(1)].assign(off=(table.age - table.true_age).abs())
    assert sorted(found.path) == sorted(table.path)
    assert found.years_off.tolist() == pytest.approx(sorted(table.off, reverse=True), abs=0.01)
    assert all(found.true_class == [f"{10 * (age // 10):.0f}-{10 * (age // 10) + 9:.0f}" for age in found.true_age])
    start = f"0001_true_{found.true_class[0]}_predicted_{found.predicted_class[0]}_"
    assert found.file[0].startswith(start) and Path("wrong", found.file[0]).is_file()


def test_evaluation_report_and_comparison(folder, capsys):
    assert call(test_code, "runs/faces/fold_0.pt", "--by", "label", "age", "--json", "r.json", *MACHINE) == 0
    printed = capsys.readouterr().out
    assert "MAE years: " in printed and "\n0-9  " in printed and "\n100+ " in printed and "\n10-19" in printed
    (reported,) = json.loads(Path("r.json").read_text())
    (result, _) = json.loads(Path("runs/faces/results.json").read_text())["folds"]
    assert reported["mae_years"] == pytest.approx(result["mae_years"], abs=1e-4)
    assert call(test_code, "runs/faces/fold_0.pt", "--over", 18, "--threads", 1) == 2
    assert "4 faces are under 18 years; at least 100 are needed for a figure" in capsys.readouterr().err
    assert call(report, "runs/faces", "--threads", 1) == 0
    text = Path("runs/faces/report.html").read_text()
    assert "Age in years" in text and "No figure for 18 years or older: " in text
    command = ["--label-file", "faces.csv", "--image-dir", "aligned", *TINY, "--loss", "l1", "--folds", 0, 1]
    assert call(main, *command, "--run-dir", "runs/l1") == 0
    assert call(compare_runs, "runs/faces", "runs/l1", "--tex", "table.tex") == 0
    rows = Path("table.tex").read_text().splitlines()
    assert rows[3].startswith(
        "method & top-1 & one-off & MAE & MAE years & RMSE & CS@5 & bias & coverage & difference in"
    )
    assert rows[6].startswith("l1 & ") and "nan" not in rows[5]


def test_photographs(folder, capsys):
    Image.new("RGB", (50, 50)).save("a.png")
    assert call(predict, "runs/faces/fold_0.pt", "a.png", "--no-detect", "--csv", "a.csv", *MACHINE) == 0
    (face,) = AgePredictor("runs/faces/fold_0.pt", detect=False, precision="fp32", threads=1)("a.png")
    low, high = face.age_interval
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"a.png  face 1 of 1  {face.age:.0f} years ({low:.0f}-{high:.0f})  ")
    assert re.search(r"\)  \d0-\d9  \d+ %  \(\d0-\d9 ", line)  # decades
    row = pd.read_csv("a.csv").iloc[0]
    assert [row.age, row.age_low, row.age_high] == pytest.approx([face.age, low, high], abs=0.06)
    assert low < face.age < high and len(face.probabilities) == 101
    share = int(re.search(r"\)  \d0-\d9  (\d+) %", line)[1]) / 100  # of its decade, not of its year, which has less
    for least, doubtful in ((share - 0.02, False), (share + 0.02, True)):
        assert call(predict, "runs/faces/fold_0.pt", "a.png", "--no-detect", "--least-confidence", least, *MACHINE) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(f"(doubtful: under {100 * least:.0f} %)") == doubtful


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="requirements-export.txt is not installed")
def test_the_export_answers_in_years(folder):
    assert call(export, "runs/faces/fold_0.pt", "--output", "onnx") == 0
    from models.export import open_session

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save("b.png")
    (face,) = AgePredictor("runs/faces/fold_0.pt", detect=False, precision="fp32", threads=1)("b.png")
    images = np.asarray(Image.open("b.png")).transpose(2, 0, 1)[None]
    session = open_session(Path("onnx/fold_0.onnx").read_bytes())
    (age,), (interval,) = session.run(["age", "age_interval"], {"images": images})
    assert (age, *interval) == pytest.approx((face.age, *face.age_interval), abs=0.01)


def test_groups_are_learned_and_years_judge(folder, capsys):
    """`years` is what a loss of ages learns; another loss would learn the age itself, and is refused."""
    groups = ["0-9", "0-9", "10-19", "10-19", "20-39", "40-59", "40-59", "60+"]
    columns = ("path", "age", "years", "person", "fold")
    write_labels(Path("groups.csv"), columns, lambda row: {**row, "years": groups[AGES.index(row["age"])]})
    faces, _ = load_data("", "aligned", "strict", False, "groups.csv", ("0..100+",), 0)
    assert faces.intervals[:8:3].tolist() == [[0, 9], [10, 19], [40, 59]] and faces.intervals[7].tolist() == [
        60,
        np.inf,
    ]
    command = ["--label-file", "groups.csv", "--image-dir", "aligned", *TINY, "--folds", 0]
    assert call(main, *command, "--loss", "sord", "--run-dir", "runs/no") == 2
    assert "--loss sord: it does not learn the column 'years'; choose from normal, l1" in capsys.readouterr().err
    assert call(main, *command, "--loss", "normal", "--run-dir", "runs/groups") == 0
    assert "mae_years" in json.loads(Path("runs/groups/results.json").read_text())["folds"][0]


def test_another_data_set(folder, capsys):
    """Other people in one fold, or in folds that are drawn: all faces count, in their own groups too."""
    write_labels(
        Path("other.csv"),
        ("path", "age", "person"),
        lambda row: {**row, "person": "o" + row["person"] + str(row["age"])},
    )
    write_images(folder / "elsewhere", ROWS, seed=5)
    data = ["--label-file", "other.csv", "--image-dir", "elsewhere", "--threads", 1]
    assert call(test_code, "runs/faces/fold_0.pt", *data) == 0
    assert "40 faces, all faces of other.csv" in capsys.readouterr().out
    assert call(test_code, "runs/faces/fold_0.pt", *data, "--age-groups", "0-9", "10-39", "40+") == 0
    assert "\n10-39         15 " in capsys.readouterr().out
    assert call(test_code, "runs/faces/fold_0.pt", *data, "--age-groups", "0-9", "10-60") == 0
    assert (
        call(test_code, "runs/faces/fold_0.pt", "--label-file", "other.csv", "--image-dir", "aligned", "--threads", 1)
        == 2
    )
    assert "was trained on pictures of these faces, under other names: 32 of 40 in all faces" in capsys.readouterr().err


def test_answers_are_adapted_to_another_population(folder, capsys, tmp_path):
    """In years and in groups: those of AgePredictor for the same images."""
    write_labels(Path("o.csv"), ("path", "age", "person"), lambda row: {**row, "person": f"o{row['person']}"})
    write_images(folder / "others", ROWS, seed=6)
    data = ["runs/faces/fold_0.pt", "--label-file", "o.csv", "--image-dir", "others", *MACHINE, "--adapt"]
    predictor = AgePredictor("runs/faces/fold_0.pt", detect=False, precision="fp32", threads=1)
    predictor.probabilities = lambda model, crops: plain_probabilities(model, crops)  # without the mirror image
    with open("o.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    photographs = predictor.adapt(predictor.predict([Path("others", row["path"]) for row in rows]))
    error = np.mean([abs(photo.faces[0].age - int(row["age"])) for photo, row in zip(photographs, rows, strict=True)])
    assert call(test_code, *data, "--json", tmp_path / "a.json") == 0
    [found] = json.loads((tmp_path / "a.json").read_text())
    assert found["mae_years"] == pytest.approx(error, abs=2e-4)
    assert call(test_code, *data[:-1], "--json", tmp_path / "b.json") == 0
    assert json.loads((tmp_path / "b.json").read_text())[0]["mae_years"] != pytest.approx(error, abs=1e-3)
    assert call(test_code, *data, "--views", "flip", "--age-groups", "0-9", "10-39", "40+") == 0


def plain_probabilities(model, crops):
    with torch.inference_mode():
        return model.probabilities(to_network_input(torch.from_numpy(crops), model.mean, model.std)).numpy()


def test_a_loss_of_ages_needs_ages(folder, capsys):
    write_labels(
        Path("named.csv"), ("path", "label", "person", "fold"), lambda row: {**row, "label": "ab"[row["age"] > 20]}
    )
    command = [
        "--label-file",
        "named.csv",
        "--image-dir",
        "aligned",
        *TINY,
        "--loss",
        "normal",
        "--age-groups",
        "a",
        "b",
    ]
    assert call(main, *command, "--run-dir", "runs/named") == 2
    assert "--loss normal: the classes a, b are not ages" in capsys.readouterr().err


def test_a_fixed_split_trains_one_model(folder, capsys):
    splits = {0: "test", 1: "val", 2: "train", 3: "train", 4: "train"}
    write_labels(
        Path("split.csv"), ("path", "age", "person", "split"), lambda row: {**row, "split": splits[row["fold"]]}
    )
    command = ["--label-file", "split.csv", "--image-dir", "aligned", *TINY, "--loss", "normal", "--decode", "val"]
    assert call(main, *command) == 0
    assert sorted(path.name for path in Path("runs/split").glob("fold_*.pt")) == ["fold_0.pt"]
    record = load_model("runs/split/fold_0.pt").record
    assert record["train_faces"] == 24 and {"temperature", "mass"} <= record.keys()
    assert record["val_albums"] == ["10", "11"]  # a CSV file's people
    assert call(test_code, "runs/split/fold_0.pt", "--set", "val", "--threads", 1) == 0
    assert "8 faces, the validation set" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("columns", "change", "problem"),
    [
        (("path", "age", "split"), {"split": "train"}, "no face has the split 'test', which the model is evaluated on"),
        (("path", "age", "fold"), {"fold": 3}, "only fold 3 has faces; two or more are needed, or a column 'split'"),
    ],
)
def test_one_fold_is_not_enough_to_train(columns, change, problem, capsys):
    write_labels(Path("one.csv"), columns, lambda row: {**row, **change})
    assert call(main, "--label-file", "one.csv", "--image-dir", "aligned", *TINY) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("place", ["fold", "split"])
def test_one_unknown_age_ends_no_training(folder, tmp_path, place, capsys, monkeypatch):
    """With labels and ages, of which fold 1, or the test set, lacks one: the others' errors are not averaged with it.

    `tools.correct_labels` writes such files. The corrected file has all faces, also those that were never held out.
    """
    monkeypatch.setattr("evaluation.subgroups.LEAST_FACES", 2)  # some groups know all of their ages

    def change(row):
        split = ("test", "train", "train", "train", "val")[row["fold"]]
        unknown = row["age"] == 5 and row["fold"] == (1 if place == "fold" else 0)
        label = "0-12" if row["age"] < 13 else "13+"
        return {**row, "label": label, "split": split, "camera": "film", **({"age": ""} if unknown else {})}

    write_labels(tmp_path / "some.csv", ("path", "age", "label", "person", "camera", place), change)
    arguments = [argument for argument in TINY if argument not in ("0..100+", "--age-groups", "--no-plots")]
    data = ["--label-file", tmp_path / "some.csv", "--image-dir", "aligned", "--age-groups", "0-12", "13+"]
    folds = ["--folds", 0, 1] if place == "fold" else []
    run = tmp_path / "run"
    assert call(main, *data, *arguments, *folds, "--run-dir", run) == 0
    results = json.loads((run / "results.json").read_text())
    known = [True, False] if place == "fold" else [False]
    assert ["mae_years" in fold for fold in results["folds"]] == known and "mae_years" not in results["mean"]
    models = sorted(run.glob("fold_?.pt"))
    assert call(test_code, *models, "--threads", 1, "--show-errors", "--error-dir", tmp_path / "wrong") == 0
    assert call(report, run) == 0
    capsys.readouterr()
    assert call(correct_labels, run) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 40 and {row["camera"] for row in rows} == {"film"}
    assert {row[place] for row in rows} == ({*"01234"} if place == "fold" else {"train", "val", "test"})


def test_models_of_other_classes_are_not_pooled(folder, capsys):
    groups = ["--label-file", "faces.csv", "--image-dir", "aligned", *TINY, "--folds", 0, "--run-dir", "runs/coarse"]
    assert call(main, *groups, "--age-groups", "0-9", "10-39", "40+") == 0
    capsys.readouterr()
    assert call(test_code, "runs/faces/fold_0.pt", "runs/coarse/fold_0.pt", *MACHINE) == 2
    out, err = capsys.readouterr()
    assert "eval accuracy" not in out
    assert "'runs/coarse/fold_0.pt' in 0-9, 10-39, 40+: give --label-file and --age-groups that suit both" in err
    coarse = ["--label-file", "faces.csv", "--image-dir", "aligned", "--age-groups", "0-9", "10-39", "40+"]
    assert call(test_code, "runs/faces/fold_0.pt", "runs/coarse/fold_0.pt", *coarse, *MACHINE) == 0


def test_the_coverage_of_a_model_file_is_that_of_the_results(folder):
    """The interval is fitted at the end, on the other folds."""
    for fold in json.loads(Path("runs/faces/results.json").read_text())["folds"]:
        record = load_model(f"runs/faces/fold_{fold['fold']}.pt").record
        assert record["metrics"]["coverage"] == pytest.approx(fold["coverage"], abs=1e-9)
        assert record["metrics"]["mae_years"] == pytest.approx(fold["mae_years"], abs=1e-4)


def test_the_terms_of_a_model_follow_what_learns_from_it(folder, tmp_path):
    """A published model says its own terms; one that started from it says both, and where it comes from."""
    published = load_plain("runs/faces/fold_0.pt")
    save_plain(tmp_path / "published.pt", {**published, "terms": "Not for sale."})
    assert export_source(tmp_path / "published.pt").licence == "Not for sale."
    start = ["--init-from", tmp_path / "published.pt", "--folds", 0, "--run-dir", tmp_path / "run"]
    assert call(main, "--label-file", "faces.csv", "--image-dir", "aligned", *TINY, "--loss", "normal", *start) == 0
    source = export_source(tmp_path / "run" / "fold_0.pt")
    assert source.licence.startswith("Not for sale. Those of the data")
    evaluation = Evaluation(source.test, np.zeros((len(source.test), 101), np.float32), model=source.model, name="mine")
    text = model_card([evaluation.where(np.zeros(len(evaluation), bool))], [source.licence], [{}])
    assert re.search(r"mine also learned from .*published\\.pt, which know 8 people", text)


def export_source(path):
    return export.find_source(path, Namespace(int8=False))
