"""Run the scripts over thousands of generated broken files.

    python benchmarks/mutation_test.py [--cases 10000] [--cold 500] [--jobs 2] [--seed 0]
    python benchmarks/mutation_test.py --only images:17 [--seed 0]

Label files, tables of one's own faces, images, photographs, model files and caches are broken: bytes, cut, emptied,
removed, replaced by a folder, a named pipe, a link to /dev/zero or another file; model files also in their content,
with a right checksum. benchmarks/run_machine.py breaks run directories. A case calls a script's
main(); `--cold` of them start the real script. Whatever the input: exit status 0 or 2 (1 only from tools.check_data and
predict.py, which report findings), on 2 one printable line of at most 500 characters on standard error and no file
changed, bounded time and memory, and after 0 all that was good is still good.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, OrderedDict
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the networks are small

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import main as main_script
import predict
import test_code
from data.adience import CANONICAL, FOLDS, HEADER
from tools import check_data
from training.provenance import current_commit
from utils.cli import run_script
from utils.serialization import digest, load_plain

ROOT = Path(__file__).parents[1]
SECONDS, COLD_SECONDS = 20, 90  # for a case here, and for one in a process of its own
GROWTH = 2560  # MiB of memory; a network of 500,000,000 numbers, which are 2 GB, is allowed
FACES_PER_FOLD = 8
BATCH = 8  # images that are broken at once; the check reads each by itself
SETTINGS = (
    "--image-size 40 --width 0.125 --epochs 1 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --precision fp32"
    " --no-plots"
).split()
DATA = ["--label-dir", "labels", "--image-dir", "aligned"]
OWN = ["--label-file", "own.csv", "--image-dir", "aligned", "--age-groups", "0-9", "10-24", "25-47", "48+"]
SCRIPTS = {
    "main": main_script.main,
    "test_code": test_code.main,
    "check_data": check_data.main,
    "predict": predict.main,
}
FINDINGS = ("check_data", "predict")  # scripts that report what they find by status 1
KINDS = {  # kind of input: its share of the cases
    "labels": 26,
    "own labels": 4,
    "images": 30,
    "photographs": 6,
    "model bytes": 12,
    "model content": 10,
    "caches": 4,
}


# The folder in which all cases run. Its paths are relative, so that it can be copied.


def make_home(home):
    """Faces, and what the scripts make of them.

    labels/, aligned/: forty faces; mixed/: the same people in pictures of all formats.
    own.csv: the faces of aligned/ with ages in years; runs/own: fold 0 of it; years.csv: the same with a fixed split.
    runs/done: folds 0 and 1 of labels/.
    """
    home.mkdir(parents=True)
    os.chdir(home)
    make_faces(np.random.default_rng(0))
    expect_success("main", *DATA, "--run-dir", "runs/done", "--folds", "0", "1", *SETTINGS)
    expect_success("main", *OWN, "--run-dir", "runs/own", "--folds", "0", *SETTINGS)
    shutil.rmtree("cache")  # it is made for every copy, whose images have other times


def make_faces(rng):
    ages = list(CANONICAL)
    formats = [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {"quality": 80})]
    Path("labels").mkdir()
    own = ["path,age,person,gender"]
    for fold in FOLDS:
        lines = ["\t".join(HEADER)]
        for k in range(FACES_PER_FOLD):
            album, name, person = f"album{fold}", f"{k}.jpg", 100 * fold + k
            face = f"{album}/landmark_aligned_face.{person}.{name}"
            lines.append("\t".join([album, name, str(person), ages[k], "f", *"0 0 64 64 0 0 90".split()]))
            picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).resize((64, 64))
            for folder, (kind, options) in (("aligned", formats[0]), ("mixed", formats[k % 4])):
                path = Path(folder, face)
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path, format=kind, **options)
            own.append(f"{face},{10 * k + 0.5},{person // 2},f")
        Path("labels", f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")
    Path("own.csv").write_text("\n".join(own) + "\n")
    splits, years = (
        ("split", *("train", "train", "val", "val", "train", "train", "test", "test") * 5),
        ("years", *("0-19", "20-39", "34", "40+") * 10),
    )
    rows = [",".join(cells) for cells in zip(own, splits, years, strict=False)]
    Path("years.csv").write_text("\n".join(rows) + "\n")


def expect_success(script, *arguments):
    status, _, errors = call(script, list(arguments))
    if status:
        sys.exit(f"the preparation failed: {script} {' '.join(arguments)}: {errors}")


# Breaking things.

TOKENS = [
    b"\t", b"\n", b"\r", b"\x00", b"../", b"/etc/passwd", b"(25, 32)", b"None", b"\xff\xfe", b"9" * 40, b'"', b"-1",
    b",", b"nan", b"inf", b"1e999", b"[" * 2000, b"{", b"\x1b[31m", "\u202e\u2028".encode(), b"\x85",
    b"%s", b"\xed\xa0\x80",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 7, 255, 2**31, 2**63, 10**30, 10**400, -(2**63), 0.0, -0.5, 1e308, float("nan"), float("inf")]
TEXTS = ["", "x", "None", "../..", "/dev/zero", "a\nb", "\x1b[2J", "\u202e", "\ud800", "9" * 50, "x" * 100_000, "auto"]
VALUES = [*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [None], {"a": 1}, {"": {}}]


def mutate(content, chance):
    """A broken copy of some bytes: flipped, cut, doubled, shuffled or sprinkled with tokens."""
    broken = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(broken) + 1)
        length = chance.choice([1, 2, 8, 64, 512])
        kind = chance.randrange(6)
        if kind == 0 and broken:
            broken[min(start, len(broken) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del broken[start:]
        elif kind == 2:
            del broken[start : start + length]
        elif kind == 3:
            broken[start:start] = broken[start : start + length]
        elif kind == 4:
            broken[start : start + length] = chance.randbytes(length)
        else:
            broken[start:start] = chance.choice(TOKENS)
    return bytes(broken)


def alter(value, chance, odd=()):
    """Change one to three places of nested dicts and lists: drop, replace, repeat, rename or wrap; returns it."""
    for _ in range(chance.randint(1, 3)):
        owner, key = pick(value, chance)
        how = chance.randrange(8)
        if owner is None:
            continue
        if how == 0:
            del owner[key]
        elif how == 1 and isinstance(owner, dict):
            owner[chance.choice(TEXTS)] = owner[key]
        elif how == 2 and isinstance(owner, list):
            owner.insert(chance.randrange(len(owner) + 1), owner[key])
        elif how == 3:
            owner[key] = [owner[key]]
        elif how == 4:
            owner[key] = alter_leaf(owner[key], chance)
        elif how == 5 and chance.random() < 0.3:
            owner[key] = nested(chance.choice([10, 900, 5000]), chance)
        else:
            owner[key] = chance.choice([*VALUES, *odd])
    return value


def pick(value, chance):
    """A container within nested ones, and one of its keys; (None, None) where it is empty."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return None, None
        key = chance.choice(keys)
        if isinstance(value[key], (dict, list)) and chance.random() < 0.6 and value[key]:
            value = value[key]
        else:
            return value, key


