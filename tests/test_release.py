"""A published model: it holds hashes only, answers as before, and is still refused on what it was trained on."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call, small_rows, write_images
from test_detection import PORTRAIT
from test_own_data import GROUPS, TINY, YEARS, face_path

import main
import test_code
from models.checkpoint import DETECTOR, load_model
from tools import release
from utils.serialization import load_plain, save_plain

DATA = ["--label-file", "faces.csv", "--image-dir", "images", "--age-groups", *GROUPS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty faces, a model of all of them and one of the folds 0 and 1 with the same settings."""
    folder = tmp_path_factory.mktemp("trained")
    rows = small_rows()
    write_images(folder / "images", rows)
    faces = [fields for fold in rows.values() for fields in fold]
    lines = [f"{face_path(f)},{YEARS[k % 8]},somebody {k // 2},{('phone', 'film')[k % 2]}" for k, f in enumerate(faces)]
    (folder / "faces.csv").write_text("\n".join(["path,age,person,camera", *lines]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(main, *DATA, *TINY, "--folds", "none", "--run-dir", "runs/all") == 0
        assert call(main, *DATA, *TINY, "--folds", 0, 1, "--run-dir", "runs/folds") == 0
    return folder


@pytest.fixture(autouse=True)
def in_this_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def publish(*options):
    return call(release, "runs/all/all.pt", "--folds", "runs/folds", "--terms", "Free <for> all.", *options)


def test_a_published_model_holds_hashes_only(capsys):
    assert publish("--output", "w") == 0
    assert "wrote w/ages.pt, " in capsys.readouterr().out.splitlines()[-1]
    whole, published = load_model("runs/all/all.pt"), load_model("w/ages.pt")
    names = whole.record["train_people"]
    hashed = sorted(hashlib.sha256(name.encode()).digest()[:6] for name in names)
    assert [bytes(row) for row in published.record["hashed_people"].tolist()] == hashed
    assert published.record["train_people"] == []
    content = Path("w/ages.pt").read_bytes() + Path("w/MODEL_CARD.md").read_bytes()
    assert not any(name.encode() in content for name in names)
    assert str(Path.cwd()).encode() not in content
    hashes = whole.record["train_pictures"][:, :32]
    assert torch.equal(published.record["train_pictures"], hashes)
    card = Path("w/MODEL_CARD.md").read_text()
    assert "Free \\<for\\> all." in card
    assert "px; it held out no face\n" in card and "| ages\\.pt | all |" in card
    assert "A model that held out none has the metrics of models with the same settings" in card

    stored = load_plain("w/ages.pt")["state_dict"]
    assert {(tensor.dim() > 1, tensor.dtype) for tensor in stored.values()} == {
        *((True, torch.float16), (False, torch.float32), (False, torch.int64))
    }
    inputs = torch.randn(8, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(published.probabilities(inputs), whole.probabilities(inputs), atol=0.01)


def test_a_published_model_is_published_again_and_teaches(capsys):
    """With the same people, also where a file names some of them and has the hashes of the others."""
    assert publish("--output", "w") == 0
    content, whole = load_plain("w/ages.pt"), load_plain("runs/all/all.pt")
    name = whole["train_people"][0]
    others = [
        row for row in content["hashed_people"].tolist() if bytes(row) != hashlib.sha256(name.encode()).digest()[:6]
    ]
    save_plain(
        "w/both.pt", {**content, "train_people": [name], "hashed_people": torch.tensor(others, dtype=torch.uint8)}
    )
    for number, file in enumerate(("ages.pt", "both.pt")):
        assert call(release, f"w/{file}", "--folds", "runs/folds", "--terms", "x", "--output", f"again{number}") == 0
        again = load_model(f"again{number}/ages.pt").record
        assert torch.equal(again["hashed_people"], content["hashed_people"]) and again["train_people"] == []
        assert "| ages\\.pt | 40 | 20 |" in Path(f"again{number}/MODEL_CARD.md").read_text()
    taught = (*DATA, *TINY, "--folds", "none", "--teacher", "w/ages.pt", "--run-dir", "runs/taught")
    assert call(main, *taught) == 0


def test_the_card_has_errors_in_years_by_each_column(monkeypatch):
    """Of the sixteen faces of two folds, eight are on film; their errors by hand, from the predictions."""
    monkeypatch.setattr("evaluation.subgroups.LEAST_FACES", 3)
    assert publish("--output", "w") == 0
    table = pd.read_csv("runs/folds/predictions.csv").merge(pd.read_csv("faces.csv")[["path", "camera"]], on="path")
    film = table[table.camera == "film"]
    error = film.age - film.true_age
    within = (error.abs() <= 5).mean()
    row = f"| camera | film | {len(film)} | {error.abs().mean():.2f} | {within:.2%} | {error.mean():+.2f} |"
    assert row in Path("w/MODEL_CARD.md").read_text()


def test_its_metrics_are_those_of_the_held_out_faces():
    assert publish("--output", "w") == 0
    results = json.loads(Path("runs/folds/results.json").read_text())
    predictions = np.genfromtxt("runs/folds/predictions.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    record = load_model("w/ages.pt").record
    assert record["metrics"]["top1"] == pytest.approx((predictions["label"] == predictions["prediction"]).mean())
    assert record["temperature"] > 0 and 0 < record["mass"] <= 1
    answers = [predictions[name] for name in predictions.dtype.names if name.startswith("p_")]
    assert record["usual_answer"] == pytest.approx(np.mean(answers, axis=1), abs=1e-6)
    assert len(results["folds"]) == 2


def test_it_is_refused_on_its_training_faces_under_any_name(tmp_path, capsys):
    assert publish("--output", "w") == 0
    assert call(test_code, "w/ages.pt", *DATA[:4]) == 2
    assert "'w/ages.pt' was trained on all faces; --label-file names other ones" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    pictures = sorted(path for path in Path("images").rglob("*") if path.is_file())[:6]
    for number, path in enumerate(pictures):
        shutil.copy(path, other / f"{number}{path.suffix}")
    rows = [f"{number}{path.suffix},{3 + 10 * number}" for number, path in enumerate(pictures)]
    (tmp_path / "other.csv").write_text("\n".join(["path,age", *rows]) + "\n")
    assert call(test_code, "w/ages.pt", "--label-file", tmp_path / "other.csv", "--image-dir", other) == 2
    assert "was trained on pictures of these faces, under other names: 6 of 6" in capsys.readouterr().err
    # A model that starts from it has seen them, too.
    assert call(main, *DATA, *TINY, "--folds", 0, "--init-from", "w/ages.pt", "--run-dir", "runs/more") == 2
    assert "'w/ages.pt' was trained on people of these faces" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/folds/fold_0.pt", "--folds", "runs/folds"], "'runs/folds/fold_0.pt' held out fold 0; publish a model"),
        (["runs/all/all.pt", "--folds", "runs/all"], "'runs/all' has no finished fold"),
        (["runs/all/all.pt", "--folds", "gone"], "'gone' has no finished fold"),
    ],
)
def test_what_cannot_be_published(arguments, message, capsys):
    assert call(release, *arguments, "--terms", "x", "--output", "none") == 2
    assert message in capsys.readouterr().err
    assert not Path("none").exists()


def test_what_is_no_model_is_not_replaced(capsys):
    Path("mine").mkdir()
    Path("mine/ages.pt").write_text("mine")
    assert publish("--output", "mine") == 2
    assert "mine/ages.pt" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in Path("mine").iterdir()] == [("ages.pt", "mine")]


def test_runs_with_other_settings_do_not_fit(capsys):
    assert call(main, *DATA, *TINY, "--lr", 0.02, "--folds", 0, "--run-dir", "runs/other") == 0
    assert call(release, "runs/all/all.pt", "--folds", "runs/other", "--terms", "x") == 2
    assert "was trained with other settings than 'runs/all/all.pt': lr was 0.02" in capsys.readouterr().err


def test_faces_of_photographs_are_refused_too(tmp_path, capsys):
    """The photographs that training faces were cut out of, as predict.py and --detect cut them."""
    (tmp_path / "photos").mkdir()
    PORTRAIT.save(tmp_path / "photos" / "portrait.jpg", quality=95)
    framed = [0.5, 0.45, 0.5, 0.6]
    whole = load_plain("runs/all/all.pt")
    save_plain(tmp_path / "all.pt", {**whole, "framing": framed, "detector": DETECTOR})
    arguments = ["--folds", "runs/folds", "--terms", "Free.", "--photographs", tmp_path / "photos"]
    assert call(release, tmp_path / "all.pt", *arguments, "--output", "p") == 0
    (tmp_path / "other.csv").write_text("path,age,person\nportrait.jpg,30,x\n")
    data = ["--label-file", tmp_path / "other.csv", "--image-dir", tmp_path / "photos", "--age-groups", *GROUPS]
    assert call(test_code, "p/ages.pt", *data, "--detect") == 2
    assert "was trained on pictures of these faces, under other names: 1 of 1" in capsys.readouterr().err


def test_groups_without_ages_have_no_interval_to_fit(tmp_path, monkeypatch):
    """Labels in place of ages: the usual 80 % of the probability remain, and no number is missing."""
    lines = Path("faces.csv").read_text().splitlines()[1:]
    names = {year: "young" if float(year) < 13 else "old" for year in map(str, YEARS)}
    rows = [(path, names[age], person) for path, age, person, _ in (line.split(",") for line in lines)]
    (tmp_path / "named.csv").write_text("path,label,person\n" + "".join(f"{','.join(row)}\n" for row in rows))
    data = ["--label-file", tmp_path / "named.csv", "--image-dir", "images", "--age-groups", "young", "old", *TINY]
    for folds, run in ((["none"], "all"), ([0, 1], "folds")):
        assert call(main, *data, "--folds", *folds, "--run-dir", tmp_path / run) == 0
    arguments = ["--folds", tmp_path / "folds", "--terms", "Free.", "--output", tmp_path / "w"]
    assert call(release, tmp_path / "all" / "all.pt", *arguments) == 0
    assert "mass" not in load_model(tmp_path / "w" / "ages.pt").record
    assert (tmp_path / "w" / "MODEL_CARD.md").is_file()
