"""The comparison of runs: McNemar's test, differences by hand, refusals by the real script, and the page."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image
from test_report import HOSTILE, Elements

from data.faces import Faces
from evaluation.bootstrap import resampled_means
from evaluation.calibration import confidence_and_success, expected_calibration_error
from evaluation.metrics import METRICS
from evaluation.paired import (
    binned_error,
    calibration_difference,
    mcnemar,
    paired_differences,
    sampled_calibration_errors,
)
from evaluation.predictions import Predictions, predictions_digest
from report import compare as page
from report.compare import Run, compare, comparison_table, face_changes, write_comparison
from tools import compare_runs as tool
from training.results import read_results
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
            "subject": [str(k) for k in range(count)] if people is None else people,
            "fold": np.asarray(folds, np.int64),
            "label": np.asarray(labels, np.int64),
        }
    )
    return Faces(table.assign(album="a") if people is not None else table, names)


def predictions_of(probabilities, labels=LABELS, folds=(0, 0, 0, 1, 1, 1), people=None, **settings):
    return Predictions(faces_of(labels, folds, people, **settings), np.asarray(probabilities, np.float32))


def random_predictions(seed, count=200, people=40):
    rng = np.random.default_rng(0)
    faces = faces_of(rng.integers(0, 3, count), rng.integers(0, 3, count), rng.integers(0, people, count).astype(str))
    return Predictions(faces, np.random.default_rng(seed).dirichlet(np.ones(3), count).astype(np.float32))


def write_run(folder, predictions, fingerprint="f", **settings):
    """The files of a run that a comparison reads."""
    folder.mkdir(parents=True)
    table = predictions.table()
    table.to_csv(folder / "predictions.csv", index=False)
    folds = [
        {"fold": int(fold), "predictions_sha256": predictions_digest(rows)} for fold, rows in table.groupby("fold")
    ]
    write_json(folder / "results.json", {"data_fingerprint": fingerprint, "settings": settings, "folds": folds})
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two runs on the same six faces, without photographs."""
    settings = {"image_dir": str(tmp_path / "none"), "run_dir": "x", "image_size": 64, "lr_steps": [1, 2]}
    return (
        write_run(tmp_path / "first", predictions_of(FIRST), lr=0.1, **settings),
        write_run(tmp_path / "second", predictions_of(SECOND), lr=0.2, **settings),
    )


