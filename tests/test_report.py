"""The HTML report: its numbers by hand, its size, and that nothing in it can become markup or leave half a file."""

import base64
import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REAL_LABELS, ROOT, call, needs_real_labels
from PIL import Image

from data import adience
from data.adience import AGE_GROUPS
from data.faces import Faces
from data.labels import LabelReport
from data.load import load_data
from evaluation.evaluation import Evaluation, pool
from evaluation.label_issues import find_label_issues
from models import create_model
from report import gallery, labels, page, sections, tables
from report.data import (
    NO_PAIRS,
    ReportData,
    data_facts,
    models_data,
    run_data,
    subgroup_table,
    unfinished_note,
    with_image_columns,
)
from report.page import to_json, write_report
from report.plots import COLOURS, INK, QUIET, RULE, plot_learning_curves
from report.svg import page_svg
from tools import correct_labels
from tools import report as tool
from training.run_directory import RunDirectory
from utils.classes import Classes
from utils.errors import UserError

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e\u2028&amp;"
NAMES = Classes.of_ages(("0-2", "4-6", "8-13"))
GROUPS = Classes.of_ages(AGE_GROUPS)


def faces_table(labels, folds=None, path="album{k}/face.{k}.jpg"):
    """A table of faces of one person and one album each."""
    count = len(labels)
    return pd.DataFrame(
        {
            "path": [path.format(k=k) for k in range(count)],
            "label": np.asarray(labels, np.int64),
            "fold": np.zeros(count, np.int64) if folds is None else folds,
            "person": [str(k) for k in range(count)],
            "album": [f"album{k}" for k in range(count)],
            "gender": [("f", "m", "u", "")[k % 4] for k in range(count)],
            "yaw": [(0.0, 15.0, -30.0, np.nan)[k % 4] for k in range(count)],
            "score": np.arange(count, dtype=float),
            "file": [f"fold_{k % 3}_data.txt" for k in range(count)],
            "line": np.arange(count) + 2,
        }
    )


def evaluation_of(labels, probabilities, classes=NAMES, path="album{k}/face.{k}.jpg", **settings):
    faces = Faces(faces_table(labels, path=path), classes)
    return Evaluation(faces, np.asarray(probabilities, np.float32), **{"name": "fold 0", **settings})


def small_model(size=48):
    torch.manual_seed(0)
    model = create_model("resnet18", "softmax", len(GROUPS), width=0.0625).eval()
    model.image_size, model.classes = size, GROUPS
    return model


def large_data(folder, faces=300, folds=3, model=True):
    """A ReportData of random predictions, with a photograph of coloured blocks for every face but the last."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(GROUPS), faces)
    centre = truth + rng.normal(0, 1.5, faces)
    scores = -np.square(np.arange(len(GROUPS)) - centre[:, None])
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    blocks = rng.integers(0, 256, (faces, 6, 6, 3), dtype=np.uint8)
    images = np.repeat(np.repeat(blocks, 8, 1), 8, 2).transpose(0, 3, 1, 2).copy()
    table = faces_table(truth, np.arange(faces) % folds)
    table["person"] = [str(k // 3) for k in range(faces)]
    for k, name in enumerate(table.path[:-1]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[k].transpose(1, 2, 0)).resize((96, 96)).save(folder / name, "JPEG")
    pooled, evaluations = Evaluation(Faces(table, GROUPS), probabilities.astype(np.float32)), []
    for fold in range(folds):
        network = small_model() if model else None
        source = {"name": f"fold {fold}", "model": network, "images": images, "image_dir": str(folder)}
        evaluations.append(dataclasses.replace(pooled.where(table.fold == fold), **source))
    history = {fold: [log_row(fold, epoch) for epoch in range(4)] for fold in range(folds)}
    return ReportData("Age groups: test", evaluations, [("Data", "drawn")], "python main.py", [], history, 4,
                      pooled.faces, np.array([[0, 1], [2, 5]]))  # fmt: skip


def log_row(fold, epoch):
    loss = 40.0 if (fold, epoch) == (0, 1) else 2 - 0.3 * epoch
    return {"fold": fold, "epoch": epoch, "lr": 0.1 / 10**epoch, "gridmask_prob": 0.6 + 0.05 * epoch, "image_size": 48,
            "train_loss": 1.9 - 0.3 * epoch, "train_top1": 0.3 + 0.1 * epoch, "test_top1": 0.25 + 0.1 * epoch,
            "test_one_off": 0.6 + 0.1 * epoch, "test_mae": 1.5 - 0.2 * epoch, "test_loss": loss, "seconds": 2.0,
            "images_per_second": 500.0}  # fmt: skip


class Elements(HTMLParser):
    """The elements, texts of scripts and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text, self.inside = [], [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        self.inside = dict(attributes).get("id", "program") if tag == "script" else tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("data", "pictures", "program"):
            self.scripts[self.inside] = self.scripts.get(self.inside, "") + data
        elif self.inside != "style":
            self.text.append(data)


def written(tmp_path, data, **settings):
    path = tmp_path / "report.html"
    return write_report(path, data, **settings), Elements(path.read_text(encoding="utf-8"))


# Labels 0 0 0 1 1 2, answers 0 0 1 1 2 2: hits 2 1 1, predicted 2 2 2.
LABELS = [0, 0, 0, 1, 1, 2]
PROBABILITIES = [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.3, 0.7, 0], [0.2, 0.6, 0.2], [0, 0.4, 0.6], [0, 0.5, 0.5001]]


