"""What TensorBoard is given, read back by TensorBoard's own reader."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_report import NAMES, evaluation_of, log_row

from data.faces import Faces
from report.board import Board


def test_disabled_writes_nothing(tmp_path):
    with Board(tmp_path, 3, 0, enabled=False) as board:
        board.epoch_done(log_row(3, 0), None, None, None, None)
    assert not list(tmp_path.iterdir())


def write(folder, epochs):
    tested = evaluation_of([0, 1, 2, 2], np.eye(3)[[0, 1, 2, 1]])
    faces = Faces(pd.DataFrame({"label": [0, 1, 2]}, index=[4, 2, 0]), NAMES)
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((5, 3, 40, 40), 50, np.uint8)
    seen = []

    def augment(batch, labels, positions):
        seen.append(batch[:3, 0, 0, 0].tolist())
        return torch.zeros(len(batch), 3, 40, 40), None

    with Board(folder, 3, epochs[0], enabled=True) as board:
        for epoch in epochs:
            board.epoch_done(log_row(3, epoch), tested, faces, images, augment)
    return seen


def test_events(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install -r requirements-watch.txt"
    )
    assert write(tmp_path, [0, 1, 2]) == [[200, 100, 0]] * 3  # a face of each class, from its row of the cache
    write(tmp_path, [1])  # a run that was killed after its first epoch was recorded, and resumed
    events = reader.EventAccumulator(str(tmp_path / "tensorboard" / "fold_3"))
    events.Reload()
    assert {"top1/train", "top1/test", "one_off/test", "mae/test", "loss/train", "training/lr"} <= set(
        events.Tags()["scalars"]
    )
    assert [(event.step, event.value) for event in events.Scalars("top1/test")] == [
        (0, pytest.approx(0.25)),
        (1, pytest.approx(0.35)),
    ]
    for name in ("confusion", "augmentation"):
        assert [image.step for image in events.Images(name)] == [0, 1]
        assert min(events.Images(name)[0].width, events.Images(name)[0].height) > 200
