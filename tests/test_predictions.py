"""Predictions: what follows from probabilities, and the file that holds them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from data.faces import Faces
from evaluation.fusion import fuse
from evaluation.metrics import METRICS
from evaluation.predictions import Predictions, read_predictions
from utils.errors import UserError
from utils.files import write_csv

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]], np.float32)


@pytest.fixture
def predictions():
    columns = {"path": ["x/1.jpg", "x/2.jpg", "y/3.jpg"], "album": ["x", "x", "y"], "subject": ["1", "02", "3"]}
    table = pd.DataFrame({**columns, "fold": [0, 0, 1], "label": [0, 2, 0]}, index=[5, 6, 9])
    return Predictions(Faces(table, ("0-12", "13-60", "60+")), PROBABILITIES)


def test_metrics_by_hand(predictions):
    # Answers 0, 1, 2 to 0, 2, 0; the right classes have 0.7, 0.4 and 0.3.
    expected = {"top1": 1 / 3, "one_off": 2 / 3, "mae": 1.0, "loss": -np.log([0.7, 0.4, 0.3]).mean()}
    assert predictions.metrics() == pytest.approx(expected, rel=1e-6)
    assert predictions.per_face("mae").tolist() == [0, 1, 2]
    assert predictions.confusion.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert dataclasses.replace(predictions, decoder="median").predicted.tolist() == [0, 1, 1]


def test_the_table_keeps_the_index_and_names_the_classes(predictions):
    table = predictions.table()
    assert list(table.index) == [5, 6, 9]
    assert list(table.columns[-4:]) == ["prediction", "p_0-12", "p_13-60", "p_60+"]


def test_the_file_comes_back_to_the_bit(predictions, tmp_path):
    write_csv(tmp_path / "predictions.csv", predictions.table())
    read = read_predictions(tmp_path / "predictions.csv")
    assert read.faces.class_names == ("0-12", "13-60", "60+")
    assert read.probabilities.dtype == np.float32
    assert (read.probabilities == PROBABILITIES).all()
    assert read.predicted.tolist() == [0, 1, 2]
    assert read.faces.people.tolist() == ["x/1", "x/02", "y/3"]
    write_csv(tmp_path / "again.csv", read.table())
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    "content", ["", "path,label\na,1\n", "path,album,subject,fold,label,prediction,p_a\na,b,c,0,0,0,x\n"]
)
def test_a_broken_file_is_named(content, tmp_path):
    (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(UserError, match=r"cannot read the predictions '.*predictions\.csv'"):
        read_predictions(tmp_path / "predictions.csv")


def test_fusion_averages_and_compares_with_the_single_models(predictions):
    other = dataclasses.replace(predictions, probabilities=PROBABILITIES[:, ::-1])
    fused, gains = fuse([predictions, other], [PROBABILITIES, PROBABILITIES[:, ::-1]])
    # The mean is symmetric: classes 0 and 2 tie where the middle is lower, and argmax takes the first.
    assert fused.probabilities[0].tolist() == pytest.approx([0.4, 0.2, 0.4])
    assert fused.predicted.tolist() == [0, 1, 0]
    # Single models: 1/3 and (answers 2, 1, 0 to 0, 2, 0) 1/3; fused 2/3.
    assert gains["top1"][0] == pytest.approx(1 / 3)
    assert set(gains) == set(METRICS)
