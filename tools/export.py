"""Write models as ONNX files, which run without torch, with a model card beside them.

    python -m tools.export MODEL [MODEL ...] [--output DIR] [--int8] [--label-dir DIR] [--image-dir DIR]

NAME.onnx takes photographs of faces, uint8 RGB, and gives class probabilities; `examples/onnx_predict.py` shows how to
use it. Before it is written, its answers are compared with PyTorch's. --int8 also writes NAME.int8.onnx, which is
smaller and faster; it needs the training faces. The model says where the data was; the options say where it is now.
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from training.config import FIELDS, Config, recorded_config
from utils.errors import UserError
from utils.foreign import exists
from utils.options import Parser, add_options

SETTINGS = ("label_dir", "label_file", "image_dir")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CARD = "MODEL_CARD.md"
PARITY_FACES, CALIBRATION_FACES, CALIBRATION_BATCH = 200, 500, 25
TOLERANCE = 1e-4  # the largest difference of a probability from PyTorch's
BATCH = 64
PIXELS = 512 * 224**2  # the most in one batch, or of drawn images in all


def read_command_line():
    parser = Parser(prog="python -m tools.export", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files: fold_0.pt and the like")
    parser.add_argument("--output", metavar="DIR", help="folder to write to (default: that of each model)")
    parser.add_argument("--int8", action="store_true", help="also write an 8-bit form, calibrated on training faces")
    add_options(parser, [FIELDS[name] for name in SETTINGS], default_text="from the model file")
    options = parser.parse_args()
    require_packages("tools.export")
    return options


def require_packages(script):
    """Raises UserError, which says how to install them, where a package of the extra is missing."""
    if any(importlib.util.find_spec(name) is None for name in PACKAGES):
        needed = " and ".join([", ".join(PACKAGES[:-1]), PACKAGES[-1]])
        raise UserError(f"{script} needs the packages {needed}: python -m pip install -r requirements-export.txt")


def check_arguments():
    read_command_line()


if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported, which takes seconds

import time

import numpy as np
import torch

from augment.pipeline import to_network_input
from data import Faces, load_data
from data.adience import is_adience
from data.cache import decode_face
from evaluation.calibration import apply_temperature
from evaluation.decode import DECODERS
from evaluation.leaks import refuse_training_people
from evaluation.metrics import METRICS, compute_metrics
from evaluation.predictions import read_predictions
from evaluation.subgroups import subgroups
from models.checkpoint import load_model
from models.export import is_export, metadata_of, open_session, to_int8, to_onnx
from models.network import Network, size_mib
from report.card import CardEntry, is_card, write_card
from report.study import with_faces
from utils.device import Compute
from utils.files import atomic_write, check_output
from utils.foreign import MIB

TERMS = "Those of the data that it was trained on, which also bind the use of the model."
ADIENCE_TERMS = "Trained on Adience, which is for research only."
FP32 = Compute(torch.device("cpu"), "fp32")


@dataclass
class Job:
    """A model to export, and the faces that it is tried on."""

    path: Path
    model: Network
    config: Config
    outputs: dict  # {"onnx": path} and, where it is asked for, {"int8": path}
    train: Faces | None  # those that it learned from; None where the data is not at hand
    test: Faces | None  # those of the fold that it held out
    licence: str
    results: dict = field(default_factory=dict)  # {form: {quantity: value}}

    @property
    def size(self):
        return self.model.image_size

    def images(self, faces):
        """Decoded faces, uint8 (N, 3, S, S), as in the cache."""
        return np.stack([decode_face(Path(self.config.image_dir) / path, self.size) for path in faces.table.path])


def main():
    options = read_command_line()
    torch.set_num_threads(1)
    # Every file is checked before the first one is written.
    jobs = [prepare(path, options) for path in options.models]
    folders = check_outputs(jobs)
    for job in jobs:
        export(job)
    for folder in folders:
        here = [job for job in jobs if job.outputs["onnx"].parent == folder]
        write_card(folder / CARD, [card_entry(job) for job in here])
        print(f"wrote {printable(folder / CARD)}")


def prepare(path, options):
    """Load a model and find its faces. Raises UserError."""
    path = Path(path)
    model = load_model(path)
    given = {name: getattr(options, name) for name in SETTINGS if name in options}
    config = recorded_config(path, model.record, given)
    folder = Path(options.output) if options.output is not None else path.parent
    outputs = {"onnx": folder / f"{path.stem}.onnx"}
    if options.int8:
        outputs["int8"] = folder / f"{path.stem}.int8.onnx"
    train = test = None
    licence = TERMS
    if options.int8 or given or (exists(config.label_file or config.label_dir) and exists(config.image_dir)):
        faces = read_faces(path, model, config)
        licence = ADIENCE_TERMS if is_adience(faces) else TERMS
        train, test = split(path, model.record, faces)
        if options.int8 and not len(train):
            raise UserError(f"--int8: none of the people that '{path}' was trained on is in these label files")
    return Job(path, model, config, outputs, train, test, licence)


def read_faces(path, model, config):
    """All Faces. Raises UserError where they are not at hand, or have other classes than the model."""
    try:
        faces, _ = load_data(**{**config.data_source, "allow_missing": True})
    except UserError as error:
        raise UserError(f"{error}; --label-dir or --label-file, and --image-dir, say where the data is") from None
    if faces.class_names != model.class_names:
        theirs, ours = ", ".join(model.class_names), ", ".join(faces.class_names)
        raise UserError(f"'{path}' knows the classes {theirs}; these labels have {ours}")
    return faces


def split(path, record, faces):
    """(faces of the people that a model was trained on, faces of the fold that it held out). Raises UserError."""
    train = faces.where(faces.people.isin(set(record["train_people"])))
    test = faces.where(faces.table.fold == record["fold"])
    refuse_training_people(path, record, test, f"fold {record['fold']}")
    return train, test


def check_outputs(jobs):
    """Refuse to replace somebody else's file, or to write one twice; returns the folders. Raises UserError."""
    outputs = [output for job in jobs for output in job.outputs.values()]
    for output in outputs:
        if outputs.count(output) > 1:
            raise UserError(f"two models would be written to '{output}'; export them one by one to other folders")
        check_output(output, is_export, "an export of tools.export")
    folders = dict.fromkeys(output.parent for output in outputs)
    for folder in folders:
        if exists(folder) and not folder.is_dir():
            raise UserError(f"--output '{folder}': expected a folder, this is a file")
        check_output(folder / CARD, is_card, "a model card of tools.export")
        classes = {job.model.class_names: job.path for job in jobs if job.outputs["onnx"].parent == folder}
        if len(classes) > 1:
            first, second = list(classes.values())[:2]
            raise UserError(f"'{first}' and '{second}' have other classes; one model card cannot describe both")
    return folders