def alter_leaf(value, chance):
    """A value of the same kind that is near: another number, text or tensor."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return chance.choice([value + 1, -value, value * 2, value * 1000, value // 2, type(value)(0)])
    if isinstance(value, str):
        return chance.choice([value + "x", value[1:], value.upper(), value[::-1], value * 50])
    if isinstance(value, torch.Tensor):
        return alter_tensor(value, chance)
    if isinstance(value, list):
        return chance.choice([value[:-1], value * 2, value[::-1]])
    return value


def alter_tensor(value, chance):
    choices = [
        lambda: value.double() if value.is_floating_point() else value.float(),
        lambda: value.half(),
        lambda: value[:-1] if value.dim() else value[None],
        lambda: value[None],
        lambda: torch.zeros(()).expand(10**6, 10**6),
        lambda: torch.zeros(0),
        lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value - 1,
        lambda: value.to_sparse() if value.dim() else value,
        lambda: torch.nn.Parameter(value.float()),
        lambda: value.to(torch.complex64),
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: value.flatten()[:3].clone(),
        lambda: value.float() * 1e30,
    ]
    return chance.choice(choices)()


def nested(depth, chance):
    value = 0
    for _ in range(depth):
        value = [value] if chance.random() < 0.5 else {"a": value}
    return value


def odd_values():
    """What only a pickle can hold."""
    yield from (b"bytes", (1, 2), {1, 2}, 1j, torch.float32, torch.Size([2]), OrderedDict(a=1), torch.zeros(2, 3))


def break_content(path, chance):
    """Alter what a model or progress file holds, under a right checksum."""
    content = load_plain(path)
    content = alter(content, chance, list(odd_values()))
    if chance.random() < 0.05:
        content = chance.choice([[content], None, 1, content.get("config", {})])
    if isinstance(content, dict):
        with contextlib.suppress(ValueError, RuntimeError, RecursionError, NotImplementedError, AttributeError):
            content["sha256"] = digest(content)
    try:
        torch.save(content, path)
    except Exception:  # such as too deep for a pickle
        path.write_bytes(b"")


def break_table(path, chance):
    """Alter cells and rows of a text table, or double its rows or columns a few times."""
    separator = "\t" if path.suffix == ".txt" else ","
    rows = [line.split(separator) for line in path.read_text().splitlines()]
    for _ in range(chance.randint(1, 3)):
        row = chance.choice(rows)
        how = chance.randrange(7)
        if how == 5:
            rows *= 2 ** chance.randint(1, 4)
        elif how == 6:
            rows = [row * 2 ** chance.randint(1, 4) for row in rows]
        elif how == 0:
            rows.insert(chance.randrange(len(rows) + 1), list(row))
        elif how == 1 and len(rows) > 1:
            rows.remove(row)
        elif how == 2:
            row[chance.randrange(len(row))] = chance.choice(rows)[chance.randrange(min(map(len, rows)))]
        elif how == 3:
            row[chance.randrange(len(row))] = str(chance.choice([*NUMBERS[:9], *NUMBERS[10:], *TEXTS[:8]]))
        else:
            row.append("1")
    path.write_bytes(
        (chance.choice(["\n", "\n", "\r\n"]).join(map(separator.join, rows)) + "\n").encode("utf-8", "replace")
    )


def replace_by(path, chance, others):
    """Put something else in a file's place; returns what, in words."""
    old = path.read_bytes()
    how = chance.choice(
        ["cut", "empty", "removed", "folder", "full folder", "pipe", "device", "socket", "other", "loop"]
    )
    path.unlink()
    if how == "cut":
        path.write_bytes(old[: chance.randrange(len(old) + 1)])
    elif how == "empty":
        path.touch()
    elif how == "folder":
        path.mkdir()
    elif how == "full folder":
        path.mkdir()
        (path / "precious.txt").write_text("mine\n")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to(chance.choice(["/dev/zero", "/dev/null", "/dev/full", "/proc/self/maps"]))
    elif how == "socket":
        os.mknod(path, 0o140644)
    elif how == "other" and others:
        shutil.copyfile(chance.choice(others), path)
    elif how == "loop":
        path.symlink_to(path.name)
    return how


