"""Ages in years: classes of single years, the median and its interval, the metrics, and thresholds."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from data.faces import Faces
from evaluation.evaluation import Evaluation, pool
from evaluation.predictions import predictions_digest, read_predictions
from evaluation.threshold import probability_of, roc, threshold_table
from models.ages import age_quantile, ages_of, fit_mass
from report import sections
from report.data import ReportData
from report.page import write_report
from report.tables import confusion_table, per_class_table
from report.tables import threshold_table as printed_threshold
from utils.classes import Classes
from utils.errors import UserError

GROUPS = Classes.of_ages(["0-9", "10-19", "20-39", "60+"])


def evaluation_of(probabilities, ages, classes=GROUPS, **columns):
    """Of faces of different people with known ages."""
    count = len(ages)
    table = {"path": [f"{k}.jpg" for k in range(count)], "album": "x", "person": [str(k) for k in range(count)]}
    table |= {"fold": 0, "label": classes.labels_of(ages), "age": np.array(ages, float), **columns}
    faces = Faces(pd.DataFrame(table), classes, labels_are_ages=True)
    return Evaluation(faces, np.float32(probabilities))


class TestClasses:
    def test_single_years(self):
        classes = Classes.of_ages(["0..100+"])
        assert (len(classes), classes.names[:3], classes.names[-1]) == (101, ("0", "1", "2"), "100+")
        assert classes.are_single_years and not GROUPS.are_single_years
        assert Classes.of_ages(["0-17", "18..20", "21+"]).names == ("0-17", "18", "19", "20", "21+")
        for wrong in (["60..21"], ["5..6", "6"], ["1..", "2"]):
            with pytest.raises(UserError, match=r"^--age-groups "):
                Classes.of_ages(wrong)

    def test_many_years_are_shown_by_decade(self):
        assert Classes.of_ages(["21..60"]).coarse().names == ("21-29", "30-39", "40-49", "50-59", "60")
        assert Classes.of_ages(["0..100+"]).coarse().names[-2:] == ("90-99", "100+")
        assert GROUPS.coarse() is GROUPS
        for _ in range(2):  # each of two equal ones is itself
            years = Classes.of_ages(["18..22"])
            assert years.coarse() is years

    def test_classes_within_others(self):
        """9-10 lies across a border, 45 in a gap, and 70+ within 60+."""
        own = Classes.of_ages(["0-8", "9-10", "11-19", "20-30", "45", "70+"])
        assert own.within(GROUPS).tolist() == [0, -1, 1, 2, -1, 3]
        assert GROUPS.within(Classes(("young", "old"))).tolist() == [-1] * 4

    def test_an_open_class_counts_as_twenty_years(self):
        assert GROUPS.bounds.tolist() == [[0, 9], [10, 19], [20, 39], [60, 79]]


class TestMedianAndInterval:
    """A group 0-9 reaches from -0.5 to 9.5; half of its probability lies below 4.5."""

    @pytest.mark.parametrize(
        ("probabilities", "fraction", "expected"),
        [
            ([1, 0, 0, 0], 0.5, 4.5),
            ([0.25, 0.5, 0.25, 0], 0.5, 14.5),
            ([0.5, 0, 0.5, 0], 0.5, 9.5),  # the end of the first
            ([0, 0, 0.5, 0.5], 0.75, 69.5),  # half of 60 to 79
            ([0.5, 0.5, 0, 0], 0.1, 1.5),
            ([1, 0, 0, 0], 0.0, 0.0),  # not less
            ([2, 0, 0, 0], 0.5, 4.5),  # whatever their sum
        ],
    )
    def test_quantiles_by_hand(self, probabilities, fraction, expected):
        bounds = torch.tensor(GROUPS.bounds)
        found = age_quantile(torch.tensor([probabilities], dtype=torch.float64), bounds, fraction)
        assert found.tolist() == pytest.approx([expected])

    def test_a_single_year_is_that_year(self):
        years = Classes.of_ages(["21..60"])
        age, low, high = ages_of(np.eye(40)[[0, 13]], years)
        assert age.tolist() == pytest.approx([21, 34])
        assert (low.tolist(), high.tolist()) == (pytest.approx([20.6, 33.6]), pytest.approx([21.4, 34.4]))

    def test_the_mass_by_hand(self):
        """Each face's age is at the quantiles 0.5, 0.55, ..., 0.95: masses 0, 0.1, ..., 0.9, of which 0.8 hold."""
        spread = np.tile([0.5, 0.5, 0, 0], (10, 1))  # uniform from -0.5 to 19.5
        ages = -0.5 + 20 * np.linspace(0.5, 0.95, 10)
        mass = fit_mass(spread, GROUPS, ages, 0.8)
        assert mass == pytest.approx(0.8)
        _, low, high = ages_of(spread, GROUPS, mass + 1e-9)
        assert ((low <= ages) & (ages <= high)).sum() == 9


