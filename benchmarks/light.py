"""Compare the light forms of a trained model: what each weighs, how fast it is, and what it costs in accuracy.

    python benchmarks/light.py REFERENCE [MODEL ...] [--label-dir DIR --image-dir DIR] [--output docs/LIGHT.md]

REFERENCE and the MODELs, which may be narrow, pruned, distilled or of another kind, are model files of one fold; a
MODEL may have a name: NAME=FILE. The reference runs in PyTorch in 32 bits and in bf16, as an ONNX file in 32 and in 8
bits, and in OpenVINO where that is installed; the others run in PyTorch in 32 bits and as an ONNX file in 8 bits. Each
takes uint8 faces and gives class probabilities, and all take turns within each repeat. Writes one Markdown file.
"""

import argparse
import copy
import datetime
import functools
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from throughput import processor

from data.duplicates import signatures_of
from evaluation.calibration import expected_calibration_error
from evaluation.leaks import refuse_training_pictures
from evaluation.paired import paired_differences
from evaluation.predictions import Predictions
from models import option_defaults
from models.export import open_session
from models.network import multiply_adds, parameter_count
from report.card import escape
from report.compare import COLUMNS
from tools.export import (
    BATCH,
    FP32,
    PACKAGES,
    SETTINGS,
    Job,
    batches,
    convert,
    parity_images,
    prepare,
    require_packages,
    run,
    torch_probabilities,
)
from training.config import FIELDS
from training.run import current_commit
from utils.cli import printable, python_command, run_script
from utils.device import Compute, has_bf16, keep_large_buffers
from utils.errors import UserError
from utils.files import check_output, write_text
from utils.foreign import MIB, exists, read_text
from utils.options import Parser, add_options

MARK = "<!-- made by benchmarks/light.py -->"  # the first line of our files
OUTPUT, DOCUMENT_LIMIT = "docs/LIGHT.md", 16  # MiB
REFERENCE = "reference"
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}  # the project's own first
THREADS = (1, 2)
CALLS = {"one": 20, "batch": 2}  # timed calls of a turn, for one face and for a batch
PAUSE = 0.1  # seconds before a turn: the idle threads of torch and onnxruntime first wait busily, up to 40 ms
INSTRUCTIONS = "avx2 avx512_f avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16".split()
SHOWN, COMPARED = ("top1", "one_off", "mae", "ece"), ("top1", "one_off")
TIMES_WANTED, MIB_WANTED, OPERATIONS_WANTED = 3, 5, 0.5
POINTS_WANTED, POINTS_WANTED_INT8 = 1, 0.5  # of top-1, in percent
NOTES = """MiB: of the file that one would ship. PyTorch in bf16 rounds the weights of that same file at each call;
OpenVINO reads the ONNX file and chooses its own precision. GMAC: billions of multiplications with additions for one
face. Speed: from uint8 faces to class probabilities, normalisation and softmax included, on {threads} threads; medians
over {repeats} repeats, in which all sides take turns; batches of {batch}. Probabilities are scaled by the model file's
temperature, where it has one. Differences are in points, with 95 % intervals by bootstrap over people.

The faster memory layout of PyTorch for one face, on {threads} threads (batches are channels_last):"""


@dataclass
class Form:
    """A model in one form that can be run.

    Attributes:
        name: of the model and the form, as in the table.
        job: the model and its faces.
        mib: of the file that one would ship.
        prepare: a function of the number of threads; it gives {layout: function from uint8 (N, 3, S, S) to
            probabilities (N, K)}. Only PyTorch has more than one memory layout.
    """

    name: str
    job: Job
    mib: float
    prepare: Callable


class Side(NamedTuple):
    """What takes its turn: a function without arguments, how often it is called, and with how many threads."""

    function: Callable
    calls: int
    threads: int


@dataclass
class Row:
    """What the table says of a form.

    Attributes:
        name: of the form.
        missing: why it was not measured; the other attributes are then empty.
        mib: of its file.
        operations: multiplications with additions for one face.
        pruned: whether channels of the reference's network were removed.
        seconds: {("one" or "batch", threads): seconds of a call in each repeat}.
        layouts: {threads: the faster memory layout for one face}; empty outside of PyTorch.
        metrics: {name of COLUMNS: value} on the held-out faces.
        differences: {name of COLUMNS: (this form - the reference, low, high)}; empty for the reference.
    """

    name: str
    missing: str = ""
    mib: float = 0.0
    operations: int = 0
    pruned: bool = False
    seconds: dict = field(default_factory=dict)
    layouts: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    differences: dict = field(default_factory=dict)