# Cases.


@dataclass
class Case:
    """A broken input and the script that reads it."""

    script: str
    arguments: list
    broken: list  # paths
    how: str
    names: str = ""  # a regular expression that the message of a refusal matches
    outputs: tuple = ()  # paths that the script may write when it succeeds, with all that is below
    files: int = 1  # counts as so many cases
    problems: list = field(default_factory=list)


def break_labels(path, chance):
    """Break a table of labels; returns how, in words."""
    how = chance.choices(["bytes", "cells", "place"], [6, 3, 1])[0]
    if how == "bytes":
        path.write_bytes(mutate(path.read_bytes(), chance))
    elif how == "cells":
        break_table(path, chance)
    else:
        how = replace_by(path, chance, [*Path("labels").glob("fold_*"), *Path("aligned").rglob("*.jpg")])
    return how


def label_case(chance):
    path = Path(f"labels/fold_{chance.choice(FOLDS)}_data.txt")
    how = break_labels(path, chance)
    reader = chance.choices(["labels", "images", "test_code"], [14, 3, 3])[0]
    if reader == "test_code":
        arguments = ["runs/done/fold_0.pt", "--threads", "1", "--batch-size", "8"]
        return Case("test_code", arguments, [path], how, outputs=("cache",))
    images = ["--labels-only"] if reader == "labels" else ["--image-dir", "aligned"]
    return Case("check_data", ["--label-dir", "labels", *images], [path], how, "fold_")


def own_label_case(chance):
    path = Path(chance.choice(["own.csv", "own.csv", "years.csv"]))
    how = break_labels(path, chance)
    if path.name == "years.csv":
        years = ["--label-file", str(path), "--image-dir", "aligned", "--age-groups", "0..90+", "--loss", "normal"]
        return Case("main", [*years, "--run-dir", "runs/new", *SETTINGS], [path], how, outputs=("cache", "runs/new"))
    if chance.random() < 0.5:
        return Case("test_code", ["runs/own/fold_0.pt", "--threads", "1"], [path], how, outputs=("cache",))
    arguments = [*OWN, "--run-dir", "runs/new", "--folds", "0", *SETTINGS]
    return Case("main", arguments, [path], how, outputs=("cache", "runs/new"))


