"""Refuses to evaluate a model on its training data, be it the same people or the same pictures."""

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
    """Refuse to evaluate a model on people that it was trained on.

    Args:
        path: the model file, for the message.
        record: the record of the model file.
        faces: the Faces to evaluate.
        split: a description of these faces, for the message.

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
    """Refuse to evaluate a model on pictures that it was trained on, since people may have other names here.

    Args:
        path, record, faces, split: as in `refuse_training_people`.
        signatures: uint8 (N, 96), of the pictures of these faces.

    Returns:
        Bool (N,): which faces show a picture that the model was trained on, as the training run counted them.

    Raises:
        UserError: there are pictures that the training run did not count.
    """
    trained_on = pictures_seen(record)
    if trained_on.shape[1] != SIGNATURE_BYTES:
        raise UserError(f"'{path}' is damaged: its 'train_pictures' have {trained_on.shape[1]} bytes each")
    seen = np.zeros(len(faces), bool)
    seen[same_pictures(signatures, trained_on)[:, 0]] = True
    unknown = seen & ~faces.table.path.isin(record["duplicates"]).to_numpy()
    if unknown.any():
        raise UserError(
            f"'{path}' was trained on pictures of these faces, under other names: {int(unknown.sum()):,} of"
            f" {len(faces):,} in {split}, first {faces.table.path[unknown].iloc[0]}"
        )
    return seen