def test_metrics_by_hand():
    """Medians 4.5, 14.5, 29.5, 29.5 of ages 3, 15, 25, 38: errors 1.5, -0.5, 4.5, -8.5."""
    evaluation = evaluation_of(np.eye(4)[[0, 1, 2, 2]], [3, 15, 25, 38])
    found = evaluation.metrics()
    assert found["mae_years"] == pytest.approx((1.5 + 0.5 + 4.5 + 8.5) / 4)
    assert found["rmse_years"] == pytest.approx(np.sqrt((2.25 + 0.25 + 20.25 + 72.25) / 4))
    assert (found["cs5"], found["bias_years"]) == (0.75, pytest.approx(-0.75))
    assert found["coverage"] == 0.75  # 80 % of 0-9 are 0.5 to 8.5, of 20-39 21.5 to 37.5: 38 is outside
    assert "rmse_years" not in evaluation.paired_metrics and "mae_years" in evaluation.paired_metrics


def test_without_known_ages_there_are_none():
    evaluation = evaluation_of(np.eye(4)[[0, 1]], [3, 15])
    unknown = dataclasses.replace(evaluation.faces, table=evaluation.faces.table.assign(age=[3, np.nan]))
    assert "mae_years" not in dataclasses.replace(evaluation, faces=unknown).metrics()
    named = Faces(evaluation.faces.table, Classes(("a", "b", "c", "d")))
    assert dataclasses.replace(evaluation, faces=named).ages is None


def test_coarser_classes_are_sums():
    years = Classes.of_ages(["0..29"])
    probabilities = np.zeros((2, 30))
    probabilities[0, [3, 9, 10]] = 0.3, 0.3, 0.4
    probabilities[1, [19, 20, 29]] = 0.1, 0.4, 0.5
    evaluation = evaluation_of(probabilities, [10, 25], years)
    coarse = evaluation.in_classes(Classes.of_ages(["0-9", "10-19", "20-29"]))
    assert coarse.probabilities.tolist() == [pytest.approx([0.6, 0.4, 0]), pytest.approx([0, 0.1, 0.9])]
    assert (coarse.labels.tolist(), coarse.predicted.tolist()) == ([1, 2], [0, 2])
    part = evaluation.in_classes(Classes.of_ages(["0-9", "20-29"]))  # 10 to 19 are left out
    assert part.probabilities.tolist() == [pytest.approx([0, 1.0])] and len(part) == 1


def test_many_years_are_printed_by_decade():
    years = Classes.of_ages(["0..100+"])
    evaluation = evaluation_of(np.eye(101)[[5, 38, 41]], [7, 38, 100], years)
    assert len(per_class_table(evaluation).splitlines()) == 12
    assert len(confusion_table(evaluation).splitlines()) == 12


def test_predictions_hold_the_ages(tmp_path):
    evaluation = evaluation_of(np.eye(4)[[0, 1, 2]] * 0.9 + 0.025, [3.5, 15, 25])
    table = evaluation.table()
    table.to_csv(tmp_path / "predictions.csv", index=False)
    columns = "path album person fold label prediction true_age age age_low age_high p_0-9 p_10-19 p_20-39 p_60+"
    assert list(table) == columns.split()
    read = read_predictions(tmp_path / "predictions.csv", {0: predictions_digest(table)})
    assert read.metrics() == pytest.approx(evaluation.metrics())
    # The digest is of what the ages follow from: another mass changes the intervals only.
    wider = dataclasses.replace(evaluation, mass=0.95).table()
    assert not wider.equals(table) and predictions_digest(wider) == predictions_digest(table)


def test_pooled_intervals_are_those_of_their_models():
    first, second = (evaluation_of(np.eye(4)[[0, 1]], [1, 15]) for _ in range(2))
    second = dataclasses.replace(second, mass=0.2)
    lows = pool([first, second]).ages[1]
    assert lows.tolist() == pytest.approx([0.5, 10.5, 3.5, 13.5])
    assert pool([first, second]).where([False, True, True, False]).ages[1].tolist() == pytest.approx([10.5, 3.5])


