"""What SECURITY.md promises, kept by the real scripts in real processes: one clear line, and nothing good is lost."""

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, row, small_rows, write_images, write_labels
from PIL import Image, ImageOps

from utils.serialization import load_plain, save_plain

MAIN, TEST_CODE = str(ROOT / "main.py"), str(ROOT / "test_code.py")
SMALL = "--width 0.125 --image-size 40 --epochs 1 --batch-size 16 --no-plots --threads 1".split()
SECONDS = 60  # the longest that any script here may take


class Launcher:
    """Runs scripts in `folder`."""

    def __init__(self, process, folder):
        self.process, self.folder = process, folder

    def run(self, *command, stdout=None, stderr=None, kill_at=None, largest_file=None, more_memory=None, **environment):
        """Status and outputs of a script.

        Args:
            command: path of a script, or name of a module, and its arguments.
            stdout, stderr: paths to write to, in place of files that are returned.
            kill_at: kill the process as soon as the folder holds a path of this pattern.
            largest_file, more_memory: limits, in bytes.
            environment: more variables.
        """
        outputs = [Path(self.folder, name) for name in (".stdout", ".stderr")]
        for output in outputs:
            output.unlink(missing_ok=True)
        order = {
            "command": list(map(str, command)),
            "folder": str(self.folder),
            "stdout": stdout or str(outputs[0]),
            "stderr": stderr or str(outputs[1]),
            "seconds": SECONDS,
            "largest_file": largest_file,
            "more_memory": more_memory,
            "environment": environment,
        }
        print(json.dumps(order), file=self.process.stdin, flush=True)
        process = int(self.process.stdout.readline())
        deadline = time.monotonic() + SECONDS
        while kill_at and not any(self.folder.glob(kill_at)) and time.monotonic() < deadline:
            time.sleep(0.001)
        if kill_at:
            os.kill(process, signal.SIGKILL)
        status = int(self.process.stdout.readline())
        texts = [output.read_text() if output.exists() else "" for output in outputs]
        return SimpleNamespace(status=status, stdout=texts[0], stderr=texts[1])

    def succeeds(self, *command, **settings):
        done = self.run(*command, **settings)
        assert (done.status, done.stderr) == (0, "")
        return done.stdout

    def refused(self, *command, stderr=None, **settings):
        """Run a script that must end with status 2 and one line, which is returned, and change no file."""
        before = tree(self.folder)
        done = self.run(*command, stderr=stderr, **settings)
        assert tree(self.folder) == before
        assert done.status == 2, done.stderr
        return None if stderr else the_line(done.stderr)


def the_line(errors):
    """The one line on standard error, as it is promised."""
    assert errors.endswith("\n")
    line = errors[:-1]
    assert line.startswith("error: ")
    assert line.isprintable(), repr(line)  # so it is one line
    assert len(line) <= 500
    assert "Traceback" not in line
    assert "internal error" not in line
    return line


def tree(folder):
    """{path: kind, size, hash} of everything in a folder but the outputs of the scripts."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.parent == folder and path.name in (".stdout", ".stderr"):
            continue
        if stat.S_ISREG(status.st_mode):
            found[str(path)] = (status.st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        else:
            found[str(path)] = stat.S_IFMT(status.st_mode)
    return found


@pytest.fixture(scope="module")
def launcher_process():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(ROOT / "tests" / "launcher.py")], env=environment, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def scripts(launcher_process, tmp_path):
    return Launcher(launcher_process, tmp_path)


@pytest.fixture(scope="module")
def trained(small_faces_once, tmp_path_factory):
    """Two folds, trained where the terminal knows ASCII only."""
    folder = tmp_path_factory.mktemp("trained")
    labels, images = small_faces_once
    data = ["--label-dir", str(labels), "--image-dir", str(images), "--cache-dir", str(folder / "cache")]
    command = [sys.executable, MAIN, *data, *SMALL, "--folds", "0", "1", "--run-dir", str(folder / "run")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, b"")
    return SimpleNamespace(run=folder / "run", data=data, cache=folder / "cache", output=done.stdout.decode("ascii"))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, to attack."""
    return shutil.copytree(trained.run, tmp_path / "run")


@pytest.fixture
def evaluation(trained):
    """Options of test_code.py that make it quick."""
    return ["--threads", "1", "--cache-dir", str(trained.cache)]


def change(path, **fields):
    """Change fields of a model file, with a right checksum."""
    save_plain(path, {**load_plain(path), **fields})


