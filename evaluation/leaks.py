"""Whether a model has seen faces: in its own training, or in that of its initial weights or its teachers."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from data.duplicates import HASH_BYTES, SIGNATURE_BYTES, same_hashes, same_pictures
from models.checkpoint import NO_FOLD, PERSON_BYTES
from utils.errors import UserError

HASHED_NAME = re.compile(rf"#[0-9a-f]{{{2 * PERSON_BYTES}}}")


def people_seen(record):
    """The names of all people whom a model was trained on, or their `hashed_name`, as a set."""
    return trained_people(record) | {*record.get("initial_people", [])}


def trained_people(record):
    """The same without those of its initial weights and its teachers."""
    hashes = record["hashed_people"].numpy() if "hashed_people" in record else []
    return {*record["train_people"], *("#" + row.tobytes().hex() for row in hashes)}


def are_among(people, known):
    """Bool (N,): which of N people, a Series of names, are in the set `known` by their name or its hash."""
    return (people.isin(known) | people.map(hashed_name).isin(known)).to_numpy()


def hashed_name(name):
    """A person in a published model, which names nobody; a hash stays one."""
    return name if HASHED_NAME.fullmatch(name) else "#" + hashlib.sha256(name.encode()).hexdigest()[: 2 * PERSON_BYTES]


def pictures_seen(record):
    """The signatures of all pictures that a model was trained on, uint8 (N, 96); zeros behind hashes alone."""
    found = [record[name].numpy() for name in ("train_pictures", "initial_pictures") if name in record]
    return np.concatenate([np.pad(pictures, [(0, 0), (0, SIGNATURE_BYTES - pictures.shape[1])]) for pictures in found])


def learned_from(record):
    """The files of the initial weights and teachers of a model, by the last two names of their paths."""
    config = record["config"]
    return [last_names(path) for path in (config.get("init_from"), *config.get("teacher", ())) if path]


def last_names(path):
    """The last two names of a path; the others may be private."""
    return "/".join(Path(path).parts[-2:])


def origin_note(record):
    """A sentence about initial weights whose training faces are not known; "" without any."""
    names = ", ".join(record.get("unknown_origin", []))
    return names and f"started from {names}, whose training faces are not known and may include these"


def seen_faces(path, record, faces, signatures=None):
    """Faces that a model was trained on.

    Args:
        path: the model file, for the message.
        record: the record of the model file.
        faces: the N Faces to evaluate.
        signatures: uint8 (2, N, 96), of their pictures and mirror images, since people may have other names here; None
            compares people only.

    Returns:
        {"people": bool (N,), "pictures": bool (N,)}. The first marks the faces of people in the training data. The
        second marks the faces whose picture, or its mirror image, is in the training data; it leaves out the duplicates
        that the training run itself reported.

    Raises:
        UserError: the record is damaged.
    """
    seen = {"people": are_among(faces.people, people_seen(record)), "pictures": np.zeros(len(faces), bool)}
    if signatures is not None:
        if (width := record["train_pictures"].shape[1]) not in (HASH_BYTES, SIGNATURE_BYTES):
            raise UserError(f"'{path}' is damaged: its 'train_pictures' have {width} bytes each")
        trained_on, both = pictures_seen(record), np.concatenate(signatures)
        whole = trained_on[:, HASH_BYTES:].any(1)
        found = same_pictures(both, trained_on[whole])[:, 0]
        found = np.concatenate([found, np.flatnonzero(same_hashes(both, trained_on[~whole, :HASH_BYTES]))])
        seen["pictures"][found % max(1, len(faces))] = True
        seen["pictures"] &= ~reported_duplicates(record, faces, signatures[0])
    return seen


def reported_duplicates(record, faces, signatures):
    """Bool (N,): faces that the training run reported as duplicates, by path and, if the record has it, by picture."""
    reported = faces.table.path.isin(record["duplicates"]).to_numpy(copy=True)
    if "duplicate_pictures" in record and reported.any():
        positions = pd.Index(record["duplicates"]).get_indexer(faces.table.path[reported])
        pairs = same_pictures(signatures[reported], record["duplicate_pictures"].numpy())
        same = pairs[positions[pairs[:, 0]] == pairs[:, 1], 0]
        reported[reported] = np.isin(np.arange(len(positions)), same)
    return reported


def refuse_seen(path, record, faces, split, signatures=None):
    """Refuse to evaluate a model on faces that it was trained on; returns the faces.

    Args:
        path, record, faces, signatures: as for `seen_faces`.
        split: a description of these faces, for the message.

    Raises:
        UserError: it was trained on some of them.
    """
    for kind, seen in seen_faces(path, record, faces, signatures).items():
        if seen.any():
            names = ", under other names" if kind == "pictures" else ""
            held_out = f"fold {record['fold']}" if record["fold"] != NO_FOLD else "none"
            raise UserError(
                f"'{path}' was trained on {kind} of these faces{names}: {int(seen.sum()):,} of {len(seen):,} in"
                f" {split}, first {faces.table.path[seen].iloc[0]}; it held out {held_out}"
            )
    return faces