def test_results_by_hand():
    found = sections.results(ReportData("", [evaluation_of(LABELS, PROBABILITIES)]))
    assert [cell["value"] for cell in found["rows"][0]["cells"]][:3] == ["66.67 %", "100.00 %", "0.333"]
    assert found["headline"][3]["value"] == "72.22 %"  # balanced: (2/3 + 1/2 + 1) / 3
    rows = [[row["faces"], row["predicted"], row["recall"]["value"], row["f1"]["value"]] for row in found["classes"]]
    assert rows == [
        ["3", "2", "66.67 %", "80.00 %"],  # 2 * 2 / (3 + 2)
        ["2", "2", "50.00 %", "50.00 %"],
        ["1", "2", "100.00 %", "66.67 %"],
    ]
    (constant,) = found["summary"]
    assert constant["name"] == "always 0-2"
    # Three right, two off by one, one off by two.
    assert [cell["value"] for cell in constant["cells"]] == ["50.00 %", "83.33 %", "0.667", "–", "33.33 %"]
    assert found["published"] == []


def test_intervals_are_of_people():
    """Faces of a person come and go together: with 20 people, half of them right, they follow Binomial(20, 1/2)."""
    evaluation = evaluation_of([0] * 100, [[0.9, 0.1, 0]] * 50 + [[0.1, 0.9, 0]] * 50)
    evaluation.faces.table["album"], evaluation.faces.table["person"] = "a", np.repeat(np.arange(20), 5).astype(str)
    cell = sections.results(ReportData("", [evaluation]))["rows"][0]["cells"][0]
    # P(at most 5) is 0.021 and P(at most 6) 0.058.
    assert cell == {"value": "50.00 %", "interval": "30.00 to 70.00"}
    few = evaluation.where(evaluation.faces.table.person != "0")
    assert sections.results(ReportData("", [few]))["rows"][0]["cells"][0]["interval"] == ""


def test_mean_and_pooled_rows():
    first, second = evaluation_of([0, 1], [[1, 0, 0], [0, 1, 0]]), evaluation_of([0, 1, 2, 2], [[0, 1, 0]] * 4)
    rows = sections.results(ReportData("", [first, second]))["summary"]
    assert rows[0]["cells"][0] == {"value": "62.50 %", "interval": "± 53.03"}  # 1 and 1/4
    assert rows[1]["faces"] == "6" and rows[1]["cells"][0]["value"] == "50.00 %"


def test_confusion_by_hand():
    matrix = sections.confusion(ReportData("", [evaluation_of(LABELS, PROBABILITIES)]))
    assert [[cell["count"] for cell in row["cells"]] for row in matrix["rows"]] == [
        ["2", "1", "0"],
        ["0", "1", "1"],
        ["0", "0", "1"],
    ]
    cell = matrix["rows"][0]["cells"][1]
    assert (cell["true"], cell["predicted"], cell["fraction"], cell["level"], cell["near"]) == (0, 1, "33 %", 3, True)
    assert cell["label"] == "true 0-2, predicted 4-6"


def test_calibration(tmp_path):
    data = large_data(tmp_path, faces=600, model=False)
    found, pooled = sections.calibration(data), pool(data.evaluations)
    assert found["rows"][0]["ece"] == f"{100 * pooled.calibration()['ece']:.2f} %"
    assert len(found["rows"]) == 2 and len(found["temperatures"]) == 3
    assert float(found["rows"][1]["nll"]) < float(found["rows"][0]["nll"])  # these answers are far too sure
    assert found["reading"].startswith("All temperatures are over 1")
    assert found["coverage"][0] == ("100 %", f"{100 * pooled.metrics()['top1']:.1f} %")


