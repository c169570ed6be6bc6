"""Faces of a CSV file: what is read, age groups, drawn folds, and the line that an error names."""

import csv
import io
import math
import ntpath
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.label_file import load_faces, select_faces
from data.load import DATA_SOURCE, load_data
from data.split import draw_folds, split_faces
from training.config import Config
from utils.classes import Classes, check_names
from utils.errors import UserError

THREE = ("0-12", "13-39", "60+")


@pytest.fixture
def folder(tmp_path):
    """An image folder of eight empty files, a/0.jpg to a/7.jpg: nothing here decodes them."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number in range(8):
        (tmp_path / "images" / "a" / f"{number}.jpg").touch()
    return tmp_path


def write(folder, text):
    path = folder / "faces.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder, text, **arguments):
    return load_faces(write(folder, text), folder / "images", **{"age_groups": THREE, **arguments})


def numbered(count, start="path,age"):
    return start + "\n" + "".join(f"a/{k}.jpg,{10 * k}\n" for k in range(count))


class TestReading:
    def test_every_column_by_hand(self, folder):
        text = (
            "\ufeffid,path, age ,person,fold,gender,score,camera,city,width\r\n"
            '1,a/0.jpg,12.9,"Doe, Ann",0,Female,71,phone,"New\nYork",9\r\n'
            "\r\n"
            "2,./a//1.jpg , 13,Bo,4.0,m,,film,,9\r\n"
            "3,a/2.jpg,1e2,Cy,3,x,80.5,phone,Rome,9\r\n"
            "4,a/3.jpg,,Cy,3,,,,,9\r\n"
            "5,a/4.jpg,40.0,Cy,3,,,,,9\r\n"
        )
        faces, report = load(folder, text)
        assert faces.classes.names == THREE
        assert not faces.folds_drawn
        table = faces.table
        assert table.index.tolist() == [0, 1, 2]
        assert table.path.tolist() == ["a/0.jpg", "a/1.jpg", "a/2.jpg"]
        assert table.label.tolist() == [0, 1, 2]
        assert table.fold.tolist() == [0, 4, 3]
        assert table.age.tolist() == [12.9, 13.0, 100.0]
        assert table.person.tolist() == table.album.tolist() == ["Doe, Ann", "Bo", "Cy"]
        assert faces.people.tolist() == ["Doe, Ann/Doe, Ann", "Bo/Bo", "Cy/Cy"]
        assert table.gender.tolist() == ["f", "m", "x"]
        assert table.score.tolist() == pytest.approx([71, np.nan, 80.5], nan_ok=True)
        assert table.yaw.isna().all()
        assert table.camera.tolist() == ["phone", "film", "phone"]
        assert table.city.tolist() == ["New York", "", "Rome"]
        assert table.file.tolist() == ["faces.csv"] * 3
        assert table.line.tolist() == [2, 5, 6]  # the first row has two lines, and an empty one follows
        assert "width" not in table
        assert str(report) == (
            "labels: 5 rows read, 3 faces used (policy strict)\n"
            "  left out: 1 with an age outside of the classes, 1 without an age\n"
            "  people: 3\n"
            "  per fold: 0: 1  3: 1  4: 1\n"
            "  per class: 0-12: 1  13-39: 1  60+: 1\n"
            "  ages outside of the classes: 40-59: 1 (left out; --label-policy nearest uses them)\n"
            "  columns for test_code.py --by: id, age, gender, score, camera, city\n"
            "  columns not kept, as the code has others of these names: width"
        )

    def test_without_person_each_file_is_one_and_folds_are_drawn(self, folder):
        faces, report = load(folder, numbered(8), policy="nearest")
        assert faces.table.person.tolist() == [f"a/{k}.jpg" for k in range(8)]
        assert faces.people.nunique() == 8
        # 0 and 10 are in 0-12, 20 and 30 in 13-39; 40 and 49 are nearer to 39, 50 is nearer to 60.
        assert faces.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
        assert sorted(faces.table.fold.value_counts()) == [1, 1, 2, 2, 2]
        assert faces.folds_drawn
        assert faces.where(faces.labels == 0).folds_drawn
        assert "  people: no column 'person', so each file counts as one person\n" in str(report)
        assert "(drawn with --fold-seed 0: whole people, classes balanced)" in str(report)
        assert "  ages outside of the classes: 40-59: 2 (in the nearest one)" in str(report)
        assert load(folder, numbered(8), seed=1)[1].seed == 1

    def test_names_of_classes_in_place_of_ages(self, folder):
        text = "path,label,fold\na/0.jpg,old,0\na/1.jpg,very young,1\na/2.jpg,,1\n"
        faces, report = load(folder, text, age_groups=("very young", "old"))
        assert faces.classes.names == ("very young", "old")
        assert faces.labels.tolist() == [1, 0]
        assert "left out: 1 without a label\n" in str(report)
        assert "outside" not in str(report)

    def test_a_person_without_a_name_is_the_file(self, folder):
        text = "path,age,person,fold\na/0.jpg,1,Ann,0\na/1.jpg,1,,1\na/2.jpg,1,,2\n"
        assert load(folder, text)[0].table.person.tolist() == ["Ann", "a/1.jpg", "a/2.jpg"]

    def test_missing_images_are_left_out_on_request_and_change_no_fold(self, folder):
        whole = load(folder, numbered(7), policy="nearest")[0].table.set_index("path").fold
        (folder / "images" / "a" / "2.jpg").unlink()
        faces, report = load(folder, numbered(7), policy="nearest", allow_missing=True)
        assert faces.table.index.tolist() == [0, 1, 2, 3, 4, 5]
        assert faces.table.set_index("path").fold.equals(whole.drop("a/2.jpg"))
        assert (report.missing, sum(report.faces_per_fold.values()), sum(report.faces_per_class.values())) == (1, 6, 6)
        assert "1 missing images" in str(report)

    def test_an_image_may_have_any_name(self, tmp_path):
        (tmp_path / "images").mkdir()
        for name in ("0", "1.tiff"):
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / name, format="PNG")
        assert len(load(tmp_path, "path,age,fold\n0,1,0\n1.tiff,2,1\n")[0]) == 2

    def test_an_unnamed_column_of_row_numbers_is_ignored(self, folder):
        faces, _ = load(folder, ",path,age,fold,\n0,a/0.jpg,1,0,\n1,a/1.jpg,1,1,\n")
        assert "" not in faces.table
        assert len(faces) == 2

    def test_names_that_the_code_has_are_not_kept(self, folder):
        faces, report = load(folder, "path,age,fold,line,file\na/0.jpg,1,0,9,x\na/1.jpg,1,1,9,x\n")
        assert (faces.table.line.tolist(), faces.table.file.tolist()) == ([2, 3], ["faces.csv"] * 2)
        assert "others of these names: line, file" in str(report)

    @pytest.mark.parametrize(
        ("ages", "expected"),
        [
            ((1, 2, 13), "  per class: 0-12: 2  13-39: 1"),  # nobody of 60 or more, and nobody outside of the classes
            (
                (1, 45, 70),
                "  per class: 0-12: 1  60+: 1\n  note: no face has the class 13-39\n  ages outside of the classes:",
            ),
        ],
    )
    def test_zeros_are_not_printed(self, folder, ages, expected):
        text = "path,age,fold\n" + "".join(f"a/{k}.jpg,{age},{k}\n" for k, age in enumerate(ages))
        _, report = load(folder, text)
        assert expected in str(report)
        assert ": 0 " not in f"{report} "
        assert ("note: no face has the class 60+" in str(report)) == ("60+" not in expected)
        assert ("outside" in expected) == ("outside of the classes:" in str(report))

    def test_one_function_reads_both_kinds(self, folder, small_faces):
        source = {**Config(label_dir=str(small_faces[0]), image_dir=str(small_faces[1])).data_source}
        assert set(source) == set(DATA_SOURCE)
        assert len(load_data(**source)[0]) == 40
        own = Config(label_file=str(write(folder, numbered(8))), image_dir=str(folder / "images"), age_groups=THREE)
        assert len(load_data(**own.data_source)[0]) == 6


# (the file, the message behind its name)
BROKEN = {
    "": "' lists no face; expected a header and one row per face",
    "path,age\n": "' lists no face; expected a header and one row per face",
    "path|age\na|1\n": "' has no column 'path', separated by commas; its header is 'path|age'",
    "file,age\n": "' has no column 'path', separated by commas; its header is 'file, age'",
    "path,years\n": "' has neither a column 'age' nor 'label'; add one of them; its header is 'path, years'",
    "path,age,fold,split\n": "' has both columns 'fold' and 'split'; keep one of them",
    "path,age,split\na/0.jpg,1,dev\n": ", line 2: the split 'dev' is unknown; expected train, val or test, or nothing",
    "path,age,split,person\na/0.jpg,1,val,Ann\na/1.jpg,1,train,Ann\n": ", line 3: the person 'Ann' is in two folds",
    "path,age,age\n": "' has two columns 'age'; name each column once",
    "path,age\na/0.jpg,1\na/1.jpg\n": ", line 3: 1 fields instead of the header's 2: 'a/1.jpg'",
    "path,age\na/0.jpg,1,2\n": ", line 2: 3 fields instead of the header's 2: 'a/0.jpg,1,2'",
    'path,age\na/0.jpg,1\n"a/1.jpg,2\n': ", line 3: unexpected end of data; expected comma-separated values",
    'path,age\n"a"/0.jpg,1\n': ", line 2: ',' expected after '\"'; expected comma-separated values",
    "path,age\n\n ,1\n": ", line 3: the path '' is empty",
    "path,age\n/a/0.jpg,1\n": ", line 2: the path '/a/0.jpg' is absolute; expected a path below the image directory",
    "path,age\na/../../x,1\n": ", line 2: the path 'a/../../x' leaves the image directory; expected a path below it",
    "path,age\n..,1\n": ", line 2: the path '..' leaves the image directory; expected a path below it",
    "path,age\na\\0.jpg,1\n": r", line 2: the path 'a\\0.jpg' has a backslash; folders are separated by /",
    "path,age\na/\x1b[1m0.jpg,1\n": r", line 2: the path 'a/\x1b[1m0.jpg' holds a control character",
    "path,age\na/0.jpg,1\na/1.jpg,1\na/./0.jpg,2\n": ", line 4: the path 'a/./0.jpg' is in line 2 too; list each image",
    "path,age\na/0.jpg,old\n": ", line 2: the age 'old' is not an age; expected years such as 34 or 0.5",
    "path,age\na/0.jpg,0x10\n": ", line 2: the age '0x10' is not an age; expected years such as 34 or 0.5",
    "path,age\na/0.jpg,-1\n": ", line 2: the age '-1' is no age of a person; expected 0 to 130 years",
    "path,age\na/0.jpg,1985\n": ", line 2: the age '1985' is no age of a person; expected 0 to 130 years",
    "path,age\na/0.jpg,x\na/1.jpg,3\na/2.jpg,y\na/3.jpg,\na/4.jpg,x\n": ", line 2: the age 'x' is not an age; expected"
    " years such as 34 or 0.5 (and 2 more rows)",
    "path,age\na/0.jpg,nan\n": ", line 2: the age 'nan' is not an age; expected years such as 34 or 0.5",
    "path,age\na/0.jpg,inf\n": ", line 2: the age 'inf' is not an age; expected years such as 34 or 0.5",
    "path,age\na/0.jpg,1e999\n": ", line 2: the age '1e999' is not an age; expected years such as 34 or 0.5",
    "path,age,score\na/0.jpg,1,high\n": ", line 2: the score 'high' is not a number",
    "path,label\na/0.jpg,60+\na/1.jpg,40-59\n": ", line 3: the label '40-59' is none of the classes 0-12, 13-39, 60+;",
    "path,age,fold\na/0.jpg,1,5\n": ", line 2: the fold '5' is unknown; expected 0, 1, 2, 3, 4",
    "path,age,fold\na/0.jpg,1,0\na/1.jpg,1,\n": ", line 3: the fold '' is unknown; expected 0, 1, 2, 3, 4",
    "path,age,fold\na/0.jpg,1,0.5\n": ", line 2: the fold '0.5' is unknown; expected 0, 1, 2, 3, 4",
    "path,age,fold,person\na/0.jpg,1,0,Ann\na/1.jpg,1,1,Bo\na/2.jpg,1,2,Ann\n": ", line 4: the person 'Ann' is in two"
    " folds; all faces of a person belong into one",
    "path,age,person\na/0.jpg,1,A\x00nn\n": r", line 2: the person 'A\x00nn' holds a control character",
    "path,age\na/0.jpg,40\na/1.jpg,\n": "' has no face with a label: of 2 rows, 1 with an age outside of the classes, 1"
    " without an age",
    "path,age,fold\na/0.jpg,1,0\na/9.jpg,1,1\nb/0.jpg,1,1\n": ", line 3: 'a/9.jpg' is not there under '",
}


@pytest.mark.parametrize("text", BROKEN, ids=repr)
def test_an_error_names_the_line_and_quotes_the_value(folder, text):
    with pytest.raises(UserError) as raised:
        load(folder, text)
    file = folder / "faces.csv"
    assert str(raised.value).removeprefix("'").startswith(f"{file}{BROKEN[text]}")


def test_a_missing_image_says_how_many_are(folder):
    text = "path,age,fold\na/0.jpg,1,0\na/9.jpg,1,1\nb/0.jpg,1,1\n"
    with pytest.raises(UserError, match=r"; 2 of 3 images are missing \(--allow-missing continues without\)$"):
        load(folder, text)
    assert len(load(folder, text, allow_missing=True)[0]) == 1
    with pytest.raises(UserError, match=r"2 images are missing under '.*', and no face is left"):
        load(folder, text.replace("a/0.jpg,1,0\n", ""), allow_missing=True)


def test_few_people_have_few_folds(folder):
    """Whoever tests a model on a family of two needs no five folds."""
    faces, report = load(folder, "path,age,person\na/0.jpg,1,Ann\na/1.jpg,20,Bo\n")
    assert sorted(faces.table.fold) == [0, 1]
    assert [note for note in report.notes if note.startswith("fold 1 holds one person only")]
    assert set(load(folder, "path,age\na/0.jpg,1\n")[0].table.fold) == {0}


def test_columns_that_the_code_makes_are_not_read(folder):
    """`first_year` and `last_year` are what a loss of ages learns."""
    faces, report = load(folder, "path,age,first_year,last_year\na/0.jpg,1,1990,2001\na/1.jpg,20,1990,2001\n")
    assert report.dropped == ("first_year", "last_year") and faces.intervals.tolist() == [[1, 1], [20, 20]]


def test_a_drive_of_windows_is_no_folder(folder, monkeypatch):
    monkeypatch.setattr("data.labels.os.path.splitdrive", ntpath.splitdrive)
    with pytest.raises(UserError, match=r"'C:/a\.jpg' is absolute; expected a path below the image directory"):
        load(folder, "path,age\nC:/a.jpg,1\n")


def test_utf16_with_its_mark_is_text(folder):
    """Spreadsheets write it, and PowerShell's `>`."""
    expected = load(folder, numbered(8))[0].table
    assert load(folder, numbered(8).encode("utf-16"))[0].table.equals(expected)


