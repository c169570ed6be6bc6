"""Evaluation: what follows from probabilities, and the file that holds them."""

import dataclasses
import hashlib
import os

import numpy as np
import pandas as pd
import pytest

from data.faces import Faces
from evaluation.evaluation import Evaluation
from evaluation.fusion import fuse
from evaluation.metrics import CLASS_METRICS
from evaluation.predictions import predictions_digest, read_predictions
from utils.classes import Classes
from utils.errors import UserError
from utils.files import write_csv

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]], np.float32)


@pytest.fixture
def predictions():
    columns = {"path": ["x/1.jpg", "x/2.jpg", "y/3.jpg"], "album": ["x", "x", "y"], "person": ["1", "02", "3"]}
    table = pd.DataFrame({**columns, "fold": [0, 0, 1], "label": [0, 2, 0]}, index=[5, 6, 9])
    return Evaluation(Faces(table, Classes(("0-12", "13-60", "60+"))), PROBABILITIES)


def test_metrics_by_hand(predictions):
    # Answers 0, 1, 2 to 0, 2, 0; the right classes have 0.7, 0.4 and 0.3.
    expected = {"top1": 1 / 3, "one_off": 2 / 3, "mae": 1.0, "loss": -np.log([0.7, 0.4, 0.3]).mean()}
    assert predictions.metrics() == pytest.approx(expected, rel=1e-6)
    assert predictions.per_face("mae").tolist() == [0, 1, 2]
    assert predictions.confusion.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert predictions.with_decoder("median").predicted.tolist() == [0, 1, 1]


def test_the_table_keeps_the_index_and_names_the_classes(predictions):
    table = predictions.table()
    assert list(table.index) == [5, 6, 9]
    assert list(table.columns[-4:]) == ["prediction", "p_0-12", "p_13-60", "p_60+"]


def test_the_file_comes_back_to_the_bit(predictions, tmp_path):
    write_csv(tmp_path / "predictions.csv", predictions.table())
    read = read_predictions(tmp_path / "predictions.csv")
    assert read.faces.classes.names == ("0-12", "13-60", "60+")
    assert read.probabilities.dtype == np.float32
    assert (read.probabilities == PROBABILITIES).all()
    assert read.predicted.tolist() == [0, 1, 2]
    assert read.faces.people.tolist() == ["x/1", "x/02", "y/3"]
    write_csv(tmp_path / "again.csv", read.table())
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "predictions.csv").read_bytes()


HEADER = "path,album,person,fold,label,prediction,p_a,p_b"
ROW = "x/1.jpg,x,1,0,1,0,0.75,0.25"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "No columns to parse"),
        ("path,label\na,1\n", "its columns are path, label$"),
        (f"{HEADER},seconds\n{ROW},1\n", "its columns are .*, p_a, p_b, seconds$"),
        (f"album,path,{HEADER.split(',', 2)[2]}\n{ROW}\n", "its columns are album, path, person"),
        (f"{HEADER}\n{ROW.replace('0.25', 'x')}\n", "could not convert string to float"),
        (f"{HEADER}\n{ROW.replace('0.25', '')}\n", "could not convert string to float"),
        (f"{HEADER}\n{ROW}\n{ROW},0.5\n", "Expected 8 fields in line 3, saw 9"),
        (f"{HEADER}\n{ROW.replace('0.25', '1.25')}\n", "a class is not from 0 to 1, or a probability not from 0 to 1$"),
        (f"{HEADER}\n{ROW.replace('0.25', '-0.1')}\n", "or a probability not from 0 to 1$"),
        (f"{HEADER}\n{ROW.replace('0.25', 'nan')}\n", "or a probability not from 0 to 1$|could not convert"),
        (f"{HEADER}\nx/1.jpg,x,1,0,2,0,0.75,0.25\n", "a class is not from 0 to 1"),
        (f"{HEADER}\nx/1.jpg,x,1,0,1,-1,0.75,0.25\n", "a class is not from 0 to 1"),
        (f"{HEADER}\nx/1.jpg,x,1,0,old,0,0.75,0.25\n", "invalid literal for int"),
        (f"{HEADER}\nx/1.jpg,x,1,0,0.5,0,0.75,0.25\n", "invalid literal for int"),
        (f"{HEADER}\nx/1.jpg,x,1,0,{'9' * 30},0,0.75,0.25\n", ""),
        ("\xff\xfe\x00", ""),
        (f"{HEADER}\n\0\0\0", ""),
    ],
    ids=range(17),
)  # fmt: skip
def test_a_broken_file_is_named(content, message, tmp_path):
    (tmp_path / "predictions.csv").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=rf"^'.*predictions\.csv' is damaged: .*{message}"):
        read_predictions(tmp_path / "predictions.csv")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for name, kind in (("pipe.csv", "a named pipe"), ("", "a folder")):
        with pytest.raises(UserError, match=f"' is {kind}; expected a regular file$"):
            read_predictions(tmp_path / name)
    with pytest.raises(UserError, match=r"^cannot read '.*nowhere\.csv': No such file or directory$"):
        read_predictions(tmp_path / "nowhere.csv")


