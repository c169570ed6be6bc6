"""Publish a model of all faces (main.py --folds none) with the figures of a run over the folds of the same faces.

    python -m tools.release RUN/all.pt --folds FIVE_FOLD_RUN --terms "..." [--photographs DIR] [--output weights]

Writes ages.pt, with weights in 16 bits, and its model card. The file names no training person and holds no picture,
only hashes of both, so that the model is still refused on what it was trained on. Metrics, temperature and the mass of
the interval are those of the held-out faces of all folds.
"""

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from data.duplicates import HASH_BYTES, both_signatures
from data.load import load_data
from evaluation.calibration import fit_temperature
from evaluation.evaluation import pool, with_faces
from evaluation.label_shift import usual_answer
from evaluation.leaks import hashed_name, last_names, trained_people
from models.ages import fit_mass
from models.checkpoint import NO_FOLD, PERSON_BYTES, load_model, save_model
from photos.crop import cut_largest_faces
from photos.photographs import find_photographs
from report.card import is_card, model_card
from training.config import differences, from_record, read_config
from training.run_directory import RunDirectory
from utils.cli import printable, run_script
from utils.errors import UserError
from utils.files import check_output, write_text
from utils.options import Parser
from utils.reading import MIB

NAME, CARD = "ages.pt", "MODEL_CARD.md"
PLACES = "label_dir label_file image_dir run_dir cache_dir init_from teacher folds".split()  # differ, or are private


def main():
    options = read_command_line()
    model, run = load_model(options.model), RunDirectory(options.folds).read()
    if model.record["fold"] != NO_FOLD:
        raise UserError(f"'{options.model}' held out fold {model.record['fold']}; publish a model of --folds none")
    held_out = held_out_faces(options.model, model, run)
    folder = Path(options.output)
    check_output(folder / CARD, is_card, "a model card of this project")
    check_output(folder / NAME, lambda path: load_model(path) is not None, "a model file")
    others = [] if options.photographs is None else [hashes_of_faces(model, options.photographs)]
    record = published_record(model.record, held_out, others)
    record["terms"] = f"{record.get('terms', '')} {options.terms}".strip()
    with TemporaryDirectory() as staging:  # the file appears once there is a card for it
        save_model(Path(staging, NAME), model, record, half=True)
        size = Path(staging, NAME).stat().st_size / MIB
    model.record = record
    evaluation = dataclasses.replace(held_out, name=NAME, model=model, temperature=record["temperature"])
    card = model_card([evaluation], [record["terms"]], [{"half": {"mib": size}}])
    save_model(folder / NAME, model, record, half=True)
    write_text(folder / CARD, card)
    print(f"wrote {printable(folder / NAME)}, {size:.2f} MiB, and {CARD}: trained on {record['train_faces']:,} faces")


def read_command_line():
    parser = Parser(prog="python -m tools.release", description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="a model of all faces, RUN/all.pt")
    parser.add_argument("--folds", required=True, metavar="RUN", help="a run over the folds with the same settings")
    parser.add_argument("--terms", required=True, metavar="TEXT", help="the terms of the training data")
    parser.add_argument(
        "--photographs", metavar="DIR", help="the photographs that training faces were cut out of, to be refused, too"
    )
    parser.add_argument("--output", default="weights", metavar="DIR", help="folder to write to (default: weights)")
    return parser.parse_args()


def held_out_faces(path, model, run):
    """The Evaluation of the faces of all folds, each by the model that held it out.

    Args:
        path: the model of all faces, for messages.
        model: the Network.
        run: the RunDirectory of the folds.

    Raises:
        UserError: the run has other settings or faces, or none is finished.
    """
    if not run.evaluations:
        raise UserError(f"'{run.folder}' has no finished fold")
    first = next(iter(run.evaluations.values())).model.record
    recorded, own = (from_record(path, record["config"]) for record in (first, model.record))
    given = {name: value for name, value in vars(own).items() if name not in PLACES}
    if differing := differences(recorded, given):
        raise UserError(f"'{run.folder}' was trained with other settings than '{path}': {differing}")
    if run.fingerprints != {model.record["data_fingerprint"]}:
        raise UserError(f"'{run.folder}' was trained on other faces than '{path}'")
    held_out = pool(list(run.evaluations.values()))
    try:  # with the further columns of the label file, for the card
        return with_faces(held_out, load_data(**read_config(run.folder).data_source)[0])
    except UserError as error:
        print(f"note: the model card has errors by age only: {printable(error)}")
        return held_out


def hashes_of_faces(model, folder):
    """The hashes of the largest face in each photograph of a folder, cut out as for the model, uint8 (N, 32).

    Raises:
        UserError: there is no photograph, or none of them shows a face.
    """
    paths = find_photographs([folder])
    crops = [crop for crop in cut_largest_faces(model, paths) if crop is not None]
    if not crops:
        raise UserError(f"--photographs '{folder}': no photograph there shows a face")
    print(f"{len(crops):,} of {len(paths):,} photographs show a face; its hash is kept, too")
    return torch.from_numpy(both_signatures(np.stack(crops))[0, :, :HASH_BYTES].copy())


def published_record(record, held_out, others):
    """The record of the published file.

    Args:
        record: that of the model of all faces.
        held_out: the Evaluation of the faces of all folds.
        others: a list of uint8 (N, 32), hashes of other pictures that are refused.
    """
    pictures = record["train_pictures"][:, :HASH_BYTES].clone()
    if "initial_pictures" in record:
        others = [*others, record["initial_pictures"][:, :HASH_BYTES]]
    frequencies = np.bincount(held_out.labels, minlength=len(held_out.classes))  # the same faces were learned from
    config = {name: value for name, value in record["config"].items() if name not in PLACES}
    if config.get("balance") == "sampling":
        frequencies[:] = 1
    names = sorted({*map(hashed_name, trained_people(record))})
    hashes = bytearray.fromhex("".join(name[1:] for name in names))
    published = {
        **record,
        "train_people": [],
        "hashed_people": torch.frombuffer(hashes, dtype=torch.uint8).reshape(-1, PERSON_BYTES),
        "train_pictures": pictures,
        "duplicates": [],
        "duplicate_pictures": pictures[:0],
        "val_albums": [],
        "history": [],
        "predictions_sha256": "",
        "metrics": held_out.metrics(),
        "temperature": fit_temperature(held_out.labels, held_out.probabilities),
        "usual_answer": usual_answer(held_out.probabilities, held_out.labels, frequencies).tolist(),
        "config": {
            **config,
            "label_file": Path(record["config"]["label_file"]).name,  # the classes are not Adience's where there is one
            "init_from": last_names(record["config"].get("init_from", "")),
            "teacher": list(map(last_names, record["config"].get("teacher", ()))),
        },
    }
    if "initial_people" in record:
        published["initial_people"] = sorted(map(hashed_name, record["initial_people"]))
    if others:
        published["initial_pictures"] = torch.cat(others)
    if "coverage" in held_out.metric_names:  # every age is known
        published["mass"] = fit_mass(held_out.probabilities, held_out.classes, held_out.faces.ages)
    return published


if __name__ == "__main__":
    run_script(main)