def main():
    options = read_command_line()
    keep_large_buffers()
    load = os.getloadavg()[0]  # of others: what is measured here has not begun
    jobs = {name: find_faces(path, options) for name, path in options.files.items()}
    for job in jobs.values():
        check_alike(jobs[REFERENCE], job)
    images = {job.size: job.images(job.test) for job in jobs.values()}
    twins = [count_twins(job, images[job.size]) for job in jobs.values()]
    rows = measure(make_forms(jobs), images, options.repeats)
    facts = [
        f"{datetime.date.today()}, {machine(load)}; {versions()}; commit {commit()}:",
        f"    {python_command()} benchmarks/light.py {shlex.join(sys.argv[1:])}",
        describe_faces(jobs[REFERENCE], twins[0]),
        "\n".join(describe_model(name, job.model) for name, job in jobs.items()),
    ]
    write_text(options.output, document(rows, facts, options.repeats))
    print(f"\nwrote {printable(options.output)}")


def read_command_line():
    parser = Parser(prog="python benchmarks/light.py", description=__doc__.splitlines()[0])
    parser.add_argument("reference", metavar="REFERENCE", help="model file that the others are compared with")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="other model files of the same fold, or NAME=FILE")
    parser.add_argument("--output", metavar="FILE", default=OUTPUT, help=f"file to write (default: {OUTPUT})")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="turns of each side (default: 15)")
    add_options(parser, [FIELDS[name] for name in SETTINGS], default_text="from the model file")
    options = parser.parse_args()
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: expected a number from 1")
    require_packages("benchmarks/light.py")
    check_output(options.output, is_document, "a table of benchmarks/light.py")
    options.files = name_files(options.reference, options.models)
    return options


def is_document(path):
    """Whether a file is an earlier table of ours. Raises UserError where it cannot be read."""
    return read_text(path, DOCUMENT_LIMIT).startswith(MARK + "\n")


def name_files(reference, models):
    """{name: path}; a model that is given without a name has that of its folder. Raises UserError."""
    files = {REFERENCE: Path(reference)}
    for text in models:
        name, equals, path = text.partition("=")
        if not (name and equals) or exists(text):
            name, path = Path(text).resolve().parent.name, text
        if name in files:
            raise UserError(f"'{text}': another model is called '{name}'; NAME={path} gives this one another name")
        files[name] = Path(path)
    return files


def find_faces(path, options):
    """The Job of a model file. Raises UserError."""
    given = {name: getattr(options, name) for name in SETTINGS if name in options}
    job = prepare(path, argparse.Namespace(int8=True, output=None, **given))
    if not len(job.test):
        raise UserError(f"'{path}' held out fold {job.model.record['fold']}, which these label files do not have")
    return job


def check_alike(reference, job):
    """Raises UserError where two Jobs do not have the same held-out faces and labels."""
    folds = [each.model.record["fold"] for each in (reference, job)]
    if folds[0] != folds[1]:
        raise UserError(f"'{job.path}' held out fold {folds[1]} and '{reference.path}' fold {folds[0]}")
    tables = [
        each.test.table[["path", "album", "subject", "label"]].reset_index(drop=True) for each in (reference, job)
    ]
    if not tables[0].equals(tables[1]) or reference.test.class_names != job.test.class_names:
        raise UserError(f"'{job.path}' held out other faces than '{reference.path}'; --label-dir says where all are")


def count_twins(job, images):
    """How many of the held-out faces show a picture that the model was trained on. Raises UserError for new ones."""
    split = f"fold {job.model.record['fold']}"
    return int(refuse_training_pictures(job.path, job.model.record, job.test, split, signatures_of(images)).sum())


