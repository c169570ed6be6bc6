"""The two scripts as a user runs them: a whole small experiment, resuming, and every kind of bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, call, small_rows, write_images, write_labels
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from test_predict import write_model

import main
import test_code
from models import create_model
from models.checkpoint import load_model, save_model
from tools import check_data, report
from training.arguments import read_arguments
from training.record import LOG_COLUMNS, PROGRESS_FORMAT
from utils.files import locked
from utils.serialization import load_plain, save_plain

TINY = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --precision fp32"
).split()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where no --cache-dir is given, the cache is in the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def experiment(small_faces_once, tmp_path_factory):
    """Two folds trained by the real command, in a process of its own: (folder, its output)."""
    folder = tmp_path_factory.mktemp("experiment")
    labels, images = small_faces_once
    command = [sys.executable, ROOT / "main.py", "--label-dir", labels, "--image-dir", images, *TINY]
    command += ["--folds", "0", "3", "--run-dir", folder / "run", "--cache-dir", folder / "cache"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_cache_of_several_parts_changes_nothing(small_faces_once, experiment, monkeypatch):
    """As over 8,192 faces have: here the forty lie in parts of sixteen, for every script that reads the cache."""
    for module in ("data.cache", "data.dataset"):
        monkeypatch.setattr(f"{module}.SHARD", 16)
    labels, images = small_faces_once
    sources = ("--label-dir", labels, "--image-dir", images, "--cache-dir", "cache")
    assert call(main, *sources, *TINY, "--folds", 0, 3, "--run-dir", "run") == 0
    assert len(list(Path("cache").glob("faces_*"))) == 3
    assert Path("run/predictions.csv").read_text() == (experiment[0] / "run" / "predictions.csv").read_text()
    assert Path("run/augmentation.png").is_file()
    assert call(test_code, "run/fold_3.pt", *sources, "--show-errors", "--by", "gender", "brightness") == 0
    assert call(report, "run", *sources, "--output", "report.html") == 0
    assert call(check_data, *sources[:4]) in (0, 1)


def same_weights(run, other, fold=3):
    ours, theirs = (load_plain(folder / f"fold_{fold}.pt")["state_dict"] for folder in (run, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def paths(small_faces_once, folder):
    labels, images = small_faces_once
    return ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache"]


class TestTraining:
    def test_the_run_directory(self, experiment):
        run = experiment[0] / "run"
        names = {path.name for path in run.iterdir()}
        pictures = {"learning_curves.png", "confusion.png", "augmentation.png"}
        pictures |= {"calibration.png"}
        files = {".lock", ".fold_0.lock", ".fold_3.lock", "fold_0.pt", "fold_3.pt"}
        files |= {"config.json", "log.csv", "predictions.csv", "results.json"}
        files |= {"report.html", "suspects.csv", "results.tex"}
        assert names == files | pictures | {"parameters_fold_0.png", "parameters_fold_3.png"}
        for picture in pictures:
            with Image.open(run / picture) as image:
                assert min(image.size) > 200
        assert json.loads((run / "config.json").read_text())["epochs"] == 2

    def test_the_log(self, experiment):
        log = pd.read_csv(experiment[0] / "run" / "log.csv")
        expected = "fold epoch lr gridmask_prob train_loss train_top1 test_top1 test_one_off test_mae"
        assert list(log.columns) == [*expected.split(), "test_loss", "seconds", "images_per_second"]
        assert [name for name in LOG_COLUMNS if name in log] == list(log.columns)  # the others are of known ages
        assert list(zip(log.fold, log.epoch, strict=True)) == [(0, 0), (0, 1), (3, 0), (3, 1)]
        assert log.lr.tolist() == pytest.approx([0.01, 0.001, 0.01, 0.001])
        assert log.gridmask_prob.tolist() == [0.6, 0.8, 0.6, 0.8]
        assert (log.seconds > 0).all()

    def test_predictions_come_from_the_model_that_held_the_face_out(self, experiment):
        table = pd.read_csv(experiment[0] / "run" / "predictions.csv")
        classes = "p_0-2 p_4-6 p_8-13 p_15-20 p_25-32 p_38-43 p_48-53 p_60+".split()
        columns = ["path", "album", "person", "fold", "label", "prediction", "age", "age_low", "age_high", *classes]
        assert list(table.columns) == columns
        assert table.fold.tolist() == [0] * 8 + [3] * 8
        assert table.path[8] == "album3/landmark_aligned_face.300.0.jpg"
        assert table.album[8] == "album3"
        probabilities = table[classes].to_numpy()
        assert probabilities.sum(1) == pytest.approx(np.ones(16), abs=1e-5)
        assert (probabilities.argmax(1) == table.prediction).all()

    def test_results_follow_from_predictions_and_log(self, experiment):
        run, printed = experiment[0] / "run", experiment[1]
        results = json.loads((run / "results.json").read_text())
        table, log = pd.read_csv(run / "predictions.csv"), pd.read_csv(run / "log.csv")
        for result, (fold, faces) in zip(results["folds"], table.groupby("fold"), strict=True):
            distance = (faces.label - faces.prediction).abs()
            assert result["fold"] == fold
            assert result["top1"] == pytest.approx((distance == 0).mean())
            assert result["one_off"] == pytest.approx((distance <= 1).mean())
            assert result["mae"] == pytest.approx(distance.mean())
            likelihood = faces.to_numpy()[range(8), faces.columns.get_loc("p_0-2") + faces.label.to_numpy()]
            assert result["loss"] == pytest.approx(-np.log(likelihood.astype(float)).mean(), rel=1e-5)
            for name in ("top1", "one_off", "mae", "loss"):
                assert result[f"{name}_over_epochs"] == pytest.approx(log[log.fold == fold][f"test_{name}"].mean())
            expected = [f"{result['top1']:9.2%}", f"{result['one_off']:9.2%}", f"{result['mae']:9.3f}"]
            assert f"fold {fold}     {' '.join(expected)}" in printed
        values = [result["top1"] for result in results["folds"]]
        assert results["mean"]["top1"] == pytest.approx(sum(values) / 2)
        assert results["std"]["top1"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        assert "always answering 0-2: top-1 12.50%, one-off 25.00%, MAE 3.500" in printed
        # Eight faces in fifteen bins: each face is a bin of its own.
        confidence = table[[name for name in table if name.startswith("p_")]].max(axis=1)
        error = (confidence - (table.label == table.prediction)).abs()
        assert [fold["ece"] for fold in results["folds"]] == pytest.approx(error.groupby(table.fold).mean().tolist())
        assert f"expected calibration error: {error.mean():.2%} (15 bins)" in printed

    def test_each_temperature_fits_the_faces_of_the_other_fold(self, experiment):
        run = experiment[0] / "run"
        table = pd.read_csv(run / "predictions.csv")
        results = json.loads((run / "results.json").read_text())
        for result, other in zip(results["folds"], (3, 0), strict=True):
            faces = table[table.fold == other]
            scores = np.log(faces[[name for name in faces if name.startswith("p_")]].to_numpy(float))

            def cross_entropy(log_temperature, scores=scores, labels=faces.label):
                scaled = scores / np.exp(log_temperature)
                return (logsumexp(scaled, axis=1) - scaled[range(8), labels]).mean()

            best = np.exp(minimize_scalar(cross_entropy, bounds=np.log([0.05, 20]), method="bounded").x)
            assert result["temperature"] == pytest.approx(best, rel=1e-3)
            assert load_model(run / f"fold_{result['fold']}.pt").record["temperature"] == result["temperature"]
        mean = results["mean"]
        expected = f"{mean['ece_calibrated']:.2%} after temperature scaling (T = {mean['temperature']:.3f})"
        assert expected in experiment[1]

    def test_a_temperature_of_validation_faces_stays(self, small_faces_once, tmp_path):
        """It is fitted on faces that no model is judged by, so that the other folds have no say."""
        arguments = [*paths(small_faces_once, tmp_path), *TINY, "--val-fraction", 0.3, "--no-plots", "--run-dir", "run"]
        assert call(main, *arguments, "--folds", 3) == 0
        alone = load_model("run/fold_3.pt").record["temperature"]
        assert json.loads(Path("run/results.json").read_text())["folds"][0]["temperature"] == alone
        assert call(main, "--run-dir", "run", "--resume", "--folds", 1) == 0
        assert load_model("run/fold_3.pt").record["temperature"] == alone

    def test_results_say_what_was_counted_and_how(self, experiment):
        run = experiment[0] / "run"
        results = json.loads((run / "results.json").read_text())
        assert results["class_names"] == ["0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+"]
        assert results["settings"]["lr"] == 0.01
        assert results["settings"]["folds"] == [0, 3]
        assert results["commit"] == load_model(run / "fold_0.pt").record["commit"]
        faces = pd.read_csv(run / "predictions.csv").query("fold == 3")
        result = results["folds"][1]
        assert (result["decoder"], result["train_faces"], result["test_faces"]) == ("argmax", 32, 8)
        confusion = np.zeros((8, 8), int)
        for label, prediction in zip(faces.label, faces.prediction, strict=True):
            confusion[label, prediction] += 1
        assert result["confusion"] == confusion.tolist()
        last = {"class": "60+", "faces": 1, "top1": confusion[7, 7], "one_off": confusion[7, 6] + confusion[7, 7]}
        assert result["classes"][7] == last

    def test_the_same_command_gives_the_same_bits(self, experiment, small_faces_once, tmp_path):
        where = paths(small_faces_once, experiment[0])
        arguments = [*where, *TINY, "--folds", 3, "--run-dir", tmp_path / "again", "--no-plots"]
        assert call(main, *arguments) == 0
        assert not list((tmp_path / "again").glob("*.png"))
        assert same_weights(experiment[0] / "run", tmp_path / "again")

    def test_a_stopped_run_resumes_to_the_same_bits(self, experiment, small_faces_once, tmp_path, monkeypatch):
        where = paths(small_faces_once, experiment[0])
        arguments = [*where, *TINY, "--folds", 3, "--run-dir", tmp_path / "run", "--no-plots"]
        with monkeypatch.context() as patch:
            # The power goes after the first epoch is recorded.
            patch.setattr(main.RunDirectory, "save_fold", lambda *_: pytest.fail("too late"))
            patch.setattr(main.FoldProgress, "epoch_done", lambda *_: sys.exit(77))
            assert call(main, *arguments) == 77
        assert (tmp_path / "run" / "fold_3.progress.pt").exists()
        assert call(main, "--run-dir", tmp_path / "run", "--resume") == 0
        assert not (tmp_path / "run" / "fold_3.progress.pt").exists()
        assert same_weights(experiment[0] / "run", tmp_path / "run")
        log, whole = (pd.read_csv(run / "log.csv") for run in (tmp_path / "run", experiment[0] / "run"))
        timed = ["seconds", "images_per_second"]
        assert log.drop(columns=timed).equals(whole[whole.fold == 3].drop(columns=timed).reset_index(drop=True))

    @pytest.mark.parametrize("together", [False, True])
    def test_jobs_of_an_array_share_a_run_directory(self, experiment, small_faces_once, tmp_path, together):
        """Each fold by a process of its own, one after the other or both at once: the same files as by one process."""
        where = [*paths(small_faces_once, experiment[0]), *TINY, "--run-dir", tmp_path / "run"]
        jobs = []
        for fold in (3, 0):
            command = [sys.executable, ROOT / "main.py", *where, "--folds", fold, "--no-plots"]
            jobs.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
            if not together:
                jobs[-1].wait()
        printed = [job.communicate()[0].decode() for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], printed
        run, whole = tmp_path / "run", experiment[0] / "run"
        assert same_weights(run, whole, fold=0) and same_weights(run, whole, fold=3)
        assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
        ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (run, whole))
        assert ours["folds"] == theirs["folds"] and ours["mean"] == theirs["mean"]
        assert ours["settings"]["folds"] == json.loads((run / "config.json").read_text())["folds"] == [0, 3]
        assert pd.read_csv(run / "log.csv")[["fold", "epoch"]].to_numpy().tolist() == [[0, 0], [0, 1], [3, 0], [3, 1]]
        for fold in (0, 3):
            assert load_model(run / f"fold_{fold}.pt").record["temperature"] == pytest.approx(
                load_model(whole / f"fold_{fold}.pt").record["temperature"]
            )

    def test_a_job_with_other_settings_is_refused(self, experiment, small_faces_once, tmp_path, capsys):
        where = [*paths(small_faces_once, experiment[0]), *TINY, "--run-dir", experiment[0] / "run"]
        assert call(main, *where, "--folds", 1, "--lr", 0.02) == 2
        assert "was trained with other settings: lr was 0.01, now 0.02" in capsys.readouterr().err

    def test_the_settings_of_another_run_are_defaults(self, experiment, monkeypatch):
        source = experiment[0] / "run" / "config.json"
        monkeypatch.setattr(sys, "argv", ["main.py", "--config", str(source), "--lr", "0.2", "--epochs", "8"])
        config, recorded = read_arguments().config, json.loads(source.read_text())
        assert (config.lr, config.epochs, config.run_dir, config.folds) == (0.2, 8, "runs/adience", (0, 1, 2, 3, 4))
        same = ("label_dir", "image_dir", "image_size", "width", "batch_size", "precision", "threads")
        assert {name: getattr(config, name) for name in same} == {name: recorded[name] for name in same}

    def test_records_of_fewer_metrics_are_enough(self, experiment, small_faces_once, tmp_path, capsys):
        """A metric that was added after the training is not in the records; it follows from the predictions."""
        run = tmp_path / "run"
        shutil.copytree(experiment[0] / "run", run)
        model = load_model(run / "fold_3.pt")
        del model.record["metrics"]["mae"]
        for row in model.record["history"]:
            del row["test_mae"]
        save_model(run / "fold_3.pt", model, model.record)
        assert call(test_code, run / "fold_3.pt") == 0
        assert "mean absolute error: " in capsys.readouterr().out
        resume = [*paths(small_faces_once, experiment[0]), "--run-dir", run, "--resume", "--folds", 0, 3, "--no-plots"]
        assert call(main, *resume) == 0
        ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (run, experiment[0] / "run"))
        assert ours["folds"][1]["mae"] == theirs["folds"][1]["mae"]
        assert ours["folds"][1]["mae_over_epochs"] is None


FOUR_LINES = [
    r"our model has size=0\.76 MiB",  # of 199,336 parameters; test_the_published_network has the other one
    r"inference time: \d+\.\d\d s \(\d+\.\d\d ms per image\)",
    r"eval accuracy: (\d+\.\d\d)%",
    r"one-off accuracy: (\d+\.\d\d)%",
]


class TestEvaluation:
    def test_the_checkpoint_alone_gives_the_recorded_numbers(self, experiment, capsys, tmp_path):
        run = experiment[0] / "run"
        arguments = [run / "fold_3.pt", "--json", tmp_path / "report.json", "--precision", "fp32"]
        assert call(test_code, *arguments) == 0
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        found = [re.fullmatch(pattern, line) for pattern in FOUR_LINES for line in lines]
        matches = [match for match in found if match]
        assert len(matches) == 4
        recorded = json.loads((run / "results.json").read_text())["folds"][1]
        assert float(matches[2].group(1)) == pytest.approx(100 * recorded["top1"], abs=0.005)
        assert float(matches[3].group(1)) == pytest.approx(100 * recorded["one_off"], abs=0.005)
        (report,) = json.loads((tmp_path / "report.json").read_text())
        assert all(report[name] == recorded[name] for name in ("top1", "one_off", "mae", "decoder", "classes"))
        assert report["loss"] == pytest.approx(recorded["loss"])
        assert report["temperature"] == recorded["temperature"]
        assert report["ece_calibrated"] == pytest.approx(recorded["ece_calibrated"], abs=1e-5)
        assert report["model"] == str(run / "fold_3.pt")
        assert report["confusion"] == recorded["confusion"]
        assert report["latency"]["one"]["seconds"] > 0
        assert "true \\ predicted" in printed
        assert "always answering 0-2: top-1 12.50%, one-off 25.00%, MAE 3.500" in printed

    def test_subgroups(self, experiment, capsys):
        run = experiment[0] / "run"
        assert call(test_code, run / "fold_3.pt", "--by", "gender", "image_size") == 0
        lines = capsys.readouterr().out.splitlines()
        start = next(k for k, line in enumerate(lines) if line.startswith("subgroup"))
        assert {"gender", "image_size"} <= set(lines[start + 1 : -1])
        assert sum(int(line.split()[1]) for line in lines[start + 2 : lines.index("image_size")]) == 8
        assert all("too few (under 30)" in line for line in lines[start + 2 : -1] if line.startswith("  "))
        assert call(test_code, run / "fold_3.pt", "--by", "hair") == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: --by hair: choose from label, gender, yaw, score, album_size, image_size")
        assert "eval accuracy" not in printed.out

    def test_error_images(self, experiment, capsys, tmp_path):
        folder = tmp_path / "error"
        folder.mkdir()
        (folder / "README.md").write_text("stays")
        (folder / "0001_true_0-2_predicted_4-6_99pct_old.png").write_text("goes")
        arguments = [experiment[0] / "run" / "fold_0.pt", "--show-errors", "--error-dir", folder]
        assert call(test_code, *arguments) == 0
        predictions = pd.read_csv(experiment[0] / "run" / "predictions.csv").query("fold == 0")
        wrong = predictions[predictions.label != predictions.prediction]
        table = pd.read_csv(folder / "errors.csv")
        assert set(table.path) == set(wrong.path)
        assert table.confidence.is_monotonic_decreasing
        groups = ["0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+"]
        assert list(table.columns[:4]) == ["file", "true_class", "predicted_class", "confidence"]
        assert [column for column in table if column.startswith("p_")] == [f"p_{name}" for name in groups]
        assert table.true_class.tolist() == [groups[label] for label in table.label]
        assert table.predicted_class.tolist() == [groups[prediction] for prediction in table.prediction]
        images = {path.name for path in folder.glob("0*.png")}
        assert images == set(table.file)
        assert (folder / "README.md").read_text() == "stays"
        groups[7] = "60plus"
        cached = np.load(next((experiment[0] / "cache").glob("faces_*/images.npy")))
        for number, error in enumerate(table.itertuples(), 1):
            percent = f"{100 * error.confidence:.0f}pct"
            start = f"{number:04d}_true_{groups[error.label]}_predicted_{groups[error.prediction]}_{percent}_album0_"
            assert error.file.startswith(start)
            assert re.fullmatch(r"[A-Za-z0-9._-]+", error.file)
            # The very pixels that the network saw: true colours, nothing normalised.
            face = int(re.search(r"_face\.(\d+)\.", error.file).group(1))
            assert (np.asarray(Image.open(folder / error.file)).transpose(2, 0, 1) == cached[face]).all()

    def test_faces_of_training_are_refused(self, experiment, capsys):
        arguments = [experiment[0] / "run" / "fold_0.pt", "--fold", 1]
        assert call(test_code, *arguments) == 2
        error = capsys.readouterr().err
        assert "was trained on people of these faces: 8 of 8 in fold 1" in error

    def test_shuffled_folds_are_refused(self, experiment, small_faces_once, tmp_path, capsys):
        """The same faces under other label files: fold 0 now holds people of the training folds."""
        rows = small_rows()
        rows[0], rows[1] = rows[1], rows[0]
        labels = write_labels(tmp_path / "labels", rows)
        arguments = [experiment[0] / "run" / "fold_0.pt", "--label-dir", labels]
        assert call(test_code, *arguments) == 2
        assert "was trained on people of these faces: 8 of 8 in fold 0, first album1/" in capsys.readouterr().err

    def test_a_single_person_of_training_is_refused(self, validated, tmp_path, capsys):
        """Each face has an album of its own there, so that single people can change their fold."""
        path = validated / "run" / "fold_0.pt"
        rows = validated_rows()
        known = {tuple(person.split("/")) for person in load_model(path).record["train_people"]}
        moved = next(fields for fields in rows[1] if (fields[0], fields[2]) in known)
        rows[1].remove(moved)
        rows[0].append(moved)
        arguments = [path, "--label-dir", write_labels(tmp_path / "labels", rows)]
        assert call(test_code, *arguments) == 2
        message = f"was trained on people of these faces: 1 of 9 in fold 0, first {moved[0]}/"
        assert message in capsys.readouterr().err

    def test_pictures_of_training_under_other_names_are_refused(self, experiment, small_faces_once, capsys):
        images = small_faces_once[1]
        shutil.copytree(images, "aligned")
        shutil.copy(images / "album1/landmark_aligned_face.102.2.jpg", "aligned/album0/landmark_aligned_face.2.2.jpg")
        model = experiment[0] / "run" / "fold_0.pt"
        assert call(test_code, model, "--image-dir", "aligned") == 2
        message = (
            f"error: '{model}' was trained on pictures of these faces, under other names: 1 of 8 in fold 0,"
            " first album0/landmark_aligned_face.2.2.jpg; it held out fold 0\n"
        )
        assert capsys.readouterr().err == message

    def test_several_checkpoints_give_a_mean_and_one_ranking(self, experiment, capsys, tmp_path):
        models = [experiment[0] / "run" / f"fold_{fold}.pt" for fold in (0, 3)]
        assert call(test_code, *models, "--show-errors", "--error-dir", tmp_path) == 0
        errors = pd.read_csv(tmp_path / "errors.csv")
        assert dict(zip(errors.fold, errors.model, strict=True)) == {0: str(models[0]), 3: str(models[1])}
        assert errors.confidence.is_monotonic_decreasing
        results = json.loads((experiment[0] / "run" / "results.json").read_text())
        width = len(str(models[0]))
        table = capsys.readouterr().out.split("\n\n")[-2].splitlines()
        assert table[0] == f"{'model':{width}}  held out     top-1   one-off       MAE      loss"
        rows = [(str(models[0]), 0, results["folds"][0]), (str(models[1]), 3, results["folds"][1])]
        rows += [("mean", "", results["mean"]), ("± std", "", results["std"])]
        for line, (name, fold, values) in zip(table[1:], rows, strict=True):
            expected = f"{name:{width}}  {fold:>8}{values['top1']:10.2%}{values['one_off']:10.2%}{values['mae']:10.3f}"
            assert line.startswith(expected)

    def test_everything_is_checked_before_the_first_model_is_evaluated(self, experiment, tmp_path, capsys):
        model = experiment[0] / "run" / "fold_0.pt"
        (tmp_path / "bad.pt").write_bytes(b"not a model")
        (tmp_path / "photo.JPG").write_bytes(b"")
        shutil.copy(model, tmp_path / "copy.pt")
        for arguments, message in (
            ([tmp_path / "bad.pt"], f"'{tmp_path / 'bad.pt'}' is truncated or not a model file"),
            ([tmp_path / "photo.JPG"], f"'{tmp_path / 'photo.JPG'}' is truncated or not a model file"),
            ([experiment[0] / "run" / "fold_3.pt", "--fold", 0], "'s_path' was trained on people of these faces"),
            (["--batch-size", 1], "--batch-size 1: expected a number from 2 to 65536"),
            (["--threads", -1], "--threads -1: expected a number from 0 to 1024"),
            (["--device", "tpu"], "--device tpu: choose from auto, cpu, cuda"),
            (["--show-errors", "--error-dir", model], f"--error-dir '{model}': expected a folder, this is a file"),
            (
                ["--json", tmp_path],
                f"'{tmp_path}' is a folder: name the file for a report of test_code.py --json",
            ),
            (["--json", ""], "error: '' is no file name: name the file for a report"),
            (["--over", 18], "--over 18: the ages of these faces are not known"),  # nor does a class begin there
            (["--json", model], f"'{model}' exists and is not a report of test_code.py --json; it is not replaced"),
            ([model], f"'{model}' holds the weights of '{model}': name each model once"),
            ([tmp_path / "copy.pt"], f"'{tmp_path / 'copy.pt'}' holds the weights of '{model}'"),
        ):
            assert call(test_code, model, *arguments) == 2, arguments
            captured = capsys.readouterr()
            message = message.replace("s_path", str(experiment[0] / "run" / "fold_3.pt"))
            assert captured.err.startswith("error: ")
            assert message in captured.err
            assert captured.err.count("\n") == 1
            assert captured.out == ""

    def test_a_model_with_one_answer_is_said(self, experiment, tmp_path, capsys):
        model = load_model(experiment[0] / "run" / "fold_0.pt")
        torch.nn.init.zeros_(model.fc.weight)
        model.fc.bias.data = torch.eye(8)[4]
        save_model(tmp_path / "fold_0.pt", model, model.record)
        assert call(test_code, tmp_path / "fold_0.pt") == 0
        warning = "warning: 25-32 is the answer for nearly every face; the model has learned little or diverged"
        assert warning in capsys.readouterr().out.splitlines()


def validated_rows():
    rows = small_rows()
    for fields in (fields for fold in rows.values() for fields in fold):
        fields[0] += f"-{fields[2]}"
    return rows


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """One fold, trained without the faces of some albums; each face of its folds has an album of its own."""
    folder = tmp_path_factory.mktemp("validated")
    rows = validated_rows()
    places = write_labels(folder / "labels", rows), write_images(folder / "aligned", rows)
    arguments = [*paths(places, folder), *TINY, "--val-fraction", 0.25, "--folds", 0, "--run-dir", folder / "run"]
    assert call(main, *arguments, "--no-plots") == 0
    return folder


class TestValidation:
    def test_held_out_albums_are_recorded_and_logged(self, validated):
        content = load_model(validated / "run" / "fold_0.pt").record
        assert len(content["val_albums"]) == 8  # a quarter of 32 faces
        assert content["train_faces"] == 24
        assert not {person.split("/")[0] for person in content["train_people"]} & set(content["val_albums"])
        log = pd.read_csv(validated / "run" / "log.csv")
        known = [name for name in LOG_COLUMNS if name in log]
        assert list(log.columns) == known and known[-4:] == ["val_top1", "val_one_off", "val_mae", "val_loss"]
        result = json.loads((validated / "run" / "results.json").read_text())["folds"][0]
        assert result["val_top1"] == pytest.approx(log.val_top1.iloc[-1])

    def test_the_evaluation_says_which_set_it_is(self, validated, capsys, tmp_path):
        path = validated / "run" / "fold_0.pt"
        arguments = [path, "--set", "val", "--json", tmp_path / "report.json", "--precision", "fp32"]
        assert call(test_code, *arguments) == 0
        assert "8 faces, the validation set, 8 albums of the training folds" in capsys.readouterr().out
        (report,) = json.loads((tmp_path / "report.json").read_text())
        log = pd.read_csv(validated / "run" / "log.csv")
        assert report["top1"] == pytest.approx(log.val_top1.iloc[-1])

    def test_without_validation_there_is_no_such_set(self, experiment, capsys):
        assert call(test_code, experiment[0] / "run" / "fold_0.pt", "--set", "val") == 2
        assert "held no faces out for tuning" in capsys.readouterr().err


SOMEWHERE = ["--label-dir", "somewhere", "--image-dir", "somewhere"]


class TestBadInput:
    """One clear line on standard error, exit status 2, nothing left behind."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "no --label-dir: give it, or set LABEL_DIR at the top of main.py, or try --demo"),
            (["--label-dir", "nowhere", "--image-dir", "nowhere"], "the label directory 'nowhere' does not exist"),
            (["--epochs", "none"], "argument --epochs: invalid int value: 'none'"),
            (["--epochs", "0"], "--epochs 0: expected a number from 1 to 100000"),
            (["--folds", "7"], "--folds 7: choose from 0, 1, 2, 3, 4"),
            (["--folds"], "name each fold once"),
            (["--label-policy", "loose"], "--label-policy loose: choose from strict, fixed, nearest"),
            (["--image-size", "16"], "--image-size 16: expected a number from 40 to 2048"),
            (["--colour", "red"], "unrecognized arguments: --colour red"),
            (["--image", "x"], "unrecognized arguments: --image x"),  # no abbreviation of --image-dir
            (["--demo", "--label-dir", "x"], "--demo draws its own faces; omit --label-dir"),
            (["--threads", "1000000000000"], "--threads 1000000000000: expected a number from 0 to 1024"),
            (["--label-dir", "x" * 5000, "--image-dir", "y"], "does not exist or is not a folder"),
            (["--resume", "--run-dir", "x"], "--resume: 'x' holds no run to resume"),
            (
                [*SOMEWHERE, "--model", "mobilenet_v3_small", "--shortcut", "1x1"],
                "--shortcut 1x1: mobilenet_v3_small has no such option; its options are --width",
            ),
        ],
    )
    def test_arguments_of_main(self, arguments, message, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert call(main, *arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("error: ")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_a_gpu_that_is_not_there(self, small_faces, tmp_path, capsys):
        arguments = [*paths(small_faces, tmp_path), "--run-dir", tmp_path / "run", "--device", "cuda"]
        assert call(main, *arguments) == 2
        assert "--device cuda: no such GPU is available here; use --device cpu or auto" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_truncated_image_leaves_no_run(self, small_faces, tmp_path, capsys):
        image = small_faces[1] / "album0" / "landmark_aligned_face.1.1.jpg"
        image.write_bytes(image.read_bytes()[:500])
        arguments = [*paths(small_faces, tmp_path), "--batch-size", 32, "--run-dir", tmp_path / "run"]
        assert call(main, *arguments) == 2
        assert "landmark_aligned_face.1.1.jpg' is truncated or damaged" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_run_directory_in_use(self, experiment, small_faces_once, capsys):
        arguments = [*paths(small_faces_once, experiment[0]), *TINY, "--run-dir", experiment[0] / "run"]
        before = (experiment[0] / "run" / "fold_0.pt").stat()
        assert call(main, *arguments, "--folds", 0, 3) == 2
        assert "already holds a finished run; choose another --run-dir" in capsys.readouterr().err
        assert call(main, *arguments, "--folds", 0, 3, "--resume", "--seed", 1, "--lr", 0.02) == 2
        assert "was trained with other settings: lr was 0.01, now 0.02; seed was 0, now 1" in capsys.readouterr().err
        resume = ["--run-dir", experiment[0] / "run", "--resume"]
        assert call(main, *resume, "--lr-steps", 1, 2) == 2
        assert "was trained with other settings: lr_steps was 1, now 1 2" in capsys.readouterr().err
        assert (experiment[0] / "run" / "fold_0.pt").stat() == before

    def test_replaced_pictures_stop_a_resume(self, small_faces, tmp_path, monkeypatch, capsys):
        arguments = [*paths(small_faces, tmp_path), *TINY, "--folds", 0, "--run-dir", tmp_path / "run", "--no-plots"]
        with monkeypatch.context() as patch:
            patch.setattr(main.FoldProgress, "epoch_done", lambda *_: sys.exit(77))
            assert call(main, *arguments) == 77
        picture = next((small_faces[1] / "album1").iterdir())
        Image.new("RGB", (48, 48), "red").save(picture)
        assert call(main, *arguments, "--resume") == 2
        assert "was trained on other faces, labels or pixels than these" in capsys.readouterr().err

    def test_a_directory_that_another_process_trains_in(self, small_faces, tmp_path, capsys):
        arguments = [*paths(small_faces, tmp_path), *TINY, "--run-dir", tmp_path / "run"]
        (tmp_path / "run").mkdir()
        with locked(tmp_path / "run" / ".fold_2.lock", when_busy=lambda: pytest.fail("it is free")):
            assert call(main, *arguments) == 2
        message = (
            f"another process is training fold 2 in '{tmp_path / 'run'}'; choose other --folds or another --run-dir"
        )
        assert message in capsys.readouterr().err
        assert all(path.name.endswith(".lock") for path in (tmp_path / "run").iterdir())

    def test_models_of_another_origin_are_not_taken_for_trained(self, experiment, small_faces, tmp_path, capsys):
        run = tmp_path / "run"
        run.mkdir()
        shutil.copy(experiment[0] / "run" / "fold_0.pt", run / "fold_0.pt")
        arguments = [*paths(small_faces, tmp_path), *TINY, "--run-dir", run]
        assert call(main, *arguments) == 2
        assert f"'{run}' holds fold_0.pt but no config.json; choose another --run-dir" in capsys.readouterr().err
        shutil.copy(experiment[0] / "run" / "config.json", run / "config.json")
        (run / "fold_0.pt").rename(run / "fold_1.pt")
        assert call(main, *arguments, "--folds", 0, 3, "--resume") == 2
        assert f"'{run / 'fold_1.pt'}' is of fold 0, not of fold 1" in capsys.readouterr().err

    def test_what_cannot_be_trained_leaves_no_run(self, small_faces_once, tmp_path, capsys):
        arguments = [*paths(small_faces_once, tmp_path), "--run-dir", tmp_path / "run", "--batch-size", 64]
        assert call(main, *arguments) == 2
        message = "--batch-size 64: the training set has only 32 faces; a batch of at most 32 is needed"
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "cache").exists()

    def test_classes_without_faces_cannot_be_balanced(self, tmp_path, capsys):
        rows = small_rows(2)  # of the classes 0-2 and 4-6
        places = write_labels(tmp_path / "labels", rows), write_images(tmp_path / "aligned", rows)
        arguments = [*paths(places, tmp_path), "--run-dir", tmp_path / "run", "--batch-size", 8]
        assert call(main, *arguments, "--balance", "sampling") == 2
        wanted = "--balance: no training face is labelled '8-13', so the classes cannot be balanced"
        assert wanted in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_run_with_one_answer_is_said(self, tmp_path, capsys):
        """All faces of training have one class, and so has every answer."""
        rows = small_rows()
        for fields in (fields for fold in range(1, 5) for fields in rows[fold]):
            fields[3] = "(25, 32)"
        places = write_labels(tmp_path / "labels", rows), write_images(tmp_path / "aligned", rows)
        arguments = [*paths(places, tmp_path), *TINY, "--lr", 0.1, "--folds", 0, "--run-dir", tmp_path / "run"]
        assert call(main, *arguments, "--no-plots") == 0
        warning = "warning: 25-32 is the answer for nearly every face; the model has learned little or diverged"
        assert warning in capsys.readouterr().out.splitlines()

    def test_a_lost_log_is_written_again(self, experiment, small_faces_once, tmp_path):
        """The log follows from the model files and the progress, even after a kill between the two."""
        shutil.copytree(experiment[0] / "run", tmp_path / "run")
        log = (tmp_path / "run" / "log.csv").read_text()
        (tmp_path / "run" / "log.csv").unlink()
        arguments = [*paths(small_faces_once, experiment[0]), *TINY, "--folds", 0, 3, "--run-dir", tmp_path / "run"]
        assert call(main, *arguments, "--resume", "--no-plots") == 0
        assert (tmp_path / "run" / "log.csv").read_text() == log

    def test_a_model_file_does_not_say_where_to_write(self, experiment):
        """It records the cache of its training; the command line alone chooses the one of an evaluation."""
        model = load_model(experiment[0] / "run" / "fold_0.pt")
        model.record["config"] |= {"cache_dir": "recorded"}
        save_model("fold_0.pt", model, model.record)
        assert call(test_code, "fold_0.pt") == 0
        assert sorted(path.name for path in Path().iterdir()) == ["cache", "fold_0.pt"]

    def test_an_unfinished_fold_is_not_evaluated(self, tmp_path, capsys):
        path = tmp_path / "fold_0.progress.pt"
        save_plain(path, {"format": PROGRESS_FORMAT, "fold": 0})
        assert call(test_code, path) == 2
        message = f"'{path}' is the progress of an unfinished fold; main.py --resume finishes it"
        assert message in capsys.readouterr().err

    def test_nothing_to_resume(self, small_faces, tmp_path, capsys):
        arguments = [*paths(small_faces, tmp_path), "--run-dir", tmp_path / "run", "--resume"]
        assert call(main, *arguments) == 2
        assert f"--resume: '{tmp_path / 'run'}' holds no run to resume" in capsys.readouterr().err

    def test_a_diverging_run_keeps_its_log(self, small_faces, tmp_path, monkeypatch, capsys):
        """The second epoch's learning rate is absurd: the first one stays recorded."""
        arguments = [*paths(small_faces, tmp_path), *TINY, "--folds", 0, "--run-dir", tmp_path / "run"]
        with monkeypatch.context() as patch:
            patch.setattr("training.setup.learning_rate", lambda epoch, **_: 1e38 if epoch >= 1 else 0.01)
            assert call(main, *arguments) == 2
        assert "training diverged; use a smaller --lr" in capsys.readouterr().err
        assert len(pd.read_csv(tmp_path / "run" / "log.csv")) == 1
        assert not (tmp_path / "run" / "fold_0.pt").exists()

    def test_model_files(self, tmp_path, capsys):
        (tmp_path / "bad.pt").write_bytes(b"not a model")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "fold_0.progress.pt").write_bytes(b"")
        for arguments, message in (
            ([tmp_path / "none.pt"], "no model file at"),
            ([tmp_path / "bad.pt"], "bad.pt"),
            (
                [tmp_path / "run"],
                f"'{tmp_path / 'run'}' is a run without a finished fold; main.py --resume finishes it",
            ),
            ([], "the following arguments are required: MODEL"),
        ):
            assert call(test_code, *arguments) == 2
            captured = capsys.readouterr()
            assert message in captured.err
            assert captured.err.count("\n") == 1

    def test_a_real_process_prints_one_line_and_no_traceback(self, tmp_path):
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), "--label-dir", "nowhere", "--image-dir", "nowhere"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: the label directory 'nowhere' does not exist")
        assert done.stderr.count("\n") == 1


