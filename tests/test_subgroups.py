"""Groups of faces: how they are cut, their metrics and gaps; image statistics worked by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.faces import Faces
from evaluation.calibration import expected_calibration_error
from evaluation.evaluation import Evaluation
from evaluation.paired import paired_difference
from evaluation.subgroups import group_faces, holm, image_statistics, subgroups
from report.tables import subgroups_table
from utils.classes import Classes
from utils.errors import UserError

NAMES = ("0-12", "13-60", "60+")


def make(labels, predicted, people=None, **columns):
    """An Evaluation with 80 % for the answer; every face is of a person of its own and all are of one album."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    people = np.arange(len(labels)) if people is None else people
    table = pd.DataFrame({"path": [f"x/{k}.jpg" for k in range(len(labels))], "label": labels, "fold": 0})
    table = table.assign(**{"person": pd.Series(people).astype(str), "album": "x", **columns})
    table.index += 5  # rows of a cache
    probabilities = np.where(np.eye(3, dtype=bool)[predicted], 0.8, 0.1).astype(np.float32)
    return Evaluation(Faces(table, Classes(NAMES)), probabilities)


def random_evaluation(seed, faces, people, accuracy=0.6, **columns):
    """Each person has an accuracy of their own."""
    rng = np.random.default_rng(seed)
    person, labels = rng.integers(0, people, faces), rng.integers(0, 3, faces)
    skill = rng.beta(6 * accuracy, 6 * (1 - accuracy), people)[person]
    predicted = np.where(rng.random(faces) < skill, labels, rng.integers(0, 3, faces))
    return make(labels, predicted, person, **columns)


def groups_of(column, values, **columns):
    count = len(values)
    evaluation = make(np.zeros(count, int), np.zeros(count, int), **(columns or {column: values}))
    found = group_faces(evaluation, [column])
    assert sum(mask.sum() for _, _, mask in found) == count
    return {name: np.flatnonzero(mask).tolist() for _, name, mask in found}


def test_metrics_and_gap_by_hand():
    # 40 women: 30 right, 10 two classes off. 60 men: 30 right, 30 one class off. 4 others.
    labels = [0] * 104
    predicted = [0] * 30 + [2] * 10 + [0] * 30 + [1] * 30 + [0] * 4
    table = subgroups(make(labels, predicted, gender=["f"] * 40 + ["m"] * 60 + ["u", "", None, "u"]), ["gender"])
    assert table.column.tolist() == ["gender"] * 3
    assert table.group.tolist() == ["f", "m", "unknown"]
    assert table.faces.tolist() == table.people.tolist() == [40, 60, 4]
    assert table.too_few.tolist() == [False, False, True]
    assert table.top1.tolist()[:2] == [0.75, 0.5]
    assert table.one_off.tolist()[:2] == [0.75, 1]
    assert table.mae.tolist()[:2] == [0.5, 0.5]
    assert table.ece.tolist()[:2] == pytest.approx([expected_error(30, 10), expected_error(30, 30)])
    assert table.gap.tolist()[:2] == pytest.approx([30 / 40 - 34 / 64, 30 / 60 - 34 / 44])
    # Every face is a person, so that these are the tests of two shares: standard errors p (1 - p) / n.
    z = (0.75 - 34 / 64) / (0.75 * 0.25 / 40 + 34 * 30 / 64**3) ** 0.5
    assert z == pytest.approx(2.3618, abs=0.0001)  # two-sided p = 0.0182
    assert table.p[0] == pytest.approx(0.0182, abs=0.005)
    assert table.p_corrected[0] == pytest.approx(table.p[0])  # the larger one of two
    assert table.p_corrected[1] == pytest.approx(2 * table.p[1])
    assert table.marked.tolist() == [True, True, False]
    assert table.iloc[2].drop(["metric", "column", "group", "faces", "people", "too_few", "marked"]).isna().all()


def test_single_years_are_judged_by_their_error():
    """40 women are taken for 10 years older than they are, 60 men for 4; nobody's year is hit."""
    none = np.zeros(100, int)
    faces = make(none, none, gender=["f"] * 40 + ["m"] * 60, camera=["old", "new"] * 50, age=20.5).faces.table
    answers = np.eye(101)[[30] * 40 + [24] * 60]
    found = subgroups(Evaluation(Faces(faces.assign(label=20), Classes.of_ages(("0..100+",))), answers))
    assert found.metric.unique().tolist() == ["mae_years"]
    assert found[found.column == "camera"].group.tolist() == ["new", "old"]  # a column of few values, unasked
    women, men = found[found.column == "gender"].to_dict("records")
    assert (women["gap"], men["gap"]) == pytest.approx((6, -6)) and (women["cs5"], men["cs5"]) == (0, 1)
    assert (women["bias_years"], men["bias_years"]) == pytest.approx((10, 4), abs=0.5)
    lines = subgroups_table(found[found.column == "gender"]).splitlines()
    assert lines[0].split()[:7] == ["subgroup", "faces", "MAE", "years", "95", "%", "CS@5"]
    assert lines[2].split()[-3:] == ["+6.00", "<0.001", "*"]
    assert lines[-1].startswith("gap: MAE years of the group minus that of all other faces, in years;")