def test_a_single_fold_has_no_temperature():
    found = sections.calibration(ReportData("", [evaluation_of(LABELS, PROBABILITIES)]))
    assert [row["name"] for row in found["rows"]] == ["before temperature scaling"] and not found["temperatures"]


def test_small_groups_say_too_few(tmp_path):
    data = large_data(tmp_path, faces=100, model=False)
    blocks = {block["title"]: block["rows"] for block in sections.groups(data)["blocks"]}
    assert all(row["too_few"] for row in blocks["gender"] if int(row["faces"]) < 30)
    assert [row["name"] for row in blocks["gender"]] == ["female", "male", "unknown"]
    assert not blocks["gender"][2]["too_few"] and blocks["gender"][0]["too_few"]
    assert "brightness" in blocks


def test_image_sizes_make_groups(tmp_path):
    data = large_data(tmp_path, faces=100, model=False)
    unplaced = [dataclasses.replace(evaluation, image_dir="") for evaluation in data.evaluations]
    assert "image_size" not in set(subgroup_table(ReportData("", unplaced)).column)
    sizes = pd.concat([with_image_columns(evaluation, ["image_size"]).faces.table for evaluation in data.evaluations])
    assert list(sizes) == [*data.faces.table, "width", "height"]
    assert sizes.width.notna().sum() == 99 and set(sizes.width.dropna()) == {96.0}  # one photograph is missing
    assert "image size, pixels" in [block["title"] for block in sections.groups(data)["blocks"]]


def test_subgroups_on_the_terminal():
    """A group of 40 right and 10 wrong, one of 30 right and 30 wrong, and one of 5; every face is a person."""
    right = [1] * 40 + [0] * 10 + [1] * 30 + [0] * 30 + [1] * 5
    evaluation = evaluation_of([0] * 115, [[0.8, 0.2, 0] if r else [0, 0.2, 0.8] for r in right])
    evaluation.faces.table["light"] = ["bright"] * 50 + ["dark"] * 60 + ["odd"] * 5
    lines = tables.subgroups_table(subgroup_table(ReportData("", [evaluation]), ["light"])).splitlines()
    assert [line.split() for line in (lines[1], lines[4])] == [
        ["light"],
        "odd 5 too few (under 30)".split(),
    ]
    bright, dark = (line.split() for line in lines[2:4])
    assert bright[:3] == ["bright", "50", "80.00%"] and bright[4] == "to" and bright[6:8] == ["80.00%", "0.400"]
    assert bright[9] == "+26.2" and bright[-1] == "*"  # against 35 of 65
    assert dark[:3] == ["dark", "60", "50.00%"] and dark[9] == "-31.8" and dark[-1] == "*"  # against 45 of 55


def test_a_latex_table(tmp_path):
    folds = [{"fold": k, "top1": 0.5 + k / 4, "one_off": 0.75, "mae": 0.5} for k in (0, 1)]
    results = {"folds": folds, "mean": {"top1": 0.625, "one_off": 0.75, "mae": 0.5},
               "std": {"top1": 0.17677, "one_off": 0.0, "mae": 0.0}}  # fmt: skip
    tables.write_latex_table(tmp_path / "results.tex", results)
    assert (
        (tmp_path / "results.tex").read_text()
        == r"""\begin{tabular}{lrrr}
\toprule
held out & top-1 & one-off & MAE \\
\midrule
fold 0 & 50.00\% & 75.00\% & 0.500 \\
fold 1 & 75.00\% & 75.00\% & 0.500 \\
\midrule
mean & 62.50\% & 75.00\% & 0.500 \\
$\pm$ std & 17.68\% & 0.00\% & 0.000 \\
\bottomrule
\end{tabular}
"""
    )


def test_plots_in_other_formats(tmp_path):
    write_report(tmp_path / "run" / "report.html", large_data(tmp_path / "faces", faces=40, folds=1), ("pdf", "svg"))
    stems = ["calibration", "confusion", "learning_curves", "parameters_fold_0"]
    found = sorted(path.name for path in (tmp_path / "run").iterdir() if path.suffix in (".pdf", ".svg", ".png"))
    assert found == sorted(f"{stem}.{ending}" for stem in stems for ending in ("pdf", "svg"))
    for path in (tmp_path / "run").glob("*.pdf"):
        assert path.read_bytes().startswith(b"%PDF") and b"/Type3" not in path.read_bytes()
    for path in (tmp_path / "run").glob("*.svg"):
        ElementTree.parse(path)