class TestCommandLine:
    def help_of(self, script, arguments, monkeypatch, capsys):
        monkeypatch.setenv("COLUMNS", "300")  # one line per option
        assert call(script, *arguments, "--help") == 0
        return [line.strip() for line in capsys.readouterr().out.splitlines()]

    def default_of(self, option, lines):
        return re.search(rf".*--{option} [^()]+ \(default: ([^()]*)\)", " ".join(lines)).group(1)

    def test_help_has_titled_sections_in_order(self, monkeypatch, capsys):
        lines = self.help_of(main, [], monkeypatch, capsys)
        titles = ["data:", "network:", "optimisation:", "augmentation:", "evaluation:", "machine:"]
        assert [line for line in lines if line in titles] == titles
        options = ["--label-dir DIR", "--model ", "--epochs N", "--flip X", "--decode ", "--device "]
        for title, option in zip(titles, options, strict=True):
            section = lines[lines.index(title) :]
            section = section[: section.index("")] if "" in section else section
            assert any(line.startswith(option) for line in section), title

    def test_help_shows_the_defaults(self, monkeypatch, capsys):
        lines = self.help_of(main, [], monkeypatch, capsys)
        defaults = {"epochs": "100", "lr-steps": "20 50 75", "momentum": "0.0", "loss": "cross_entropy"}
        assert {option: self.default_of(option, lines) for option in defaults} == defaults

    def test_help_of_test_code_says_where_defaults_come_from(self, monkeypatch, capsys):
        lines = self.help_of(test_code, [], monkeypatch, capsys)
        expected = {"batch-size": "from the model file", "device": "auto", "precision": "auto", "threads": "0"}
        assert {option: self.default_of(option, lines) for option in expected} == expected

    def test_the_paths_at_the_top_of_main(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["main.py", "--image-dir", "there"])
        config = read_arguments("here", "elsewhere").config
        assert (config.label_dir, config.image_dir) == ("here", "there")