def expected_error(right, wrong):
    """With one confidence of 80 %, in bins by row; right ones are first."""
    parts = np.array_split([1] * right + [0] * wrong, 15)
    return sum(abs(sum(part) - 0.8 * len(part)) for part in parts) / (right + wrong)


def test_another_metric():
    evaluation = make([0] * 80, [2] * 40 + [1] * 30 + [0] * 10, gender=["f"] * 40 + ["m"] * 40)
    assert subgroups(evaluation, ["gender"], metric="mae").gap.tolist() == pytest.approx([1.25, -1.25])
    assert subgroups(evaluation, ["gender"], metric="one_off").gap.tolist() == pytest.approx([-1, 1])


def test_a_constant_column_is_one_group_without_a_gap():
    evaluation = random_evaluation(0, 200, 60, score=7.0)
    (row,) = subgroups(evaluation, ["score"]).to_dict("records")
    assert (row["group"], row["faces"], row["people"]) == ("7", 200, evaluation.faces.people.nunique())
    assert np.isnan([row["gap"], row["p"], row["p_corrected"]]).all()
    assert not row["marked"]
    everyone = evaluation.labels, evaluation.predicted, evaluation.probabilities
    assert row["ece"] == expected_calibration_error(*everyone)
    for name in evaluation.metric_names:
        expected = paired_difference(evaluation.per_face(name), np.zeros(200), evaluation.faces.people)
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(expected)


def test_intervals_are_those_of_the_group_alone():
    evaluation = random_evaluation(1, 1000, 300, gender=["f"] * 500 + ["m"] * 500)
    table = subgroups(evaluation, ["gender"])
    for row, mask in zip(table.itertuples(), (np.arange(1000) < 500, np.arange(1000) >= 500), strict=True):
        own = evaluation.where(mask)
        expected = paired_difference(own.per_face("top1"), np.zeros(500), own.faces.people)
        assert (row.top1, row.top1_low, row.top1_high) == pytest.approx(expected, abs=0.01)


def test_a_group_of_few_people_has_metrics_but_neither_interval_nor_gap():
    evaluation = random_evaluation(2, 200, 60, gender=["f"] * 100 + ["m"] * 100)
    people = evaluation.faces.people
    few = evaluation.faces.table.assign(person=np.where(np.arange(200) < 100, "1", people.str.split("/").str[1]))
    table = subgroups(Evaluation(Faces(few, Classes(NAMES)), evaluation.probabilities), ["gender"])
    assert table.people[0] == 1
    assert table.top1.notna().all()
    assert table.top1_low.isna().tolist() == [True, False]
    assert table[["gap", "p", "p_corrected"]].isna().all(axis=None)


def test_people_are_what_is_resampled():
    """Ten photographs of each of thirty people count no more than thirty photographs."""
    right, gender = np.repeat(np.arange(60) % 3 > 0, 10), np.repeat(["f", "m"], 300)
    right[:300] = np.repeat(np.arange(30) % 2 > 0, 10)
    alone = subgroups(make(np.zeros(600, int), np.where(right, 0, 1), gender=gender), ["gender"])
    people = subgroups(
        make(np.zeros(600, int), np.where(right, 0, 1), np.repeat(np.arange(60), 10), gender=gender), ["gender"]
    )
    assert alone.gap.tolist() == people.gap.tolist() == pytest.approx([-1 / 6, 1 / 6])
    assert alone.marked.all()
    assert not people.marked.any()
    widths = [table.top1_high[0] - table.top1_low[0] for table in (alone, people)]
    assert widths[1] / widths[0] == pytest.approx(10**0.5, rel=0.2)


def test_no_difference_is_rarely_marked():
    """60 data sets without any true gap, with ten groups each: 5 % of the data sets may have a mark."""
    marked = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        columns = {f"c{k}": rng.choice(["a", "b"], 90, p=[0.3, 0.7])[rng.integers(0, 90, 600)] for k in range(5)}
        table = subgroups(random_evaluation(seed, 600, 90, **columns), list(columns), draws=400, seed=seed)
        assert len(table) == 10
        marked += table.marked.any()
    assert marked <= 7  # 3 are expected; 8 or more have a probability of 1 %


@pytest.mark.parametrize("column, values, expected", [
    ("yaw", [0, -15, 15, 30, -31.5, 0.5, np.nan],
     {"frontal (0)": [0], "over 0 to 15": [1, 2, 5], "over 15 to 30": [3], "over 30": [4], "unknown": [6]}),
    ("score", [5, 1, 2, 3, 4, 6, 7, 8.25], {"1 to 2": [1, 2], "3 to 4": [3, 4], "5 to 6": [0, 5], "7 to 8.25": [6, 7]}),
    # Three quarters of the values are 1, so that no cut lies below it.
    ("score", [1, 1, 1, 1, np.nan, 0.51234], {"0.512 to 1": [0, 1, 2, 3, 5], "unknown": [4]}),
    ("score", [816, 816], {"816": [0, 1]}),
    ("score", [np.nan, None], {"unknown": [0, 1]}),
    ("album", [*"abbbcccc"], {"a": [0], "b": [1, 2, 3], "c": [4, 5, 6, 7]}),
])  # fmt: skip
def test_groups_by_hand(column, values, expected):
    """The head's turn by its size, the score by quartiles named by their ranges, and an album by its name."""
    assert groups_of(column, values) == expected