class TestThreshold:
    """Of 200 faces of 16 and 17 years, 50 are taken for 19; of 100 of 30 years, 10 are taken for 17."""

    years = Classes.of_ages(["0..60"])

    @pytest.fixture
    def evaluation(self):
        ages = [16] * 100 + [17] * 100 + [30] * 100
        predicted = [19] * 50 + [17] * 50 + [15] * 100 + [17] * 10 + [30] * 90
        gender = ["f"] * 100 + ["m"] * 100 + [""] * 100
        return evaluation_of(np.eye(61)[predicted], ages, self.years, gender=gender)

    def test_shares_by_hand(self, evaluation):
        table = threshold_table(evaluation, 18).set_index(["challenge", "group"])
        assert table.share[18].to_dict() == {
            "under 18": 0.25, "under 18, f": 0.5, "under 18, m": 0.0, "16": 0.5, "17": 0.0, "18 and over": 0.1,
        }  # fmt: skip
        assert table.share[20]["under 18"] == 0 and table.share[25]["18 and over"] == 0.1
        assert table.faces[18]["under 18, f"] == 100
        # A binomial of 200 people: 0.25 ± 1.96 * sqrt(0.25 * 0.75 / 200).
        assert table.loc[(18, "under 18"), ["low", "high"]].tolist() == pytest.approx([0.19, 0.31], abs=0.012)
        printed = " ".join(printed_threshold(evaluation, 18).split())
        assert "faces challenge 18 challenge 20 challenge 23 challenge 25 under 18 200 25.00 % (" in printed

    def test_roc_by_hand(self, evaluation):
        """All or nothing: 50 of 200 younger and 90 of 100 older ones pass with certainty."""
        younger, older = roc(evaluation, 18)
        assert younger.tolist() == [0, 0.25, 1] and older.tolist() == [0, 0.9, 1]

    def test_only_borders(self, evaluation):
        assert probability_of(np.array([[0.1, 0.2, 0.3, 0.4]]), GROUPS, 20).tolist() == pytest.approx([0.7])
        message = "--over 18: no class of this model begins at 18 years; the nearest are 10 and 20"
        with pytest.raises(UserError, match=f"^{message}$"):
            probability_of(np.zeros((1, 4)), GROUPS, 18)
        with pytest.raises(UserError, match=": the classes are not ages"):
            probability_of(np.zeros((1, 2)), Classes(("a", "b")), 18)

    def test_no_figure_of_few(self, evaluation):
        with pytest.raises(UserError, match="99 faces are under 18 years; at least 100 are needed for a figure"):
            threshold_table(evaluation.where(np.arange(300) > 100), 18)
        unknown = evaluation.faces.table.assign(age=np.nan)
        faces = dataclasses.replace(evaluation.faces, table=unknown)
        with pytest.raises(UserError, match="the ages of these faces are not known"):
            threshold_table(dataclasses.replace(evaluation, faces=faces), 18)

    def test_the_sections_of_the_report(self, evaluation, tmp_path):
        data = ReportData("t", [dataclasses.replace(evaluation, name="fold 0")])
        values = sections.threshold(data)
        assert (values["problem"], values["challenges"]) == ("", [18, 20, 23, 25])
        first, last = values["rows"][0], values["rows"][-1]
        assert (first["name"], first["faces"], first["cells"][0]["value"]) == ("under 18", "200", "25.00 %")
        assert (last["name"], last["cells"][3]["value"]) == ("18 and over", "10.00 %")
        # Errors of 16- and 17-year-olds: 50 of 3, 50 of 1, 100 of -2 years; of 30-year-olds 10 of -13.
        rows = {row["name"]: row["cells"] for row in sections.ages(data)["rows"]}
        assert [cell["value"] for cell in rows["10 to 19"]] == ["2.00", "+0.00", "100.00 %", "0.00 %"]
        assert [cell["value"] for cell in rows["30 to 39"]] == ["1.30", "-1.30", "90.00 %", "90.00 %"]
        assert dict(sections.ages(data)["within"]) == {
            1: "46.7 %",
            2: "80.0 %",
            3: "96.7 %",
            5: "96.7 %",
            7: "96.7 %",
            10: "96.7 %",
        }
        write_report(tmp_path / "report.html", data)
        text = (tmp_path / "report.html").read_text()
        assert "challenge 25" in text and 'id="threshold"' in text and "most years off first" in text
