"""The comparison of runs: McNemar's test, differences by hand, refusals by the real script, and the CSV file."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import call

from data.faces import Faces
from evaluation.evaluation import Evaluation
from evaluation.paired import mcnemar
from evaluation.predictions import predictions_digest
from tools import compare_runs
from tools.compare_runs import (
    by_settings,
    compare,
    comparison_table,
    face_changes,
    method_table,
    paper_table,
    read_runs,
)
from utils.classes import Classes
from utils.errors import UserError
from utils.files import write_json

NAMES = ("0-2", "4-6", "8-13")
LABELS = [0, 0, 1, 1, 2, 2]
FIRST = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]
SECOND = [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.1, 0.5, 0.4], [0.2, 0.1, 0.7]]
# Answers 0 0 0 1 0 2 and 0 1 1 1 1 2: one face is lost, one gained, one wrong otherwise, three are right twice.


def faces_of(labels, folds, people=None, names=NAMES, path="album{k}/face.{k}.jpg"):
    count = len(labels)
    table = pd.DataFrame(
        {
            "path": [path.format(k=k) for k in range(count)],
            "album": [f"album{k}" for k in range(count)],
            "person": [str(k) for k in range(count)] if people is None else people,
            "fold": np.asarray(folds, np.int64),
            "label": np.asarray(labels, np.int64),
        }
    )
    return Faces(table.assign(album="a") if people is not None else table, Classes(tuple(names)))


def evaluation_of(probabilities, labels=LABELS, folds=(0, 0, 0, 1, 1, 1), people=None, name="", **settings):
    return Evaluation(faces_of(labels, folds, people, **settings), np.asarray(probabilities, np.float32), name=name)


def write_run(folder, evaluation, fingerprint="f", **settings):
    """The files of a run that a comparison reads."""
    folder.mkdir(parents=True)
    table = evaluation.table()
    table.to_csv(folder / "predictions.csv", index=False)
    folds = [
        {"fold": int(fold), "predictions_sha256": predictions_digest(rows)} for fold, rows in table.groupby("fold")
    ]
    write_json(folder / "results.json", {"data_fingerprint": fingerprint, "settings": settings, "folds": folds})
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two runs on the same six faces."""
    return (
        write_run(tmp_path / "first", evaluation_of(FIRST), image_size=64),
        write_run(tmp_path / "second", evaluation_of(SECOND), image_size=64),
    )