def make_forms(jobs):
    """The forms in the order of the table: a Form each, or a Row that says why it is missing.

    Args:
        jobs: {name: Job}, the reference's among them.

    Raises:
        UserError: a network cannot be exported.
    """
    forms = []
    for name, job in jobs.items():
        contents, _ = convert(job, *parity_images(job))
        plain = torch_form(f"{name}, PyTorch fp32", job, FP32)
        eight = onnx_form(f"{name}, ONNX INT8", job, contents["int8"])
        if name == REFERENCE:
            full = onnx_form(f"{name}, ONNX fp32", job, contents["onnx"])
            forms += [plain, bf16_form(job), full, eight, openvino_form(job, contents["onnx"])]
        else:
            forms += [plain, eight]
    return forms


def torch_form(name, job, compute):
    models = {layout: copy.deepcopy(job.model).to(memory_format=kind) for layout, kind in LAYOUTS.items()}
    functions = {
        layout: functools.partial(torch_probabilities, model, compute=compute) for layout, model in models.items()
    }
    return Form(name, job, os.path.getsize(job.path) / MIB, lambda threads: functions)


def bf16_form(job):
    name = f"{REFERENCE}, PyTorch bf16"
    if not has_bf16():
        return Row(name, missing="this processor has no bf16 instructions")
    return torch_form(name, job, Compute(torch.device("cpu"), "bf16"))


def onnx_form(name, job, content):
    def prepare_session(threads):
        return {"": functools.partial(run, open_session(content, threads))}

    return Form(name, job, len(content) / MIB, prepare_session)


def openvino_form(job, content):
    """OpenVINO reads the ONNX file as it is, and chooses its own precision, which becomes part of the name."""
    if importlib.util.find_spec("openvino") is None:
        return Row(f"{REFERENCE}, OpenVINO", missing="not installed")
    import openvino

    def compile_model(threads):
        core = openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        return core.compile_model(core.read_model(content), "CPU", settings)

    def prepare_network(threads):
        network = compile_model(threads)
        return {"": lambda images: np.concatenate([network(part)[0] for part in batches(images)])}

    try:
        precision = compile_model(1).get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError:  # such as of a pooling window that reaches beyond the image
        return Row(f"{REFERENCE}, OpenVINO", missing="it cannot read this network")
    return Form(f"{REFERENCE}, OpenVINO {precision.replace('f32', 'fp32')}", job, len(content) / MIB, prepare_network)


def measure(forms, images, repeats):
    """A Row for each form.

    Args:
        forms: of `make_forms`; the first one is what the others are compared with.
        images: {image size: the held-out faces, uint8 (N, 3, S, S)}.
        repeats: the number of turns.
    """
    present = [form for form in forms if isinstance(form, Form)]
    prepared = {(form.name, threads): form.prepare(threads) for form in present for threads in THREADS}
    sides = {}
    for form in present:
        for threads in THREADS:
            sides |= make_sides(form.name, threads, prepared[form.name, threads], images[form.job.size])
    seconds = take_turns(sides, repeats)
    torch.set_num_threads(THREADS[-1])
    answers = {}
    for form in present:
        function = next(iter(prepared[form.name, THREADS[-1]].values()))
        decoder = form.job.model.record["decoder"]
        answers[form.name] = Predictions(form.job.test, function(images[form.job.size]), decoder)
    return [form if isinstance(form, Row) else make_row(form, forms[0], seconds, answers) for form in forms]


def make_sides(name, threads, functions, images):
    """{(name, threads, "one" or "batch", layout): Side} of a form, on these faces."""
    batch = images[np.arange(BATCH) % len(images)]  # of full size, however few faces there are
    sides = {}
    for layout, function in functions.items():
        sides[name, threads, "one", layout] = Side(functools.partial(function, batch[:1]), CALLS["one"], threads)
    layout, function = next(iter(functions.items()))
    sides[name, threads, "batch", layout] = Side(functools.partial(function, batch), CALLS["batch"], threads)
    return sides


def take_turns(sides, repeats, clock=time.perf_counter, sleep=time.sleep):
    """{key: seconds of a call in each repeat} of {key: Side}; each is the median of the calls of one turn.

    All sides have a turn in each repeat, in the opposite order every second time, so that a machine whose speed drifts
    slows all of them alike. A turn starts with a pause and a call that is not timed; the first repeat warms up and does
    not count.
    """
    seconds = {key: [] for key in sides}
    for repeat in range(repeats + 1):
        for key in list(sides)[:: -1 if repeat % 2 else 1]:
            taken = take_turn(sides[key], clock, sleep)
            if repeat:
                seconds[key].append(taken)
        print(f"repeat {repeat} of {repeats} done", file=sys.stderr, flush=True)
    return seconds