def test_what_is_no_file_of_text_is_refused(folder):
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        load(folder, numbered(5).encode("utf-16")[2:] + b"\xff")
    os.mkfifo(folder / "pipe.csv")
    for name, problem in (("pipe.csv", "is a named pipe"), ("images", "is a folder"), ("none.csv", "No such file")):
        with pytest.raises(UserError, match=problem):
            load_faces(folder / name, folder / "images", age_groups=THREE)
    with pytest.raises(UserError, match=r"the image directory 'nowhere' does not exist or is not a folder$"):
        load_faces(write(folder, numbered(8)), "nowhere", age_groups=THREE)


FIELD = st.text(st.sampled_from('ab/.,"\n\r\\0159+- \ufeff\x00é'), max_size=6)
HEADERS = st.lists(st.sampled_from(["path", "age", "label", "person", "fold", "gender", "x", ""]), max_size=5)


@settings(max_examples=200, deadline=None)
@given(HEADERS, st.lists(st.lists(FIELD, max_size=5), max_size=5), st.booleans())
def test_any_text_is_read_or_refused_in_one_line(header, rows, quoted):
    """No other exception, whatever the file holds."""
    with tempfile.TemporaryDirectory() as folder:
        text = io.StringIO()
        if quoted:
            csv.writer(text).writerows([header, *rows])
        else:
            text.write("\n".join(",".join(row) for row in [header, *rows]))
        (Path(folder) / "images").mkdir()
        try:
            load(Path(folder), text.getvalue(), allow_missing=True)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            assert len(str(error)) < 500


NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\\"), min_size=1)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(NAMES.map(lambda name: "_" + name.strip() + "_"), st.floats(0, 130), min_size=5, max_size=12),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_was_written_is_read(ages, quoting, line_end):
    """Names of any characters; the label is that of the whole years, by a table of all years written out."""
    classes = ("0-9", "10-19", "20-20", "21-99", "100+")
    labels = [0] * 10 + [1] * 10 + [2] + [3] * 79 + [4] * 31
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator=line_end)
    writer.writerows([["age", "path"], *([repr(age), name] for name, age in ages.items())])
    with tempfile.TemporaryDirectory() as folder:
        report = select_faces(write(Path(folder), text.getvalue()), "strict", classes, 0)
    table = report.faces.table
    assert table.path.tolist() == list(ages)
    assert table.line.tolist() == list(range(2, len(ages) + 2))
    expected = Counter(classes[labels[int(age)]] for age in ages.values())
    assert report.faces_per_class == {name: expected[name] for name in classes}


class TestGroups:
    def test_by_hand(self):
        classes = Classes.of_ages(("2-12", "13", "20-39", "60+"))
        assert classes.years == ((2, 12), (13, 13), (20, 39), (60, float("inf")))
        ages = [0, 1.9, 2, 12.9, 13, 13.99, 14, 20, 39.5, 40, 49.9, 50, 59.9, 60, 130]
        assert classes.labels_of(ages).tolist() == [-1, -1, 0, 0, 1, 1, -1, 2, 2, -1, -1, -1, -1, 3, 3]
        # 16 is three years from 13 and four from 20; 49 is ten from 39 and eleven from 60, 50 eleven and ten.
        assert classes.labels_of([0, 14, 16, 17, 49.9, 50], nearest=True).tolist() == [0, 1, 1, 2, 2, 3]
        assert classes.gaps() == {
            "under 2": (0, 1),
            "14-19": (14, 19),
            "40-59": (40, 59),
        }
        assert Classes.of_ages(("0-3", "5-9")).gaps() == {"4": (4, 4), "over 9": (10, float("inf"))}
        assert Classes.of_ages(("0-3", "4+")).gaps() == {}

    def test_a_tie_goes_to_the_younger(self):
        assert Classes.of_ages(("0-2", "4-6")).labels_of([3], nearest=True).tolist() == [0]

    @given(
        st.lists(st.integers(0, 120), min_size=2, max_size=9, unique=True).map(sorted),
        st.lists(st.floats(0, 130), min_size=1, max_size=20),
        st.booleans(),
    )
    def test_each_age_is_in_the_group_that_holds_it(self, bounds, ages, is_open):
        """Groups from every second bound to the next; the year is looked for in each of them."""
        pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
        names = [f"{low}-{high}" for low, high in pairs] + ([f"{bounds[-1] + 1}+"] if is_open else [])
        if len(names) < 2:
            return
        years = [set(range(low, high + 1)) for low, high in pairs] + ([set(range(bounds[-1] + 1, 200))] * is_open)
        classes = Classes.of_ages(names)
        for age, label, near in zip(ages, classes.labels_of(ages), classes.labels_of(ages, True), strict=True):
            holding = [number for number, group in enumerate(years) if int(age) in group]
            assert [label] == (holding or [-1])
            distances = [min(abs(year - int(age)) for year in group) for group in years]
            assert near == distances.index(min(distances))

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ("0-12", "--age-groups 0-12: expected at least two groups, such as 0-12 13-19 20+"),
            ("", "--age-groups: expected at least two groups, such as 0-12 13-19 20+"),
            ("0-12 0-12", "--age-groups 0-12 0-12: '0-12' is there twice; name each group once"),
            ("0-12 12-19", "--age-groups 0-12 12-19: '0-12' and '12-19' overlap"),
            ("60+ 70-80", "--age-groups 60+ 70-80: '60+' and '70-80' overlap"),
            ("13-19 0-12", "--age-groups 13-19 0-12: '13-19' and '0-12' are not in ascending order"),
            ("0-12 19-13", "--age-groups 0-12 19-13: '19-13' ends before it begins"),
            ("0-12 teens", "--age-groups 0-12 teens: 'teens' is no age group; expected whole years such as 13-19, or"),
            ("0-12 13.5+", "'13.5+' is no age group"),
            ("0-12 13-²0", "'13-²0' is no age group"),
            ("0-12 -5", "'-5' is no age group"),
        ],
    )
    def test_groups_that_make_no_sense(self, names, message):
        with pytest.raises(UserError, match=re.escape(message)):
            Classes.of_ages(tuple(names.split()))

    @pytest.mark.parametrize("name", ["", " a", "a\tb", "x" * 41, "a\u202eb"])
    def test_names_that_no_class_can_have(self, name):
        with pytest.raises(UserError, match="cannot name a group; expected 1 to 40 characters"):
            check_names(("young", name))


