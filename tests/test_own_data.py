"""The scripts on a CSV file of one's own faces, all the way: training, evaluation, report, resuming."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import AGES, call, small_rows, write_images, write_labels

import main
import predict
import test_code
from data.adience import DEFAULT_GROUPS
from data.faces import Faces
from evaluation.evaluation import Evaluation
from models.checkpoint import load_model
from report.tables import confusion_table, per_class_table
from tools import compare_runs, report
from training.arguments import read_arguments
from training.config import Config, from_record
from utils.classes import Classes
from utils.errors import UserError
from utils.options import to_record
from utils.serialization import load_plain, save_plain

TINY = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --precision fp32"
    " --no-plots"
).split()
GROUPS = ["0-12", "13-39", "40+"]
YEARS = [1, 5, 10.5, 17, 28, 40, 50, 77.9]  # of AGES' eight classes; three, two and three are in the groups
ROWS = small_rows()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def face_path(fields):
    return f"{fields[0]}/landmark_aligned_face.{fields[2]}.{fields[1]}"


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty pictures of noise."""
    return write_images(tmp_path_factory.mktemp("photographs") / "aligned", ROWS)


@pytest.fixture(scope="module")
def own(images, tmp_path_factory):
    """Ages in years, two faces of each of twenty people, and a camera; three of five folds trained: (folder, file)."""
    folder = tmp_path_factory.mktemp("own")
    every = [fields for fold in ROWS.values() for fields in fold]
    rows = [[face_path(f), YEARS[k % 8], f"person {k // 2}", ("phone", "film")[k % 2]] for k, f in enumerate(every)]
    file = write_csv(folder / "faces.csv", ["path", "age", "person", "camera"], rows)
    arguments = ["--label-file", "faces.csv", "--image-dir", images, "--age-groups", *GROUPS, "--folds", 0, 2, *TINY]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(main, *arguments) == 0
    return folder, file


@pytest.fixture
def run(own, tmp_path):
    """A copy of the run in the current folder, at the place where it would be by default."""
    shutil.copytree(own[0] / "runs" / "faces", tmp_path / "runs" / "faces")
    shutil.copy(own[1], tmp_path)
    return tmp_path / "runs" / "faces"


def test_the_run_directory_records_groups_and_folds(run, images):
    config = json.loads((run / "config.json").read_text())
    assert (config["label_file"], config["label_dir"], config["age_groups"]) == ("faces.csv", "", GROUPS)
    folds = pd.read_csv(run / "folds.csv")
    assert list(folds.columns) == ["path", "label", "person", "fold"]
    assert set(folds.label) == set(GROUPS)
    assert len(folds) == 40
    assert (folds.groupby("person").fold.nunique() == 1).all()
    assert folds.fold.value_counts().tolist() == [8] * 5
    predictions = pd.read_csv(run / "predictions.csv")
    assert list(predictions.columns[-3:]) == ["p_0-12", "p_13-39", "p_40+"]
    expected = folds[folds.fold.isin([0, 2])].sort_values("fold", kind="stable")
    assert predictions.path.tolist() == expected.path.tolist()
    assert predictions.person.tolist() == expected.person.tolist()
    record = load_plain(run / "fold_0.pt")
    assert record["class_names"] == json.loads((run / "results.json").read_text())["class_names"] == GROUPS
    assert record["config"]["age_groups"] == GROUPS
    trained = sorted({f"{person}/{person}" for person in folds[folds.fold != 0].person})
    assert record["train_people"] == trained


def test_evaluation_finds_the_data_and_its_folds_again(run, tmp_path, capsys):
    """The labels are those of each age, worked out by hand; the model has seen none of the people."""
    arguments = [run / "fold_2.pt", "--by", "camera", "age", "--json", "report.json", "--precision", "fp32"]
    assert call(test_code, *arguments, "--show-errors") == 0
    printed = capsys.readouterr().out
    assert "8 faces, fold 2, on CPU" in printed
    assert "\ncamera\n  film " in printed
    (reported,) = json.loads((tmp_path / "report.json").read_text())
    (result,) = [r for r in json.loads((run / "results.json").read_text())["folds"] if r["fold"] == 2]
    assert reported["top1"] == pytest.approx(result["top1"])
    assert [entry["class"] for entry in reported["classes"]] == GROUPS
    table = pd.read_csv(run / "predictions.csv").merge(pd.read_csv("faces.csv"), on="path")
    assert table.label.tolist() == [0 if age < 13 else 1 if age < 40 else 2 for age in table.age_y]
    assert table.true_age.tolist() == table.age_y.tolist()  # age_x is the predicted one
    assert (tmp_path / "error" / "index.html").exists()