def script(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "tools.compare_runs", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def rights(lost, gained, both=3, neither=2):
    """Two bool arrays with the given numbers of faces."""
    pairs = [(1, 0)] * lost + [(0, 1)] * gained + [(1, 1)] * both + [(0, 0)] * neither
    return np.array(pairs, bool).reshape(-1, 2).T


def test_mcnemar_by_hand():
    assert mcnemar(*rights(1, 5)) == 14 / 64  # 2 (1 + 6) / 2**6
    assert mcnemar(*rights(5, 1)) == 14 / 64
    assert mcnemar(*rights(0, 10)) == 2 / 1024
    assert mcnemar(*rights(4, 4)) == mcnemar(*rights(0, 1)) == mcnemar(*rights(0, 0)) == 1.0


def test_mcnemar_is_the_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    counts = [(lost, gained) for lost in range(9) for gained in range(9)]
    for lost, gained in [*counts, (30, 52), (512, 600), (4000, 4190), (0, 1500)]:
        expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
        assert mcnemar(*rights(lost, gained)) == pytest.approx(expected, rel=1e-9)


def test_differences_by_hand():
    found = compare(Run("a", predictions_of(FIRST)), Run("b", predictions_of(SECOND)))
    assert [row["name"] for row in found.rows] == ["fold 0", "fold 1", "all faces"]
    values = [[row["differences"][name][0] for name in ("top1", "one_off", "mae")] for row in found.rows]
    # Of fold 0, b loses a face and gains one; of fold 1 it moves a mistake from two classes off to one.
    assert values == [pytest.approx([0, 0, 0]), pytest.approx([0, 1 / 3, -1 / 3]), pytest.approx([0, 1 / 6, -1 / 6])]
    loss = -np.log([0.7, 0.2, 0.8, 0.6, 0.4, 0.7]) + np.log([0.8, 0.6, 0.4, 0.7, 0.1, 0.7])
    assert found.rows[2]["differences"]["loss"][0] == pytest.approx(loss.mean(), abs=1e-6)
    counts = [[row[name] for name in ("right", "lost", "gained", "otherwise", "wrong")] for row in found.rows]
    assert counts == [[1, 1, 1, 0, 0], [2, 0, 0, 1, 0], [3, 1, 1, 1, 0]]
    assert [row["p"] for row in found.rows] == [1.0, 1.0, 1.0]


def test_one_fold_has_no_row_of_all_faces():
    one, other = (predictions_of(p, folds=[2] * 6) for p in (FIRST, SECOND))
    assert [row["name"] for row in compare(Run("a", one), Run("b", other)).rows] == ["fold 2"]


def test_calibration_error_of_copies_is_that_of_repeated_faces():
    predictions = random_predictions(1)
    confidence, right = confidence_and_success(predictions.labels, predictions.predicted, predictions.probabilities)
    order = np.argsort(confidence, kind="stable")
    gaps = (confidence - right)[order]
    for copies in (np.ones(200, int), np.random.default_rng(2).poisson(1, 200), np.array([40] + [0] * 199)):
        rows = np.repeat(order, copies)
        repeated = predictions.labels[rows], predictions.predicted[rows], predictions.probabilities[rows]
        assert binned_error(gaps, copies) == pytest.approx(expected_calibration_error(*repeated), abs=1e-12)


def test_differences_are_of_the_same_samples():
    first, second = random_predictions(1), random_predictions(2)
    # Where every answer is wrong, the calibration error is the mean confidence, and so a mean over faces.
    wrong = Predictions(first.faces, np.roll(np.eye(3, dtype=np.float32)[first.labels] * 0.7 + 0.1, 1, axis=1))
    confidence = wrong.probabilities.max(1).astype(float) * np.linspace(0.8, 1, 200)
    sure = Predictions(first.faces, np.where(wrong.probabilities > 0.5, confidence[:, None], 0.0))
    means = resampled_means(sure.probabilities.max(1)[:, None], first.faces.people, draws=50, seed=3)[:, 0]
    assert sampled_calibration_errors(sure, 50, 3) == pytest.approx(means)
    assert calibration_difference(first, first) == (0.0, 0.0, 0.0)
    found, reverse = paired_differences(first, second), paired_differences(second, first)
    assert list(found) == [*METRICS, "ece"]
    for name, (value, low, high) in found.items():
        assert low < value < high and reverse[name] == pytest.approx((-value, -high, -low))


def test_changes_by_hand():
    table = face_changes(Run("a", predictions_of(FIRST)), Run("b", predictions_of(SECOND)))
    assert table.position.tolist() == [1, 2, 4, 0, 3, 5]  # |difference| 0.4 0.4 0.3 0.1 0.1 0, then by path
    assert table.gain.round(3).tolist() == [-0.4, 0.4, 0.3, -0.1, -0.1, 0]
    assert table.change.tolist() == ["right → wrong", "wrong → right", "both wrong, differently", "", "", ""]


def test_verdicts():
    assert page.verdict("top1", (0.1, 0.02, 0.2)) == page.verdict("mae", (-0.1, -0.2, -0.02)) == "better"
    assert page.verdict("top1", (-0.1, -0.2, -0.02)) == page.verdict("ece", (0.1, 0.02, 0.2)) == "worse"
    assert page.verdict("loss", (0.1, 0.0, 0.2)) == page.verdict("top1", (0, 0, 0)) == ""


def test_the_printed_table():
    lines = comparison_table([compare(Run("a", predictions_of(FIRST)), Run("b", predictions_of(SECOND)))]).splitlines()
    assert lines[0].startswith("differences from a, percentages in points")
    assert lines[1].split() == "top-1 one-off MAE loss ECE lost gained McNemar p".split()
    assert lines[2] == "b" and lines[7].split()[:5] == ["all", "faces", "+0.00", "+16.67", "-0.167"]
    assert lines[7].split()[-3:] == ["1", "1", "1.0000"] and len(lines) == 10
    assert {line.count(" to ") for line in lines[4:9:2]} == {5}


def test_the_script(runs, tmp_path):
    first, second = runs
    third = write_run(tmp_path / "third", predictions_of(np.roll(FIRST, 1, axis=1)), lr=0.1)
    done = script(first, second, third, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"second", "third"} <= set(done.stdout.splitlines())
    assert "wrote compare.html" in done.stdout and "note: 6 of 6 photographs are missing" in done.stdout
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    elements = Elements(text)
    words = " ".join(" ".join(elements.text).split())
    assert "second, third against first" in words and "+16.67" in words and "−0.167" in words
    assert "right → wrong: 1 face" in words and "both wrong, differently: 1 face" in words
    assert elements.tags.count("img") == 0 and elements.tags.count("rect") == 2 * 2 * 6 * 3
    rows = re.findall(r'<tr><th scope="row">(\w+)</th><td>', text)
    assert rows == ["lr", "image_size", "lr_steps"]  # third does not say; run_dir and image_dir do not count
    again = script(first, second, "--output", tmp_path / "compare.html")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_run_of_main(small_faces_once, tmp_path):
    labels, images = small_faces_once
    command = [sys.executable, "main.py", "--label-dir", labels, "--image-dir", images, "--image-size", "40",
               "--epochs", "1", "--batch-size", "4", "--width", "0.0625", "--threads", "1", "--no-plots", "--folds",
               "1", "4", "--run-dir", tmp_path / "run", "--cache-dir", tmp_path / "cache"]  # fmt: skip
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    results, predictions = read_results(tmp_path / "run")
    probabilities = np.roll(predictions.probabilities, 1, axis=1)
    changed = Predictions(predictions.faces, probabilities)
    other = write_run(tmp_path / "other", changed, results["data_fingerprint"], **results["settings"])
    done = script(tmp_path / "run", other, "--output", tmp_path / "compare.html")
    assert (done.returncode, done.stderr) == (0, "") and "missing" not in done.stdout
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    gain = 100 * (changed.metrics()["top1"] - predictions.metrics()["top1"])
    assert f"{gain:+.2f}".replace("-", "−") in text and "None is recorded." in text
    assert text.count("<img") == 16 and "16 faces of 16 people; held-out folds 1, 4" in text


def test_photographs_are_shown(runs, tmp_path):
    colours = {}
    for k, path in enumerate(predictions_of(FIRST).faces.table.path[:5]):
        colours[path] = (40 * k, 200 - 40 * k, 90)
        (tmp_path / "photos" / path).parent.mkdir(parents=True)
        Image.new("RGB", (96, 96), colours[path]).save(tmp_path / "photos" / path)
    runs = [Run(**run) for run in tool.read_runs(runs, str(tmp_path / "photos"))]
    result = write_comparison(tmp_path / "compare.html", [compare(*runs)])
    assert (result["shown"], result["missing"]) == (6, 1)
    sources = [value for tag, name, value in Elements((tmp_path / "compare.html").read_text()).attributes
               if (tag, name) == ("img", "src")]  # fmt: skip
    assert "1 photograph is missing" in (tmp_path / "compare.html").read_text()
    assert len(sources) == 5 and all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)