def test_suspects_are_those_of_the_rule(tmp_path):
    data = large_data(tmp_path, model=False)
    table, pooled = labels.suspect_labels(data)["table"], pool(data.evaluations)
    expected = find_label_issues(pooled.labels, pooled.probabilities)
    assert table.path.tolist() == pooled.faces.table.path.iloc[expected.row].tolist()
    first = table.iloc[0]
    number = int(first.path.split(".")[1])
    assert (first.file, first.line) == (f"fold_{number % 3}_data.txt", number + 2)


def test_labels_from_predictions_have_no_line(tmp_path):
    """Those of a run whose label files are gone."""
    data = large_data(tmp_path, model=False)
    bare = [dataclasses.replace(evaluation, faces=dataclasses.replace(
        evaluation.faces, table=evaluation.faces.table.drop(columns=["file", "line", "gender", "yaw", "score"])
    )) for evaluation in data.evaluations]  # fmt: skip
    data = dataclasses.replace(data, evaluations=bare, faces=None)
    assert set(labels.suspect_labels(data)["table"].line) == {""}
    _, elements = written(tmp_path, data)
    assert set(json.loads(elements.scripts["data"])["faces"]["reference"]) == {""}


def test_pairs_have_different_labels(tmp_path):
    data = large_data(tmp_path, model=False)
    table = data.faces.table.assign(label=[1, 3, 2, 0, 0, 2] + [0] * (len(data.faces) - 6))
    found = labels.repeated_pictures(dataclasses.replace(data, faces=Faces(table, GROUPS)))
    (pair,) = found["rows"]  # rows 2 and 5 have one label
    assert [(face["label"], face["fold"], face["reference"]) for face in pair] == [
        ("4-6", 0, "fold_0_data.txt:2"),
        ("15-20", 1, "fold_1_data.txt:3"),
    ]


@needs_real_labels
def test_adience_is_recognised():
    rows = adience.read_rows(REAL_LABELS)
    for policy in adience.FACES_PER_FOLD:
        faces = adience.select_faces(rows, policy).faces
        assert adience.is_adience(faces)
        assert adience.is_adience(faces.where(faces.table.fold.isin([1, 3])))
        assert not adience.is_adience(faces.where(faces.table.index > 0))
        assert not adience.is_adience(Faces(faces.table, Classes(tuple("abcdefgh"))))


def test_other_data_have_no_published_figures(tmp_path):
    data = large_data(tmp_path / "faces", model=False)
    assert sections.results(data)["published"] == []
    assert "Published on Adience" not in write_and_read(tmp_path, data)


def write_and_read(tmp_path, data, **settings):
    write_report(tmp_path / "report.html", data, **settings)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_learning_curves_by_hand(tmp_path):
    data = large_data(tmp_path, model=False)
    figure = plot_learning_curves(data.history)
    axes = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(axes) == ["top-1", "one-off", "MAE", "loss", "Learning rate", "GridMask probability"]
    solid = axes["top-1"].lines[1]  # after the training faces of fold 0
    assert solid.get_xdata().tolist() == [1, 2, 3, 4] and solid.get_ydata().tolist() == pytest.approx(
        [0.25, 0.35, 0.45, 0.55]
    )
    assert [axis.get_yscale() for axis in axes.values()] == ["linear"] * 4 + ["log", "linear"]
    # The held-out loss of 40 is an arrow at the edge, 1.2 times the largest other loss.
    assert [text.get_text() for text in axes["loss"].texts] == ["40"]
    assert axes["loss"].get_ylim() == pytest.approx((0, 1.2 * 1.9))
    rows = sections.training(data)["rows"]
    assert (rows[0]["epochs"], rows[0]["train"], rows[0]["test"]) == ("4 of 4", "60.00 %", "55.00 %")


def test_a_log_of_before_a_metric_was_added(tmp_path):
    data = large_data(tmp_path, model=False)
    history = {0: [{name: value for name, value in row.items() if name != "test_mae"} for row in data.history[0]]}
    chart = sections.training(dataclasses.replace(data, history=history))["chart"]
    assert "MAE" not in chart and "one-off of the held-out folds: fold 0 from 60.00% to 90.00%." in chart


