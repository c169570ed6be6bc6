"""The two scripts as a user runs them: a whole small experiment, resuming, and every kind of bad input."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, small_rows, write_images, write_labels
from PIL import Image

import main
import test_code
from models import resnet18
from utils.cli import run_script
from utils.config import Config
from utils.run import LOG_COLUMNS, locked

TINY = "--image-size 40 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --precision fp32".split()


def call(script, arguments, monkeypatch):
    """Run a script's main in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    monkeypatch.setattr(main, "LABEL_DIR", "")  # someone may have set them
    monkeypatch.setattr(main, "IMAGE_DIR", "")
    try:
        run_script(script.main)
    except SystemExit as exit:
        return exit.code
    return 0


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


def paths(small_faces_once, folder):
    labels, images = small_faces_once
    return ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache"]


class TestTraining:
    def test_the_run_directory(self, experiment):
        run = experiment[0] / "run"
        names = {path.name for path in run.iterdir()}
        pictures = {"learning_curves.png", "confusion.png", "augmentation.png", "worst_errors.png"}
        files = {"config.json", "log.csv", "predictions.csv", "results.json", "fold_0.pt", "fold_3.pt"}
        assert names == files | pictures | {"parameters_fold_0.png", "parameters_fold_3.png"}
        for picture in pictures:
            with Image.open(run / picture) as image:
                assert min(image.size) > 200
        assert json.loads((run / "config.json").read_text())["epochs"] == 2

    def test_the_log(self, experiment):
        log = pd.read_csv(experiment[0] / "run" / "log.csv")
        assert list(log.columns) == LOG_COLUMNS
        assert list(zip(log.fold, log.epoch, strict=True)) == [(0, 0), (0, 1), (3, 0), (3, 1)]
        assert log.lr.tolist() == pytest.approx([0.01, 0.001, 0.01, 0.001])
        assert log.gridmask_prob.tolist() == [0.6, 0.8, 0.6, 0.8]
        assert (log.seconds > 0).all()

    def test_predictions_come_from_the_model_that_held_the_face_out(self, experiment):
        table = pd.read_csv(experiment[0] / "run" / "predictions.csv")
        columns = ["path", "subject", "fold", "label", "prediction", *(f"p{k}" for k in range(8))]
        assert list(table.columns) == columns
        assert table.fold.tolist() == [0] * 8 + [3] * 8
        assert table.path[8] == "album3/landmark_aligned_face.300.0.jpg"
        probabilities = table[columns[5:]].to_numpy()
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
            assert result["top1_over_epochs"] == pytest.approx(log[log.fold == fold].test_top1.mean())
            assert f"fold {fold}    {result['top1']:7.2%}   {result['one_off']:7.2%}" in printed
        values = [result["top1"] for result in results["folds"]]
        assert results["mean"]["top1"] == pytest.approx(sum(values) / 2)
        assert results["std"]["top1"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)

    def test_the_same_command_gives_the_same_bits(self, experiment, small_faces_once, tmp_path, monkeypatch):
        where = paths(small_faces_once, experiment[0])
        arguments = [*where, *TINY, "--folds", 3, "--run-dir", tmp_path / "again", "--no-plots"]
        assert call(main, arguments, monkeypatch) == 0
        assert not list((tmp_path / "again").glob("*.png"))
        first, again = (torch.load(run / "fold_3.pt")["model"] for run in (experiment[0] / "run", tmp_path / "again"))
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_a_stopped_run_resumes_to_the_same_bits(self, experiment, small_faces_once, tmp_path, monkeypatch):
        arguments = [*paths(small_faces_once, experiment[0]), *TINY, "--folds", 3, "--run-dir", tmp_path / "run"]
        with monkeypatch.context() as patch:
            # The power goes after the first epoch is recorded.
            patch.setattr(main.Run, "finish_fold", lambda *_: pytest.fail("too late"))
            patch.setattr(main.FoldProgress, "epoch_done", lambda *_: sys.exit(77))
            assert call(main, arguments, monkeypatch) == 77
        assert (tmp_path / "run" / "fold_3.progress.pt").exists()
        assert call(main, [*arguments, "--resume"], monkeypatch) == 0
        assert not (tmp_path / "run" / "fold_3.progress.pt").exists()
        first, again = (torch.load(run / "fold_3.pt")["model"] for run in (experiment[0] / "run", tmp_path / "run"))
        assert all(torch.equal(first[name], again[name]) for name in first)
        log, whole = (pd.read_csv(run / "log.csv") for run in (tmp_path / "run", experiment[0] / "run"))
        timed = ["seconds", "images_per_second"]
        assert log.drop(columns=timed).equals(whole[whole.fold == 3].drop(columns=timed).reset_index(drop=True))

    def test_runs_of_different_folds_merge(self, experiment, small_faces_once, tmp_path, monkeypatch, capsys):
        one = tmp_path / "one"
        arguments = [*paths(small_faces_once, experiment[0]), *TINY, "--folds", 1, "--run-dir", one]
        assert call(main, arguments, monkeypatch) == 0
        merge = ["--merge", one, experiment[0] / "run", "--run-dir", tmp_path / "all"]
        assert call(main, merge, monkeypatch) == 0
        results = json.loads((tmp_path / "all" / "results.json").read_text())
        assert [result["fold"] for result in results["folds"]] == [0, 1, 3]
        assert pd.read_csv(tmp_path / "all" / "predictions.csv").fold.value_counts().to_dict() == {0: 8, 1: 8, 3: 8}
        assert len(pd.read_csv(tmp_path / "all" / "log.csv")) == 6
        capsys.readouterr()
        assert call(main, ["--merge", one, one, "--run-dir", tmp_path / "twice"], monkeypatch) == 2
        assert "fold 1 is in" in capsys.readouterr().err


