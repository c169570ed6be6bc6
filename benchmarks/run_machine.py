"""Kill, signal, damage, race and resume a run directory in random order, and compare every bit at the end.

    python benchmarks/run_machine.py [--sequences 300] [--steps 6] [--jobs 2] [--seed 0]

A sequence starts a small run of main.py and does to it what happens to runs: SIGKILL, SIGTERM and SIGINT at a random
access to its files or step of its training, flipped bits, cut, lost and mistaken files, a second process at the worst
moment, a resume on exchanged people or mirrored pictures, which is refused. At the end it is resumed: the weights, log
(apart from timings), predictions and results are those of an undisturbed run, or the resume is refused in one line,
changes nothing and succeeds once the damage is undone.

Every process is a fork of this one, which has imported torch and computed nothing, so that it starts at once.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork has one thread

import numpy as np
import pandas as pd
import torch
import torch._dynamo  # which torch.optim imports late; a fork has it already
from hypothesis import HealthCheck, Phase, Verbosity, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import main as script
from data.adience import CANONICAL, FOLDS, HEADER
from training.provenance import current_commit
from utils.cli import run_script
from utils.serialization import load_plain
from utils.signals import Interruption

SETTINGS = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --precision fp32"
    " --no-plots"
).split()
TIMED = ["seconds", "images_per_second"]
FACES_PER_FOLD = 8  # four steps for each fold that is trained
EVENTS = 120  # accesses to files and steps; a whole run of two folds has some hundred
DEADLINE = 120  # seconds for a process
BLOCKED = 3  # seconds until a process that does not end waits for the other one
SIGNALS = {"SIGTERM": [signal.SIGTERM], "SIGINT": [signal.SIGINT], "SIGINT twice": [signal.SIGINT] * 2}
STATUS = {"SIGTERM": 143, "SIGINT": 130, "SIGINT twice": 130}
OTHER_DATA = ("exchanged", "mirrored")
DAMAGED = ("log.csv", "predictions.csv", "results.json", "fold_{}.pt", "fold_{}.progress.pt", "cache", "config.json")


class Process:
    """A fork that runs main.py; it can be stopped just before one of its events.

    An event is an access to a file of the run or its cache (a read, write, rename, removal), or the end of a step.

    Args:
        arguments: of main.py.
        folder: the folder whose files count.
        pause: the number of the event before which it waits; None: never.
    """

    def __init__(self, arguments, folder, pause=None):
        self.reached, reached = os.pipe()
        go, self.go = os.pipe()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.deadline = time.monotonic() + DEADLINE
        self.status = None
        self.pid = os.fork()
        if not self.pid:
            os.close(self.reached)
            os.close(self.go)
            self.run(arguments, str(folder), pause, reached, go)
        os.close(reached)
        os.close(go)

    def run(self, arguments, folder, pause, reached, go):
        """In the fork; it never returns."""
        status, events = 99, 0

        def happen():
            nonlocal events
            events += 1
            if events - 1 == pause:
                os.write(reached, b".")
                os.read(go, 1)

        def audit(event, parts):
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(parts[0]).startswith(folder):
                happen()

        agreed = Interruption.agreed

        def count_step(interruption):
            happen()
            return agreed(interruption)

        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(self.errors.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            sys.argv = ["main.py", *map(str, arguments)]
            Interruption.agreed = count_step
            sys.addaudithook(audit)
            try:
                run_script(script.main)
                status = 0
            except SystemExit as ending:
                status = ending.code
        finally:
            sys.stderr.flush()
            os._exit(status)

    def wait_for_pause(self):
        """Until it has reached its event, or has ended; returns whether it waits there."""
        return os.read(self.reached, 1) == b"."

    def resume(self):
        with contextlib.suppress(BrokenPipeError):
            os.write(self.go, b".")

    def send(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self, seconds):
        """Whether it ends within so many seconds."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                return False
            else:
                time.sleep(0.002)
        return True

    def finish(self):
        """Wait for its end; returns (status, standard error)."""
        if not self.ended(max(0, self.deadline - time.monotonic())):
            self.send(signal.SIGKILL)
            self.ended(DEADLINE)
            raise AssertionError("a process hangs")
        os.close(self.reached)
        os.close(self.go)
        with self.errors as file:
            file.seek(0)
            lines = file.read().decode().splitlines(keepends=True)
        # A process that waits for a lock says so, which is no error.
        return self.status, "".join(line for line in lines if not line.startswith("waiting for the process"))