def test_figures_follow_the_colours_of_the_page(tmp_path):
    figure = plot_learning_curves(large_data(tmp_path, model=False).history)
    text = page_svg(figure, "curves", "in words: <b>")
    assert text == page_svg(figure, "curves", "in words: <b>")  # the same bytes
    drawn = ElementTree.fromstring(text)
    assert drawn.get("role") == "img" and drawn.get("aria-label") == "in words: <b>"
    attributes = [(name, value) for element in drawn.iter() for name, value in element.attrib.items()]
    assert not any(name == "style" or (value.startswith("#") and name != "href") for name, value in attributes)
    colours = {value for name, value in attributes if name in ("fill", "stroke")}
    assert colours == {"none", *(f"var(--{name})" for name in ("c0", "c1", "c2", "c5", "ink", "quiet", "rule"))}
    targets = {value for name, value in attributes if name == "id"}
    assert {value.removeprefix("#") for name, value in attributes if name == "href"} <= targets
    assert all(value.startswith("curves-") for value in targets)
    assert {"top-1", "loss", "40", "fold 2"} <= {element.text for element in drawn.iter() if element.tag == "text"}


def test_the_page_has_the_colours_of_the_figures():
    style = (page.TEMPLATES / "report.css").read_text().split("@media")[0]
    names = {"ink": INK, "quiet": QUIET, "rule": RULE, **{f"c{k}": colour for k, colour in enumerate(COLOURS)}}
    assert all(f"--{name}: {colour};" in style for name, colour in names.items())


def test_json_cannot_end_a_script():
    text = to_json({"name": HOSTILE})
    assert not set("<>&\u2028\u202e") & set(text)
    assert json.loads(text) == {"name": HOSTILE}


def test_hostile_names_stay_text(tmp_path):
    data = large_data(tmp_path / "faces", faces=60, model=False)
    hostile = HOSTILE.replace("/", "∕") + "$"
    table = data.faces.table.assign(path=[f"{hostile}{k}" for k in range(60)], album=hostile, gender=hostile,
                                    file=hostile)  # fmt: skip
    faces = Faces(table, Classes((*AGE_GROUPS[:-1], hostile)))
    evaluations = [
        dataclasses.replace(evaluation, name=hostile, model=small_model(), faces=faces.where(table.fold == fold))
        for fold, evaluation in enumerate(data.evaluations)
    ]
    data = dataclasses.replace(data, title=hostile, facts=[(hostile, hostile)], command=hostile, notes=[hostile],
                               evaluations=evaluations, faces=faces, pairs=np.array([[0, 1]]))  # fmt: skip
    _, elements = written(tmp_path, data)
    plain = written(tmp_path / "plain", large_data(tmp_path / "plain_faces", faces=60))[1]
    assert elements.tags.count("script") == 3 and elements.tags.count("img") == plain.tags.count("img")
    assert not [attribute for attribute in elements.attributes if attribute[1].startswith("on")]
    assert json.loads(elements.scripts["data"])["names"][-1] == hostile
    assert "alert" not in elements.scripts["program"]


