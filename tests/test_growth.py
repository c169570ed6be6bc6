"""Time and memory grow with the size of an input, not with its square: each dimension is doubled."""

import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from conftest import row, write_labels

from data.adience import read_rows, select_faces
from data.faces import Faces
from data.label_file import select_faces as select_own
from evaluation.bootstrap import resampled_means
from evaluation.evaluation import Evaluation
from evaluation.subgroups import subgroups
from report.plots import plot_confusion, save
from report.sections import confusion, results
from utils.classes import Classes


def own_labels(folder, rows=20, columns=1, values=20):
    """A CSV file of so many rows, and of further columns with so many different values."""
    lines = [",".join(["path", "age", "person", *(f"c{k}" for k in range(columns))])]
    lines += [",".join([f"{k}.jpg", "30", str(k), *[str(k % values)] * columns]) for k in range(rows)]
    (folder / "own.csv").write_text("\n".join(lines) + "\n")
    return lambda: select_own(folder / "own.csv", "strict", ("0-20", "21-40"), 0)


def adience_labels(folder, rows):
    labels = write_labels(folder, {fold: [row(f"a{fold}", f"{k}.jpg", 10**6 * fold + k) for k in range(rows)]
                                   for fold in range(5)})  # fmt: skip
    return lambda: select_faces(read_rows(labels), "strict")


def evaluation_of(faces, people, classes=8, groups=2):
    rng = np.random.default_rng(0)
    k = np.arange(faces)
    columns = {"path": k.astype(str), "album": "a", "person": (k % people).astype(str), "fold": 0, "g": k % groups}
    table = pd.DataFrame({**columns, "label": rng.integers(0, classes, faces)})
    probabilities = rng.dirichlet(np.ones(classes), faces).astype(np.float32)
    return Evaluation(Faces(table, Classes(tuple(f"c{k}" for k in range(classes)))), probabilities)


def page_of(evaluation):
    from report.data import ReportData

    return lambda: (results(ReportData("", [evaluation])), confusion(ReportData("", [evaluation])))


CASES = {
    "rows of a CSV file": (lambda folder, n: own_labels(folder, rows=n), 4000),
    "columns of a CSV file": (lambda folder, n: own_labels(folder, columns=n), 4000),
    "rows of Adience's files": (adience_labels, 2000),
    "age groups": (lambda folder, n: lambda: Classes.of_ages([str(k) for k in range(n)]), 500),
    "people of a bootstrap": (lambda folder, n: lambda: resampled_means(np.ones((n, 3)), np.arange(n), 300), 10_000),
    "groups": (lambda folder, n: lambda: subgroups(evaluation_of(4000, 400, groups=n), ["g"], draws=200), 40),
    "classes of a page": (lambda folder, n: page_of(evaluation_of(1000, 100, classes=n)), 60),
    "classes of a plot": (
        lambda folder, n: lambda: save(plot_confusion(np.ones((n, n), int), [f"c{k}" for k in range(n)], ""), folder),
        60,
    ),
}


def cost(function):
    """(Seconds of this process, the least of three; peak MiB)."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return min(seconds), peak


@pytest.mark.parametrize("name", CASES)
def test_twice_the_input_costs_less_than_four_times_as_much(name, tmp_path):
    """In one of three attempts: a busy machine disturbs one, and a square shows in all."""
    (make, count), attempts, functions = CASES[name], [], []
    for size in (count, 2 * count):
        (tmp_path / str(size)).mkdir()
        functions.append(make(tmp_path / str(size), size))
    for _ in range(3):
        (seconds, peak), (more_seconds, more_peak) = map(cost, functions)
        attempts.append((seconds, more_seconds, peak, more_peak))
        if more_seconds <= 3.2 * seconds + 0.02 and more_peak <= 3.2 * peak + 2:
            return
    pytest.fail(f"seconds and MiB, before and after: {attempts}")