class World:
    """The faces, and undisturbed runs of them, each made when it is first needed."""

    def __init__(self, folder):
        self.folder = folder
        make_faces(folder)
        for name in OTHER_DATA:
            make_other_faces(folder, name)

    def start(self, run, number, folds):
        paths = ["--label-dir", self.folder / "labels", "--image-dir", self.folder / "aligned", "--run-dir", run]
        choice = ["--cache-dir", run / "cache", "--seed", number, "--folds", *folds]
        return [*map(str, [*paths, *choice]), *SETTINGS]

    def whole(self, number, folds):
        run = self.folder / f"whole_{number}_{'_'.join(map(str, folds))}"
        if not (run / "results.json").exists():
            shutil.rmtree(run, ignore_errors=True)
            status, errors = Process(self.start(run, number, folds), run).finish()
            assert status == 0, errors
        return run


def make_faces(folder):
    rng, ages = np.random.default_rng(0), list(CANONICAL)
    (folder / "labels").mkdir()
    for fold in FOLDS:
        lines = ["\t".join(HEADER)]
        for k in range(FACES_PER_FOLD):
            fields = [f"album{fold}", f"{k}.jpg", str(100 * fold + k), ages[k], "f", *"0 0 48 48 0 0 90".split()]
            lines.append("\t".join(fields))
            path = folder / "aligned" / fields[0] / f"landmark_aligned_face.{fields[2]}.{fields[1]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path, quality=90)
        (folder / "labels" / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")


def make_other_faces(folder, name):
    """The same faces, but two people of each fold have exchanged their pictures, or all pictures are mirrored."""
    other = folder / name
    shutil.copytree(folder / "aligned", other / "aligned")
    for fold in FOLDS:
        pictures = sorted((other / "aligned" / f"album{fold}").iterdir())
        if name == "exchanged":
            first, second = (path.read_bytes() for path in pictures[:2])
            pictures[0].write_bytes(second)
            pictures[1].write_bytes(first)
        else:
            for path in pictures:
                Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path, quality=90)