def test_nothing_is_fetched(tmp_path):
    text = write_and_read(tmp_path, large_data(tmp_path / "faces", faces=60))
    elements = Elements(text)
    addresses = [value for _, name, value in elements.attributes if name in ("src", "href", "action", "data")]
    assert addresses and all(value.startswith(("#", "data:image/jpeg;base64,")) for value in addresses)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML|document\.write|eval\(", text)
    policy = next(value for _, name, value in elements.attributes if name == "content" and "default-src" in value)
    assert policy.startswith(
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src 'sha256-"
    )


def test_missing_photographs_are_counted(tmp_path):
    data = large_data(tmp_path / "faces", faces=60, model=False)
    shutil.rmtree(tmp_path / "faces" / "album1")
    text = write_and_read(tmp_path, data)
    assert "2 photographs are missing and have a grey tile" in text or "1 photographs are missing" in text
    result = write_report(tmp_path / "report.html", data)
    shown = json.loads(Elements(text).scripts["pictures"])["scans"]
    assert result["missing"] == shown.count(None) >= 1


def test_thumbnails_are_pictures(tmp_path):
    data = large_data(tmp_path / "faces", faces=40, model=False)
    made = gallery.make_thumbnails([tmp_path / "faces" / path for path in data.faces.table.path[:5]])
    assert made["side"] == 96  # no larger than the photographs
    whole = base64.b64decode(made["header"]) + base64.b64decode(made["scans"][3])
    expected = np.asarray(Image.open(tmp_path / "faces" / data.faces.table.path[3]), int)
    assert np.abs(np.asarray(Image.open(io.BytesIO(whole)), int) - expected).mean() < 8


def test_saliency_of_every_mistake(tmp_path):
    data = large_data(tmp_path / "faces", faces=40)
    _, elements = written(tmp_path, data)
    data = json.loads(elements.scripts["data"])
    assert data["grids"] == [[2, 2]] * 3
    assert all(data["faces"]["true_map"]) and all(data["faces"]["predicted_map"])
    same = [a == b for a, b in zip(data["faces"]["true_map"], data["faces"]["predicted_map"], strict=True)]
    right = [a == b for a, b in zip(data["faces"]["label"], data["faces"]["prediction"], strict=True)]
    assert all(s for s, r in zip(same, right, strict=True) if r) and not all(same)


def test_many_mistakes_fit(tmp_path, monkeypatch):
    """A quarter of 20,000, in a quarter of the budget; benchmarks/RESULTS.md has all of them."""
    count, budget = 5_000, 25_000_000 // 4
    monkeypatch.setattr(gallery, "BUDGET", gallery.BUDGET // 4)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, count)
    probabilities = rng.dirichlet(np.full(8, 0.3), count)
    probabilities[np.arange(count), truth] = 0  # every answer is wrong
    probabilities /= probabilities.sum(1, keepdims=True)
    name = "a/landmark_aligned_face.{k}.10171115404_aa9c8ad4ff_o.jpg"
    evaluation = evaluation_of(truth, probabilities, GROUPS, path=name, image_dir=str(tmp_path / "i"))
    (tmp_path / "i" / "a").mkdir(parents=True)
    first = tmp_path / "first.jpg"
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((96, 96)))
    Image.fromarray(pixels).save(first, quality=80)
    for path in evaluation.faces.table.path:
        os.link(first, tmp_path / "i" / path)
    result = write_report(tmp_path / "report.html", ReportData("", [evaluation]))
    assert result["bytes"] == (tmp_path / "report.html").stat().st_size <= budget
    assert result["mistakes"] == result["shown"] == count and result["side"] >= 40


def test_what_does_not_fit_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_MISTAKES", 40)
    data = large_data(tmp_path / "faces", faces=400, model=False)
    result, elements = written(tmp_path, data)
    faces = json.loads(elements.scripts["data"])["faces"]
    assert sum(a != b for a, b in zip(faces["label"], faces["prediction"], strict=True)) == result["shown"] == 40
    words = f"40 of {result['mistakes']} mistakes are shown, the most confident ones"
    assert words in "".join(elements.text)


def test_an_old_report_survives_an_error(tmp_path, monkeypatch):
    data = large_data(tmp_path / "faces", faces=40, model=False)
    before = write_and_read(tmp_path, data)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        write_report(tmp_path / "report.html", dataclasses.replace(data, title="another"))
    assert (tmp_path / "report.html").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "report.html", "suspects.csv"]


def test_files_of_others_are_not_replaced(tmp_path):
    data = large_data(tmp_path / "faces", faces=40, model=False)
    for name in ("report.html", "suspects.csv"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name}' exists and is not our"):
            write_report(tmp_path / "report.html", data)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_a_run_without_a_finished_fold(tmp_path):
    settings = {"folds": [0, 1], "epochs": 4}
    history = {0: [log_row(0, 0)], 1: []}
    note = unfinished_note(settings, history, 0)
    assert note.startswith("This run is not finished: 1 of 8 epochs are trained, 0 of 2 folds are done.")
    text = write_and_read(tmp_path, ReportData("t", [], notes=[note], history={0: history[0]}, epochs=4))
    assert note in text and text.count("No fold is finished yet") == 7
    assert "1 of 4" in text and not (tmp_path / "suspects.csv").exists()


def test_several_models_of_the_same_faces(tmp_path):
    evaluation = large_data(tmp_path / "faces", faces=60, folds=1).evaluations[0]
    data = models_data([evaluation, dataclasses.replace(evaluation, name="runs/another.pt")], "python test_code.py")
    assert data.notes == ["Some faces have the answers of several models: each answer counts."]
    assert sections.results(data)["summary"][1]["faces"] == "120"
    assert subgroup_table(data, ["fold"]).faces.tolist() == [60]
    shown = json.loads(written(tmp_path, data)[1].scripts["data"])
    assert shown["models"] == ["fold 0", "runs/another.pt"] and set(shown["faces"]["model"]) == {0, 1}


@pytest.fixture(scope="module")
def small_run(tmp_path_factory, small_faces_once):
    folder = tmp_path_factory.mktemp("report")
    label_dir, image_dir = small_faces_once
    command = [sys.executable, "main.py", "--label-dir", label_dir, "--image-dir", image_dir, "--image-size", "40",
               "--epochs", "2", "--batch-size", "4", "--width", "0.0625", "--threads", "1", "--no-plots", "--run-dir",
               folder / "run", "--cache-dir", folder / "cache"]  # fmt: skip
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    return folder


