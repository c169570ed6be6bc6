"""Labels: the counts of the real files, the three policies, and every kind of broken file."""

import os
import re

import pytest
from conftest import REAL_LABELS, needs_real_labels, row, write_images, write_labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.adience import AGE_GROUPS, LABEL_POLICIES, load_faces, read_rows, select_faces
from utils.errors import UserError

# Counted from Adience's five files, fold by fold.
ROWS_PER_FOLD = [4496, 3745, 3953, 3459, 3834]
LABELLED_ROWS = {
    "strict": [4316, 3101, 3339, 2975, 3693],
    "fixed": [4389, 3124, 3339, 3080, 3698],
    "nearest": [4444, 3708, 3398, 3412, 3772],
}
DISTINCT = {"strict": 17321, "fixed": 17523, "nearest": 18622}
NEAREST_PER_CLASS = [2509, 2140, 2293, 1791, 5589, 2490, 909, 901]
AGE_TEXTS = {
    "(0, 2)": 2519, "(4, 6)": 2163, "(8, 12)": 2132, "(15, 20)": 1655,
    "(25, 32)": 4950, "(38, 43)": 2300, "(48, 53)": 830, "(60, 100)": 875,
    "None": 753, "35": 294, "13": 169, "22": 149, "34": 105, "23": 96, "45": 88, "55": 77, "(27, 32)": 77,
    "(25, 23)": 72, "36": 57, "(38, 42)": 50, "57": 24, "3": 18, "29": 12, "(38, 48)": 6, "58": 5, "2": 3, "32": 3,
    "56": 2, "42": 1, "46": 1, "(8, 23)": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return read_rows(REAL_LABELS)


@needs_real_labels
class TestRealFiles:
    def test_rows(self, rows):
        assert len(rows) == 19487
        assert rows.fold.value_counts().sort_index().tolist() == ROWS_PER_FOLD
        assert rows.age.value_counts().to_dict() == AGE_TEXTS
        assert rows.gender.value_counts().to_dict() == {"f": 9411, "m": 8192, "u": 1100, "": 784}
        assert (rows.yaw == 0).sum() == 13649
        infants = rows[rows.age == "(0, 2)"].fold.value_counts()
        assert (infants[0], infants[1]) == (960, 84)

    @pytest.mark.parametrize(("column", "count"), [("person", 2284), ("album", 168)])
    def test_people_and_albums(self, rows, column, count):
        assert rows[column].nunique() == count
        assert rows.groupby(column).fold.nunique().max() == 1

    @pytest.mark.parametrize("policy", LABEL_POLICIES)
    def test_policy(self, rows, policy):
        report = select_faces(rows, policy)
        assert list(report.rows_per_fold.values()) == LABELLED_ROWS[policy]
        assert len(report.faces) == DISTINCT[policy]
        assert report.repeats == 117

    def test_nearest_per_class(self, rows):
        report = select_faces(rows, "nearest")
        assert list(report.faces_per_class.values()) == NEAREST_PER_CLASS


@pytest.mark.parametrize(
    ("age", "label"),
    # By hand: distance to the nearest end of each interval, the younger class on a tie (3, 7, 35).
    [(0, 0), (2, 0), (3, 0), (4, 1), (7, 1), (8, 2), (12, 2), (13, 2), (14, 3), (22, 3), (23, 4), (29, 4), (34, 4),
     (35, 4), (36, 5), (42, 5), (45, 5), (46, 6), (55, 6), (56, 6), (57, 7), (58, 7), (60, 7), (100, 7), (101, 7)],
)  # fmt: skip
def test_a_single_age_has_the_nearest_class(age, label):
    assert LABEL_POLICIES["nearest"][str(age)] == label


def test_policies_on_odd_ages(tmp_path):
    ages = ["(25, 32)", "(25, 23)", "(38, 48)", "(8, 23)", "35", "None", ""]
    rows = {0: [row("a", f"{k}.jpg", k, age) for k, age in enumerate(ages)]}
    rows[0].append(rows[0][0])  # a repeat
    table = read_rows(write_labels(tmp_path, rows))
    tables = {policy: select_faces(table, policy).faces.table for policy in LABEL_POLICIES}
    labels = {policy: used.label[used.fold == 0].tolist() for policy, used in tables.items()}
    assert labels == {"strict": [4], "fixed": [4, 4, 5, 2], "nearest": [4, 4, 5, 2, 4]}
    report = select_faces(table, "strict")
    assert report.rows == 8 + 4
    assert report.repeats == 1
    assert report.left_out == {"with an odd interval": 3, "with a single age": 1, "without an age": 2}


names = st.text(st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="/\\"), min_size=1)
plain_names = names.filter(lambda name: name not in (".", ".."))
ages = st.sampled_from([*LABEL_POLICIES["nearest"], "None", ""])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(plain_names, plain_names, plain_names, ages), min_size=1, max_size=12), st.booleans())
def test_any_plain_rows_are_read_as_they_are(tmp_path, fields, repeat):
    """Every row comes back with its own fields, used or counted under exactly one reason."""
    faces = {(album, image, f"p{person}"): age for album, image, person, age in fields}
    rows = [row(f"x{album}", image, person, age) for (album, image, person), age in faces.items()]
    table = read_rows(write_labels(tmp_path, {3: rows + rows[:1] * repeat}))
    read = table[table.fold == 3]
    expected = [fields[:4] for fields in rows + rows[:1] * repeat]
    assert read[["album", "image", "person", "age"]].to_numpy().tolist() == expected
    for policy, labels in LABEL_POLICIES.items():
        expected = [labels[age] for age in faces.values() if age in labels]
        if not expected:
            with pytest.raises(UserError, match="fold 3 has no face"):
                select_faces(table, policy)
            continue
        report = select_faces(table, policy)
        used = report.faces.table
        assert used.label[used.fold == 3].tolist() == expected
        assert report.repeats == repeat
        assert len(used) + report.repeats + sum(report.left_out.values()) == report.rows == len(table)