def test_the_demo_learns(tmp_path):
    """One fold of the demo, by a narrow network: far above the one in eight of guessing, on people it has not seen."""
    assert call(main, "--demo", "--folds", 0, "--width", 0.25, "--no-plots") == 0
    results = json.loads((tmp_path / "runs" / "demo" / "results.json").read_text())
    assert results["folds"][0]["top1"] > 0.4


def test_the_settings_of_matplotlib_do_not_matter(tmp_path):
    """A notebook sets the backend, and a settings file may be of any kind."""
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "matplotlibrc").write_bytes(b"text.usetex: True\n\xff\xfe")
    environment = {
        "MPLBACKEND": "module://nonsense",
        "MATPLOTLIBRC": str(tmp_path / "settings"),
        "HOME": "/proc",
        "PATH": "/bin",
    }
    program = "from report import plots; plots.save(plots.plot_confusion(__import__('numpy').eye(2), 'ab', '$x$'), 'c')"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path("c.png").exists()


def test_only_main_joins_other_processes(tmp_path):
    """predict.py in a job of several processes works by itself."""
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png")
    torch.manual_seed(0)
    write_model(tmp_path / "fold_0.pt")
    command = [sys.executable, str(ROOT / "predict.py"), "fold_0.pt", "a.png", "--no-detect", "--threads", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "a.png  face 1 of 1" in done.stdout


def test_the_published_network(small_faces_once, tmp_path, capsys):
    """Where no --width is given, both scripts have the network of the published size."""
    narrow = TINY.index("--width")
    published = [*TINY[:narrow], *TINY[narrow + 2 :], "--epochs", 1, "--folds", 3, "--no-plots"]
    arguments = [*paths(small_faces_once, tmp_path), *published, "--run-dir", tmp_path / "run"]
    assert call(main, *arguments) == 0
    assert "model: resnet18, 12,561,672 parameters, 47.92 MiB" in capsys.readouterr().out.splitlines()
    assert 47.92 < (tmp_path / "run" / "fold_3.pt").stat().st_size / 2**20 < 48.2
    assert call(test_code, tmp_path / "run" / "fold_3.pt") == 0
    assert "our model has size=47.92 MiB" in capsys.readouterr().out.splitlines()


def test_every_figure_is_given_without_the_duplicates_too(small_faces, tmp_path, capsys):
    """A face of the held-out fold shows a picture that a training fold has under another name."""
    held_out, known = "album0/landmark_aligned_face.2.2.jpg", "album1/landmark_aligned_face.102.2.jpg"
    shutil.copy(small_faces[1] / known, small_faces[1] / held_out)
    arguments = [*paths(small_faces, tmp_path), *TINY, "--folds", 0, "--run-dir", tmp_path / "run", "--no-plots"]
    assert call(main, *arguments) == 0
    line = f"duplicates: 2 faces show a picture that is in another fold too, such as {held_out}"
    assert line in capsys.readouterr().out.splitlines()
    (result,) = json.loads((tmp_path / "run" / "results.json").read_text())["folds"]
    assert result["duplicates"] == [held_out]
    others = pd.read_csv(tmp_path / "run" / "predictions.csv").query("path != @held_out")
    assert len(others) == 7
    assert result["top1_without_duplicates"] == pytest.approx((others.label == others.prediction).mean())
    assert result["mae_without_duplicates"] == pytest.approx((others.label - others.prediction).abs().mean())
    report = tmp_path / "report.json"
    model = tmp_path / "run" / "fold_0.pt"
    assert call(test_code, model, "--precision", "fp32", "--json", report) == 0
    (reported,) = json.loads(report.read_text())
    assert reported["duplicates"] == 1
    for name in ("top1", "one_off", "mae", "loss"):
        assert reported["without_duplicates"][name] == pytest.approx(result[f"{name}_without_duplicates"])
    start = f"without the 1 faces whose picture is in a training fold: top-1 {result['top1_without_duplicates']:.2%}, "
    assert any(line.startswith(start) for line in capsys.readouterr().out.splitlines())


def test_images_of_the_other_download_work_end_to_end(tmp_path):
    rows = small_rows(2)
    labels = write_labels(tmp_path / "labels", rows)
    images = write_images(tmp_path / "faces", rows, prefix="coarse_tilt_aligned_face", side=60)
    short = [*TINY, "--epochs", 1, "--batch-size", 8, "--no-plots"]
    arguments = [*paths((labels, images), tmp_path), *short, "--folds", 4, "--run-dir", tmp_path / "run"]
    assert call(main, *arguments) == 0
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert table.path.tolist() == [f"album4/coarse_tilt_aligned_face.{400 + k}.{k}.jpg" for k in range(2)]


def test_the_precision_is_chosen_once(small_faces, tmp_path, monkeypatch):
    """A run resumes with the precision it began with, even where the choice would now be another."""
    run = tmp_path / "run"
    arguments = [*paths(small_faces, tmp_path), *TINY[:-2], "--epochs", 1, "--folds", 3, "--no-plots"]

    def stop(interruption):
        interruption.requested = signal.SIGTERM
        return True

    with monkeypatch.context() as patch:
        patch.setattr("utils.device.bf16_is_faster", lambda: True)
        patch.setattr(main.Interruption, "agreed", stop)
        assert call(main, *arguments, "--device", "cpu", "--run-dir", run) == 143
    assert json.loads((run / "config.json").read_text())["precision"] == "bf16"
    monkeypatch.setattr("utils.device.bf16_is_faster", lambda: False)
    assert call(main, "--run-dir", run, "--resume", "--precision", "fp32") == 2
    assert call(main, "--run-dir", run, "--resume", "--precision", "auto") == 0
    assert json.loads((run / "config.json").read_text())["precision"] == "bf16"
    assert load_model(run / "fold_3.pt").record["trained_on"].endswith("bf16")


@pytest.fixture(scope="module")
def modern(small_faces_once, tmp_path_factory):
    """Two seeds of fold 3 with nearly everything switched on: the folder."""
    folder = tmp_path_factory.mktemp("modern")
    everything = "--recipe modern --loss corn --decode val --val-fraction 0.3 --balance sampling --no-plots".split()
    for seed in (0, 1):
        arguments = [*paths(small_faces_once, folder), *TINY, *everything, "--folds", 3, "--seed", seed]
        assert call(main, *arguments, "--run-dir", folder / f"seed{seed}") == 0
    return folder


class TestBeyondTheOriginal:
    """Other losses, decoders and views through the scripts, and what they leave in the files."""

    def test_the_decoder_is_recorded(self, modern):
        result = json.loads((modern / "seed0" / "results.json").read_text())["folds"][0]
        assert result["decoder"] in ("argmax", "median", "expected", "one_off")
        assert load_model(modern / "seed0" / "fold_3.pt").record["decoder"] == result["decoder"]

    def test_the_model_file_holds_the_weights_of_its_network(self, modern):
        content = load_plain(modern / "seed0" / "fold_3.pt")
        network = create_model("resnet18", "corn", 8, shortcut="pooled")
        assert content["state_dict"].keys() == network.state_dict().keys()
        assert content["state_dict"]["fc.weight"].shape == (7, 64)

    def test_a_tenth_of_the_epochs_is_warm_up(self, modern):
        assert json.loads((modern / "seed0" / "config.json").read_text())["warmup"] == 0.2

    def test_test_code_decodes_as_recorded_and_fuses(self, modern, tmp_path, capsys):
        models = [modern / f"seed{seed}" / "fold_3.pt" for seed in (0, 1)]
        report = tmp_path / "report.json"
        arguments = [*models, "--views", "flip", "--json", report]
        assert call(test_code, *arguments) == 0
        first, second, last = json.loads(report.read_text())
        recorded = json.loads((modern / "seed0" / "results.json").read_text())["folds"][0]
        assert first["top1"] == pytest.approx(recorded["top1"])
        assert first["decoder"] == recorded["decoder"]
        fusion = last["fusion"]
        assert fusion["models"] == list(map(str, models))
        assert fusion["views"] == ["plain", "flip"]
        for name in ("top1", "one_off", "mae", "loss"):
            gain, low, high = fusion["gains"][name]
            assert gain == pytest.approx(fusion[name] - (first[name] + second[name]) / 2)
            assert low is high is None  # of eight people
        assert "fusion of 2 models, views: plain, flip" in capsys.readouterr().out

    def test_models_of_different_folds_do_not_fuse(self, experiment, small_faces_once, capsys):
        models = [experiment[0] / "run" / f"fold_{fold}.pt" for fold in (0, 3)]
        assert call(test_code, *models, "--fuse") == 2
        message = "--fuse: these models are evaluated on fold 0, fold 3; only models of the same faces fuse"
        assert message in capsys.readouterr().err
        assert call(test_code, *models) == 0
        assert "fusion" not in capsys.readouterr().out
