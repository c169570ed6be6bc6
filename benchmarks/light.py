"""Compare the light forms of a trained model: size, speed and accuracy.

    python benchmarks/light.py REFERENCE [MODEL ...] [--label-dir DIR --image-dir DIR] [--output docs/LIGHT.md]

REFERENCE and the MODELs, which may be narrow, pruned, distilled or of another kind, are model files of one fold; a
MODEL may have a name: NAME=FILE. The reference runs in PyTorch in 32 bits and in bf16, as an ONNX file in 32 and in 8
bits, and in OpenVINO where that is installed; the others run in PyTorch in 32 bits and as an ONNX file in 8 bits. Each
takes uint8 faces and gives class probabilities, and all take turns within each repeat. Writes one Markdown file.
"""

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

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from throughput import processor

from data.duplicates import signatures_of
from evaluation.evaluation import Evaluation
from evaluation.leaks import refuse_training_pictures
from evaluation.paired import paired_differences
from models import model_options
from models.export import open_session
from models.network import Network, parameter_count
from models.pruning import multiply_adds
from report.card import escape
from tools.compare_runs import COLUMNS
from tools.export import (
    BATCH,
    FP32,
    PACKAGES,
    REQUIREMENTS,
    SETTINGS,
    batches,
    convert,
    find_source,
    run,
    torch_probabilities,
)
from training.config import FIELDS
from training.provenance import current_commit
from utils.cli import printable, python_command, require_package, run_script
from utils.device import Runtime, has_bf16, keep_large_buffers
from utils.errors import UserError
from utils.files import check_output, write_text
from utils.options import Parser, add_options
from utils.reading import MIB, exists, read_text

MARK = "<!-- made by benchmarks/light.py -->"  # the first line of our files
OUTPUT, DOCUMENT_LIMIT = "docs/LIGHT.md", 16  # MiB
REFERENCE = "reference"
THREADS = (1, 2)
CALLS = {"one": 20, "batch": 2}  # timed calls of a turn, for one face and for a batch
PAUSE = 0.1  # seconds before a turn: the idle threads of torch and onnxruntime first wait busily, up to 40 ms
INSTRUCTIONS = "avx2 avx512_f avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16".split()
SHOWN, COMPARED = ("top1", "one_off", "mae", "ece"), ("top1", "one_off")
NOTES = """MiB: size of the file. PyTorch in bf16 rounds the weights of that same file at each call; OpenVINO reads the
ONNX file and chooses its own precision. GMAC: billions of multiplications with additions for one face. Speed: from
uint8 faces to class probabilities, normalisation and softmax included, on {threads} threads; medians over {repeats}
repeats, in which all sides take turns; batches of {batch}; PyTorch in channels_last. Probabilities are scaled by the
model file's temperature, where it has one. Differences are in points, with 95 % intervals by bootstrap over people."""


@dataclass
class Form:
    """A model in one form that can be run, and its measurements: a row of the table.

    Attributes:
        name: the model and the form.
        model: the Network; None for a form that cannot be run.
        mib: size of the file.
        prepare: a function of the number of threads; it gives a function from uint8 (N, 3, S, S) to probabilities
            (N, K).
        missing: the reason why it cannot be run; the measurements are then empty.
        seconds: {("one" or "batch", threads): seconds of a call in each repeat}.
        metrics: {name of COLUMNS: value} on the held-out faces.
        differences: {name of COLUMNS: (this form - the reference, low, high)}; empty for the reference.
    """

    name: str
    model: Network | None = None
    mib: float = 0.0
    prepare: Callable | None = None
    missing: str = ""
    seconds: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    differences: dict = field(default_factory=dict)