def test_the_data_may_have_moved(run, images, tmp_path, capsys):
    moved = tmp_path / "elsewhere"
    shutil.copytree(images, moved / "photographs")
    shutil.move(tmp_path / "faces.csv", moved / "list.csv")
    assert call(test_code, run / "fold_0.pt") == 2
    error = f"error: '{run}/fold_0.pt' was trained on the faces of 'faces.csv', which is not here: "
    assert capsys.readouterr().err == error + "--label-file, or --label-dir, and --image-dir name the faces\n"
    places = ["--label-file", moved / "list.csv", "--image-dir", moved / "photographs"]
    assert call(test_code, run / "fold_0.pt", *places) == 0
    assert call(report, run, *places) == 0
    assert "list.csv:" in (run / "report.html").read_text()
    assert call(main, "--resume", "--run-dir", run, *places) == 0


def test_other_labels_are_refused(run, small_faces_once, tmp_path, capsys):
    """Adience's files have other classes; a person of the training folds cannot be held out."""
    labels, images = small_faces_once
    assert call(test_code, run / "fold_0.pt", "--label-dir", labels, "--image-dir", images) == 2
    assert "knows the classes 0-12, 13-39, 40+; these labels have 0-2, 4-6, " in capsys.readouterr().err
    table = pd.read_csv("faces.csv").assign(fold=np.arange(40) // 8)
    table.to_csv("faces.csv", index=False)
    assert call(test_code, run / "fold_0.pt") == 2
    assert "was trained on people of these faces: " in capsys.readouterr().err
    assert call(main, "--resume", "--run-dir", run) == 2
    assert "was trained on other faces, labels or pixels than these" in capsys.readouterr().err


def test_the_report_names_the_line_of_each_label(run, capsys):
    assert call(report, run) == 0
    page = (run / "report.html").read_text()
    wrong = pd.read_csv(run / "predictions.csv").query("label != prediction").path
    lines = {path: number for number, path in enumerate(pd.read_csv("faces.csv").path, 2)}
    assert len(wrong)
    assert all(f"faces.csv:{lines[path]}" in page for path in wrong)
    assert "16 faces of 8 people" not in page
    assert "40 faces of 20 people" in page
    assert "Published on Adience" not in page
    assert " --label-file faces.csv " in page
    assert " --age-groups 0-12 13-39 40+ " in page


def test_more_folds_can_be_added_and_compared(run, images, tmp_path, capsys):
    """Fold 4 trained apart, into the run directory of folds 0 and 2, is the same model as in one of its own."""
    common = ["--label-file", "faces.csv", "--image-dir", images, "--age-groups", *GROUPS, *TINY, "--run-dir"]
    assert call(main, *common, run, "--folds", 4) == 0
    assert json.loads((run / "config.json").read_text())["folds"] == [0, 2, 4]
    assert [fold["fold"] for fold in json.loads((run / "results.json").read_text())["folds"]] == [0, 2, 4]
    assert call(main, *common, "apart", "--folds", 4) == 0
    apart, together = (load_plain(folder / "fold_4.pt")["state_dict"] for folder in (tmp_path / "apart", run))
    assert all(torch.equal(apart[name], together[name]) for name in together)
    assert (tmp_path / "apart" / "folds.csv").read_bytes() == (run / "folds.csv").read_bytes()
    assert call(main, *common, "faster", "--folds", 4, "--lr", 0.02) == 0
    capsys.readouterr()
    assert call(compare_runs, "apart", "faster") == 0
    assert "top-1" in capsys.readouterr().out
    assert call(main, *common, "seed", "--folds", 4, "--seed", 1) == 0  # the folds have a seed of their own
    assert (tmp_path / "seed" / "folds.csv").read_bytes() == (run / "folds.csv").read_bytes()
    again = ["--label-file", run / "folds.csv", *common[2:]]  # the folds that were drawn are labels themselves
    assert call(main, *again, "again", "--folds", 4) == 0
    first, second = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("apart", "again"))
    assert first[["path", "label", "fold"]].equals(second[["path", "label", "fold"]])
    assert call(main, *common, "other", "--folds", 4, "--fold-seed", 1) == 0
    assert not pd.read_csv("other/folds.csv").equals(pd.read_csv("apart/folds.csv"))
    assert call(compare_runs, "apart", "other") == 2
    assert "'other' saw other faces, labels or pixels than 'apart'" in capsys.readouterr().err