def test_the_mask_takes_faces_probabilities_and_stored_predictions_along(predictions, tmp_path):
    write_csv(tmp_path / "predictions.csv", predictions.with_decoder("median").table())
    for whole in (predictions, read_predictions(tmp_path / "predictions.csv")):
        part = whole.where([False, True, True])
        assert part.faces.table.path.tolist() == ["x/2.jpg", "y/3.jpg"]
        assert (part.probabilities == PROBABILITIES[1:]).all()
        assert part.predicted.tolist() == whole.predicted[1:].tolist()
        assert part.labels.tolist() == [2, 0]
        assert len(whole.where([False] * 3).faces) == 0


class TestDigests:
    """The rows of a fold are those that its model wrote, or the file is damaged."""

    @pytest.fixture
    def file(self, predictions, tmp_path):
        write_csv(tmp_path / "predictions.csv", predictions.table())
        return tmp_path / "predictions.csv"

    def digests(self, predictions):
        folds = predictions.faces.table.fold
        return {fold: predictions_digest(predictions.where(folds == fold).table()) for fold in (0, 1)}

    def test_by_hand(self, predictions):
        """The SHA-256 of the text of a fold's rows in the file, with the header."""
        # float32 writes its shortest decimal form.
        text = "path,album,person,fold,label,prediction,p_0-12,p_13-60,p_60+\ny/3.jpg,y,3,1,0,2,0.3,0.3,0.4\n"
        assert self.digests(predictions)[1] == hashlib.sha256(text.encode()).hexdigest()

    def test_the_right_ones_are_read(self, predictions, file):
        digests = self.digests(predictions)
        read = read_predictions(file, digests)
        assert read.faces.table.path.tolist() == ["x/1.jpg", "x/2.jpg", "y/3.jpg"]
        only = read_predictions(file, {1: digests[1]})
        assert (only.faces.table.path.tolist(), only.predicted.tolist()) == (["y/3.jpg"], [2])
        assert len(read_predictions(file, {}).faces) == 0

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("0.7,", "0.71,"), ("x/2.jpg", "x/4.jpg"), (",0,2,1,", ",0,1,1,"), (",0,2,1,", ",0,2,2,"),
            (",02,", ",2,"), ("0.1\n", "0.10000001\n"),
        ],
    )  # fmt: skip
    def test_a_changed_row_is_noticed(self, predictions, file, old, new):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match=r"is damaged: the 2 rows of fold 0 are not those of its model$"):
            read_predictions(file, self.digests(predictions))

    def test_missing_repeated_and_reordered_rows_are_noticed(self, predictions, file):
        header, first, second, third = file.read_text().splitlines()
        for rows in ([first, third], [first, second, second, third], [second, first, third], [third]):
            file.write_text("\n".join([header, *rows]) + "\n")
            with pytest.raises(UserError, match=r"is damaged: the . rows of fold 0 are not those of its model$"):
                read_predictions(file, self.digests(predictions))

    def test_a_class_of_another_name_is_noticed(self, predictions, file):
        file.write_text(file.read_text().replace("p_60+", "p_61+"))
        with pytest.raises(UserError, match="are not those of its model"):
            read_predictions(file, self.digests(predictions))


def test_fusion_averages_and_compares_with_the_single_models(predictions):
    other = dataclasses.replace(predictions, probabilities=PROBABILITIES[:, ::-1])
    fused, gains = fuse([predictions, other], [PROBABILITIES, PROBABILITIES[:, ::-1]])
    # The mean is symmetric: classes 0 and 2 tie where the middle is lower, and argmax takes the first.
    assert fused.probabilities[0].tolist() == pytest.approx([0.4, 0.2, 0.4])
    assert fused.predicted.tolist() == [0, 1, 0]
    # Single models: 1/3 and (answers 2, 1, 0 to 0, 2, 0) 1/3; fused 2/3.
    assert gains["top1"][0] == pytest.approx(1 / 3)
    assert set(gains) == set(CLASS_METRICS)