def test_table_and_report(small_faces):
    faces, report = load_faces(*small_faces)
    assert len(faces) == 40
    assert faces.classes.names == ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")
    first = faces.table.iloc[0]
    assert first.path == "album0/landmark_aligned_face.0.0.jpg"
    assert (first.label, first.fold, first.person, first.album, first.gender) == (0, 0, "0", "album0", "f")
    assert (first.yaw, first.score, first.file, first.line) == (0, 90, "fold_0_data.txt", 2)
    assert faces.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7] * 5
    assert "40 rows read, 40 faces used" in str(report)
    assert "left out: nothing" in str(report)
    assert report.faces_per_class == dict.fromkeys(AGE_GROUPS, 5)


def test_the_other_download_is_found_by_itself(tmp_path):
    labels = write_labels(tmp_path / "labels", {})
    images = write_images(tmp_path / "faces", {}, prefix="coarse_tilt_aligned_face")
    faces, _ = load_faces(labels, images)
    assert faces.table.path[0] == "album0/coarse_tilt_aligned_face.100.a.jpg"


def test_missing_images_are_counted_and_named(small_faces):
    labels, images = small_faces
    for name in ("landmark_aligned_face.1.1.jpg", "landmark_aligned_face.2.2.jpg"):
        (images / "album0" / name).unlink()
    with pytest.raises(
        UserError, match=r"fold_0_data.txt, line 3: .*face\.1\.1\.jpg' is not there .*; 2 of 40 images are missing"
    ):
        load_faces(labels, images)
    faces, report = load_faces(labels, images, allow_missing=True)
    assert len(faces) == 38
    assert faces.table.index.tolist() == list(range(38))
    assert report.missing == 2
    assert "2 missing images" in str(report)
    assert report.faces_per_fold[0] == 6


def broken(fields):
    return {2: [fields]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (broken(row("a", "a.jpg", 1, age="(1, 99)")), r"fold_2_data.txt, line 2: unknown age label '\(1, 99\)'"),
        (broken(row("a", "a.jpg", 1, age="121")), "unknown age label '121'"),
        (broken(row("a", "a.jpg", 1)[:-1]), "fold_2_data.txt, line 2: 11 fields instead of the header's 12"),
        (broken([*row("a", "a.jpg", 1), "more"]), "line 2: 13 fields instead of the header's 12"),
        (broken(row("..", "a.jpg", 1)), r"line 2: user_id '\.\.' is not a plain file name"),
        (broken(row("a", "../a.jpg", 1)), r"line 2: original_image '\.\./a\.jpg' is not a plain file name"),
        (broken(row("/etc", "a.jpg", 1)), "user_id '/etc' is not a plain file name"),
        (broken(row("a", "a.jpg", "")), "face_id '' is not a plain file name"),
        (broken(row("a", "a\x1b.jpg", 1)), r"line 2: control character '\\x1b'"),
        (broken(row("a", "a\x9b.jpg", 1)), r"line 2: control character '\\x9b'"),
        (broken(row("a", "a\x85.jpg", 1)), r"line 2: control character '\\x85'"),
        (broken(row("a", "a\u2028.jpg", 1)), r"line 2: control character '\\u2028'"),
        (broken(row("a", "a\u2029.jpg", 1)), r"line 2: control character '\\u2029'"),
        (broken(row("a", "a\x7f.jpg", 1)), r"line 2: control character '\\x7f'"),
        (broken(row("a", "a.jpg\0", 1)), r"line 2: control character '\\x00'"),
        ({2: [row("a", "a.jpg", 1), row("a", "a.jpg", 1, "(0, 2)")]}, "line 3: face 1 of a/a.jpg is listed with"),
        ({2: [row("a", "a.jpg", 1)], 3: [row("a", "a.jpg", 1)]}, "or in another fold too"),
        (
            {2: [row("a", "a.jpg", 1)], 3: [row("b", "b.jpg", 1)]},
            "fold_3_data.txt, line 2: the person '1' is in two folds",
        ),
        (
            {2: [row("a", "a.jpg", 1)], 3: [row("a", "b.jpg", 2)]},
            "fold_3_data.txt, line 2: the album 'a' is in two folds",
        ),
        (
            {2: [row("a", "a.jpg", 1)], 3: [row("a", "b.jpg", 2, "None")]},
            "fold_3_data.txt, line 2: the album 'a' is in two folds",
        ),
        ({2: [row("a", "a.jpg", 1, "None")]}, "fold 2 has no face with a label under the policy strict"),
        ({2: []}, "fold 2 has no face"),
    ],
)
def test_broken_rows(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        select_faces(read_rows(write_labels(tmp_path, rows)), "strict")


@pytest.mark.parametrize(("ages", "policy"), [(["35"] * 40, "fixed"), (["None", ""], "nearest"), ([], "strict")])
def test_a_fold_without_labels_is_an_error(tmp_path, ages, policy):
    rows = {3: [row("a", f"{k}.jpg", k, age) for k, age in enumerate(ages)]}
    expected = f"fold 3 has no face with a label under the policy {policy}: fold_3_data.txt lists {len(ages)}; --label-"
    with pytest.raises(UserError, match=re.escape(expected)):
        select_faces(read_rows(write_labels(tmp_path, rows)), policy)


def test_a_fold_without_images_is_an_error(small_faces):
    labels, images = small_faces
    for path in (images / "album3").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"fold 3 has no face with an image under .*album3/landmark_aligned_face.300.0"):
        load_faces(labels, images, allow_missing=True)