def take_turn(side, clock, sleep):
    torch.set_num_threads(side.threads)  # of PyTorch; other packages have been given theirs
    sleep(PAUSE)
    side.function()
    taken = []
    for _ in range(side.calls):
        start = clock()
        side.function()
        taken.append(clock() - start)
    return float(np.median(taken))


def make_row(form, reference, seconds, answers):
    """The Row of a Form.

    Args:
        form: the Form.
        reference: the Form to compare it with.
        seconds: of `take_turns`, with the keys of `make_sides`.
        answers: {name of a form: its Predictions}.
    """
    fastest, layouts = find_fastest(seconds, form.name)
    own, model = answers[form.name], form.job.model
    error = expected_calibration_error(own.labels, own.predicted, own.probabilities)
    return Row(
        form.name,
        mib=form.mib,
        operations=multiply_adds(model, model.image_size),
        pruned=is_pruned(model.description, reference.job.model.description),
        seconds=fastest,
        layouts=layouts,
        metrics={**own.metrics(), "ece": error},
        differences={} if form is reference else paired_differences(own, answers[reference.name]),
    )


def find_fastest(seconds, form):
    """What a form takes in its faster memory layout.

    Args:
        seconds: {(form, threads, "one" or "batch", layout): seconds of each repeat}.
        form: its name.

    Returns:
        ({("one" or "batch", threads): seconds of each repeat}, {threads: the layout for one face}), the latter without
        those that have no name.
    """
    fastest, layouts = {}, {}
    for (name, threads, kind, layout), taken in seconds.items():
        known = fastest.get((kind, threads))
        if name == form and (known is None or np.median(taken) < np.median(known)):
            fastest[kind, threads] = taken
            if kind == "one" and layout:
                layouts[threads] = layout
    return fastest, layouts


def is_pruned(description, reference):
    """Whether tools.prune may have made a network of this description from the reference's."""
    if description.keys() != reference.keys() or "inner_width" not in description:
        return False
    changed = {name for name in description if description[name] != reference[name]}
    return changed == {"inner_width"} and description["inner_width"] < reference["inner_width"]


def machine(load):
    """The processor, its instructions for networks, and how busy it was, in words."""
    found = torch.cpu.get_capabilities()
    sets = ", ".join(name for name in INSTRUCTIONS if found.get(name) is True) or "no vector instructions known"
    return f"{processor()} ({sets}), {os.cpu_count()} cores, load average {load:.1f} before the start"


def versions():
    found = [f"Python {platform.python_version()}"]
    for name in ("torch", *PACKAGES, "openvino"):
        if importlib.util.find_spec(name) is not None:
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def commit():
    """The commit of this code, shortened."""
    name, dirty, _ = current_commit().partition("-dirty")
    return name[:7] + dirty or "unknown"


def describe_faces(job, twins):
    fold, count = job.model.record["fold"], len(job.test)
    return (
        f"The faces are the {count:,} of fold {fold}, which every model held out; {twins:,} of them show a picture that"
        f" the {REFERENCE} also has among its training faces."
    )


def describe_model(name, model):
    """A model as an item of a list: its network and the options that are not the default ones."""
    kind, record = model.description["name"], model.record
    known = {"name": kind, "num_classes": len(model.class_names), "image_size": model.image_size, "head": "softmax"}
    defaults = {**option_defaults(kind), **known}
    options = [f"{key} {value}" for key, value in model.description.items() if value != defaults[key]]
    config = record["config"]
    parts = [kind, *options, f"{model.image_size} px", f"{parameter_count(model):,} parameters"]
    trained = f"{config.get('recipe', 'unknown')} recipe, {config.get('epochs', '?')} epochs"
    return f"- **{escape(name)}**: {escape(', '.join(parts))}; {escape(trained)}"