def export(job):
    """Write the ONNX files of a model and print what they are worth. Raises UserError."""
    images, what = parity_images(job)
    contents, answers = convert(job, images, what)
    for name, content in contents.items():
        with atomic_write(job.outputs[name], len(content) / MIB) as unfinished:
            unfinished.write_bytes(content)
        print(f"wrote {printable(job.outputs[name])}")
    job.results = {name: {"mib": len(content) / MIB} for name, content in contents.items()}
    job.results = {"torch": {"mib": size_mib(job.model)}, **job.results}
    expected = answers.pop("torch")
    for name, probabilities in answers.items():
        job.results[name]["agreement"] = float((probabilities.argmax(1) == expected.argmax(1)).mean())
    sessions = {name: open_session(content) for name, content in contents.items()}
    for name, speed in measure_speed(job.model, sessions, images).items():
        job.results[name] |= speed
    if "int8" in sessions and len(job.test):
        job.results["torch"] |= job.model.record["metrics"]
        job.results["int8"] |= evaluate_session(job, sessions["int8"])
    print(results_table(job.results))


def convert(job, images, what):
    """Convert a model, compare its answers with PyTorch's, and print how far they are apart.

    Args:
        job: the Job; where its outputs have an "int8", the 8-bit form is made too.
        images: uint8 (N, 3, S, S), to compare the answers on.
        what: these images, in words.

    Returns:
        ({form: content of its ONNX file}, {form: probabilities (N, K)}); the latter with PyTorch's, "torch".

    Raises:
        UserError: the network cannot be exported, or the answers differ too much.
    """
    proto = to_onnx(job.model, metadata_of(job.model, job.licence))
    contents = {"onnx": proto.SerializeToString()}
    answers = {"torch": torch_probabilities(job.model, images), "onnx": run(open_session(contents["onnx"]), images)}
    difference = check_parity(job.path, answers["onnx"], answers["torch"], what)
    print(f"\n{printable(job.path)}: ONNX and PyTorch differ by at most {difference:.1e} in a probability, on {what}")
    if "int8" in job.outputs:
        batches = calibration_batches(job)
        contents["int8"] = to_int8(proto, batches).SerializeToString()
        answers["int8"] = run(open_session(contents["int8"]), images)
        print(f"calibrated on {sum(map(len, batches)):,} training faces")
    return contents, answers


def check_parity(path, found, expected, what):
    """The largest difference of two arrays of probabilities. Raises UserError where it is too large.

    Args:
        path: the model file, for the message.
        what: the images, in words.
    """
    difference = float(np.abs(found - expected).max())
    # Written so that nan, which compares as false, is too much.
    if not difference <= TOLERANCE:
        raise UserError(
            f"'{path}': the export's probabilities differ from PyTorch's by {difference:.1e} on {what}; at most"
            f" {TOLERANCE:.0e} is allowed, and nothing was written"
        )
    return difference