class RunMachine(RuleBasedStateMachine):
    world = None  # set before the first sequence

    def __init__(self):
        super().__init__()
        self.run = Path(tempfile.mkdtemp(dir=self.world.folder)) / "run"
        self.damage = {}  # {path: its content before and after}, until a run has read or replaced it
        self.number, self.folds = 0, (0,)

    @initialize(number=st.integers(0, 1), folds=st.sampled_from([(0, 1), (0, 1), (1,)]))
    def choose(self, number, folds):
        self.number, self.folds = number, folds

    def command(self):
        """Start or resume, as a person would: a run that has recorded its settings is resumed."""
        if os.path.lexists(self.run / "config.json"):
            return ["--run-dir", str(self.run), "--resume", "--cache-dir", str(self.run / "cache")]
        return self.world.start(self.run, self.number, self.folds)

    def judge(self, status, errors, expected=(0,)):
        """A process that has ended as expected, or was refused because of the damage, which is then undone."""
        assert "internal error" not in errors and "Traceback" not in errors, errors
        if status in expected:
            self.damage = (
                {} if status == 0 else {path: d for path, d in self.damage.items() if content_of(path) == d[1]}
            )
            return
        assert status == 2 and self.damage, f"status {status}, damaged: {list(self.damage)}, {errors!r}"
        assert errors.startswith("error: ") and errors.count("\n") == 1 and errors[:-1].isprintable(), errors
        assert len(errors) <= 501, errors
        self.undo()

    def undo(self):
        for path, (old, broken) in self.damage.items():
            if content_of(path) == broken:  # and not replaced by another process of a race
                path.write_bytes(old)
        self.damage = {}

    @rule(event=st.integers(0, EVENTS), delay=st.sampled_from([0, 0, 1, 3, 10, 30]))
    def kill(self, event, delay):
        """SIGKILL just before an event, or some milliseconds later."""
        process = Process(self.command(), self.run, event)
        if process.wait_for_pause():
            if delay:
                process.resume()
                time.sleep(delay / 1000)
            process.send(signal.SIGKILL)
        self.judge(*process.finish(), (0, -signal.SIGKILL))

    @rule(event=st.integers(0, EVENTS), name=st.sampled_from(list(SIGNALS)))
    def interrupt(self, event, name):
        process = Process(self.command(), self.run, event)
        if process.wait_for_pause():
            for number in SIGNALS[name]:
                process.send(number)
                time.sleep(0.01)
            process.resume()
        self.judge(*process.finish(), (0, STATUS[name]))

    @rule(event=st.integers(0, EVENTS), killed=st.booleans())
    def race(self, event, killed):
        """A second process, from the start to its end or to where it waits for the first one, which waits anywhere."""
        command = self.command()
        first = Process(command, self.run, event)
        # A start that has recorded its settings holds the run until it ends.
        fresh = not self.damage and not (self.run / "config.json").exists()
        holds = first.wait_for_pause() and fresh and (self.run / "config.json").exists()
        second = Process(self.command() if event % 2 else command, self.run)
        waits = not second.ended(BLOCKED)  # for the lock of the files that all folds share
        if killed:
            first.send(signal.SIGKILL)
        else:
            first.resume()
        results = [process.finish() for process in (first, second)]
        busy = ("another process is training", "already holds a", "holds no run to resume")
        damage = self.damage
        for status, errors in results:
            self.damage = dict(damage)  # both may have seen it
            if status == 2 and any(text in errors for text in busy):
                assert errors.count("\n") == 1, errors
            else:
                self.judge(status, errors, (0, -signal.SIGKILL) if killed else (0,))
        assert not holds or waits or results[1][0] == 2, f"two processes train at the same time: {results}"
        assert killed or damage or 0 in [status for status, _ in results], results

    @rule()
    def start_over(self):
        """The command of a start, where a run is: it is refused, and nothing changes."""
        assume((self.run / "config.json").exists())
        before = contents(self.run)
        status, errors = Process(self.world.start(self.run, self.number, self.folds), self.run).finish()
        assert status == 2 and errors.startswith("error: ") and errors.count("\n") == 1, (status, errors)
        assert contents(self.run) == before

    @rule(name=st.sampled_from(OTHER_DATA))
    def resume_on_other_faces(self, name):
        """The label files are the same, and so are the names; the resume is refused, and nothing changes."""
        assume(not self.damage and any(self.run.glob("fold_*.pt")) and (self.run / "config.json").exists())
        before = contents(self.run)
        images = ["--image-dir", str(self.world.folder / name / "aligned")]
        status, errors = Process([*self.command(), *images], self.run).finish()
        assert status == 2 and "was trained on other faces, labels or pixels than these" in errors, (status, errors)
        assert contents(self.run) == before

    @rule(
        name=st.sampled_from(DAMAGED),
        fold=st.integers(0, 1),
        how=st.sampled_from(["flip", "cut", "remove", "mistake"]),
        place=st.floats(0, 1, exclude_max=True),
        bit=st.integers(0, 7),
    )
    def break_file(self, name, fold, how, place, bit):
        path = self.find(name.format(fold))
        assume(path is not None and path.is_file() and path not in self.damage)
        old = path.read_bytes()
        if how == "flip":
            # A valid config.json with another number in it is another run, not a damaged one.
            assume(old and path.name != "config.json")
            changed = bytearray(old)
            changed[int(place * len(old))] ^= 1 << bit
            path.write_bytes(changed)
        elif how == "cut":
            path.write_bytes(old[: int(place * len(old))])
        elif how == "remove":
            path.unlink()
        else:
            # Where nothing is trained yet, another run's settings simply start that run.
            assume(path.name != "config.json" or any(self.run.glob("fold_*.pt")))
            other = self.find_other(path.name)
            assume(other is not None)
            shutil.copyfile(other, path)
        self.damage[path] = (old, content_of(path))

    def find(self, name):
        """A file of the run; of its cache the array."""
        if name != "cache":
            return self.run / name
        return next(self.run.glob("cache/faces_*/images.npy"), None)

    def find_other(self, name):
        """The file of the same kind of a run with another seed."""
        other = self.world.whole(1 - self.number, (0, 1))
        if ".progress" in name:
            name = name.replace(".progress", "")  # a model file in a progress file's place
        if name == "images.npy":
            return None
        return other / name

    @invariant()
    def every_file_is_whole(self):
        """At any moment, unless it was broken on purpose."""
        for path in self.run.glob("*"):
            if path in self.damage or path.is_dir() or ".unfinished" in path.name:  # cut by a kill, and not a result
                continue
            if path.suffix == ".pt":
                load_plain(path)  # it verifies a SHA-256
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".csv":
                assert path.read_bytes().endswith(b"\n"), f"{path.name} is cut"
                pd.read_csv(path)

    def teardown(self):
        try:
            self.end()
        finally:
            shutil.rmtree(self.run.parent, ignore_errors=True)

    def end(self):
        before = contents(self.run) if self.run.exists() else {}
        status, errors = Process(self.command(), self.run).finish()
        if status == 2 and self.damage:
            assert contents(self.run).items() >= before.items(), "a refusal changed something"
        self.judge(status, errors)
        if status == 2:
            status, errors = Process(self.command(), self.run).finish()
            assert status == 0, f"refused, and also after the damage was undone: {errors!r}"
        assert_same_run(self.run, self.world.whole(self.number, self.folds))


