"""The scripts without what Windows lacks: a training that is stopped and resumed, its evaluation, and a prediction."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SIMULATOR = Path(__file__).with_name("as_on_windows.py")


def start(module, *arguments, **options):
    command = [sys.executable, str(SIMULATOR), module, *map(str, arguments), "--threads", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(module, *arguments):
    with start(module, *arguments) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has open is read from Linux's /proc")
def test_every_script(small_faces, tmp_path, monkeypatch):
    """Outputs of one call are replaced by the next; nothing unfinished stays."""
    monkeypatch.chdir(tmp_path)
    labels, images = small_faces
    training = ("main", "--label-dir", labels, "--image-dir", images, "--image-size", "48", "--width", "0.0625")
    training += ("--batch-size", "8", "--folds", "0", "--run-dir", "run", "--cache-dir", "cache")
    with start(*training, "--epochs", "40") as process:
        assert any("epoch   2/40" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert "stopped and saved; resume with" in process.communicate()[1]
    assert process.returncode == 130
    assert "epoch   1/40" not in run("main", "--run-dir", "run", "--resume")
    for _ in range(2):
        evaluation = ("run/fold_0.pt", "--show-errors", "--error-dir", "wrong", "--cache-dir", "cache")
        run("test_code", *evaluation, "--json", "metrics.json")
        run("predict", "run/fold_0.pt", images / "album0", "--no-detect", "--csv", "ages.csv", "--draw", "seen")
    assert len(Path("ages.csv").read_text().splitlines()) == 9
    assert len(list(Path("seen").glob("*.jpg"))) == 8
    assert Path("wrong/index.html").is_file()
    assert not list(tmp_path.rglob("*unfinished*"))
