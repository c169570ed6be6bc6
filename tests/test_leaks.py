"""Whether a model has seen faces: by people and by pictures, as they are or mirrored."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch

from data.duplicates import both_signatures, same_hashes
from data.faces import Faces
from evaluation.leaks import hashed_name, refuse_seen, seen_faces
from utils.classes import Classes
from utils.errors import UserError


@pytest.fixture(scope="module")
def pictures():
    """Six smooth pictures, uint8 (6, 3, 64, 64)."""
    coarse = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (255 * torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")).byte().numpy()


def faces_of(*names):
    table = pd.DataFrame({"path": names, "album": "x", "person": names, "fold": 0, "label": 0})
    return Faces(table, Classes(("young", "old")))


def record_of(pictures, seen, **duplicates):
    """Trained on some pictures, of people p and q; reported duplicates as {path: position of its picture}."""
    own = both_signatures(pictures)[0]
    return {
        "fold": 0,
        "train_people": ["x/p", "x/q"],
        "train_pictures": torch.from_numpy(own[seen]),
        "duplicates": [f"{name}.jpg" for name in duplicates],
        "duplicate_pictures": torch.from_numpy(own[list(duplicates.values())]),
    }


def test_people_and_pictures(pictures):
    """Of four faces the first is of a known person, the second a known picture, the third one that is mirrored."""
    shown = np.stack([pictures[5], pictures[0], pictures[1][..., ::-1], pictures[4]])
    faces, record = faces_of("p", "b.jpg", "c.jpg", "d.jpg"), record_of(pictures, [0, 1, 2])
    seen = seen_faces("m.pt", record, faces, both_signatures(shown))
    assert seen["people"].tolist() == [True, False, False, False]
    assert seen["pictures"].tolist() == [False, True, True, False]
    with pytest.raises(
        UserError, match=r"trained on people of these faces: 1 of 4 in fold 0, first p; it held out fold 0"
    ):
        refuse_seen("m.pt", record, faces, "fold 0", both_signatures(shown))
    assert len(refuse_seen("m.pt", record, faces.where([False, False, False, True]), "fold 0")) == 1


@pytest.mark.parametrize(("shown", "seen"), [([0, 1], [False, False]), ([1, 0], [True, True]), ([0, 2], [False, True])])
def test_a_reported_duplicate_is_a_name_and_its_picture(pictures, shown, seen):
    """a.jpg and b.jpg are the training pictures 0 and 1, as reported; others of these names are not."""
    record = record_of(pictures, [0, 1, 2], a=0, b=1)
    found = seen_faces("m.pt", record, faces_of("a.jpg", "b.jpg"), both_signatures(pictures[shown]))
    assert found["pictures"].tolist() == seen


def test_a_model_file_of_an_earlier_version_reports_names_only(pictures):
    record = record_of(pictures, [0, 1, 2], a=0)
    del record["duplicate_pictures"]
    found = seen_faces("m.pt", record, faces_of("a.jpg", "b.jpg"), both_signatures(pictures[[2, 1]]))
    assert found["pictures"].tolist() == [False, True]


def test_hashes_alone_recognise_copies_and_mirror_images(pictures):
    """Of a published model's training pictures only 32 bytes are kept; the bits that may differ are 24 of 256."""
    record = record_of(pictures, [0, 1, 2])
    record["train_pictures"] = record["train_pictures"][:, :32].clone()
    first_bytes = hashlib.sha256(b"x/p").digest()[:6]
    record["hashed_people"] = torch.tensor([list(first_bytes)], dtype=torch.uint8)
    record["train_people"] = [hashed_name("x/q")]  # as earlier versions wrote all of them
    shown = np.stack([pictures[5], pictures[0], pictures[1][..., ::-1], pictures[4]])
    seen = seen_faces("m.pt", record, faces_of("p", "q", "c.jpg", "d.jpg"), both_signatures(shown))
    assert seen["people"].tolist() == [True, True, False, False]
    assert seen["pictures"].tolist() == [False, True, True, False]

    hashes = np.zeros((3, 96), np.uint8)
    hashes[1, :3] = 255  # 24 bits
    hashes[2, :3], hashes[2, 3] = 255, 1  # 25
    assert same_hashes(hashes, np.zeros((1, 32), np.uint8)).tolist() == [True, True, False]
    assert same_hashes(hashes, np.zeros((0, 32), np.uint8)).tolist() == [False] * 3


def test_only_a_hash_stays_as_it_is():
    hashed = "#" + hashlib.sha256(b"#0").hexdigest()[:12]  # of a person who is called #0
    assert hashed_name("#0") == hashed
    assert hashed_name(hashed) == hashed


def test_a_model_that_starts_from_a_published_one_knows_both(pictures):
    record = record_of(pictures, [0])
    record["initial_pictures"] = torch.from_numpy(np.pad(both_signatures(pictures)[0][[2], :32], [(0, 0), (0, 64)]))
    seen = seen_faces("m.pt", record, faces_of("a.jpg", "b.jpg", "c.jpg"), both_signatures(pictures[[0, 1, 2]]))
    assert seen["pictures"].tolist() == [True, False, True]
