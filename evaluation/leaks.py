"""No model is evaluated on what it was trained on: neither on the same people nor on the same pictures."""

import numpy as np

from data.duplicates import SIGNATURE_BYTES, same_pictures, signatures_of
from utils.errors import UserError


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
    seen = faces.people.isin(set(record["train_people"]))
    if seen.any():
        raise UserError(
            f"'{path}' was trained on people of these faces: {int(seen.sum()):,} of {len(seen):,} in {split},"
            f" first {faces.table.path[seen].iloc[0]}; it held out fold {record['fold']}"
        )


def refuse_training_pictures(path, record, faces, split, images):
    """Compare the pictures with the training faces', since people may have other names here.

    Returns:
        Bool (N,): which faces show a picture that the model was trained on. The training run counted them.

    Raises:
        UserError: there are others than those.
    """
    theirs = record["train_pictures"].numpy()
    if theirs.shape[1] != SIGNATURE_BYTES:
        raise UserError(f"'{path}' is damaged: its 'train_pictures' have {theirs.shape[1]} bytes each")
    seen = np.zeros(len(faces), bool)
    seen[same_pictures(signatures_of(images[faces.table.index]), theirs)[:, 0]] = True
    unknown = seen & ~faces.table.path.isin(record["twins"]).to_numpy()
    if unknown.any():
        raise UserError(
            f"'{path}' was trained on pictures of these faces, under other names: {int(unknown.sum()):,} of"
            f" {len(faces):,} in {split}, first {faces.table.path[unknown].iloc[0]}"
        )
    return seen
