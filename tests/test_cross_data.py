"""The table of models across data sets, worked by hand."""

import json

import pytest

from tests.conftest import call
from tools import cross_data


def report(model, labels, **metrics):
    return {"model": model, "labels": labels, **metrics}


@pytest.fixture
def reports(tmp_path):
    home = [report(f"runs/a_s{s}/fold_{k}.pt", "sets/home.csv", mae_years=v) for s, k, v in [(0, 0, 5.0), (1, 0, 6.0)]]
    away = [report("runs/a_s0/fold_0.pt", "away.csv", mae_years=9.0), {"fusion": {"mae_years": 1.0}}]
    files = {"home.json": home, "away.json": away, "b.json": [report("runs/b/fold_0.pt", "away.csv", mae_years=8.5)]}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return [tmp_path / name for name in files]


def test_by_hand(reports, tmp_path, capsys):
    """The mean of 5 and 6 is 5.5; their standard deviation is the root of (0.25 + 0.25) / 1, 0.71."""
    assert call(cross_data, *reports, "--tex", tmp_path / "t.tex") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "MAE years, mean ± standard deviation over folds and seeds"
    assert [line.split() for line in lines[1:4]] == [
        ["home", "away"],
        ["a", "5.50", "±", "0.71", "9.00"],
        ["b", "–", "8.50"],
    ]
    assert (tmp_path / "t.tex").read_text().splitlines() == [
        "% tools.cross_data",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & home & away \\",
        r"\midrule",
        r"a & 5.50 $\pm$ 0.71 & 9.00 \\",
        r"b & – & 8.50 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert call(cross_data, *reports, "--tex", tmp_path / "t.tex") == 0  # its own file is replaced


def test_what_only_looks_alike_stays_apart(tmp_path, capsys):
    """Label files of one name in two folders, and runs whose names end in a size."""
    rows = [("ages64", "x/faces.csv", 5.0), ("ages64", "y/faces.csv", 7.0), ("ages96", "x/faces.csv", 4.0)]
    path = tmp_path / "all.json"
    path.write_text(json.dumps([report(f"runs/{run}/fold_0.pt", data, mae_years=v) for run, data, v in rows]))
    assert call(cross_data, path) == 0
    header, first, second = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert [name[-11:] for name in header] == ["x/faces.csv", "y/faces.csv"]
    assert (first, second) == (["ages64", "5.00", "7.00"], ["ages96", "4.00", "–"])


def test_two_reports_of_one_model_on_one_data_set_are_refused(tmp_path, capsys):
    """Such as a plain and an adapted one: the second would replace the first."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps([report("runs/a/fold_0.pt", "x.csv", mae_years=value) for value in (5.0, 6.0)]))
    assert call(cross_data, path, path) == 2
    assert "a report of 'runs/a/fold_0.pt' for " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"model": "a/b.pt", "labels": "x.csv", "top1": 0.5}], "without 'mae_years'"),
        ([{"model": 3, "labels": "x.csv", "mae_years": 0.5}], "without 'model'"),
        ([{"model": "a/b.pt", "labels": "x.csv", "mae_years": None}], "without 'mae_years'"),
        ([3], "is no report of test_code.py --json"),
        ([], "holds no report of a model"),
        ({}, "it holds a dict, not a list"),
    ],
)
def test_files_that_are_no_report(content, message, tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    assert call(cross_data, path) == 2
    assert message in capsys.readouterr().err
    (tmp_path / "t.tex").write_text("mine")
    assert call(cross_data, path, "--tex", tmp_path / "t.tex") == 2
    assert (tmp_path / "t.tex").read_text() == "mine"