def test_another_column_of_many_numbers_is_grouped_by_quartile():
    """As text, since a CSV file's own columns are; twelve different ones are groups of their own."""
    many = [*map(str, range(13)), "2.5", ""]
    assert {name: len(rows) for name, rows in groups_of("bmi", many).items()} == {
        "0 to 2.5": 4,
        "3 to 5": 3,
        "6 to 8": 3,
        "9 to 12": 4,
        "unknown": 1,
    }
    assert len(groups_of("bmi", [*map(str, range(12)), "3", ""])) == 13
    assert len(groups_of("bmi", [*map(str, range(13)), "many"])) == 14


@given(st.lists(st.one_of(st.integers(0, 6), st.floats(-5, 5), st.none()), min_size=1, max_size=40))
def test_equal_values_share_a_group(values):
    found = groups_of("score", pd.array(values, dtype="Float64"))
    assert len(found) <= 5
    by_value = {}
    for name, rows in found.items():
        for row in rows:
            by_value.setdefault(values[row], set()).add(name)
    assert all(len(names) == 1 for names in by_value.values())
    assert (None in by_value) == ("unknown" in found)


def test_albums_by_their_number_of_faces():
    groups = group_faces(make(np.zeros(8, int), np.zeros(8, int), album=[*"abbbcccc"]), ["album_size"])
    assert {name: mask.sum() for _, name, mask in groups} == {"1 to 3": 4, "4": 4}


def test_image_size_is_the_shorter_side():
    sizes = {"width": [100, 200, 400, np.nan], "height": [300, 50, 400, 9]}
    assert groups_of("image_size", [0] * 4, **sizes) == {"50": [1], "100": [0], "400": [2], "unknown": [3]}


def test_classes_by_name_and_in_their_order():
    evaluation = make([2, 0, 2], [0, 0, 0])
    assert [(name, mask.tolist()) for _, name, mask in group_faces(evaluation, ["label"])] == [
        ("0-12", [False, True, False]),
        ("60+", [True, False, True]),
    ]


def test_all_columns_that_there_are():
    stored = make([0] * 3, [0] * 3)  # as read from predictions.csv: neither gender nor yaw nor score
    assert {column for column, _, _ in group_faces(stored)} == {"label", "album_size"}
    extra = {"brightness": [0.1, 0.2, 0.3], "sharpness": 1.0, "width": 5, "height": 6}
    full = make([0] * 3, [0] * 3, gender="f", yaw=0, score=1.0, **extra)
    columns = ["label", "gender", "yaw", "score", "album_size", "image_size", "brightness", "sharpness"]
    assert list(dict.fromkeys(column for column, _, _ in group_faces(full))) == columns


def test_wrong_columns():
    evaluation = make([0] * 3, [0] * 3)
    with pytest.raises(UserError, match=r"^the faces have no column 'yaw'; they have path, label, fold, person, album"):
        subgroups(evaluation, ["yaw"])


def test_holm_as_in_r():
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"); gaps that are not tested do not count."""
    expected = [0.03, 0.06, np.nan, 0.06, 0.02]
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03, 0.005]), expected)
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert np.isnan(holm([np.nan])).all()


def test_image_statistics_by_hand():
    images = np.zeros((4, 3, 4, 4), np.uint8)
    images[1] = 255
    images[2, 0] = 255  # red: 0.299
    images[3, :, 1, 1] = 255  # one white pixel: its Laplacian is -4, those of two inner neighbours 1, the fourth 0
    table = image_statistics(images)
    assert table.brightness.tolist() == pytest.approx([0, 1, 0.299, 1 / 16])
    assert table.sharpness.tolist() == pytest.approx([0, 0, 0, (16 + 1 + 1) / 4 - 0.25], abs=1e-6)


def test_image_statistics_of_many_images():
    images = np.random.default_rng(0).integers(0, 256, (600, 3, 5, 5), np.uint8)
    table = image_statistics(images)
    pd.testing.assert_frame_equal(
        image_statistics(images, np.array([7, 555, 3])), table.loc[[7, 555, 3]].reset_index(drop=True)
    )
    luma = np.einsum("nchw,c->nhw", images / 255, [0.299, 0.587, 0.114])[555]
    laplacian = [
        luma[i - 1, j] + luma[i + 1, j] + luma[i, j - 1] + luma[i, j + 1] - 4 * luma[i, j]
        for i in (1, 2, 3)
        for j in (1, 2, 3)
    ]
    assert table.brightness[555] == pytest.approx(luma.mean())
    assert table.sharpness[555] == pytest.approx(np.var(laplacian), rel=1e-4)