def test_a_missing_label_folder_or_file(tmp_path):
    with pytest.raises(UserError, match=r"the label directory '.*nowhere' does not exist.*talhassner"):
        read_rows(tmp_path / "nowhere")
    (write_labels(tmp_path, {}) / "fold_3_data.txt").unlink()
    with pytest.raises(UserError, match=r"fold_3_data.txt' is missing"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (lambda path: path.write_text("user\tage\n"), r"fold_3_data.txt: the header is 'user\\tage', not Adience's"),
        (lambda path: path.write_bytes(b""), r"fold_3_data.txt: the header is '', not Adience's"),
        (lambda path: path.write_bytes(b"\xff\xff"), r"fold_3_data.txt' cannot be read as UTF-8"),
        (os.mkfifo, r"^'.*fold_3_data\.txt' is a named pipe; expected a regular file$"),
        (lambda path: path.symlink_to("/dev/zero"), r"^'.*fold_3_data\.txt' is a device; expected a regular file$"),
        (os.mkdir, r"^'.*fold_3_data\.txt' is a folder; expected a regular file$"),
        # It takes no space on the disk.
        (lambda path: path.touch() or os.truncate(path, 65 * 2**20), r"\.txt' has 65 MiB; at most 64 are read$"),
    ],
)
def test_something_else_in_the_place_of_a_label_file(tmp_path, replace, message):
    path = write_labels(tmp_path, {}) / "fold_3_data.txt"
    path.unlink()
    replace(path)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path)


def test_a_link_to_a_label_file_is_followed(tmp_path):
    labels = write_labels(tmp_path / "labels", {})
    (labels / "fold_3_data.txt").rename(tmp_path / "elsewhere.txt")
    (labels / "fold_3_data.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert len(read_rows(labels)) == 5


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_in_a_label_file_are_read_or_refused(tmp_path, noise, position):
    """The only exception is a UserError of one line that names the file."""
    labels = write_labels(tmp_path, {})
    path = labels / "fold_3_data.txt"
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + noise + whole[position:])
    try:
        select_faces(read_rows(labels), "nearest")
    except UserError as error:
        assert "fold" in str(error)
        assert "\n" not in str(error)


def test_wrong_image_folder(small_faces, tmp_path):
    labels, images = small_faces
    with pytest.raises(UserError, match=r"the image directory '.*nowhere' does not exist"):
        load_faces(labels, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no 'landmark_aligned_face.*did you mean '.*aligned'\?"):
        load_faces(labels, images.parent)


def test_line_numbers_count_blank_lines(tmp_path):
    labels = write_labels(tmp_path, {})
    path = labels / "fold_1_data.txt"
    start = path.read_text() + "\n\n"
    path.write_text(start + "\t".join(row("a", "a.jpg", 1, "old")) + "\n")
    with pytest.raises(UserError, match=r"fold_1_data.txt, line 5: unknown age label 'old'"):
        read_rows(labels)
    path.write_text(start + "\t".join(row("a", "a.jpg", 1)) + "\n")
    rows = read_rows(labels)
    assert rows[rows.file == "fold_1_data.txt"].line.tolist() == [2, 5]
