"""Write models as ONNX files, which run without torch, with a model card beside them.

    python -m tools.export [MODEL ...] [--output DIR] [--int8] [--label-dir DIR] [--image-dir DIR]

NAME.onnx takes photographs of faces, uint8 RGB, and gives class probabilities; `examples/onnx_predict.py` shows how to
use it. Before it is written, its answers are compared with PyTorch's. --int8 also writes NAME.int8.onnx, which is
smaller and faster; it needs the training faces. The model file records where the data was; the options replace that.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from augment.pipeline import to_network_input
from data.adience import is_adience
from data.cache import decode_face
from data.duplicates import both_signatures
from data.faces import Faces
from data.load import load_data
from evaluation.calibration import apply_temperature
from evaluation.evaluation import FACE_COLUMNS, Evaluation, with_faces
from evaluation.leaks import are_among, learned_from, refuse_seen, trained_people
from evaluation.metrics import METRICS
from evaluation.predictions import read_predictions
from models.ages import MASS
from models.checkpoint import PUBLISHED, load_model, model_files
from models.decode import decode
from models.export import is_export, metadata_of, open_session, to_int8, to_onnx
from models.network import Network, size_mib
from report.card import is_card, model_card
from training.config import FIELDS, recorded_config
from utils.cli import printable, require_package, run_script
from utils.errors import UserError
from utils.files import atomic_write, check_output, write_text
from utils.options import Parser, add_options
from utils.reading import MIB, exists

SETTINGS = ("label_dir", "label_file", "image_dir")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PARITY_FACES, CALIBRATION_FACES, CALIBRATION_BATCH = 200, 500, 25
TOLERANCE = 1e-4  # the largest difference of a probability from PyTorch's
BATCH = 64
CARD = "MODEL_CARD.md"
PIXELS = 512 * 224**2  # the most in one batch, or of drawn images in all
TERMS = "Those of the data that it was trained on, which also bind the use of the model."
ADIENCE_TERMS = "Trained on Adience, which is for research only."
FORMS = {"torch": "PyTorch fp32", "onnx": "ONNX fp32", "int8": "ONNX INT8"}


def main():
    options = read_command_line()
    torch.set_num_threads(1)
    # Every file is checked before the first one is written.
    sources = [find_source(path, options) for path in dict.fromkeys(model_files(options.models or [PUBLISHED]))]
    outputs = check_outputs(sources, options)
    cards = {}
    for source, files in zip(sources, outputs, strict=True):
        results = export(source, files)
        evaluation = held_out_evaluation(source, files["onnx"].name)
        cards.setdefault(files["onnx"].parent / CARD, []).append((evaluation, source.licence, results))
    for path, entries in cards.items():
        write_text(path, model_card(*zip(*entries, strict=True)))
        print(f"wrote {printable(path)}")


def read_command_line():
    parser = Parser(prog="python -m tools.export", description=__doc__.splitlines()[0])
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="model files, or run directories (default: weights/ages.pt)"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="folder to write to (default: that of each model; . for weights/)"
    )
    parser.add_argument("--int8", action="store_true", help="also write an 8-bit form, calibrated on training faces")
    add_options(parser, [FIELDS[name] for name in SETTINGS], default_text="from the model file")
    options = parser.parse_args()
    for package in PACKAGES:
        require_package(package, "tools.export", "requirements-export.txt")
    return options


class Source(NamedTuple):
    """A model file, its Network, and the faces that it was trained on and held out; none if they are not at hand."""

    path: Path
    model: Network
    train: Faces
    test: Faces
    image_dir: str

    def images(self, faces):
        """Decoded faces, uint8 (N, 3, S, S), as in the cache."""
        return np.stack([decode_face(Path(self.image_dir) / path, self.model.image_size) for path in faces.table.path])

    def held_out_images(self, faces):
        """The same for faces that it held out. Raises UserError if it was trained on one of these pictures."""
        images, record = self.images(faces), self.model.record
        refuse_seen(self.path, record, faces, f"fold {record['fold']}", both_signatures(images))
        return images

    @property
    def licence(self):
        """The terms of the training data, and of the models that this one learned from, in words."""
        own, known = ADIENCE_TERMS if is_adience(self.test) else TERMS, self.model.record.get("terms", "")
        return f"{known} {own}".strip() if learned_from(self.model.record) or not known else known


def find_source(path, options):
    """The Source of a model.

    Args:
        path: the model file.
        options: `int8`, which needs training faces, and those of SETTINGS that replace the recorded ones.

    Raises:
        UserError: the model is damaged, or the data is required and not at hand, has other classes, or has training
            people in the held-out fold.
    """
    model = load_model(path)
    record, given = model.record, {name: getattr(options, name) for name in SETTINGS if name in options}
    config = recorded_config(path, record, given)
    at_hand = exists(config.label_file or config.label_dir) and exists(config.image_dir)
    if not (at_hand or given or options.int8):
        return Source(Path(path), model, no_faces(model), no_faces(model), "")
    try:
        faces, _ = load_data(**{**config.data_source, "allow_missing": True})
    except UserError as error:
        raise UserError(f"{error}; --label-dir or --label-file, and --image-dir, say where the data is") from None
    if faces.classes.names != model.classes.names:
        expected, found = (", ".join(classes.names) for classes in (model.classes, faces.classes))
        raise UserError(f"'{path}' knows the classes {expected}; these labels have {found}")
    train = faces.where(are_among(faces.people, trained_people(record)))
    test = faces.where(faces.table.fold == record["fold"])
    refuse_seen(path, record, test, f"fold {record['fold']}")
    if options.int8 and not len(train):
        raise UserError(f"--int8: none of the people that '{path}' was trained on is in these label files")
    return Source(Path(path), model, train, test, config.image_dir)


def no_faces(model):
    return Faces(pd.DataFrame(columns=FACE_COLUMNS), model.classes)


def check_outputs(sources, options):
    """The ONNX files to write of each Source, a list of {form: file}.

    Raises:
        UserError: a file is there and is not ours, or would be written twice.
    """
    outputs, writers, cards = [], {}, {}
    for source in sources:
        path = source.path
        usual = "." if path.resolve() == Path(PUBLISHED) else path.parent  # whose card has more in it
        folder = Path(usual if options.output is None else options.output)
        if exists(folder) and not folder.is_dir():
            raise UserError(f"--output '{folder}': expected a folder, this is a file")
        forms = {"onnx": ".onnx", "int8": ".int8.onnx"} if options.int8 else {"onnx": ".onnx"}
        outputs.append({form: folder / f"{path.stem}{suffix}" for form, suffix in forms.items()})
        for file in outputs[-1].values():
            if writers.setdefault(file, source) is not source:
                raise UserError(f"two models would be written to '{file}'; export them one by one to other folders")
            check_output(file, is_export, "an export of tools.export")
        check_output(folder / CARD, is_card, "a model card of tools.export")
        first = cards.setdefault(folder, source)
        if first.model.classes.names != source.model.classes.names:
            raise UserError(f"'{first.path}' and '{path}' have other classes; one model card cannot describe both")
    return outputs


def export(source, outputs):
    """Convert a model, compare its answers with PyTorch's, write the files, and print their size and accuracy.

    Args:
        source: the Source.
        outputs: {form: file}, "onnx" and, for the 8-bit form too, "int8".

    Returns:
        {form: {quantity: value}}, as for `report.card.model_card`.

    Raises:
        UserError: the network cannot be exported, the answers differ too much, or a file cannot be written.
    """
    model, (images, description) = source.model, parity_images(source)
    expected, answers = torch_outputs(model, images)
    proto = to_onnx(model, metadata_of(model, source.licence))
    contents, results = {"onnx": proto.SerializeToString()}, {"torch": {"mib": size_mib(model)}}
    difference = float(np.abs(onnx_outputs(open_session(contents["onnx"]), images)[0] - expected).max())
    if not difference <= TOLERANCE:  # written so that nan, which compares as false, is too much
        raise UserError(
            f"'{source.path}': the export's probabilities differ from PyTorch's by {difference:.1e} on {description};"
            f" at most {TOLERANCE:.0e} is allowed, and nothing was written"
        )
    path = printable(source.path)
    print(f"\n{path}: ONNX and PyTorch differ by at most {difference:.1e} in a probability, on {description}")
    if "int8" in outputs:
        chosen = source.images(choose(source.train, CALIBRATION_FACES))
        contents["int8"] = to_int8(proto, list(batches(chosen, CALIBRATION_BATCH))).SerializeToString()
        print(f"calibrated on {len(chosen):,} training faces")
    for form, content in contents.items():
        same = float((onnx_outputs(open_session(content), images)[1] == answers).mean())
        results[form] = {"mib": len(content) / MIB, "agreement": same}
        with atomic_write(outputs[form], len(content) / MIB) as unfinished:
            unfinished.write_bytes(content)
        print(f"wrote {printable(outputs[form])}")
    if "int8" in contents and len(source.test):
        for form, metrics in measure_accuracy(source, contents["int8"]).items():
            results[form] |= metrics
        print(f"metrics of {len(source.test):,} faces of fold {model.record['fold']}, each with its mirror image")
    print(results_table(results))
    return results


def parity_images(source):
    """(uint8 (N, 3, S, S), description): faces of the held-out fold, or else smooth random images."""
    if len(source.test):
        chosen, fold = choose(source.test, PARITY_FACES), source.model.record["fold"]
        return source.held_out_images(chosen), f"{len(chosen)} faces of fold {fold}, which it held out"
    size = source.model.image_size
    count = max(1, min(PARITY_FACES, PIXELS // size**2))
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = (255 * torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")).byte().numpy()
    return images, f"{count} random images: the faces are not at hand"


def choose(faces, count):
    """Up to `count` of the Faces, in random order."""
    order = np.random.default_rng(0).permutation(len(faces))[:count]
    return dataclasses.replace(faces, table=faces.table.iloc[order])


def batches(images, size=BATCH):
    size = max(1, min(size, PIXELS // images.shape[-1] ** 2))
    return (images[start : start + size] for start in range(0, len(images), size))


@torch.inference_mode()
def torch_outputs(model, images):
    """(Probabilities (N, K) with the temperature, predicted classes (N,)) as predict.py computes them."""
    inputs = (to_network_input(torch.from_numpy(batch), model.mean, model.std) for batch in batches(images))
    probabilities = np.concatenate([model.flip_averaged_probabilities(batch).numpy() for batch in inputs])
    predicted, temperature = decode(probabilities, model.record["decoder"]), model.record.get("temperature")
    return probabilities if temperature is None else apply_temperature(probabilities, temperature), predicted


def onnx_outputs(session, images):
    """(Probabilities (N, K), predicted classes (N,)) of an ONNX session."""
    outputs = [session.run(["probabilities", "predicted"], {"images": batch}) for batch in batches(images)]
    return tuple(map(np.concatenate, zip(*outputs, strict=True)))


def measure_accuracy(source, int8):
    """{form: {name of METRICS: value}} of "torch" and "int8" on the held-out faces and their mirror images."""
    session, outputs = open_session(int8), {"torch": [], "int8": []}
    chunks = np.arange(len(source.test)) // (8 * BATCH)  # decoded one after the other
    for chunk in range(chunks[-1] + 1):
        images = source.held_out_images(source.test.where(chunks == chunk))
        outputs["torch"].append(torch_outputs(source.model, images))
        outputs["int8"].append(onnx_outputs(session, images))
    temperature, mass = (source.model.record.get(name, usual) for name, usual in (("temperature", 1.0), ("mass", MASS)))
    found = {form: map(np.concatenate, zip(*pairs, strict=True)) for form, pairs in outputs.items()}
    return {
        form: Evaluation(source.test, apply_temperature(p, 1 / temperature), predicted=predicted, mass=mass).metrics()
        for form, (p, predicted) in found.items()
    }


def results_table(results):
    """Size and accuracy of each form, as lines."""
    metrics = {name: METRICS[name] for name in ("top1", "one_off", "mae")}
    lines = [f"{'':14}{'MiB':>7}{'same top-1':>12}{''.join(f'{metric.title:>9}' for metric in metrics.values())}"]
    for form, row in results.items():
        same = f"{row['agreement']:.1%}" if "agreement" in row else ""
        values = "".join(f"{metric.show(row[name]):>9}" for name, metric in metrics.items() if name in row)
        lines.append(f"{FORMS[form]:14}{row['mib']:7.2f}{same:>12}{values}".rstrip())
    return "\n".join(lines)


def held_out_evaluation(source, name):
    """The Evaluation of the held-out faces from the run beside the model, with another name.

    It has no face, and a note is printed, if the predictions are not there or are not this model's.
    """
    model, predictions = source.model, source.path.parent / "predictions.csv"
    evaluation = Evaluation(no_faces(model), np.zeros((0, len(model.classes)), np.float32))
    if exists(predictions) and "predictions_sha256" in model.record:
        try:
            read = read_predictions(predictions, {model.record["fold"]: model.record["predictions_sha256"]})
            evaluation = with_faces(read, source.test) if len(source.test) else read
        except UserError as error:
            print(f"note: the model card has no classes and subgroups: {printable(error)}")
    return dataclasses.replace(evaluation, name=name, model=model, temperature=model.record.get("temperature"))


if __name__ == "__main__":
    run_script(main)
