"""Wrong labels: worked by hand, against cleanlab, and planted among faces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.label_issues import confident_joint, find_label_issues

# Labels 0 0 0 1 1 2; the mean probabilities of their own labels are 0.5, 0.5 and 0.6.
LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.6, 0.3, 0.1],
        [0.1, 0.1, 0.8],  # confident of 2
        [0.4, 0.4, 0.2],  # of none
        [0.3, 0.6, 0.1],
        [0.2, 0.2, 0.6],
    ]
)
PRIOR = np.array([0.15, 0.12, 0.12, 0.1, 0.28, 0.13, 0.05, 0.05])  # of Adience's classes, roughly


def test_confident_joint_by_hand():
    assert confident_joint(LABELS, PROBABILITIES).tolist() == [[2, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_the_threshold_itself_is_confident():
    """Every face of a class has the threshold's probability, of which a mean may differ by its rounding."""
    probabilities = np.tile([[0.1, 0.9]], (3, 1)).astype(np.float32)
    assert confident_joint([1, 1, 1], probabilities).tolist() == [[0, 0], [0, 3]]


def test_plain_rule_by_hand():
    found = find_label_issues(LABELS, PROBABILITIES)
    assert found.to_dict("records") == [
        {"row": 2, "score": pytest.approx(-np.log(0.1)), "suggested": 2, "person_agrees": False}
    ]


def test_ordinal_rule_by_hand():
    # Three labels of 0 whose faces look like 1, 2 and 3, one label of 3 that looks like 1, and a right one.
    probabilities = [[0.4, 0.6, 0, 0], [0.1, 0.2, 0.7, 0], [0.0, 0.1, 0, 0.9], [0, 0.5, 0.3, 0.2], [0, 0, 0.1, 0.9]]
    found = find_label_issues([0, 0, 0, 3, 3], np.array(probabilities), ordinal=True)
    # 0.1 * 1 + 0.9 * 2; 0.2 * 1 + 0.7 * 2; 0.5 * 2 + 0.3 * 1.
    assert found.row.tolist() == [2, 1, 3]
    assert found.score.tolist() == pytest.approx([1.9, 1.6, 1.3])
    assert found.suggested.tolist() == [3, 2, 1]


@pytest.mark.parametrize("ordinal", [False, True])
def test_people_whose_faces_agree_come_first(ordinal):
    # By person: a face of its own, the worst; two that look like 2; two that look like 2 and 3; one wrong, one right;
    # two labels of one person.
    faces = [
        ("a", 0, 3, 0.97),
        ("b", 0, 2, 0.7),
        ("b", 0, 2, 0.6),
        ("c", 0, 2, 0.9),
        ("c", 0, 3, 0.9),
        ("d", 0, 3, 0.9),
        ("d", 0, 0, 0.9),
        ("e", 0, 3, 0.9),
        ("e", 1, 3, 0.9),
    ]
    people, labels, seen, sure = (np.array(column) for column in zip(*faces, strict=True))
    rest = (1 - sure)[:, None] / 3
    probabilities = np.where(np.eye(4, dtype=bool)[seen], sure[:, None], rest)
    # Faces that make the model confident at 0.5 of all four classes.
    labels = np.concatenate([labels, np.arange(4).repeat(30)])
    probabilities = np.concatenate([probabilities, np.full((120, 4), 0.5 / 3)])
    probabilities[np.arange(9, 129), labels[9:]] = 0.5
    people = np.concatenate([people, np.arange(120).astype(str)])
    alone = find_label_issues(labels, probabilities, ordinal)
    found = find_label_issues(labels, probabilities, ordinal, people)
    assert alone.row[0] == 0
    assert found.row.tolist()[:3] == [1, 2, 0]
    assert found.person_agrees.tolist() == [True, True] + [False] * (len(found) - 2)
    assert sorted(found.row) == sorted(alone.row) == [0, 1, 2, 3, 4, 5, 7, 8]
    assert not alone.person_agrees.any()


@pytest.mark.parametrize("ordinal", [False, True])
def test_classes_without_a_face(ordinal):
    probabilities = np.eye(5)[[0, 4, 4, 2]] * 0.9 + 0.02
    found = find_label_issues([0, 4, 0, 0], probabilities, ordinal)
    assert confident_joint([0, 4, 0, 0], probabilities).sum(0).tolist() == [1, 0, 0, 0, 2]
    assert 2 in found.row.tolist()
    assert not len(find_label_issues([1, 1], np.eye(3)[[1, 1]], ordinal))


def model_of(seed, faces=9000, planted=100, spread=0.75, variation=0.25):
    """Labels, a model's probabilities and the faces with wrong labels.

    An age is seen with a normal error, whose size differs between faces; the model knows it, and gives Bayes'
    posterior. Wrong labels are two classes or more from the true one, each as often.
    """
    rng = np.random.default_rng(seed)
    true, classes = rng.choice(len(PRIOR), faces, p=PRIOR / PRIOR.sum()), np.arange(len(PRIOR))
    error = spread * np.exp(rng.normal(0, variation, faces))
    seen = true + error * rng.normal(size=faces)
    probabilities = PRIOR * np.exp(-(((seen[:, None] - classes) / error[:, None]) ** 2) / 2)
    probabilities /= probabilities.sum(1, keepdims=True)
    labels, wrong = true.copy(), rng.choice(faces, planted, replace=False)
    for face in wrong:
        labels[face] = rng.choice(classes[abs(classes - true[face]) >= 2])
    return labels, probabilities, wrong, (probabilities.argmax(1) == true).mean()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_against_cleanlab(seed, classes):
    cleanlab_count, cleanlab_filter = pytest.importorskip("cleanlab.count"), pytest.importorskip("cleanlab.filter")
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.6), 300)
    labels = np.where(rng.random(300) < 0.7, probabilities.argmax(1), rng.integers(0, classes, 300))
    labels[:classes] = np.arange(classes)  # cleanlab wants all of them
    expected = cleanlab_count.compute_confident_joint(labels, probabilities, calibrate=False)
    joint = confident_joint(labels, probabilities)
    np.fill_diagonal(joint, joint.diagonal().clip(1))  # as cleanlab does
    assert joint.tolist() == expected.tolist()
    ranking = cleanlab_filter.find_label_issues(
        labels,
        probabilities,
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    assert find_label_issues(labels, probabilities).row.tolist() == ranking.tolist()


@pytest.mark.parametrize("ordinal", [False, True])
def test_planted_labels_are_found(ordinal):
    """At least 70 of 100 among the first 150, over five data sets; the model is right about 60 % of the faces."""
    found, accuracies = [], []
    for seed in range(5):
        labels, probabilities, wrong, accuracy = model_of(seed)
        suspects = find_label_issues(labels, probabilities, ordinal).row[:150]
        found.append(np.isin(suspects, wrong).sum())
        accuracies.append(accuracy)
    assert 0.58 < np.mean(accuracies) < 0.62
    assert np.mean(found) >= 70