def run_tool(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    tool.main()
    return capsys.readouterr().out


def test_the_report_of_a_run(small_run, monkeypatch, capsys):
    run = small_run / "run"
    printed = run_tool(monkeypatch, capsys, run, "--cache-dir", small_run / "cache")
    text = (run / "report.html").read_text()
    results = json.loads((run / "results.json").read_text())
    mistakes = sum(fold["test_faces"] - sum(fold["confusion"][k][k] for k in range(8)) for fold in results["folds"])
    assert f"{mistakes} of {mistakes} mistakes" in printed and f"{mistakes} of {mistakes} mistakes are shown" in text
    for fold in results["folds"]:
        assert f"{100 * fold['top1']:.2f} %" in text
    assert f"{100 * results['mean']['top1']:.2f} %" in text
    suspects = pd.read_csv(run / "suspects.csv")
    assert set(suspects.file) <= {f"fold_{k}_data.txt" for k in range(5)} and (suspects.line >= 2).all()
    assert "python main.py --label-dir" in text and "--epochs 2" in text


@pytest.mark.parametrize("folds, note", [
    ((3, 4), "6 of 10 epochs are trained, 3 of 5 folds are done"), (range(5), "0 of 10 epochs are trained, 0 of 5"),
])  # fmt: skip
def test_the_report_of_an_unfinished_run(small_run, monkeypatch, capsys, tmp_path, folds, note):
    run = tmp_path / "run"
    shutil.copytree(small_run / "run", run)
    for fold in folds:
        (run / f"fold_{fold}.pt").unlink()
    run_tool(monkeypatch, capsys, run, "--cache-dir", small_run / "cache")
    assert note in (run / "report.html").read_text()


def test_the_report_without_photographs(small_run, monkeypatch, capsys, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small_run / "run", run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "image_dir": str(tmp_path / "gone")}))
    run_tool(monkeypatch, capsys, run, "--cache-dir", small_run / "cache")
    text = (run / "report.html").read_text()
    assert "The label files or photographs are not at hand" in text and "photographs are missing" in text
    with pytest.raises(UserError, match="--image-dir"):
        run_tool(monkeypatch, capsys, run, "--image-dir", tmp_path / "gone too")


def test_labels_that_changed_since_are_refused(small_run, monkeypatch, capsys, tmp_path):
    config = json.loads((small_run / "run" / "config.json").read_text())
    shutil.copytree(config["label_dir"], tmp_path / "labels")
    path = tmp_path / "labels" / "fold_0_data.txt"
    path.write_text(path.read_text().replace("(0, 2)", "(4, 6)"))
    with pytest.raises(UserError, match="was trained on other faces, labels or pixels"):
        run_tool(monkeypatch, capsys, small_run / "run", "--label-dir", tmp_path / "labels", "--cache-dir",
                 small_run / "cache", "--output", tmp_path / "report.html")  # fmt: skip


def test_facts_of_a_run(small_run):
    run = RunDirectory(small_run / "run").read()
    settings = json.loads((small_run / "run" / "config.json").read_text())
    data = run_data(settings, run.evaluations, run.history)
    terms = [term for term, _ in data.facts]
    assert terms == ["Network", "Recipe", "Seed", "Machine", "Code", "Versions", "Training time"]
    assert [evaluation.name for evaluation in data.evaluations] == [f"fold {fold}" for fold in range(5)]
    assert data.notes == ["The label files or photographs are not at hand: there are no pictures and no pose."]


def test_facts_of_the_data(tmp_path):
    data = large_data(tmp_path, faces=16, folds=2, model=False)
    faces = Faces(data.faces.table.assign(label=[0, 7] * 8), GROUPS)
    labels = LabelReport(faces, "strict", 21, 2, {"without an age": 3, "with a single age": 0}, {})
    assert dict(data_facts(faces, data.pairs, labels)) == {
        "Data": "16 faces of 16 people",
        "Labels": "21 rows read, 16 faces used (policy strict); left out: 2 repeated rows, 3 without an age;"
        " per fold: 0: 8  1: 8; per class: 0-2: 8  60+: 8;"
        " note: no face has the class 4-6, 8-13, 15-20, 25-32, 38-43, 48-53",
        "Pictures seen twice": "2 pairs, 2 of them across folds",
    }
    assert "Labels" not in dict(data_facts(faces, NO_PAIRS, None))