def content_of(path):
    return path.read_bytes() if path.is_file() else None


def contents(run):
    """{name: bytes} of a run's files, apart from its cache and locks."""
    return {
        path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and not path.name.endswith(".lock")
    }


def assert_same_run(run, whole):
    names = sorted(path.name for path in whole.iterdir() if path.name != "cache")
    found = sorted(path.name for path in run.iterdir() if path.name != "cache")
    assert found == names, f"other files: {sorted(set(found) ^ set(names))}"
    assert all(path.suffix == ".lock" for path in (run / "cache").glob(".*"))
    for name in names:
        if name.endswith(".pt"):
            ours, theirs = (load_plain(folder / name)["state_dict"] for folder in (run, whole))
            assert ours.keys() == theirs.keys(), name
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    ours, theirs = (pd.read_csv(folder / "log.csv").drop(columns=TIMED) for folder in (run, whole))
    assert ours.equals(theirs), "log.csv"
    for name in ("predictions.csv", "results.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=300)
    parser.add_argument("--steps", type=int, default=6, help="of a sequence, at most (default: 6)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print every step")
    options = parser.parse_args()
    start = time.monotonic()
    torch.set_num_threads(1)
    current_commit()  # read once, for all forks
    sys.stdout.flush()
    jobs = min(options.jobs, options.sequences)
    counts = [options.sequences // jobs + (job < options.sequences % jobs) for job in range(jobs)]
    workers = [fork_worker(count, options, job) for job, count in enumerate(counts)]
    failed = sum(os.waitpid(worker, 0)[1] != 0 for worker in workers)
    print(f"{options.sequences} sequences in {time.monotonic() - start:.0f} s, {'FAILED' if failed else 'no failures'}")
    return 1 if failed else 0


def fork_worker(count, options, job):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = run_sequences(count, options.steps, options.seed * 1000 + job, options.verbose)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_sequences(count, steps, number, verbose=False):
    """Returns the exit status; a failure is printed as the steps that lead to it."""
    with tempfile.TemporaryDirectory() as folder:
        RunMachine.world = World(Path(folder))
        chosen = settings(
            max_examples=count,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            verbosity=Verbosity.debug if verbose else Verbosity.normal,
            print_blob=False,
        )
        try:
            run_state_machine_as_test(seed(number)(RunMachine), settings=chosen)
        except BaseException:
            import traceback

            traceback.print_exc()
            print(f"FAILURE with --seed {number // 1000}", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