def main():
    options = read_command_line()
    keep_large_buffers()
    load = os.getloadavg()[0]  # of others: what is measured here has not begun
    sources = {name: find_source(path, options) for name, path in options.files.items()}
    check_alike(sources)
    reference = sources[REFERENCE]
    test, fold = reference.test, reference.model.record["fold"]
    images = {source.model.image_size: source.images(test) for source in sources.values()}
    duplicates, forms = {}, []
    for name, source in sources.items():
        signatures = signatures_of(images[source.model.image_size])
        seen = refuse_training_pictures(source.path, source.model.record, test, f"fold {fold}", signatures)
        duplicates[name] = int(seen.sum())
        forms += make_forms(name, source, convert(source, int8=True)[0])
    measure(forms, test, images, options.repeats)
    parts = [
        f"{MARK}\n# Light forms of a trained model",
        f"{datetime.date.today()}, {machine(load)}; {versions()}; commit {current_commit()}:",
        f"    {python_command()} benchmarks/light.py {shlex.join(sys.argv[1:])}",
        f"The faces are the {len(test):,} of fold {fold}, which every model held out;"
        f" {duplicates[REFERENCE]:,} of them show a picture that the {REFERENCE} also has among its training faces.",
        "\n".join(describe_model(name, source.model) for name, source in sources.items()),
        table(forms),
        NOTES.format(repeats=options.repeats, batch=BATCH, threads=by_threads(str)),
    ]
    write_text(options.output, "\n\n".join(parts) + "\n")
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
    for package in PACKAGES:
        require_package(package, "benchmarks/light.py", REQUIREMENTS)
    check_output(options.output, is_document, "a table of benchmarks/light.py")
    options.files, options.int8 = name_files(options.reference, options.models), True
    return options


def is_document(path):
    """Whether a file is an earlier table of ours. Raises UserError if it cannot be read."""
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


def check_alike(sources):
    """Check that all models {name: Source} held out the same faces with the same labels.

    Raises:
        UserError: they did not.
    """
    first, columns = sources[REFERENCE], ["path", "album", "person", "label"]
    for path, _, _, test, _ in sources.values():
        if not len(test):
            raise UserError(f"'{path}' held out a fold that these label files do not have")
        folds = [int(faces.table.fold.iloc[0]) for faces in (first.test, test)]
        if folds[0] != folds[1]:
            raise UserError(f"'{path}' held out fold {folds[1]} and '{first.path}' fold {folds[0]}")
        tables = [faces.table[columns].reset_index(drop=True) for faces in (first.test, test)]
        if not tables[0].equals(tables[1]) or first.test.classes.names != test.classes.names:
            raise UserError(f"'{path}' held out other faces than '{first.path}'; --label-dir says where all are")


def make_forms(name, source, contents):
    """The Forms of a model, in the order of the table.

    Args:
        name: the model's name in the table.
        source: its Source.
        contents: {"onnx": bytes, "int8": bytes} of its ONNX files.
    """
    full = torch_form(f"{name}, PyTorch fp32", source, FP32)
    eight = onnx_form(f"{name}, ONNX INT8", source.model, contents["int8"])
    if name != REFERENCE:
        return [full, eight]
    bf16 = Form(f"{name}, PyTorch bf16", missing="this processor has no bf16 instructions")
    if has_bf16():
        bf16 = torch_form(bf16.name, source, Runtime(torch.device("cpu"), "bf16"))
    onnx = onnx_form(f"{name}, ONNX fp32", source.model, contents["onnx"])
    return [full, bf16, onnx, eight, openvino_form(source.model, contents["onnx"])]


def torch_form(name, source, runtime):
    model = source.model.to(memory_format=torch.channels_last)
    function = functools.partial(torch_probabilities, model, runtime=runtime)
    return Form(name, model, os.path.getsize(source.path) / MIB, lambda threads: function)


def onnx_form(name, model, content):
    def prepare_session(threads):
        return functools.partial(run, open_session(content, threads))

    return Form(name, model, len(content) / MIB, prepare_session)


def openvino_form(model, content):
    """OpenVINO reads the ONNX file as it is, and chooses its own precision, which becomes part of the name."""
    if importlib.util.find_spec("openvino") is None:
        return Form(f"{REFERENCE}, OpenVINO", missing="not installed")
    import openvino

    def compile_model(threads):
        core = openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        return core.compile_model(core.read_model(content), "CPU", settings)

    def prepare_network(threads):
        network = compile_model(threads)
        return lambda images: np.concatenate([network(batch)[0] for batch in batches(images)])

    try:
        precision = compile_model(1).get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError:  # such as of a pooling window that reaches beyond the image
        return Form(f"{REFERENCE}, OpenVINO", missing="it cannot read this network")
    return Form(f"{REFERENCE}, OpenVINO {precision.replace('f32', 'fp32')}", model, len(content) / MIB, prepare_network)