def test_the_table_on_an_ascii_terminal(trained):
    names = [line[:10].rstrip() for line in trained.output.splitlines()]
    assert names[names.index("mean") - 2 :][:4] == ["fold 0", "fold 1", "mean", "? std"]  # in place of ± std


class TestOutputs:
    def test_json_replaces_nothing_but_reports(self, scripts, run, trained):
        text = scripts.folder / "thesis.txt"
        text.write_text("two years of work")
        for target in (run / "fold_0.pt", run / "config.json", text):
            assert "is not replaced" in scripts.refused(TEST_CODE, run / "fold_0.pt", "--json", target)
        labels = shutil.copytree(trained.data[1], scripts.folder / "labels")
        target = labels / "fold_0_data.txt"
        command = ("tools.check_data", "--label-dir", labels, "--labels-only", "--json", target)
        assert "is not replaced" in scripts.refused(*command)

    def test_json_to_devices(self, scripts, run, evaluation):
        scripts.succeeds(TEST_CODE, run / "fold_0.pt", *evaluation, "--json", "/dev/null")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        output = scripts.succeeds(TEST_CODE, run / "fold_0.pt", *evaluation, "--json", "/dev/stdout")
        assert "\neval accuracy: " in output
        reports, _ = json.JSONDecoder().raw_decode(output[output.index("[\n") :])
        assert [report["faces"] for report in reports] == [8]

    def test_the_pictures_of_errors_are_never_lost(self, scripts, run, evaluation):
        folder = scripts.folder / "errors"
        command = (TEST_CODE, run / "fold_0.pt", *evaluation, "--show-errors", "--error-dir", folder)
        scripts.succeeds(*command)
        (folder / "notes.txt").write_text("mine")
        good = tree(folder)
        sizes = [path.stat().st_size for path in folder.glob("0*.png")]
        assert len(sizes) >= 1
        scripts.refused(*command, largest_file=max(sizes) // 2)
        assert tree(folder) == good
        done = scripts.run(*command, kill_at="errors/.*/0*.png")
        assert done.status == -signal.SIGKILL
        assert tree(folder).items() >= good.items()
        assert list(folder.glob(".*/0*.png"))
        scripts.succeeds(*command)
        assert tree(folder).keys() == good.keys()
        assert (folder / "notes.txt").read_text() == "mine"

    def test_somebodys_list_of_errors_is_kept(self, scripts, run, evaluation):
        folder = scripts.folder / "errors"
        folder.mkdir()
        (folder / "errors.csv").write_text("date,what\n1999-12-31,everything\n")
        line = scripts.refused(TEST_CODE, run / "fold_0.pt", *evaluation, "--show-errors", "--error-dir", folder)
        assert "errors.csv' exists and is not a list of errors of test_code.py" in line

    def test_a_run_directory_of_something_else_is_kept(self, scripts, trained):
        folder, file = scripts.folder / "diary", scripts.folder / "letter"
        folder.mkdir()
        (folder / "log.csv").write_text("day,weather\n1,rain\n")
        file.write_text("Dear Sir")
        assert "holds log.csv but no config.json" in scripts.refused(MAIN, *trained.data, *SMALL, "--run-dir", folder)
        assert "this is a file" in scripts.refused(MAIN, *trained.data, *SMALL, "--run-dir", file)

    def test_demo_faces_of_somebody_else_are_kept(self, scripts):
        faces = scripts.folder / "demo_faces"
        faces.mkdir()
        (faces / "family.jpg").write_bytes(b"1987")
        for command in ((MAIN, "--demo", *SMALL), ("tools.ablate", "--demo", "--only", "relu")):
            assert "move it away first" in scripts.refused(*command)
        (faces / "demo.json").mkdir()
        assert "move it away first" in scripts.refused(MAIN, "--demo", *SMALL)

    def test_an_error_folder_and_a_report_are_apart_and_no_run(self, scripts, run, evaluation):
        command = [TEST_CODE, run / "fold_0.pt", *evaluation, "--show-errors", "--error-dir"]
        assert "is a run directory: choose another folder" in scripts.refused(*command, run)
        for name in ("index.html", "errors.csv", "."):
            line = scripts.refused(*command, "err", "--json", f"err/{name}")
            assert f"--json 'err/{name}' and --error-dir 'err': one is, or holds, the other" in line

    def test_a_report_shows_all_photographs_of_the_run_or_none(self, scripts, run, trained):
        """With one missing, it is not known whether the others are those of the run."""
        images = shutil.copytree(trained.data[3], scripts.folder / "images")
        first, second, third = sorted(images.rglob("*.jpg"))[:3]
        order = ["tools.report", run, "--image-dir", images, *trained.data[4:], "--output", "a.html", "--threads", "1"]
        assert "note" not in scripts.succeeds(*order)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        assert "was trained on other faces, labels or pixels than these" in scripts.refused(*order)
        third.unlink()
        assert "note: 1 photographs are missing, so the others cannot be checked" in scripts.succeeds(*order)
        assert "photographs are not at hand" in (scripts.folder / "a.html").read_text()


class TestLeaks:
    def test_a_model_that_names_nobody(self, scripts, run, evaluation):
        change(run / "fold_0.pt", train_people=[])
        line = scripts.refused(TEST_CODE, run / "fold_0.pt", *evaluation)
        assert "fold_0.pt' is damaged: its 'train_people' are 0 and its 'train_faces' 32" in line

    @pytest.mark.parametrize("turned", [False, True])
    def test_the_training_pictures_under_other_names(self, scripts, run, trained, evaluation, turned):
        """As they are, and mirrored, as the network trains on them too."""
        rows = small_rows()
        others = {f: [row(f"other{f}", r[1], int(r[2]) + 5000, r[3]) for r in rows[f]] for f in range(5)}
        labels = write_labels(scripts.folder / "labels", others)
        for fold in range(5):
            (scripts.folder / "aligned" / f"other{fold}").mkdir(parents=True)
            for old, new in zip(rows[fold], others[fold], strict=True):
                source, target = (f"{r[0]}/landmark_aligned_face.{r[2]}.{r[1]}" for r in (old, new))
                image = Image.open(Path(trained.data[3]) / source)
                image = ImageOps.mirror(image) if turned else image
                image.save(scripts.folder / "aligned" / target, quality=95)
        data = ["--label-dir", labels, "--image-dir", scripts.folder / "aligned"]
        # The model of fold 0 has seen the pictures of fold 1.
        line = scripts.refused(TEST_CODE, run / "fold_0.pt", *evaluation, *data, "--fold", "1")
        assert "was trained on pictures of these faces, under other names: 8 of 8 in fold 1" in line
        line = scripts.refused(TEST_CODE, run / "fold_0.pt", *evaluation, *data, "--fold", "1", "--leave-out-seen")
        assert "was trained on all 8 faces of fold 1" in line
        scripts.succeeds(TEST_CODE, run / "fold_0.pt", *evaluation, *data)  # but not those of fold 0
        change(run / "fold_0.pt", train_pictures=load_plain(run / "fold_0.pt")["train_pictures"][3:].repeat(2, 1)[:32])
        output = scripts.succeeds(TEST_CODE, run / "fold_0.pt", *evaluation, *data, "--fold", "1", "--leave-out-seen")
        assert "note: 5 of 8 faces of fold 1 are left out" in output
        assert "fold_0.pt: 3 faces, fold 1, on CPU" in output

    def test_a_model_does_not_count_twice(self, scripts, run, evaluation):
        shutil.copyfile(run / "fold_0.pt", run / "copy.pt")
        line = scripts.refused(TEST_CODE, run / "fold_0.pt", run / "copy.pt", *evaluation)
        assert "name each model once" in line

    def test_a_model_does_not_say_where_to_write(self, scripts, run, evaluation):
        record = load_plain(run / "fold_0.pt")["config"]
        change(run / "fold_0.pt", config={**record, "cache_dir": str(scripts.folder / "elsewhere")})
        before = tree(scripts.folder)
        scripts.succeeds(TEST_CODE, run / "fold_0.pt", *evaluation)
        assert tree(scripts.folder) == before


class TestOddFiles:
    def test_named_pipes_among_the_faces(self, scripts):
        labels, images = write_labels(scripts.folder / "labels", {}), write_images(scripts.folder / "aligned", {})
        data = ["--label-dir", labels, "--image-dir", images]
        image = images / "album3" / "landmark_aligned_face.103.a.jpg"
        image.unlink()
        os.mkfifo(image)
        command = (MAIN, *data, *SMALL, "--cache-dir", scripts.folder / "cache", "--run-dir", scripts.folder / "new")
        assert "album3/landmark_aligned_face.103.a.jpg' is no image" in scripts.refused(*command, "--batch-size", "2")
        (labels / "fold_2_data.txt").unlink()
        os.mkfifo(labels / "fold_2_data.txt")
        assert "fold_2_data.txt' is a named pipe" in scripts.refused(*command)
        assert "fold_2_data.txt' is a named pipe" in scripts.refused("tools.check_data", *data)


class TestTerminal:
    @pytest.mark.parametrize(
        ("character", "shown"),
        [("\x1b]0;owned\x07", r"\x1b]0;owned\x07"), ("\x9b2J", r"\x9b2J"), ("\u202e", r"\u202e")],
    )
    def test_escapes_are_shown_not_obeyed(self, scripts, run, evaluation, character, shown):
        """In arguments and file names, in errors and reports."""
        assert f"--{shown}" in scripts.refused(MAIN, f"--{character}")
        assert f"/{shown}.pt'" in scripts.refused(TEST_CODE, scripts.folder / f"{character}.pt")
        shutil.copyfile(run / "fold_0.pt", scripts.folder / f"{character}.pt")
        output = scripts.succeeds(TEST_CODE, scripts.folder / f"{character}.pt", run / "fold_1.pt", *evaluation)
        assert f"/{shown}.pt: 8 faces" in output
        assert re.search(rf"^\S*/{re.escape(shown)}\.pt +0 ", output, re.MULTILINE)  # in the table: fold 0
        assert all(line.isprintable() for line in output.split("\n"))

    def test_names_in_label_files(self, scripts):
        labels = write_labels(scripts.folder / "labels", {0: [row("album0", "\u202egpj.jpg", 100)]})
        images = write_images(scripts.folder / "aligned", {})
        line = scripts.refused(MAIN, "--label-dir", labels, "--image-dir", images, *SMALL)
        assert r"line 2: 'album0/landmark_aligned_face.100.\u202egpj.jpg' is not there" in line

    def test_long_arguments_give_a_short_line(self, scripts):
        command = [sys.executable, MAIN, *["x" * 100_000] * 10]  # 1 MB; the system allows 128 KB for each
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 2
        assert the_line(done.stderr).startswith("error: unrecognized arguments: xxxx")
        assert "no model file" in scripts.refused(TEST_CODE, "y" * 1_000_000)


class TestStreams:
    def test_full_devices(self, scripts, run, evaluation):
        line = scripts.refused(TEST_CODE, run / "fold_0.pt", *evaluation, stdout="/dev/full")
        assert line == "error: cannot write to the standard output: No space left on device"
        scripts.refused(MAIN, "--epochs", "0", stderr="/dev/full")

    def test_closed_streams_damage_no_file(self, trained, run, tmp_path):
        """The next file that is opened would become the standard output, and the report would go into it."""
        before = tree(tmp_path)
        command = [sys.executable, TEST_CODE, run / "fold_0.pt", "--threads", "1", "--cache-dir", trained.cache]
        command += ["--json", tmp_path / "report.json"]
        close = lambda: os.closerange(0, 3)  # noqa: E731
        done = subprocess.run(list(map(str, command)), preexec_fn=close, timeout=SECONDS)
        assert done.returncode == 0
        after = tree(tmp_path)
        assert after.pop(str(tmp_path / "report.json"))
        assert after == before
        assert [report["faces"] for report in json.loads((tmp_path / "report.json").read_text())] == [8]


def test_several_processes_without_torchrun(scripts, trained):
    command = (MAIN, *trained.data, *SMALL, "--run-dir", scripts.folder / "new")
    line = scripts.refused(*command, WORLD_SIZE="2")
    assert line == "error: RANK is None: start several processes by torchrun, which sets it"


def test_memory_that_runs_out_in_training(scripts, trained):
    """The network and its gradients take 405 MB each; the modules that torch loads with the first step need 200 MB."""
    options = [*SMALL, "--width", "3", "--folds", "0", "--run-dir", scripts.folder / "new"]
    done = scripts.run(MAIN, *trained.data, *options, more_memory=700 * 2**20)
    assert done.status == 2, done.stderr
    assert the_line(done.stderr).endswith("a smaller --batch-size or --image-size needs less")
    assert "device: CPU" in done.stdout  # it was about to train


@pytest.mark.parametrize("seconds", [0, 0.5, 2])
def test_ctrl_c_at_any_moment(tmp_path, seconds):
    """While it imports, draws the faces, decodes them or trains."""
    process = subprocess.Popen([sys.executable, MAIN, "--demo"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_handlers(process)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors or "resume with" in errors


def wait_for_handlers(process):
    """Wait until the script has begun: from then on it handles SIGTERM, which Python does not."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        (caught,) = (s for s in Path(f"/proc/{process.pid}/status").read_text().splitlines() if s.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)
    raise TimeoutError