class TestDrawnFolds:
    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=5, max_size=40),
        st.integers(0, 99),
        st.randoms(use_true_random=False),
    )
    def test_people_are_whole_and_sizes_alike(self, people, seed, random):
        """people: the classes of each one's faces."""
        faces = [(f"person {number}", label) for number, labels in enumerate(people) for label in labels]
        folds = draw_folds(*zip(*faces, strict=True), seed)
        fold_of = dict(zip([name for name, _ in faces], folds, strict=True))
        assert [fold_of[name] for name, _ in faces] == folds.tolist()
        sizes = np.bincount(folds, minlength=5)
        assert len(sizes) == 5
        assert sizes.min() > 0
        assert sizes.max() - sizes.min() <= 2 * max(map(len, people))
        random.shuffle(faces)
        again = draw_folds(*zip(*faces, strict=True), seed)
        assert dict(zip([name for name, _ in faces], again, strict=True)) == fold_of

    def test_classes_are_balanced(self):
        """Ten people of each of two classes and five of a rare one, each with one face: five in each fold, alike."""
        labels = [0, 1] * 10 + [2] * 5
        people = [f"{number * 7919 % 1000}" for number in range(25)]
        for seed in range(20):
            folds = draw_folds(people, labels, seed)
            counts = np.array([np.bincount(np.array(labels)[folds == fold], minlength=3) for fold in range(5)])
            assert counts[:, :2].min() >= 1
            assert counts.max() <= 3
            assert counts.sum(axis=1).tolist() == [5] * 5

    def test_two_classes_are_dealt_evenly(self):
        """Five people of each: the first five fill five folds, and each other one finds folds without its class."""
        for seed in range(20):
            folds = draw_folds(list("abcdefghij"), [0] * 5 + [1] * 5, seed)
            assert sorted(folds[:5]) == sorted(folds[5:]) == [0, 1, 2, 3, 4]

    def test_the_seed_decides(self):
        people, labels = [f"{number}" for number in range(100)], [0, 1] * 50
        assert len({tuple(draw_folds(people, labels, seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize(("name", "noted"), [("NA", True), ("unknown", True), ("007", False)])
def test_a_name_that_means_nobody_gets_a_note(folder, name, noted):
    """And any name that has a tenth of the faces."""
    people = [name if k % 3 == 0 else f"p{k}" for k in range(48)]
    rows = "path,age,person\n" + "".join(f"{k}.jpg,{k % 4 * 12},{person}\n" for k, person in enumerate(people))
    assert f"the person '{name}' has 16 of 48 faces" in str(select_faces(write(folder, rows), "strict", THREE, 0))
    few = str(select_faces(write(folder, rows.replace(f",{name}\n", ",\n", 14)), "strict", THREE, 0))
    assert (f"the person '{name}' has 2 of 48 faces" in few) is noted


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            "Path;AGE\na/0.jpg;12,5\na/1.jpg;60\n",
            ("the column 'age' has decimal commas", "the columns are separated by semicolons"),
        ),
        ("path\tage\na/0.jpg\t12.5\na/1.jpg\t60\n", ("the columns are separated by tabs",)),
        ('\n"path", age\na/0.jpg,"12.5"\na/1.jpg,60\n', ()),
    ],
)
def test_separators_decimal_commas_and_capitals(tmp_path, text, notes):
    report = select_faces(write(tmp_path, fold_column(text)), "strict", ("0-12", "13-39", "60+"), 0)
    assert report.notes == notes
    assert report.faces.table.age.tolist() == [12.5, 60]
    assert report.faces.table.label.tolist() == [0, 2]


def fold_column(text):
    """The same rows with folds 0 and 1."""
    header, *rows = text.strip("\n").split("\n")
    separator = next(s for s in ";\t," if s in header)
    return "\n".join([header + separator + "fold", *(f"{row}{separator}{k}" for k, row in enumerate(rows))]) + "\n"


def test_a_range_of_ages_within_a_class(tmp_path):
    text = "path,age,fold\na.jpg,13-20,0\nb.jpg,60-70,1\nc.jpg,50-55,1\n"
    with pytest.raises(UserError, match="line 4: the age '50-55' lies in none of the classes 0-12, 13-39, 60"):
        select_faces(write(tmp_path, text), "strict", ("0-12", "13-39", "60+"), 0)
    report = select_faces(write(tmp_path, text.replace("50-55", "5")), "strict", ("0-12", "13-39", "60+"), 0)
    assert report.faces.table.label.tolist() == [1, 2, 0]
    assert report.faces.table.age.isna().tolist() == [True, True, False]


@pytest.mark.parametrize("other", ["Rene\u0301", "Ren\u00e9\u200b", "  Ren\u00e9 "])
def test_names_that_look_alike_are_one_person(tmp_path, other):
    text = f"path,age,person,fold\na.jpg,5,Ren\u00e9,0\nb.jpg,5,{other},1\nc.jpg,5,x,1\n"
    with pytest.raises(UserError, match="line 3: the person 'Ren\u00e9' is in two folds"):
        select_faces(write(tmp_path, text), "strict", THREE, 0)


def test_names_that_differ_in_capitals_get_a_note(tmp_path):
    text = "path,age,person,fold\na.jpg,5,Anna,0\nb.jpg,5,anna,1\nc.jpg,5,x\u00a0y,1\nd.jpg,5,x y,1\n"
    report = select_faces(write(tmp_path, text), "strict", THREE, 0)
    assert report.notes == ("2 names of people differ in capitals only, such as Anna, anna",)
    assert report.faces.table.person.tolist() == ["Anna", "anna", "x y", "x y"]


def test_a_fixed_split(tmp_path):
    """The test faces are fold 0; val and train are the rest; a face without a split is left out."""
    text = "path,age,split\na.jpg,5,train\nb.jpg,20,val\nc.jpg,60,test\nd.jpg,5,\ne.jpg,30,train\n"
    report = select_faces(write(tmp_path, text), "strict", THREE, 0)
    assert report.faces.table.fold.tolist() == [1, 1, 0, 1]
    assert report.left_out["without a split"] == 1 and report.seed is None
    assert "\n  per split: train: 2  val: 1  test: 1\n" in str(report)
    train, val, test = split_faces(report.faces, 0, 0.0, 0)
    assert [list(part.table.path) for part in (train, val, test)] == [["a.jpg", "e.jpg"], ["b.jpg"], ["c.jpg"]]


def test_labels_are_learned_and_ages_judge(tmp_path):
    """With both columns the label says its class's years only; without, the age is the label."""
    text = "path,age,label,fold\na.jpg,5.5,0-12,0\nb.jpg,70,60+,1\nc.jpg,38,0-12,1\n"
    faces = select_faces(write(tmp_path, text), "strict", THREE, 0).faces
    assert faces.labels.tolist() == [0, 2, 0]
    assert faces.ages.tolist() == [5.5, 70, 38]
    assert faces.intervals.tolist() == [[0, 12], [60, math.inf], [0, 12]]
    faces = select_faces(write(tmp_path, text.replace("label", "note")), "nearest", THREE, 0).faces
    assert faces.intervals.tolist() == [[5, 5], [70, 70], [38, 38]]
    assert faces.fingerprint("") != select_faces(write(tmp_path, text), "strict", THREE, 0).faces.fingerprint("")


def test_odd_folds_get_a_note(tmp_path):
    """Drawn folds: one man has half of the faces; and a class that only he has is in his fold."""
    rows = [f"{k}.jpg,{30 if k % 2 else 70},{'man' if k < 40 else k}" for k in range(80)]
    report = select_faces(write(tmp_path, "path,age,person\n" + "\n".join(rows) + "\n"), "strict", THREE, 0)
    assert "fold 0 holds one person only, 'man', with 40 faces" in report.notes
