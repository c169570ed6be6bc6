"""Demo faces: Adience's layout with its oddities, the same for the same seed."""

import pytest

from data import DataError
from data.adience import load_faces, read_rows
from data.demo import make_demo_faces


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_layout_and_oddities(tmp_path):
    make_demo_faces(tmp_path / "demo", people_per_group=1, images_per_person=2)
    rows = read_rows(tmp_path / "demo")
    assert len(rows) == 5 * (8 * 2 + 1)
    assert {"None", "35", "(38, 42)"} <= set(rows.age)
    faces, report = load_faces(tmp_path / "demo", tmp_path / "demo" / "aligned")
    assert report.repeats == 5
    assert faces.groupby("subject").fold.nunique().max() == 1
    assert faces.groupby("album").fold.nunique().max() == 1
    assert faces.label.nunique() == 8


def test_the_seed_decides_every_byte(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_demo_faces(tmp_path / name, 1, 1, seed)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a") != content(tmp_path / "c")


def test_made_once_and_nothing_else_is_overwritten(tmp_path):
    folder = tmp_path / "demo"
    make_demo_faces(folder, 1, 1)
    stamp = folder.stat().st_mtime_ns
    make_demo_faces(folder, 1, 1)
    assert folder.stat().st_mtime_ns == stamp
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep")
    with pytest.raises(DataError, match="was not made by --demo"):
        make_demo_faces(tmp_path / "mine", 1, 1)
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep"