def document(rows, facts, repeats):
    """The Markdown text.

    Args:
        rows: a list of Row, the reference in PyTorch fp32 first.
        facts: paragraphs on what was measured, where and how.
        repeats: the number of turns that each median is of.
    """
    layouts = [f"- {escape(row.name)}: {by_threads(lambda n, r=row: r.layouts[n])}" for row in rows if row.layouts]
    parts = [
        f"{MARK}\n# Light forms of a trained model",
        *facts,
        table(rows),
        NOTES.format(repeats=repeats, batch=BATCH, threads=by_threads(str)),
        "\n".join(layouts),
        "## Wanted",
        "\n".join(f"- {line}" for line in wanted(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def by_threads(show):
    """A function's texts for each number of threads, as in the table."""
    return " / ".join(show(threads) for threads in THREADS)


def table(rows):
    titles = ["form", "MiB", "GMAC", f"ms for one face, {by_threads(str)} threads"]
    titles += [f"faces/s in batches, {by_threads(str)} threads"]
    titles += [COLUMNS[name].title for name in SHOWN]
    titles += [f"{COLUMNS[name].title} against the {REFERENCE}" for name in COMPARED]
    lines = [titles, ["---"] * len(titles), *([*cells(row)] + [""] * (len(titles) - len(cells(row))) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row):
    """The cells of a Row; only two where it was not measured."""
    if row.missing:
        return [escape(row.name), row.missing]
    return [
        escape(row.name),
        f"{row.mib:.2f}",
        f"{row.operations / 1e9:.3f}",
        by_threads(lambda threads: f"{1000 * np.median(row.seconds['one', threads]):.2f}"),
        by_threads(lambda threads: f"{BATCH / np.median(row.seconds['batch', threads]):,.0f}"),
        *(COLUMNS[name].show(row.metrics[name]) for name in SHOWN),
        *(show_difference(row, name) for name in COMPARED),
    ]


def show_difference(row, name):
    """A difference from the reference with its interval; '' for the reference itself."""
    if not row.differences:
        return ""
    value, low, high = map(COLUMNS[name].show_difference, row.differences[name])
    return f"{value} ({low} to {high})"


def wanted(rows):
    """What was wanted of the light forms, and what was found: a list of lines."""
    measured = [row for row in rows if not row.missing]
    reference, light = measured[0], measured[1:]
    small = [row for row in light if row.mib <= MIB_WANTED]
    half = [row for row in light if row.pruned and row.operations <= OPERATIONS_WANTED * reference.operations]
    return [
        eight_bits_line(reference, next(row for row in light if row.name == f"{REFERENCE}, ONNX INT8")),
        accuracy_line(f"a network of at most {MIB_WANTED} MiB", small, lambda row: f"{row.mib:.2f} MiB"),
        accuracy_line(
            "a pruned network with half of the operations",
            half,
            lambda row: f"{row.operations / reference.operations:.1%} of the operations",
        ),
    ]


def eight_bits_line(reference, row):
    """Whether the 8-bit form is as fast and as good as it should be; the median of the ratios of each repeat."""
    ratios = [np.median(np.divide(reference.seconds["one", n], row.seconds["one", n])) for n in THREADS]
    kept = row.differences["top1"][0] >= -POINTS_WANTED_INT8 / 100
    times = " / ".join(f"{ratio:.2f}" for ratio in ratios)
    return (
        f"INT8 at least {TIMES_WANTED} times as fast as PyTorch fp32 on one face, and top-1 within"
        f" {POINTS_WANTED_INT8} points: **{yes_or_no(min(ratios) >= TIMES_WANTED and kept)}**: {times} times with"
        f" {by_threads(str)} threads, {show_difference(row, 'top1')} points"
    )


def accuracy_line(what, rows, describe):
    """Whether the best of some rows is close enough to the reference in top-1."""
    asked = f"{what}, top-1 within {POINTS_WANTED} point of the {REFERENCE}"
    if not rows:
        return f"{asked}: not measured, no such model was given"
    best = max(rows, key=lambda row: row.differences["top1"][0])
    kept = best.differences["top1"][0] >= -POINTS_WANTED / 100
    found = f"{escape(best.name)}, {describe(best)}, {show_difference(best, 'top1')} points"
    return f"{asked}: **{yes_or_no(kept)}**: {found}"


def yes_or_no(met):
    return "yes" if met else "no"


if __name__ == "__main__":
    run_script(main)
