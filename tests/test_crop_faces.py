"""Photographs cut as a model or another data set has its faces framed."""

import pytest
from conftest import call
from PIL import Image
from test_detection import PORTRAIT

from models.checkpoint import PUBLISHED, load_model
from photos.framing import find_framing
from tools import crop_faces


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """`like` holds close crops of a portrait, `photos` a wider picture with it and one without a face."""
    monkeypatch.chdir(tmp_path)
    for name in ("like", "photos/a", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(3):
        PORTRAIT.crop((165, 100, 365, 300)).save(f"like/{number}.png")
    wide = Image.new("RGB", (900, 700), (80, 120, 90))
    wide.paste(PORTRAIT.resize((256, 300)), (500, 300))
    wide.save("photos/a/wide.jpg", quality=95)
    Image.new("RGB", (200, 200), (80, 120, 90)).save("photos/none.png")
    return tmp_path


def test_crops_have_the_framing_of_the_others(folders, capsys):
    assert call(crop_faces, "--image-dir", "photos", "--like", "like", "--output", "out", "--size", 200) == 0
    output = capsys.readouterr().out
    assert "left out: 'photos/none.png' shows no face" in output
    assert output.endswith("wrote 1 faces of 200 pixels to out/\n")
    with Image.open("out/a/wide.png") as crop:
        assert crop.size == (200, 200)
    found, wanted = (find_framing([folders / path])[0] for path in ("out/a/wide.png", "like/0.png"))
    assert found == pytest.approx(wanted, abs=0.1)  # the box of one face differs by so much between sizes


def test_crops_have_the_framing_of_the_published_model(folders):
    assert call(crop_faces, "--image-dir", "photos", "--output", "out", "--size", 200) == 0
    found, _ = find_framing([folders / "out/a/wide.png"])
    points = load_model(PUBLISHED).record["framing"][4:]  # the eyes, the nose and the mouth; heights of boxes vary
    assert found[4:] == pytest.approx(points, abs=0.1)


def test_labels_of_the_crops(folders, capsys):
    (folders / "photos.csv").write_text("path;age;camera\na/wide.jpg;30,5;phone\nnone.png;4;\ngone.jpg;5;\n")
    assert call(crop_faces, "--image-dir", "photos", "--output", "out", "--label-file", "photos.csv") == 0
    assert (folders / "out/faces.csv").read_text() == "path,age,camera\na/wide.png,30.5,phone\n"
    output = capsys.readouterr().out
    assert output.startswith("note: 1 of 3 rows name no photograph below --image-dir that can be read\n")
    assert output.endswith("wrote 1 of their labels to out/faces.csv\n")
    (folders / "photos.csv").write_text("path,age\na/wide.jpg,30\n")
    PORTRAIT.save("photos/other.png")
    assert call(crop_faces, "--image-dir", "photos", "--output", "listed", "--label-file", "photos.csv") == 0
    assert [path.name for path in sorted(folders.glob("listed/**/*.*"))] == ["wide.png", "faces.csv"]


def test_photographs_that_would_be_one_crop(folders, capsys):
    Image.new("RGB", (50, 50)).save("photos/a/wide.png")
    assert call(crop_faces, "--image-dir", "photos", "--output", "out") == 2
    message = "--image-dir 'photos': several photographs would become 'a/wide.png'; rename all but one"
    assert message in capsys.readouterr().err
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--like", "empty"], "no photograph in 'empty'"),
        (
            ["--like", "photos"],
            "--like 'photos': it has no framing to follow; name a folder of faces, or another model",
        ),
        (["--label-file", "other.csv"], "--label-file 'other.csv': none of its photographs is below --image-dir"),
        (["--like", "faces.pt"], "no model file at 'faces.pt'"),
        (["--like", "like", "--output", "like"], "--output 'like': it is there already; name a new folder"),
        (["--like", "like", "--size", "4"], "--size 4: expected a number from 16 to 2048"),
    ],
)
def test_what_cannot_be_cut(arguments, message, folders, capsys):
    Image.new("RGB", (200, 200)).save("photos/a/wide.jpg")
    (folders / "other.csv").write_text("path,age\nwide.jpg,30\n")
    assert call(crop_faces, "--image-dir", "photos", "--output", "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (folders / "out").exists()