FOUR_LINES = [
    r"our model has size=47\.92 MiB",
    r"inference time: \d+\.\d\d s \(\d+\.\d\d ms per image\)",
    r"eval accuracy: (\d+\.\d\d)%",
    r"one-off accuracy: (\d+\.\d\d)%",
]


class TestEvaluation:
    def test_the_checkpoint_alone_gives_the_recorded_numbers(self, experiment, monkeypatch, capsys, tmp_path):
        run = experiment[0] / "run"
        arguments = [run / "fold_3.pt", "--json", tmp_path / "report.json", "--precision", "fp32"]
        assert call(test_code, arguments, monkeypatch) == 0
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        found = [re.fullmatch(pattern, line) for pattern in FOUR_LINES for line in lines]
        matches = [match for match in found if match]
        assert len(matches) == 4
        recorded = json.loads((run / "results.json").read_text())["folds"][1]
        assert float(matches[2].group(1)) == pytest.approx(100 * recorded["top1"], abs=0.005)
        assert float(matches[3].group(1)) == pytest.approx(100 * recorded["one_off"], abs=0.005)
        (report,) = json.loads((tmp_path / "report.json").read_text())
        assert report["top1"] == recorded["top1"]
        assert np.array(report["confusion"]).sum() == 8
        assert report["latency"]["one"]["seconds"] > 0
        assert "true \\ predicted" in printed

    def test_error_images(self, experiment, monkeypatch, capsys, tmp_path):
        folder = tmp_path / "error"
        folder.mkdir()
        (folder / "README.md").write_text("stays")
        (folder / "0001_true_0-2_predicted_4-6_99pct_old.png").write_text("goes")
        arguments = [experiment[0] / "run" / "fold_0.pt", "--show-errors", "--error-dir", folder]
        assert call(test_code, arguments, monkeypatch) == 0
        predictions = pd.read_csv(experiment[0] / "run" / "predictions.csv").query("fold == 0")
        wrong = predictions[predictions.label != predictions.prediction]
        table = pd.read_csv(folder / "errors.csv")
        assert set(table.path) == set(wrong.path)
        assert table.confidence.is_monotonic_decreasing
        assert [column for column in table if column.startswith("p") and column[1:].isdigit()] == [
            f"p{k}" for k in range(8)
        ]
        images = {path.name for path in folder.glob("0*.png")}
        assert images == set(table.file)
        assert (folder / "README.md").read_text() == "stays"
        assert (folder / "worst.png").exists()
        groups = ["0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60plus"]
        cached = np.load(next((experiment[0] / "cache").glob("faces_*/images.npy")))
        for number, error in enumerate(table.itertuples(), 1):
            percent = f"{100 * error.confidence:.0f}pct"
            start = f"{number:04d}_true_{groups[error.label]}_predicted_{groups[error.prediction]}_{percent}_album0_"
            assert error.file.startswith(start)
            assert re.fullmatch(r"[A-Za-z0-9._-]+", error.file)
            # The very pixels that the network saw: true colours, nothing normalised.
            face = int(re.search(r"_face\.(\d+)\.", error.file).group(1))
            assert (np.asarray(Image.open(folder / error.file)).transpose(2, 0, 1) == cached[face]).all()

    def test_faces_of_training_are_refused(self, experiment, monkeypatch, capsys):
        arguments = [experiment[0] / "run" / "fold_0.pt", "--fold", 1]
        assert call(test_code, arguments, monkeypatch) == 2
        error = capsys.readouterr().err
        assert "was trained on people of these faces: 8 of 8 in fold 1" in error

    def test_shuffled_folds_are_refused(self, experiment, small_faces_once, tmp_path, monkeypatch, capsys):
        """The same faces under other label files: fold 0 now holds people of the training folds."""
        rows = small_rows()
        rows[0][0], rows[1][0] = rows[1][0], rows[0][0]
        labels = write_labels(tmp_path / "labels", rows)
        arguments = [experiment[0] / "run" / "fold_0.pt", "--label-dir", labels]
        assert call(test_code, arguments, monkeypatch) == 2
        assert "1 of 8 in fold 0" in capsys.readouterr().err

    def test_several_checkpoints_give_a_mean_and_one_ranking(self, experiment, monkeypatch, capsys, tmp_path):
        arguments = [experiment[0] / "run" / f"fold_{fold}.pt" for fold in (0, 3)]
        assert call(test_code, [*arguments, "--show-errors", "--error-dir", tmp_path], monkeypatch) == 0
        errors = pd.read_csv(tmp_path / "errors.csv")
        assert set(errors.fold) == {0, 3}
        assert errors.confidence.is_monotonic_decreasing
        results = json.loads((experiment[0] / "run" / "results.json").read_text())
        expected = f"top-1 {results['mean']['top1']:.2%} ± {results['std']['top1']:.2%}"
        assert expected in capsys.readouterr().out


