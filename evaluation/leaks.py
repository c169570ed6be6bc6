"""No model is evaluated on what it was trained on: neither on the same people nor on the same pictures."""

import numpy as np

from data.duplicates import SIGNATURE_BYTES, same_pictures
from utils.errors import UserError


def people_seen(record):
    """The names of all people whom a model was trained on, its initial weights included, as a set."""
    return {*record["train_people"], *record.get("initial_people", [])}


def pictures_seen(record):
    """The signatures of all pictures that a model was trained on, its initial weights included, uint8 (N, 96)."""
    return np.concatenate([record[name].numpy() for name in ("train_pictures", "initial_pictures") if name in record])


def refuse_training_people(path, record, faces, split):
    """Compare names.

    Args:
        path: the model file, for the message.
        record: what it holds beside the network.
        faces: the Faces to evaluate.
        split: what they are, in words.

    Raises:
        UserError: the model was trained on some of these people.
    """
    seen = faces.people.isin(people_seen(record))
    if seen.any():
        raise UserError(
            f"'{path}' was trained on people of these faces: {int(seen.sum()):,} of {len(seen):,} in {split},"
            f" first {faces.table.path[seen].iloc[0]}; it held out fold {record['fold']}"
        )


def refuse_training_pictures(path, record, faces, split, signatures):
    """Compare the pictures with the training faces', since people may have other names here.

    Args:
        path, record, faces, split: as in `refuse_training_people`.
        signatures: uint8 (N, 96), of the pictures of these faces.

    Returns:
        Bool (N,): which faces show a picture that the model was trained on. The training run counted them.

    Raises:
        UserError: there are others than those.
    """
    theirs = pictures_seen(record)
    if theirs.shape[1] != SIGNATURE_BYTES:
        raise UserError(f"'{path}' is damaged: its 'train_pictures' have {theirs.shape[1]} bytes each")
    seen = np.zeros(len(faces), bool)
    seen[same_pictures(signatures, theirs)[:, 0]] = True
    unknown = seen & ~faces.table.path.isin(record["twins"]).to_numpy()
    if unknown.any():
        raise UserError(
            f"'{path}' was trained on pictures of these faces, under other names: {int(unknown.sum()):,} of"
            f" {len(faces):,} in {split}, first {faces.table.path[unknown].iloc[0]}"
        )
    return seen