def test_the_order_of_faces_does_not_matter(tmp_path):
    first = write_run(tmp_path / "first", predictions_of(FIRST))
    reverse = predictions_of(SECOND)
    reverse = Predictions(Faces(reverse.faces.table[::-1], NAMES), reverse.probabilities[::-1])
    second = write_run(tmp_path / "second", reverse)
    assert compare(*(Run(**run) for run in tool.read_runs([first, second]))).rows[2]["lost"] == 1


def test_names_of_runs(tmp_path):
    assert tool.short_names(["runs/a", "/b/c/"]) == ["a", "c"]
    assert tool.short_names(["x/a", "y/a"]) == ["x/a", "y/a"]


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
    "the same run": (lambda tmp, a, b: (a, b, a), "first' and '.*first' have the same predictions for fold 0"),
    "one run": (lambda tmp, a, b: (a,), "the following arguments are required: B"),
    "a run is damaged": (lambda tmp, a, b: (a, (damage(b), b)[1]), "is damaged: the 3 rows of fold 1"),
    "other pixels": (
        lambda tmp, a, b: (a, write_run(tmp / "c", predictions_of(SECOND), "g", image_size=64)),
        "c' saw other faces, labels or pixels than '.*first'",
    ),
    "other labels": (
        lambda tmp, a, b: (a, write_run(tmp / "c", predictions_of(SECOND, labels=[0, 0, 1, 1, 2, 0]))),
        "c' saw other faces, labels or pixels than",
    ),
    "other faces": (
        lambda tmp, a, b: (a, write_run(tmp / "c", predictions_of(SECOND, path="b/{k}.jpg"))),
        "c' saw other faces, labels or pixels than",
    ),
    "other folds": (
        lambda tmp, a, b: (a, write_run(tmp / "c", predictions_of(SECOND, folds=[0, 0, 0, 3, 3, 3]))),
        "c' has other folds than '.*first': 0 3 instead of 0 1",
    ),
    "other classes": (
        lambda tmp, a, b: (a, write_run(tmp / "c", predictions_of(SECOND, names=("a", "b", "c")))),
        "c' has other classes than",
    ),
    "no finished fold": (
        lambda tmp, a, b: [change_results(one, lambda content: content.update(folds=[])) for one in (a, b)],
        "first' has no finished fold",
    ),
    "no run": (lambda tmp, a, b: (a, tmp / "none"), "cannot read '.*none/results.json'"),
    "no photographs": (lambda tmp, a, b: (a, b, "--image-dir", tmp / "none"), "--image-dir '.*none' does not exist"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(runs, tmp_path, case):
    arguments, message = REFUSALS[case]
    output = tmp_path / "page.html"
    done = script(*arguments(tmp_path, *runs), "--output", output)
    assert done.returncode == 2 and done.stdout == "" and not output.exists()
    assert len(done.stderr.splitlines()) == 1 and re.search(message, done.stderr), done.stderr


def test_runs_at_different_sizes_are_compared_by_their_faces(runs, tmp_path):
    larger = write_run(tmp_path / "larger", predictions_of(SECOND), "g", image_size=112)
    done = script(runs[0], larger, "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "note: trained at 64, 112 px; that the photographs are the same is known by their paths only" in done.stdout


def test_a_copied_run_is_refused(runs, tmp_path):
    """A copy whose other fold differs is a copy of one fold all the same."""
    copied = predictions_of([*FIRST[:3], *SECOND[3:]])
    with pytest.raises(UserError, match="have the same predictions for fold 0"):
        tool.read_runs([runs[0], write_run(tmp_path / "copy", copied)])


def test_files_of_others_are_not_replaced(runs, tmp_path):
    output = tmp_path / "page.html"
    output.write_text("mine")
    done = script(*runs, "--output", output)
    assert done.returncode == 2 and "exists and is not our comparison of runs" in done.stderr
    assert output.read_text() == "mine"


def hostile_runs():
    names = (*NAMES[:-1], HOSTILE)
    path = HOSTILE.replace("/", "∕").replace("{", "").replace("}", "") + "{k}"
    settings = {HOSTILE: HOSTILE, "lr": [HOSTILE]}
    return [
        Run(name, predictions_of(p, names=names, path=path), {**settings, "seed": name}, name)
        for name, p in ((HOSTILE, FIRST), (HOSTILE + "2", SECOND))
    ]


def test_hostile_names_stay_text(tmp_path):
    write_comparison(tmp_path / "hostile.html", [compare(*hostile_runs())], command=HOSTILE)
    plain = [Run("a", predictions_of(FIRST), {"seed": 0}), Run("b", predictions_of(SECOND), {"seed": 1})]
    write_comparison(tmp_path / "plain.html", [compare(*plain)], command="x")
    hostile, plain = (
        Elements((tmp_path / f"{name}.html").read_text(encoding="utf-8")) for name in ("hostile", "plain")
    )
    assert hostile.tags == plain.tags and "script" not in hostile.tags
    assert not [name for _, name, _ in hostile.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in "".join(hostile.text)


def test_nothing_is_fetched(tmp_path):
    runs = [Run("a", predictions_of(FIRST)), Run("b", predictions_of(SECOND))]
    write_comparison(tmp_path / "compare.html", [compare(*runs)])
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    elements = Elements(text)
    addresses = [value for _, name, value in elements.attributes if name in ("src", "href", "action", "data")]
    assert addresses and all(value.startswith("#") for value in addresses)
    assert not re.search(r"url\(|@import| style=", text)
    policy = next(value for _, name, value in elements.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src 'sha")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    import test_report_browser as browsers  # skips where selenium is missing

    if not (browsers.CHROMIUM and browsers.DRIVER):
        pytest.skip("no Chromium here: apt-get install chromium-driver")
    options = browsers.webdriver.ChromeOptions()
    options.binary_location = browsers.CHROMIUM
    for flag in [*browsers.FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1280,900"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = browsers.webdriver.Chrome(options=options, service=browsers.webdriver.ChromeService(browsers.DRIVER))
    yield driver, browsers
    driver.quit()


def test_the_page_in_a_browser(chromium, tmp_path):
    driver, browsers = chromium
    photo = tmp_path / predictions_of(FIRST).faces.table.path[1]
    photo.parent.mkdir()
    Image.new("RGB", (64, 64), "teal").save(photo)
    first, second = predictions_of(FIRST), predictions_of(SECOND)
    plain = [Run("a", first, {"seed": 0}, image_dir=str(tmp_path)), Run("b", second, {"seed": 1})]
    driver.get("about:blank")
    for log in ("browser", "performance"):  # of the browser's own first page
        driver.get_log(log)
    for name, runs in (("plain", plain), ("hostile", hostile_runs())):
        write_comparison(tmp_path / f"{name}.html", [compare(*runs)])
        driver.get((tmp_path / f"{name}.html").as_uri())
        for width in (390, 1280):
            screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        sizes = driver.execute_script("return [...document.images].map((image) => image.naturalWidth)")
        assert sizes == ([64] if name == "plain" else [])
        bars = driver.execute_script(
            "return [...document.querySelectorAll('.pairs svg')].map((one) => one.clientHeight)"
        )
        assert len(bars) == 12 and min(bars) > 10
        for summary in browsers.every(driver, "summary"):
            summary.click()
        assert all(table.is_displayed() for table in browsers.every(driver, "details table"))
        check_accessibility(driver, browsers)
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []
    assert [one for one in browsers.requests(driver) if not one.startswith(("file:", "data:", "about:"))] == []


def check_accessibility(driver, browsers):
    if browsers.axe_source() is None:
        return
    for scheme in ("light", "dark"):
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                               {"features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip
        driver.execute_script(browsers.axe_source())
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
        found = driver.execute_async_script("axe.run(document, arguments[0]).then(arguments[1])", options)
        described = [(v["id"], node["html"][:200]) for v in found["violations"] for node in v["nodes"][:3]]
        assert described == [] and len(found["passes"]) > 10
