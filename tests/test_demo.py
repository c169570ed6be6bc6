"""Demo faces: Adience's layout with its oddities, the same for the same seed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from data.adience import load_faces, read_rows
from data.demo import make_demo_faces
from utils.errors import UserError


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_layout_and_oddities(tmp_path):
    make_demo_faces(tmp_path / "demo", people_per_class=1, images_per_person=2)
    rows = read_rows(tmp_path / "demo")
    assert len(rows) == 5 * (8 * 2 + 1)
    assert {"None", "35", "(38, 42)"} <= set(rows.age)
    faces, report = load_faces(tmp_path / "demo", tmp_path / "demo" / "aligned")
    assert report.repeats == 5
    assert faces.table.groupby("person").fold.nunique().max() == 1
    assert faces.table.groupby("album").fold.nunique().max() == 1
    assert set(faces.labels) == set(range(8))


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
    with pytest.raises(UserError, match=r"mine' exists and does not hold the demo faces of this version; move it away"):
        make_demo_faces(tmp_path / "mine", 1, 1)
    assert content(tmp_path / "mine") == {Path("precious.txt"): b"keep"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "[" * 200_000], ids=lambda text: text[:15])
def test_a_folder_with_another_recipe_is_kept(tmp_path, text):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.json").write_text(text)
    (tmp_path / "demo" / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match=r"/demo(/demo\.json)?' (exists and does not hold the demo faces|is damaged: )"):
        make_demo_faces(tmp_path / "demo", 1, 1)
    assert content(tmp_path / "demo") == {Path("demo.json"): text.encode(), Path("precious.txt"): b"keep"}


def test_a_file_or_a_pipe_in_the_place_of_the_folder_is_kept(tmp_path):
    (tmp_path / "demo").write_text("keep")
    with pytest.raises(UserError, match="/demo' exists and does not hold the demo faces"):
        make_demo_faces(tmp_path / "demo", 1, 1)
    assert (tmp_path / "demo").read_text() == "keep"
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / "demo.json")
    with pytest.raises(UserError, match="/other' exists and does not hold the demo faces"):
        make_demo_faces(tmp_path / "other", 1, 1)
    (tmp_path / ".third.lock").symlink_to(tmp_path / "demo")
    with pytest.raises(UserError, match=r"\.third\.lock' is no lock file"):
        make_demo_faces(tmp_path / "third", 1, 1)
    assert (tmp_path / "demo").read_text() == "keep"


def test_an_unfinished_folder_of_someone_else_is_kept(tmp_path):
    (tmp_path / ".demo.unfinished").mkdir()
    (tmp_path / ".demo.unfinished" / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match=r"\.demo\.unfinished' exists and was not made by --demo"):
        make_demo_faces(tmp_path / "demo", 1, 1)
    assert (tmp_path / ".demo.unfinished" / "precious.txt").read_text() == "keep"


def test_another_recipe_is_refused_and_changes_nothing(tmp_path):
    make_demo_faces(tmp_path / "demo", 1, 1)
    before = content(tmp_path / "demo")
    for recipe in ((1, 1, 1), (1, 2, 0), (2, 1, 0)):
        with pytest.raises(UserError, match="/demo' exists and does not hold the demo faces of this version; move it"):
            make_demo_faces(tmp_path / "demo", *recipe)
    assert content(tmp_path / "demo") == before


DRAW = """
import sys
import data.demo
draw_fold = data.demo.draw_fold
def announce(*arguments):
    print("drawing", flush=True)
    draw_fold(*arguments)
data.demo.draw_fold = announce
sys.stdin.readline()
data.demo.make_demo_faces(sys.argv[1], 1, 2)
"""


def test_two_demos_at_once_draw_once(tmp_path):
    call = [sys.executable, "-c", DRAW, str(tmp_path / "demo")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(call, cwd=ROOT, **pipes) for _ in range(2)]
    for process in both:  # both have imported and wait for this line
        process.stdin.write("start\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(out for out, _ in outputs) == ["", "drawing\n" * 5]
    make_demo_faces(tmp_path / "alone", 1, 2)
    assert content(tmp_path / "demo") == content(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".alone.lock", ".demo.lock", "alone", "demo"]