def parity_images(job):
    """(uint8 (N, 3, S, S), what they are, in words): faces of the held-out fold, else smooth random images."""
    if job.test is not None and len(job.test):
        faces = choose(job.test, PARITY_FACES)
        return job.images(faces), f"{len(faces)} faces of fold {job.model.record['fold']}, which it held out"
    count = max(1, min(PARITY_FACES, PIXELS // job.size**2))
    images = smooth_images(count, job.size)
    return images, f"{count} random images: the faces are not at hand"


def smooth_images(count, size, seed=0):
    """Random images, uint8 (count, 3, size, size): a few colours that blend into each other, bright or dark."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    return (images * 255).clamp(0, 255).byte().numpy()


def choose(faces, count, seed=0):
    """Up to `count` of the Faces, in random order."""
    order = np.random.default_rng(seed).permutation(len(faces))[:count]
    return Faces(faces.table.iloc[order], faces.class_names)


def calibration_batches(job):
    images = job.images(choose(job.train, CALIBRATION_FACES))
    return [images[start : start + CALIBRATION_BATCH] for start in range(0, len(images), CALIBRATION_BATCH)]


def batches(images):
    size = max(1, min(BATCH, PIXELS // images.shape[-1] ** 2))
    return (images[start : start + size] for start in range(0, len(images), size))


@torch.inference_mode()
def torch_probabilities(model, images, compute=FP32):
    """The probabilities (N, K) as evaluation computes them."""
    with compute.autocast():
        parts = [model.probabilities(network_input(model, part)) for part in batches(images)]
    probabilities, temperature = torch.cat(parts).numpy(), model.record.get("temperature")
    return probabilities if temperature is None else apply_temperature(probabilities, temperature)


def network_input(model, images):
    return to_network_input(torch.from_numpy(images), model.mean, model.std)


def run(session, images):
    """The probabilities (N, K) of an ONNX session."""
    return np.concatenate([session.run(None, {"images": part})[0] for part in batches(images)])


def evaluate_session(job, session):
    """{name of METRICS: value} on the held-out faces, which are decoded part by part."""
    size = 8 * BATCH
    parts = [job.test.where(np.arange(len(job.test)) // size == k) for k in range(-(-len(job.test) // size))]
    probabilities = np.concatenate([run(session, job.images(part)) for part in parts])
    predicted = DECODERS[job.model.record["decoder"]](probabilities)
    return {"faces": len(job.test), **compute_metrics(job.test.labels, predicted, probabilities)}


@torch.inference_mode()
def measure_speed(model, sessions, images, repeats=15):
    """{form: {"one": seconds for one face, "batch": faces per second in batches}}, medians on one thread.

    The forms take turns, and their processor time counts, so that other work on the machine disturbs them little.
    """
    model = model.to(memory_format=torch.channels_last)
    one, many = images[:1], next(batches(images))
    forms = {"torch": lambda batch: model.probabilities(network_input(model, batch))}
    forms |= {name: lambda batch, s=session: s.run(None, {"images": batch}) for name, session in sessions.items()}
    seconds = {name: {"one": [], "batch": []} for name in forms}
    for turn in range(repeats):
        for name, form in forms.items():
            for kind, batch in (("one", one), ("batch", many)):
                if kind == "batch" and turn >= 5:  # they take long
                    continue
                start = time.thread_time()
                form(batch)
                seconds[name][kind].append(time.thread_time() - start)
    return {
        name: {"one": float(np.median(times["one"])), "batch": len(many) / float(np.median(times["batch"]))}
        for name, times in seconds.items()
    }


def results_table(results):
    """Size, speed and answers of each form, as lines."""
    metrics = ("top1", "one_off", "mae")
    titles = "".join(f"{METRICS[name].title:>9}" for name in metrics)
    lines = [f"{'':14}{'MiB':>7}{'ms for 1':>10}{'faces/s':>9}{'same top-1':>12}{titles}"]
    for form, row in results.items():
        name = {"torch": "PyTorch fp32", "onnx": "ONNX fp32", "int8": "ONNX INT8"}[form]
        same = f"{row['agreement']:.1%}" if "agreement" in row else ""
        values = "".join(f"{METRICS[key].show(row[key]):>9}" if key in row else "" for key in metrics)
        lines.append(
            f"{name:14}{row['mib']:7.2f}{1000 * row['one']:10.2f}{row['batch']:9.0f}{same:>12}{values}".rstrip()
        )
    lines.append(f"processor time on one thread, in turn, medians; faces/s in batches of up to {BATCH}")
    return "\n".join(lines)


def card_entry(job):
    """What the model card says of a model, with what its run directory and the data give."""
    predictions = held_out_predictions(job)
    groups = None if predictions is None else subgroups(predictions)
    return CardEntry(job.outputs["onnx"].name, job.model, job.licence, predictions, groups, job.results)


def held_out_predictions(job):
    """Predictions of the run beside the model; None, and a note, where they are not there or not this model's."""
    path, record = job.path.parent / "predictions.csv", job.model.record
    if not exists(path) or "predictions_sha256" not in record:
        return None
    try:
        predictions = read_predictions(path, {record["fold"]: record["predictions_sha256"]})
        return predictions if job.test is None else with_faces(predictions, job.test)
    except UserError as error:
        print(f"note: the model card has no classes and subgroups: {printable(error)}")
        return None


if __name__ == "__main__":
    run_script(main)