def test_a_model_below_the_constant_answer_is_told():
    sure = np.eye(3)[[1, 1, 0, 0]]
    line = "warning: always answering 0-2 would be right more often; the model has learned little"
    assert tables.warnings_of(evaluation_of([0, 0, 0, 1], sure)) == [line]  # 1 of 4 against 3 of 4
    assert tables.warnings_of(evaluation_of([1, 1, 0, 0], sure)) == []
    # Right less often, 2 of 5 against 3 of 5, and yet nearer: off by 3 in all, and not by 4.
    assert tables.warnings_of(evaluation_of([0, 0, 0, 2, 2], np.eye(3)[[1, 1, 0, 2, 1]])) == []


def test_a_deviation_has_no_sign():
    assert tables.show("bias_years", {"bias_years": 3.766}) == "+3.77"
    assert tables.show("bias_years", {"bias_years": 3.766}, "± std") == "3.77"


class TestCorrectLabels:
    """tools/correct_labels.py, with a list of suspects that somebody has edited."""

    HEADER = "rank,path,label,suggested,p_label,p_suggested"

    @pytest.fixture
    def run(self, small_run, tmp_path):
        for name in ("results.json", "predictions.csv", "config.json"):
            shutil.copy(small_run / "run" / name, tmp_path)
        return tmp_path

    def correct(self, run, *rows):
        (run / "suspects.csv").write_text("\n".join([self.HEADER, *rows]))
        return call(correct_labels, run)

    def test_the_file(self, run, small_faces_once, capsys):
        first, second = list(csv.DictReader((run / "predictions.csv").open()))[:2]
        label, other = (AGE_GROUPS[int(row["label"])] for row in (first, second))
        assert self.correct(run, f"3,{first['path']},{label},60+,0.0124,0.875") == 0
        out, err = capsys.readouterr()
        rows = {row["path"]: row for row in csv.DictReader(io.StringIO(out))}
        assert len(rows) == len(list(csv.DictReader((run / "predictions.csv").open())))
        person = f"{first['album']}/{first['person']}"
        reason = f"suspect 3: 87.5 % for 60+ and 1.2 % for {label}"
        assert err.splitlines()[1] == f"  --label-file FILE --age-groups {' '.join(AGE_GROUPS)}"
        changed = rows[first["path"]]
        assert [changed[name] for name in ("label", "person", "fold", "was", "reason")] == [
            "60+", person, first["fold"], label, reason
        ]  # fmt: skip
        assert changed["gender"] in ("m", "f", "u", "") and not {"album", "file", "line"} & changed.keys()
        assert rows[second["path"]]["label"] == other and rows[second["path"]]["was"] == ""
        assert err.startswith("1 of ")
        (run / "corrected.csv").write_text(out)
        faces, _ = load_data(None, small_faces_once[1], "strict", True, run / "corrected.csv", tuple(AGE_GROUPS), 0)
        assert faces.table.set_index("path").label[first["path"]] == 7

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1,nobody.jpg,60+,0-2,0.1,0.9", "line 2: 'nobody.jpg' is no face of this run with the label '60+'"),
            ("1,{path},other,0-2,0.1,0.9", "line 2: '{path}' is no face of this run with the label 'other'"),
            ("1,{path},{label},old,0.1,0.9", "line 2: 'old' is no class; expected 0-2, 4-6, 8-13, 15-20, "),
            ("1,{path},{label},0-2,0.1,sure", "could not convert string to float: 'sure'"),
            ("1,{path}", "line 2: 2 fields instead of the header's 6"),
        ],
    )
    def test_wrong_rows(self, run, row, message, capsys):
        first = next(csv.DictReader((run / "predictions.csv").open()))
        names = {"path": first["path"], "label": AGE_GROUPS[int(first["label"])]}
        assert self.correct(run, row.format(**names)) == 2
        out, err = capsys.readouterr()
        assert out == "" and message.format(**names) in err

    def test_a_run_without_a_list(self, run, capsys):
        assert call(correct_labels, run) == 2
        assert "suspects.csv" in capsys.readouterr().err


def test_a_negative_bias_is_within_the_picture(tmp_path):
    rows = [{**row, "test_bias_years": -5.0 + row["epoch"]} for row in large_data(tmp_path, model=False).history[0]]
    figure = plot_learning_curves({0: rows})
    [axes] = [axes for axes in figure.axes if axes.get_title(loc="left") == "bias"]
    assert axes.get_ylim()[0] < -5