def measure(forms, test, images, repeats):
    """Measure the speed of all Forms and the accuracy of each; the first one is the reference.

    Args:
        forms: a list of Forms.
        test: the held-out Faces.
        images: {image size: uint8 (N, 3, S, S)} of these faces.
        repeats: the number of turns.
    """
    forms, sides = [form for form in forms if not form.missing], {}
    functions = {(form.name, threads): form.prepare(threads) for form in forms for threads in THREADS}
    for form in forms:
        faces = images[form.model.image_size]
        batch = faces[np.arange(BATCH) % len(faces)]  # of full size, however few faces there are
        for threads in THREADS:
            for kind, inputs in (("one", batch[:1]), ("batch", batch)):
                function = functools.partial(functions[form.name, threads], inputs)
                sides[form.name, kind, threads] = function, CALLS[kind], threads
    seconds = take_turns(sides, repeats)
    torch.set_num_threads(THREADS[-1])
    for form in forms:
        form.seconds = {(kind, threads): taken for (name, kind, threads), taken in seconds.items() if name == form.name}
        probabilities = functions[form.name, THREADS[-1]](images[form.model.image_size])
        evaluation = Evaluation(test, probabilities, form.model.record["decoder"])
        form.metrics = {**evaluation.metrics(), "ece": evaluation.calibration()["ece"]}
        if form is forms[0]:
            reference = evaluation
        else:
            form.differences = paired_differences(evaluation, reference)


def take_turns(sides, repeats, clock=time.perf_counter, sleep=time.sleep):
    """The seconds of a call of each side: {key: the median of a turn in each repeat}.

    All sides have a turn in each repeat, in the opposite order every second time, so that a machine whose speed drifts
    slows all of them alike. A turn starts with a pause and a call that is not timed; the first repeat warms up and does
    not count.

    Args:
        sides: {key: (function without arguments, its calls in a turn, its number of threads)}.
        repeats: the number of turns.
        clock, sleep: those of `time`.
    """
    seconds = {key: [] for key in sides}
    for repeat in range(repeats + 1):
        for key in list(sides)[:: -1 if repeat % 2 else 1]:
            function, calls, threads = sides[key]
            torch.set_num_threads(threads)  # of PyTorch; other packages have been given theirs
            sleep(PAUSE)
            function()
            taken = []
            for _ in range(calls):
                start = clock()
                function()
                taken.append(clock() - start)
            if repeat:
                seconds[key].append(float(np.median(taken)))
        print(f"repeat {repeat} of {repeats} done", file=sys.stderr, flush=True)
    return seconds


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


def describe_model(name, model):
    """A model as an item of a list: its network and the options that are not the default ones."""
    kind, record = model.description["name"], model.record
    known = {"name": kind, "num_classes": len(model.classes.names), "image_size": model.image_size, "head": "softmax"}
    defaults = {**model_options(kind), **known}
    options = [f"{key} {value}" for key, value in model.description.items() if value != defaults[key]]
    config = record["config"]
    parts = [kind, *options, f"{model.image_size} px", f"{parameter_count(model):,} parameters"]
    trained = f"{config.get('recipe', 'unknown')} recipe, {config.get('epochs', '?')} epochs"
    return f"- **{escape(name)}**: {escape(', '.join(parts))}; {escape(trained)}"


def by_threads(show):
    """A function's texts for each number of threads, as in the table."""
    return " / ".join(show(threads) for threads in THREADS)


def table(forms):
    titles = ["form", "MiB", "GMAC", f"ms for one face, {by_threads(str)} threads"]
    titles += [f"faces/s in batches, {by_threads(str)} threads"]
    titles += [COLUMNS[name].title for name in SHOWN]
    titles += [f"{COLUMNS[name].title} against the {REFERENCE}" for name in COMPARED]
    lines = [titles, ["---"] * len(titles)]
    for form in forms:
        lines.append([escape(form.name), *([form.missing] if form.missing else measurements(form))])
        lines[-1] += [""] * (len(titles) - len(lines[-1]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measurements(form):
    """The cells of a Form that was measured, after its name."""
    differences = [map(COLUMNS[name].show_difference, form.differences[name]) for name in COMPARED if form.differences]
    return [
        f"{form.mib:.2f}",
        f"{multiply_adds(form.model.description, form.model.image_size) / 1e9:.3f}",
        by_threads(lambda threads: f"{1000 * np.median(form.seconds['one', threads]):.2f}"),
        by_threads(lambda threads: f"{BATCH / np.median(form.seconds['batch', threads]):,.0f}"),
        *(COLUMNS[name].show(form.metrics[name]) for name in SHOWN),
        *("{} ({} to {})".format(*shown) for shown in differences),
    ]


if __name__ == "__main__":
    run_script(main)