def test_the_same_labels_as_csv_train_the_same_network(tmp_path):
    """Adience's rows with the classes' names and folds in a CSV file: every bit of the weights is the same."""
    names = dict(zip(AGES, DEFAULT_GROUPS, strict=True))
    alike = {fold: [[f[0], f[1], f[0], *f[3:]] for f in every] for fold, every in ROWS.items()}  # albums of one person
    rows = [[face_path(f), names[f[3]], fold, f[0]] for fold, every in alike.items() for f in every]
    write_csv("faces.csv", ["path", "label", "fold", "person"], rows)
    labels, images = write_labels(tmp_path / "labels", alike), write_images(tmp_path / "aligned", alike)
    common = ["--image-dir", images, *TINY, "--folds", 1, "--run-dir"]
    assert call(main, "--label-dir", labels, *common, "first") == 0
    assert call(main, "--label-file", "faces.csv", *common, "second") == 0
    first, second = (load_plain(tmp_path / run / "fold_1.pt") for run in ("first", "second"))
    assert first["data_fingerprint"] == second["data_fingerprint"]
    assert all(torch.equal(first["state_dict"][name], second["state_dict"][name]) for name in first["state_dict"])
    assert first["train_people"] == second["train_people"] == [f"album{k}/album{k}" for k in (0, 2, 3, 4)]
    results = [json.loads((tmp_path / run / "results.json").read_text())["mean"]["top1"] for run in ("first", "second")]
    assert results[0] == results[1]
    assert not list(tmp_path.glob("*/folds.csv"))


def test_the_folds_of_the_file_are_the_default(images, tmp_path, capsys):
    rows = [[face_path(f), k % 2, fold] for fold in (1, 3) for k, f in enumerate(ROWS[fold])]
    write_csv("two.csv", ["path", "label", "fold"], rows)
    common = ["--label-file", "two.csv", "--image-dir", images, "--age-groups", "0", "1", *TINY]
    assert call(main, *common, "--folds", 1, 2, "--batch-size", 4) == 2
    assert capsys.readouterr().err == "error: --folds 2: these faces have the folds 1 3\n"
    assert not (tmp_path / "runs").exists()
    assert call(main, *common, "--epochs", 1, "--batch-size", 4) == 0
    printed = capsys.readouterr().out
    assert "run: runs/two, 1 epochs, folds 1 3\n" in printed
    assert "  people: no column 'person', so each file counts as one person\n" in printed
    assert "duplicates: none; no face shows a picture that is in another fold too\n" in printed
    assert json.loads((tmp_path / "runs" / "two" / "config.json").read_text())["folds"] == [1, 3]
    assert call(test_code, "runs/two/fold_1.pt", "--fold", 0) == 2
    assert "--fold 0: these label files have the folds 1 3" in capsys.readouterr().err


def test_a_mistake_in_the_file_leaves_nothing_behind(own, images, tmp_path, capsys):
    text = own[1].read_text()
    (tmp_path / "faces.csv").write_text(text.replace("77.9", "old", 1))
    assert call(main, "--label-file", "faces.csv", "--image-dir", images, *TINY) == 2
    expected = "error: faces.csv, line 9: the age 'old' is not an age; expected years such as 34 or 0.5\n"
    assert capsys.readouterr().err == expected
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"]