def photograph_case(chance):
    """Broken photographs among good ones: a row each, and the others are predicted."""
    chosen = chance.sample(sorted(Path("mixed").rglob("*.jpg")), 4)
    for path in chosen[1:]:
        path.write_bytes(mutate(path.read_bytes(), chance))
    how = replace_by(chosen[0], chance, [*Path("labels").glob("*"), *Path("runs/done").glob("*.pt")])
    arguments = ["runs/done/fold_0.pt", "mixed", "--no-detect", "--csv", "out.csv", "--threads", "1"]
    return Case("predict", arguments, chosen, how, outputs=("out.csv",))


def image_case(chance):
    """Several images, each of which is reported by itself; now and then one that a cache is built of."""
    pictures = sorted(Path("mixed").rglob("*.jpg"))
    through_cache = chance.random() < 0.15
    chosen = chance.sample(pictures, 1 if through_cache else BATCH)
    hows = []
    for path in chosen:
        if chance.random() < 0.1:
            hows.append(replace_by(path, chance, [*Path("labels").glob("*"), *Path("runs/done").glob("*.pt")]))
        else:
            hows.append("bytes")
            path.write_bytes(mutate(path.read_bytes(), chance))
    how = ", ".join(sorted(set(hows)))
    if through_cache:
        arguments = ["runs/done/fold_0.pt", "--threads", "1", "--image-dir", "mixed"]
        names = re.escape(chosen[0].name)
        return Case("test_code", arguments, chosen, how, names, outputs=("cache",))
    arguments = ["--label-dir", "labels", "--image-dir", "mixed"]
    return Case("check_data", arguments, chosen, how, files=len(chosen))


def model_case(chance, break_file):
    """A broken model file in test_code.py."""
    path = Path("runs/done", chance.choice(["fold_0.pt", "fold_1.pt"]))
    how = break_file(path, chance) or "content"
    return Case("test_code", [str(path), "--threads", "1"], [path], how, re.escape(path.name), outputs=("cache",))


def break_bytes(path, chance):
    path.write_bytes(mutate(path.read_bytes(), chance))
    return "bytes"


def cache_case(chance):
    folder, pairs = next(Path("cache").glob("faces_*")), next(Path("cache").glob("pairs_*.npz"))
    names = ["images.npy", "images.npy", "index.npz", "index.npz", "mine.txt"]
    path = chance.choice([*(folder / name for name in names), pairs, folder.with_name(f".{folder.name}.lock")])
    broken, how = [path], chance.choice(["place", "bytes"])
    if path.name == "mine.txt":  # a stranger in a cache that is damaged, too
        path.write_text("precious\n")
        (folder / "index.npz").write_text("{}")
        broken, how = [path, folder / "index.npz"], "a stranger"
    elif how == "bytes":
        break_bytes(path, chance)
    else:
        how = replace_by(path, chance, [Path("runs/done/config.json"), Path("runs/done/fold_0.pt")])
    how = f"{path.name} {how}"
    arguments = ["runs/done/fold_0.pt", "--threads", "1"]
    return Case("test_code", arguments, broken, how, "cache", outputs=("cache",))


CASES = {
    "labels": label_case,
    "own labels": own_label_case,
    "images": image_case,
    "photographs": photograph_case,
    "model bytes": lambda chance: model_case(chance, break_bytes),
    "model content": lambda chance: model_case(chance, break_content),
    "caches": cache_case,
}


# Running and judging.


class Hang(BaseException):
    """A case took too long. Not an Exception, so that no handler in the tested code catches it."""


def on_alarm(*_):
    raise Hang


def call(script, arguments):
    """(status, output, errors) of a script's main(), called here."""
    output, errors, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [script, *arguments]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                run_script(SCRIPTS[script])
                status = 0
            except SystemExit as ending:
                status = ending.code
    finally:
        sys.argv = argv
        torch.set_num_threads(1)
    return status, output.getvalue(), errors.getvalue()


def call_here(case):
    """(status, output, errors, MiB more than before); a hang raises Hang."""
    reset_peak()
    before = peak()
    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(SECONDS)
    try:
        result = call(case.script, case.arguments)
    finally:
        signal.alarm(0)
    return *result, peak() - before