@pytest.fixture
def script(monkeypatch, tmp_path, capsys):
    """A function that runs the script in this process; returns its exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: (call(compare_runs, *arguments), *capsys.readouterr())


def rights(lost, gained, both=3, neither=2):
    """Two bool arrays with the given numbers of faces."""
    pairs = [(1, 0)] * lost + [(0, 1)] * gained + [(1, 1)] * both + [(0, 0)] * neither
    return np.array(pairs, bool).reshape(-1, 2).T


def test_mcnemar_by_hand_and_as_the_binomial_test():
    assert mcnemar(*rights(1, 5)) == 14 / 64  # 2 (1 + 6) / 2**6
    assert mcnemar(*rights(0, 10)) == 2 / 1024
    assert mcnemar(*rights(4, 4)) == mcnemar(*rights(0, 1)) == mcnemar(*rights(0, 0)) == 1.0
    stats = pytest.importorskip("scipy.stats")
    counts = [(lost, gained) for lost in range(9) for gained in range(9)]
    for lost, gained in [*counts[1:], (30, 52), (512, 600), (4000, 4190), (0, 1500)]:
        expected = stats.binomtest(lost, lost + gained).pvalue
        assert mcnemar(*rights(lost, gained)) == pytest.approx(expected, rel=1e-9)


def test_differences_by_hand():
    rows = compare(evaluation_of(FIRST), evaluation_of(SECOND))
    assert [row["name"] for row in rows] == ["fold 0", "fold 1", "all faces"]
    values = [[row["differences"][name][0] for name in ("top1", "one_off", "mae")] for row in rows]
    # Of fold 0, b loses a face and gains one; of fold 1 it moves a mistake from two classes off to one.
    assert values == [pytest.approx([0, 0, 0]), pytest.approx([0, 1 / 3, -1 / 3]), pytest.approx([0, 1 / 6, -1 / 6])]
    loss = -np.log([0.7, 0.2, 0.8, 0.6, 0.4, 0.7]) + np.log([0.8, 0.6, 0.4, 0.7, 0.1, 0.7])
    assert rows[2]["differences"]["loss"][0] == pytest.approx(loss.mean(), abs=1e-6)
    assert [[row[name] for name in ("lost", "gained")] for row in rows] == [[1, 1], [0, 0], [1, 1]]
    assert [row["p"] for row in rows] == [1.0, 1.0, 1.0]
    first, second = (evaluation_of(probabilities, folds=[2] * 6) for probabilities in (FIRST, SECOND))
    assert [row["name"] for row in compare(first, second)] == ["fold 2"]


def test_changes_by_hand():
    table = face_changes(evaluation_of(FIRST), evaluation_of(SECOND, name="b"))
    assert table.index.tolist() == [1, 2, 4, 0, 3, 5]  # |difference| 0.4 0.4 0.3 0.1 0.1 0, then by path
    assert table.gain.round(3).tolist() == [-0.4, 0.4, 0.3, -0.1, -0.1, 0]
    assert table.change.tolist() == ["right → wrong", "wrong → right", "both wrong, differently", "", "", ""]
    assert table.iloc[0].drop(["gain", "p_first", "p_second"]).to_dict() == {
        "path": "album1/face.1.jpg", "fold": 0, "person": "1", "run": "b", "label": "0-2", "first": "0-2",
        "second": "4-6", "change": "right → wrong",
    }  # fmt: skip
    assert table.iloc[0][["p_first", "p_second"]].tolist() == pytest.approx([0.6, 0.2])


def test_the_printed_table():
    lines = comparison_table(evaluation_of(FIRST, name="a"), [evaluation_of(SECOND, name="b")]).splitlines()
    assert lines[0].startswith("differences from a, percentages in points")
    assert lines[1].split() == "top-1 one-off MAE loss lost gained McNemar p".split()
    assert lines[2] == "b" and lines[7].split()[:5] == ["all", "faces", "+0.00", "+16.67", "-0.167"]
    assert lines[7].split()[-3:] == ["1", "1", "1.0000"] and len(lines) == 10
    assert {line.count(" to ") for line in lines[4:9:2]} == {4}


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_script(runs, script, tmp_path):
    first, second = runs
    third = write_run(tmp_path / "third", evaluation_of(np.roll(FIRST, 1, axis=1)))
    status, shown, errors = script(first, second, third)
    assert (status, errors) == (0, "")
    assert {"second", "third"} <= set(shown.splitlines()) and shown.endswith("\nwrote changes.csv\n")
    rows = read_csv(tmp_path / "changes.csv")
    assert [row["run"] for row in rows] == ["second"] * 6 + ["third"] * 6
    assert [row["change"] for row in rows][:4] == ["right → wrong", "wrong → right", "both wrong, differently", ""]
    assert {row["path"] for row in rows} == {f"album{k}/face.{k}.jpg" for k in range(6)}
    status, _, errors = script(first, second, "--output", tmp_path / "changes.csv")
    assert (status, errors) == (0, "")
    assert read_csv(tmp_path / "changes.csv") == rows[:6]


def test_the_order_of_faces_does_not_matter(tmp_path):
    first = write_run(tmp_path / "first", evaluation_of(FIRST))
    ordered = evaluation_of(SECOND)
    reverse = Evaluation(Faces(ordered.faces.table[::-1], ordered.classes), ordered.probabilities[::-1])
    second = write_run(tmp_path / "second", reverse)
    assert compare(*(run for run, _ in read_runs([first, second])))[2]["lost"] == 1


def test_names_of_runs(tmp_path):
    """The names of the folders; the whole paths where two of them are the same."""
    folders = [tmp_path / "x" / "a", tmp_path / "y" / "a", tmp_path / "c"]
    for number, folder in enumerate(folders):
        write_run(folder, evaluation_of(np.roll(FIRST, number, axis=1)))
    assert [run.name for run, _ in read_runs(folders[1:])] == ["a", "c"]
    assert [run.name for run, _ in read_runs(folders)] == list(map(str, folders))


def change_results(folder, change):
    path = folder / "results.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def damage(folder):
    path = folder / "predictions.csv"
    path.write_text(path.read_text().replace("0.4", "0.3"))


REFUSALS = {
    "the same run": (lambda a, b: (a, b, a), "first' and '.*first' have the same predictions for fold 0"),
    "one run": (lambda a, b: (a,), "the following arguments are required: B"),
    "a run is damaged": (lambda a, b: (a, (damage(b), b)[1]), "is damaged: the 3 rows of fold 1"),
    "other pixels": ({"fingerprint": "g"}, "c' saw other faces, labels or pixels than '.*first'"),
    "other labels": ({"labels": [0, 0, 1, 1, 2, 0]}, "c' saw other faces, labels or pixels than"),
    "other faces": ({"path": "b/{k}.jpg"}, "c' saw other faces, labels or pixels than"),
    "other folds": (
        {"folds": [2, 2, 2, 3, 3, 3]},
        "no fold is finished in all of these runs: .*first' has 0 1, .*c' has 2 3",
    ),
    "other classes": ({"names": ("a", "b", "c")}, "c' has other classes than"),
    "no finished fold": (
        lambda a, b: [change_results(run, lambda content: content.update(folds=[])) for run in (a, b)],
        "no fold is finished in all of these runs: .*first' has none",
    ),
    "damaged settings": (
        lambda a, b: (a, change_results(b, lambda content: content.update(settings=[1]))),
        "second/results.json' is damaged, or is not the results of a run of this version",
    ),
    "no run": (lambda a, b: (a, a.parent / "none"), "cannot read '.*none/results.json'"),
    "no photographs": (lambda a, b: (a, b, "--image-dir", a), "unrecognized arguments: --image-dir"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(runs, script, tmp_path, case):
    change, message = REFUSALS[case]
    if isinstance(change, dict):  # of the second run
        fingerprint = change.get("fingerprint", "f")
        changes = {name: value for name, value in change.items() if name != "fingerprint"}
        arguments = runs[0], write_run(tmp_path / "c", evaluation_of(SECOND, **changes), fingerprint, image_size=64)
    else:
        arguments = change(*runs)
    output = tmp_path / "changes.csv"
    status, shown, errors = script(*arguments, "--output", output)
    assert status == 2 and shown == "" and not output.exists()
    assert len(errors.splitlines()) == 1 and re.search(message, errors), errors


def test_runs_at_different_sizes_are_compared_by_their_faces(runs, script, tmp_path):
    larger = write_run(tmp_path / "larger", evaluation_of(SECOND), "g", image_size=112)
    status, shown, errors = script(runs[0], larger)
    assert status == 0, errors
    assert "note: trained at 64, 112 px; that the photographs are the same is known by their paths only" in shown


def test_a_run_of_fewer_folds_is_compared_on_these(runs, script, tmp_path):
    fewer = write_run(tmp_path / "fewer", evaluation_of(SECOND, folds=[0, 0, 0, 3, 3, 3]))
    status, shown, errors = script(runs[0], fewer, "--output", tmp_path / "changes.csv")
    assert status == 0, errors
    assert "note: compared on fold 0, which all of them have finished" in shown
    assert set(pd.read_csv(tmp_path / "changes.csv").fold) == {0}
    (first, results), (second, _) = read_runs([runs[0], fewer])
    assert [fold["fold"] for fold in results["folds"]] == [0]
    assert len(first) == len(second) == 3
    assert second.probabilities.tolist() == evaluation_of(SECOND).probabilities[:3].tolist()


def test_a_copied_run_is_refused(runs, tmp_path):
    """A copy whose other fold differs is a copy of one fold all the same."""
    copied = evaluation_of([*FIRST[:3], *SECOND[3:]])
    with pytest.raises(UserError, match="have the same predictions for fold 0"):
        read_runs([runs[0], write_run(tmp_path / "copy", copied, image_size=64, seed=1)])


def test_a_setting_that_changes_nothing_is_compared(runs, tmp_path):
    same = write_run(tmp_path / "same", evaluation_of(FIRST), image_size=64, gridmask_rotated=False)
    (first, _), (second, _) = read_runs([runs[0], same])
    assert compare(first, second)[2]["differences"]["top1"][0] == 0


def method_runs(folder):
    """Two seeds of one method, and another method; top-1 by fold as its results.json has it."""
    runs = []
    for name, probabilities, seed, lr, top1, val in (
        ("a_seed0", FIRST, 0, 0.1, (0.5, 0.7), 0.4),
        ("a_seed1", SECOND, 1, 0.1, (0.3, 0.5), 0.6),
        ("b", np.roll(FIRST, 1, axis=1), 0, 0.2, (0.2, 0.2), 0.2),
    ):
        evaluation = evaluation_of(probabilities)
        run = write_run(folder / name, evaluation, seed=seed, lr=lr)
        metrics = dict.fromkeys(evaluation.metric_names, 1.0)
        change_results(run, lambda r, m=metrics, t=top1, v=val: [
            fold.update(m, top1=t[k], val_top1=v) for k, fold in enumerate(r["folds"])
        ])  # fmt: skip
        runs.append(run)
    return by_settings(read_runs(runs))


def test_methods_by_hand(tmp_path):
    methods = method_runs(tmp_path)
    assert [(name, len(runs)) for name, runs in methods] == [("a", 2), ("b", 1)]
    table = method_table(methods).set_index("method")
    assert table.runs.tolist() == [2, 1] and table.top1.tolist() == pytest.approx([0.5, 0.2])
    # Of 0.5, 0.7, 0.3 and 0.5 about 0.5.
    assert table.top1_deviation.tolist() == pytest.approx([(0.08 / 3) ** 0.5, 0])
    assert table.val_top1.tolist() == pytest.approx([0.5, 0.2])
    # FIRST answers 0 0 0 1 0 2, SECOND 0 1 1 1 1 2, and the other method 1 1 1 2 1 0; true are 0 0 1 1 2 2.
    assert table.top1_gain.tolist() == pytest.approx([0, 1 / 6 - 4 / 6])
    assert table[["top1_low", "top1_p"]].isna().all(axis=None)  # of six people


def test_what_changes_no_model_makes_no_method_of_its_own(tmp_path):
    write_run(tmp_path / "a_seed0", evaluation_of(FIRST), seed=0, plots=True, threads=1)
    write_run(tmp_path / "a_seed1", evaluation_of(SECOND), seed=1, plots=False, threads=2)
    [(name, runs)] = by_settings(read_runs([tmp_path / "a_seed0", tmp_path / "a_seed1"]))
    assert (name, len(runs)) == ("a", 2)


def test_a_metric_that_earlier_results_lack_is_a_dash(tmp_path):
    """One that was added to the code after the training."""
    methods = method_runs(tmp_path)
    for _, results in methods[1][1]:
        for fold in results["folds"]:
            del fold["one_off"]
    table = method_table(methods)
    assert table.one_off.isna().tolist() == [False, True] and not table.top1.isna().any()


def test_methods_of_one_name_are_two_methods(tmp_path):
    for name, probabilities, lr in (("a_seed0", FIRST, 0.1), ("a_seed1", SECOND, 0.2)):
        write_run(tmp_path / name, evaluation_of(probabilities), lr=lr)
    methods = by_settings(read_runs([tmp_path / "a_seed0", tmp_path / "a_seed1"]))
    assert [(name, runs[0][0].name) for name, runs in methods] == [("a", "a_seed0"), ("a", "a_seed1")]


def test_the_table_of_a_paper_has_the_best_in_bold(tmp_path):
    rows = paper_table(method_table(method_runs(tmp_path))).splitlines()
    assert rows[3] == "method & top-1 & one-off & MAE & difference in top-1 & p (Wald) \\\\"
    assert rows[5].startswith(r"a & \textbf{50.00\% $\pm$ 16.33\%} & ") and rows[5].endswith(r" &  &  \\")
    assert rows[6].startswith(r"b & 20.00\% $\pm$ 0.00\% & ") and rows[6].endswith(r" & -50.00 & – \\")  # six people


def test_files_of_others_are_not_replaced(runs, script, tmp_path):
    output = tmp_path / "changes.csv"
    output.write_text("path,change\nmine,1\n")
    status, _, errors = script(*runs)
    assert status == 2 and "exists and is not our comparison of runs" in errors
    assert output.read_text() == "path,change\nmine,1\n"


def test_hostile_names_stay_one_cell(script, tmp_path):
    hostile = 'a,"b"\x1b[31m=1+1'
    runs = [
        write_run(tmp_path / name, evaluation_of(probabilities, names=(*NAMES[:-1], hostile), path=hostile + "{k}"))
        for name, probabilities in (("first", FIRST), ("sec\x1b[31mond", SECOND))
    ]
    status, shown, errors = script(*runs)
    assert (status, errors) == (0, "") and "\x1b" not in shown
    rows = read_csv(tmp_path / "changes.csv")
    assert len(rows) == 6 and rows[0]["path"] == f"{hostile}1" and rows[2]["label"] == hostile