@pytest.fixture(scope="module")
def validated(small_faces_once, tmp_path_factory):
    """One fold, trained without the faces of some albums; each face of its folds has an album of its own."""
    folder = tmp_path_factory.mktemp("validated")
    rows = small_rows()
    for fields in (fields for fold in rows.values() for fields in fold):
        fields[0] += f"-{fields[2]}"
    places = write_labels(folder / "labels", rows), write_images(folder / "aligned", rows)
    command = [sys.executable, ROOT / "main.py", *paths(places, folder), *TINY, "--val-fraction", "0.25"]
    command += ["--folds", "0", "--run-dir", folder / "run"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


class TestValidation:
    def test_held_out_albums_are_recorded_and_logged(self, validated):
        content = torch.load(validated / "run" / "fold_0.pt")
        assert len(content["val_albums"]) == 8  # a quarter of 32 faces
        assert content["train_faces"] == 24
        assert not {person.split("/")[0] for person in content["train_people"]} & set(content["val_albums"])
        log = pd.read_csv(validated / "run" / "log.csv")
        assert list(log.columns) == [*LOG_COLUMNS, "val_loss", "val_top1", "val_one_off"]
        result = json.loads((validated / "run" / "results.json").read_text())["folds"][0]
        assert result["val_top1"] == pytest.approx(log.val_top1.iloc[-1])

    def test_the_evaluation_says_which_set_it_is(self, validated, monkeypatch, capsys, tmp_path):
        path = validated / "run" / "fold_0.pt"
        arguments = [path, "--set", "val", "--json", tmp_path / "report.json", "--precision", "fp32"]
        assert call(test_code, arguments, monkeypatch) == 0
        assert "8 faces, the validation set, 8 albums of the training folds" in capsys.readouterr().out
        (report,) = json.loads((tmp_path / "report.json").read_text())
        log = pd.read_csv(validated / "run" / "log.csv")
        assert report["top1"] == pytest.approx(log.val_top1.iloc[-1])

    def test_without_validation_there_is_no_such_set(self, experiment, monkeypatch, capsys):
        assert call(test_code, [experiment[0] / "run" / "fold_0.pt", "--set", "val"], monkeypatch) == 2
        assert "held no faces out for tuning" in capsys.readouterr().err


class TestBadInput:
    """One clear line on standard error, exit status 2, nothing left behind."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "no --label-dir: give it, or set LABEL_DIR at the top of main.py, or try --demo"),
            (["--label-dir", "nowhere", "--image-dir", "nowhere"], "the label directory 'nowhere' does not exist"),
            (["--epochs", "none"], "argument --epochs: invalid int value: 'none'"),
            (["--epochs", "0"], "--epochs 0: a number from 1 to 100000 is wanted"),
            (["--lr", "nan"], "--lr nan: a number from 0 to 1000000.0"),
            (["--folds", "7"], "--folds 7: choose from 0, 1, 2, 3, 4"),
            (["--folds", "1", "1"], "name each fold once"),
            (["--folds"], "name each fold once"),
            (["--label-policy", "loose"], "--label-policy loose: choose from strict, fixed, nearest"),
            (["--gridmask-start", "1.5"], "--gridmask-start 1.5: a number from 0 to 1"),
            (["--image-size", "16"], "--image-size 16: a number from 40 to 2048"),
            (["--colour", "red"], "unrecognized arguments: --colour red"),
            (["--demo", "--label-dir", "x"], "--demo draws its own faces"),
            (["--merge", "nowhere", "--run-dir", "x"], "'nowhere' is no run directory"),
            (["--merge", "a", "--run-dir", "x", "--resume"], "--merge takes the runs"),
            (["--lr", "inf"], "--lr inf: a number from 0 to 1000000.0 is wanted"),
            (["--threads", "1000000000000"], "--threads 1000000000000: a number from 0 to 1024"),
            (["--label-dir", "x" * 5000, "--image-dir", "y"], "does not exist or is no folder"),
            (["--merge", "nowhere"], "--merge takes the runs to join and a --run-dir"),
        ],
    )
    def test_arguments_of_main(self, arguments, message, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert call(main, arguments, monkeypatch) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("error: ")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_a_gpu_that_is_not_there(self, small_faces, tmp_path, monkeypatch, capsys):
        arguments = [*paths(small_faces, tmp_path), "--run-dir", tmp_path / "run", "--device", "cuda"]
        assert call(main, arguments, monkeypatch) == 2
        assert "--device cuda: no CUDA GPU is available" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_truncated_image_leaves_no_run(self, small_faces, tmp_path, monkeypatch, capsys):
        image = small_faces[1] / "album0" / "landmark_aligned_face.1.1.jpg"
        image.write_bytes(image.read_bytes()[:500])
        arguments = [*paths(small_faces, tmp_path), "--run-dir", tmp_path / "run"]
        assert call(main, arguments, monkeypatch) == 2
        assert "landmark_aligned_face.1.1.jpg' is truncated or damaged" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]

    def test_a_run_directory_in_use(self, experiment, small_faces_once, monkeypatch, capsys):
        arguments = [*paths(small_faces_once, experiment[0]), *TINY, "--run-dir", experiment[0] / "run"]
        before = (experiment[0] / "run" / "fold_0.pt").stat()
        assert call(main, [*arguments, "--folds", 0, 3], monkeypatch) == 2
        assert "already holds a finished run; choose another --run-dir" in capsys.readouterr().err
        assert call(main, [*arguments, "--folds", 0, 3, "--resume", "--seed", 1, "--lr", 0.02], monkeypatch) == 2
        assert "other settings: seed was 0, now 1; lr was 0.01, now 0.02" in capsys.readouterr().err
        assert (experiment[0] / "run" / "fold_0.pt").stat() == before

    def test_replaced_pictures_stop_a_resume(self, small_faces, tmp_path, monkeypatch, capsys):
        arguments = [*paths(small_faces, tmp_path), *TINY, "--folds", 0, "--run-dir", tmp_path / "run", "--no-plots"]
        with monkeypatch.context() as patch:
            patch.setattr(main.FoldProgress, "epoch_done", lambda *_: sys.exit(77))
            assert call(main, arguments, monkeypatch) == 77
        picture = next((small_faces[1] / "album1").iterdir())
        Image.new("RGB", (48, 48), "red").save(picture)
        assert call(main, [*arguments, "--resume"], monkeypatch) == 2
        assert "was trained on other faces, labels or pixels than these" in capsys.readouterr().err

    def test_a_directory_that_another_process_trains_in(self, small_faces, tmp_path, monkeypatch, capsys):
        arguments = [*paths(small_faces, tmp_path), *TINY, "--run-dir", tmp_path / "run"]
        with locked(tmp_path / "run"):
            assert call(main, arguments, monkeypatch) == 2
        assert "another process is training in" in capsys.readouterr().err
        assert list((tmp_path / "run").iterdir()) == []

    def test_models_of_another_origin_are_not_taken_for_trained(self, experiment, small_faces, tmp_path, monkeypatch):
        run = tmp_path / "run"
        run.mkdir()
        shutil.copy(experiment[0] / "run" / "fold_0.pt", run / "fold_0.pt")
        arguments = [*paths(small_faces, tmp_path), *TINY, "--run-dir", run]
        assert call(main, arguments, monkeypatch) == 2  # no config.json
        shutil.copy(experiment[0] / "run" / "config.json", run / "config.json")
        (run / "fold_0.pt").rename(run / "fold_1.pt")
        assert call(main, [*arguments, "--folds", 0, 3, "--resume"], monkeypatch) == 2  # fold 0's model as fold 1's

    def test_a_lost_log_is_written_again(self, experiment, small_faces_once, tmp_path, monkeypatch):
        """The log follows from the checkpoints, even after a kill between the two."""
        shutil.copytree(experiment[0] / "run", tmp_path / "run")
        log = (tmp_path / "run" / "log.csv").read_text()
        (tmp_path / "run" / "log.csv").unlink()
        arguments = [*paths(small_faces_once, experiment[0]), *TINY, "--folds", 0, 3, "--run-dir", tmp_path / "run"]
        assert call(main, [*arguments, "--resume", "--no-plots"], monkeypatch) == 0
        assert (tmp_path / "run" / "log.csv").read_text() == log

    def test_an_unfinished_fold_is_not_evaluated(self, experiment, tmp_path, monkeypatch, capsys):
        content = torch.load(experiment[0] / "run" / "fold_0.pt")
        del content["metrics"]
        torch.save(content, tmp_path / "fold_0.progress.pt")
        assert call(test_code, [tmp_path / "fold_0.progress.pt"], monkeypatch) == 2
        assert "is the progress of an unfinished fold" in capsys.readouterr().err

    def test_nothing_to_resume(self, small_faces, tmp_path, monkeypatch, capsys):
        arguments = [*paths(small_faces, tmp_path), "--run-dir", tmp_path / "run", "--resume"]
        assert call(main, arguments, monkeypatch) == 2
        assert "holds no run to go on with" in capsys.readouterr().err

    def test_a_diverging_run_keeps_its_log(self, small_faces, tmp_path, monkeypatch, capsys):
        """The second epoch's learning rate is absurd: the first one stays recorded."""
        arguments = [*paths(small_faces, tmp_path), *TINY, "--folds", 0, "--run-dir", tmp_path / "run"]
        with monkeypatch.context() as patch:
            patch.setattr("utils.learner.learning_rate", lambda progress, _: 1e38 if progress >= 1 else 0.01)
            assert call(main, arguments, monkeypatch) == 2
        assert "it diverged; a smaller --lr" in capsys.readouterr().err
        assert len(pd.read_csv(tmp_path / "run" / "log.csv")) == 1
        assert not (tmp_path / "run" / "fold_0.pt").exists()

    def test_checkpoints(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
        for arguments, message in (
            ([tmp_path / "none.pt"], "no checkpoint at"),
            ([tmp_path / "bad.pt"], "bad.pt"),
            ([], "the following arguments are required: CHECKPOINT"),
        ):
            assert call(test_code, arguments, monkeypatch) == 2
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


def test_the_demo_learns(tmp_path, monkeypatch, capsys):
    """One fold of the demo: clearly above the one in eight of guessing, on people it has not seen."""
    monkeypatch.chdir(tmp_path)
    assert call(main, ["--demo", "--folds", 0], monkeypatch) == 0
    results = json.loads((tmp_path / "runs" / "demo" / "results.json").read_text())
    assert results["folds"][0]["top1"] > 0.25


def test_defaults_are_the_experiment():
    """What `python main.py` does, from the table of the experiment."""
    config = Config()
    assert (config.model, config.negative_slope, config.shortcut, config.image_size) == ("resnet18", 0.2, "3x3", 224)
    assert (config.epochs, config.batch_size, config.loss) == (100, 128, "cross_entropy")
    assert (config.lr, config.lr_steps, config.lr_gamma) == (0.1, (20, 50, 75), 0.1)
    assert (config.momentum, config.weight_decay) == (0.9, 1e-4)
    assert (config.flip, config.rotation, config.hue) == (0.5, 20, 0.02)
    assert (config.brightness, config.contrast, config.saturation) == (0.1, 0.1, 0.1)
    assert (config.gridmask_ratio, config.gridmask_start, config.gridmask_end) == (0.6, 0.6, 0.8)
    assert config.gridmask_rotated
    assert (config.folds, config.label_policy, config.seed) == ((0, 1, 2, 3, 4), "strict", 0)


def test_images_of_the_other_download_work_end_to_end(tmp_path, monkeypatch):
    rows = small_rows(2)
    labels = write_labels(tmp_path / "labels", rows)
    images = write_images(tmp_path / "faces", rows, prefix="coarse_tilt_aligned_face", side=60)
    arguments = [*paths((labels, images), tmp_path), *TINY, "--epochs", 1, "--folds", 4, "--run-dir", tmp_path / "run"]
    assert call(main, arguments, monkeypatch) == 0
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert table.path.tolist() == [f"album4/coarse_tilt_aligned_face.{400 + k}.{k}.jpg" for k in range(2)]


@pytest.fixture(scope="module")
def modern(small_faces_once, tmp_path_factory):
    """Two seeds of fold 3 with nearly everything switched on: the folder."""
    folder = tmp_path_factory.mktemp("modern")
    everything = "--recipe modern --loss corn --decode val --val-fraction 0.3 --warmup 0.5 --averaging 0.5".split()
    everything += "--erasing 0.5 --mixup 0.2 --cutmix 1 --crop 0.5 --trivial-augment --balance sampling".split()
    labels, images = small_faces_once
    for seed in (0, 1):
        command = [sys.executable, ROOT / "main.py", "--label-dir", labels, "--image-dir", images, *TINY]
        command += [*everything, "--folds", 3, "--seed", seed, "--run-dir", folder / f"seed{seed}", "--no-plots"]
        command += ["--cache-dir", folder / "cache"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


class TestBeyondTheOriginal:
    """Other losses, decoders and views through the scripts, and what they leave in the files."""

    def test_the_decoder_is_recorded(self, modern):
        result = json.loads((modern / "seed0" / "results.json").read_text())["folds"][0]
        assert result["decode"] in ("argmax", "median", "expected", "one_off")
        assert torch.load(modern / "seed0" / "fold_3.pt")["metrics"]["decode"] == result["decode"]

    def test_the_checkpoint_holds_the_averaged_weights(self, modern):
        content = torch.load(modern / "seed0" / "fold_3.pt")
        assert content["model"].keys() == resnet18(outputs=7).state_dict().keys()

    def test_test_code_decodes_as_recorded_and_fuses(self, modern, tmp_path, monkeypatch, capsys):
        models = [modern / f"seed{seed}" / "fold_3.pt" for seed in (0, 1)]
        report = tmp_path / "report.json"
        arguments = [*models, "--views", "flip", "--crops", 10, "--json", report]
        assert call(test_code, arguments, monkeypatch) == 0
        first, second, last = json.loads(report.read_text())
        recorded = json.loads((modern / "seed0" / "results.json").read_text())["folds"][0]
        assert (first["top1"], first["decode"]) == pytest.approx((recorded["top1"], recorded["decode"]))
        fusion = last["fusion"]
        assert fusion["looks"] == ["plain", "flip", "10 crops"]
        gain = fusion["top1"] - (first["top1"] + second["top1"]) / 2
        assert fusion["top1_gain"][0] == pytest.approx(gain)
        assert "fusion of 2 models, views: plain, flip, 10 crops" in capsys.readouterr().out

    def test_models_of_different_folds_do_not_fuse(self, experiment, small_faces_once, monkeypatch, capsys):
        models = [experiment[0] / "run" / f"fold_{fold}.pt" for fold in (0, 3)]
        assert call(test_code, [*models, "--fuse"], monkeypatch) == 2
        assert "held out folds 0, 3; models of one fold fuse" in capsys.readouterr().err
        assert call(test_code, models, monkeypatch) == 0
        assert "fusion" not in capsys.readouterr().out