def call_cold(case):
    """(status, output, errors, 0 MiB) of a process of its own; a hang raises Hang."""
    script = {"check_data": ["-m", "tools.check_data"]}.get(case.script, [str(ROOT / f"{case.script}.py")])
    command, environment = [sys.executable, *script, *case.arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    settings = {"capture_output": True, "stdin": subprocess.DEVNULL, "env": environment}
    try:
        done = subprocess.run(command, **settings, timeout=COLD_SECONDS)
    except subprocess.TimeoutExpired:
        raise Hang from None
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"), 0.0


def reset_peak():
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak():
    """The largest resident memory since the last reset, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024


def snapshot(folder):
    """{path: what is there}, of everything below a folder."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.relpath(os.path.join(place, name), folder)
            if os.path.islink(path):
                found[path] = f"link to {os.readlink(path)}"
            elif os.path.isdir(path):
                found[path] = "folder"
            elif os.path.isfile(path):
                found[path] = Path(path).read_bytes()
            else:
                found[path] = f"special {os.lstat(path).st_mode}"
    return found


def restore(good):
    """Bring the current folder back to a snapshot of it, which holds files and folders only."""
    now = snapshot(".")
    for path in sorted(now.keys() - good.keys(), reverse=True) + [
        p for p in now.keys() & good.keys() if now[p] != good[p]
    ]:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    for path in sorted(good):
        if now.get(path) != good[path]:
            if good[path] == "folder":
                os.makedirs(path, exist_ok=True)
            else:
                Path(path).write_bytes(good[path])


def judge(case, before, after, result):
    """What breaks the contract, as a list of texts."""
    status, output, errors, memory = result
    allowed = (0, 1, 2) if case.script in FINDINGS else (0, 2)
    if status not in allowed:
        yield f"status {status}: {errors[-300:]!r}"
    if "internal error" in errors or "Traceback" in errors:
        yield errors[:600]
    if status == 2 and not (re.fullmatch(r"error: .{1,493}\n", errors) and errors[:-1].isprintable()):
        yield f"not one printable line: {errors[:600]!r}"
    if status == 2 and case.names and not re.search(case.names, errors):
        yield f"the message does not name '{case.names}': {errors!r}"
    if status in (0, 1) and errors:
        yield f"printed to standard error: {errors[:300]!r}"
    if not output.replace("\n", "").isprintable():
        yield f"unprintable output: {[line for line in output.splitlines() if not line.isprintable()][:3]!r}"
    if memory > GROWTH:
        yield f"took {memory:,.0f} MiB"
    yield from judge_files(case, status, before, after)


def judge_files(case, status, before, after):
    outputs = (
        case.outputs if status in (0, 1) else tuple(p for p in case.outputs if p == "cache")
    )  # also made for a refusal
    broken = [str(path) for path in case.broken]
    for path in sorted(before.keys() | after.keys()):
        same = before.get(path) == after.get(path)
        if same or os.path.basename(path).endswith(".lock"):
            continue
        below = any(path == name or path.startswith(name + "/") for name in outputs)
        if ".unfinished" in path:
            yield f"left behind: {path}"
        elif path in broken and status in (1, 2) and case.script != "main":
            yield f"changed the file that it refuses: {path}"
        elif path not in broken and not below:
            yield f"changed {path}: {show(before.get(path))} -> {show(after.get(path))}"


def show(content):
    return f"{len(content):,} bytes" if isinstance(content, bytes) else content or "nothing"


def run_case(kind, number, seed, good, cold):
    """Break the current folder, run the script, judge and repair; returns (outcome, files, problems, seconds, MiB)."""
    chance = random.Random(f"{seed} {kind} {number}")
    problems, case, memory = [], None, 0
    start = time.monotonic()
    try:
        case = CASES[kind](chance)
        before = snapshot(".")
        start = time.monotonic()
        result = (call_cold if cold else call_here)(case)
        memory = result[3]
        problems = list(judge(case, before, snapshot("."), result))
        outcome = "refused" if result[0] == 2 else "read"
        if case.files > 1 and result[0] != 2:
            readable = int(re.search(r"(\d+) readable", result[1]).group(1))
            outcome = len(FOLDS) * FACES_PER_FOLD - readable
    except Hang:
        outcome, problems = "refused", [f"hung for {COLD_SECONDS if cold else SECONDS} s"]
    except Exception as error:
        outcome, problems = (
            "refused",
            [f"the test failed, {type(error).__name__}: {error} {traceback.format_exc()[-800:]}"],
        )
    finally:
        seconds = time.monotonic() - start
        restore(good)
    if problems and case:
        problems = [f"[{case.how}] {case.script} {' '.join(case.arguments)}: {problem}" for problem in problems]
    return outcome, case.files if case else 1, problems, seconds, memory


# Several processes.

state = {}  # of a worker: its copy of the home, and what is in it


def prepare_worker(template):
    warnings.simplefilter("ignore")
    home = Path(tempfile.mkdtemp(dir=template.parent)) / "home"
    shutil.copytree(template, home)
    os.chdir(home)
    expect_success("test_code", "runs/done/fold_0.pt", "--threads", "1")  # makes the cache
    state["good"], state["current"] = snapshot("."), home.parent / "current"


def run_chunk(kind, numbers, seed, cold):
    results = []
    for number in numbers:
        state["current"].write_text(f"{kind}:{number}")
        results.append((kind, number, cold, *run_case(kind, number, seed, state["good"], cold)))
    return results


def plan(cases, cold):
    """(kind, numbers, cold) for all cases, in chunks; images count by the file."""
    for kind, share in KINDS.items():
        count = round(cases * share / sum(KINDS.values()))
        if kind == "images":
            count = round(count / (0.15 + 0.85 * BATCH))
        for first in range(0, count, 20):
            yield kind, range(first, min(first + 20, count)), False
        count = round(cold * share / sum(KINDS.values()))
        for first in range(0, count, 2):
            yield kind, range(first, min(first + 2, count)), True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="broken files (default: 10000)")
    parser.add_argument("--cold", type=int, default=500, help="cases in processes of their own (default: 500)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:N", help="repeat one case")
    options = parser.parse_args()
    chunks = list(plan(options.cases, options.cold))
    if options.only:
        kind, number = options.only.rsplit(":", 1)
        chunks = [(kind, [int(number)], cold) for cold in (False, True)]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    current_commit()  # read once, before the processes fork
    here, start = os.getcwd(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "template"
        make_home(template)
        print(f"prepared in {time.monotonic() - start:.0f} s", flush=True)
        failures = run_all(chunks, template, options)
        os.chdir(here)
    print("no failures" if not failures else f"{failures:,} failures")
    return 1 if failures else 0


def run_all(chunks, template, options):
    """Run all chunks in several processes and print the table; returns the number of failures."""
    counts, failures, start = {}, 0, time.monotonic()
    context = multiprocessing.get_context("fork")  # torch is imported once
    with ProcessPoolExecutor(options.jobs, context, prepare_worker, (template,)) as pool:
        try:
            futures = [pool.submit(run_chunk, kind, numbers, options.seed, cold) for kind, numbers, cold in chunks]
            for future in as_completed(futures):
                for kind, number, cold, outcome, files, problems, seconds, memory in future.result():
                    count = counts.setdefault(f"{kind}, cold" if cold else kind, Counter())
                    refused = outcome if isinstance(outcome, int) else files * (outcome == "refused")
                    count.update(calls=1, cases=files, refused=refused, read=files - refused, failures=len(problems))
                    count.update(seconds=seconds)
                    count["slowest"] = max(count["slowest"], seconds)
                    count["memory"] = max(count["memory"], memory)
                    failures += len(problems)
                    for problem in problems:
                        repeat = f"--seed {options.seed} --only '{kind}:{number}'"
                        print(f"FAILURE {repeat}\n    {problem}", flush=True)
        except BrokenProcessPool:
            failures += 1
            last = [path.read_text() for path in template.parent.glob("*/current")]
            print(f"FAILURE a process died; the last cases were {last}, with --seed {options.seed}")
    print_table(counts, time.monotonic() - start)
    return failures


def print_table(counts, seconds):
    print(f"\n{'kind':<20} {'cases':>7} {'read':>7} {'refused':>8} {'failures':>9}", end="")
    print(f" {'seconds':>8} {'slowest':>8} {'MiB':>6}")
    for kind, count in sorted(counts.items()):
        numbers = f"{count['cases']:7,} {count['read']:7,} {count['refused']:8,} {count['failures']:9,}"
        print(f"{kind:<20} {numbers} {count['seconds']:8.0f} {count['slowest']:8.1f} {count['memory']:6.0f}")
    print(f"{seconds:.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