def test_models_and_runs_of_earlier_versions_still_load(images, tmp_path):
    """Their records lack the new settings."""
    labels = write_labels(tmp_path / "labels", ROWS)
    arguments = ["--label-dir", labels, "--image-dir", images, *TINY, "--folds", 1, "--run-dir", "old"]
    assert call(main, *arguments, "--epochs", 1) == 0
    old = tmp_path / "old"
    for name in ("label_file", "age_groups"):
        config = json.loads((old / "config.json").read_text())
        del config[name]
        (old / "config.json").write_text(json.dumps(config))
        content = load_plain(old / "fold_1.pt")
        del content["config"][name]
        save_plain(old / "fold_1.pt", content)
    assert call(test_code, old / "fold_1.pt") == 0
    assert call(report, old) == 0
    assert call(main, "--resume", "--run-dir", old) == 0
    record = to_record(Config(seed=3))
    del record["label_file"], record["age_groups"]
    assert from_record("config.json", record) == Config(seed=3)


FILE = ["--label-file", "x.csv", "--image-dir", "x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-file", "x.csv"], "no --image-dir: give it, or set IMAGE_DIR at the top of main.py, or try --demo"),
        ([*FILE, "--label-dir", "y"], "--label-file x.csv with --label-dir y: give one of the two"),
        (["--demo", "--label-file", "x.csv"], "--demo draws its own faces; omit --label-file"),
        (
            ["--label-dir", "y", "--image-dir", "x", "--age-groups", "0-12", "13+"],
            "--age-groups 0-12 13+: Adience's label files have classes of their own; add --label-file",
        ),
        (["--demo", "--age-groups", "0-12", "13+"], "--age-groups 0-12 13+: Adience's label files have classes of"),
        ([*FILE, "--age-groups"], "--age-groups: expected at least two groups, such as 0-12 13-19 20+"),
        ([*FILE, "--age-groups", "a", "a"], "--age-groups a a: 'a' is there twice; name each group once"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    with pytest.raises(UserError) as raised:
        read_arguments()
    assert str(raised.value).startswith(message)


def test_a_label_file_takes_the_place_of_the_constant(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--label-file", "lists/x.csv"])
    arguments = read_arguments("labels", "images")
    assert (arguments.config.label_dir, arguments.config.label_file) == ("", "lists/x.csv")
    assert (arguments.config.image_dir, arguments.config.run_dir) == ("images", "runs/x")
    assert not arguments.folds_given


def test_tables_have_room_for_long_names():
    classes, labels = Classes(("a long name of a class", "b")), np.repeat([0, 1], [3, 7])
    evaluation = Evaluation(
        Faces(pd.DataFrame({"label": labels}), classes),
        np.zeros((10, 2)),
        predicted=np.array([0, 1, 1, *[0] * 3, *[1] * 4]),
    )
    assert confusion_table(evaluation).splitlines() == [
        "true \\ predicted       a long name of a class                      b",
        "a long name of a class                      1                      2",
        "b                                           3                      4",
    ]
    assert per_class_table(evaluation).splitlines() == [
        "class                    faces    top-1   one-off",
        "a long name of a class       3   33.33%   100.00%",
        "b                            7   57.14%   100.00%",
    ]


def test_one_model_of_all_faces(own, images, capsys):
    """No fold is held out: it has no metrics, and no face of its training may be evaluated by what starts from it."""
    command = ["--label-file", own[1], "--image-dir", images, "--age-groups", *GROUPS, *TINY]
    assert call(main, *command, "--folds", "none", "--run-dir", "runs/all") == 0
    output = capsys.readouterr().out
    assert "run: runs/all, 2 epochs, one model of all faces" in output
    assert "all faces  epoch   2/2" in output and " test " not in output.split("all faces  epoch")[1]
    assert output.endswith("runs/all/all.pt is trained on all 40 faces\n")
    record = load_plain("runs/all/all.pt")
    assert (record["fold"], record["train_faces"], len(record["train_people"])) == (5, 40, 20)
    assert {path.name for path in Path("runs/all").glob("[!.]*")} == {
        *("all.pt", "config.json", "folds.csv", "log.csv")
    }
    written = Path("runs/all/all.pt").read_bytes()
    Path("runs/all/all.progress.pt").write_bytes(b"left by a kill")
    assert call(main, "--run-dir", "runs/all", "--resume") == 0
    assert Path("runs/all/all.pt").read_bytes() == written
    assert not Path("runs/all/all.progress.pt").exists()
    for arguments, message in (
        (["--folds", 0, "--init-from", "runs/all"], "was trained on people of these faces: "),
        (["--folds", "none", 1], "--folds none with other folds: a model of all faces holds none out"),
        (["--folds", "no"], "argument --folds: invalid int value: 'no'"),
        (["--folds", "5"], "argument --folds: invalid int value: '5'"),
        (["--folds", "7"], "--folds 7: choose from 0, 1, 2, 3, 4, none"),
    ):
        assert call(main, *command, *arguments, "--run-dir", "runs/other") == 2
        assert message in capsys.readouterr().err
    assert call(predict, "runs/all/all.pt", images, "--no-detect", "--adapt", "--threads", 1) == 2
    assert "it is of an earlier version, or held no face out" in capsys.readouterr().err
    assert call(report, "runs/all") == 2
    assert "'runs/all' holds a model of all faces, which held none out" in capsys.readouterr().err
    assert call(test_code, "runs/all") == 2
    assert "'runs/all/all.pt' was trained on all faces; --label-file names other ones" in capsys.readouterr().err


def test_data_larger_than_the_memory(own, images, capsys, monkeypatch):
    monkeypatch.setattr("training.setup.memory_bytes", lambda: 2 * 40 * 3 * 40 * 40 - 1)  # of 40 faces
    monkeypatch.setattr("data.dataset.SHARD", 5)
    command = ["--label-file", own[1], "--image-dir", images, "--age-groups", *GROUPS, *TINY, "--folds", 0]

    def run(name, *options):
        assert call(main, *command, "--run-dir", f"runs/{name}", *options) == 0
        shuffle = json.loads(Path(f"runs/{name}/config.json").read_text())["shuffle"]
        return shuffle, "--shuffle shards reads a part at a time" in capsys.readouterr().out

    assert run("large") == ("shards", True)
    assert run("whole", "--shuffle", "all") == ("all", False)
    assert run("asked", "--shuffle", "shards") == ("shards", False)
    assert run("sampled", "--balance", "sampling") == ("all", False)
    large, whole, asked = (load_model(f"runs/{name}/fold_0.pt").state_dict() for name in ("large", "whole", "asked"))
    assert all(torch.equal(large[name], asked[name]) for name in large)
    assert not all(torch.equal(large[name], whole[name]) for name in large)
    monkeypatch.setattr("training.setup.memory_bytes", lambda: 2 * 40 * 3 * 40 * 40)
    assert run("small") == ("all", False)
    message = "--shuffle shards with --balance sampling: faces are sampled from the whole cache"
    assert call(main, *command, "--shuffle", "shards", "--balance", "sampling") == 2
    assert message in capsys.readouterr().err


def test_damaged_images_are_left_out(own, images, capsys):
    """Two of forty, counted and named; the model is evaluated without them, too."""
    shutil.copytree(images, "aligned")
    table = pd.read_csv(own[1])
    for path in table.path[[3, 17]]:
        Path("aligned", path).write_bytes(b"damaged")
    command = ["--label-file", own[1], "--image-dir", "aligned", "--age-groups", *GROUPS, *TINY, "--folds", 0, 1]
    assert call(main, *command, "--skip-damaged", 1, "--run-dir", "runs/few") == 2
    assert "--skip-damaged 1: 2 images cannot be read, first '" in capsys.readouterr().err
    assert call(main, *command, "--skip-damaged", 2, "--run-dir", "runs/few") == 0
    assert "damaged: 2 images are left out; runs/few/damaged.csv names them" in capsys.readouterr().out
    named = pd.read_csv("runs/few/damaged.csv").problem
    assert [path in problem for path, problem in zip(table.path[[3, 17]], named, strict=True)] == [True, True]
    results = json.loads(Path("runs/few/results.json").read_text())
    assert results["damaged"] == 2
    folds = pd.read_csv("runs/few/folds.csv")
    assert len(folds) == 38
    for fold in results["folds"]:
        assert fold["test_faces"] == (folds.fold == fold["fold"]).sum()
        assert fold["train_faces"] == (folds.fold != fold["fold"]).sum()
    assert call(test_code, "runs/few", "--json", "few.json") == 0
    assert [report["faces"] for report in json.loads(Path("few.json").read_text())] == [
        fold["test_faces"] for fold in results["folds"]
    ]
    assert call(report, "runs/few", "--output", "few.html") == 0
