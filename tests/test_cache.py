"""The cache: right pixels, built once, rebuilt where its sources changed, nothing half-written."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import REAL_FACES, ROOT, needs_real_faces
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from data.cache import decode_face, open_cache
from utils.errors import UserError


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)
    return path


def smooth(height, width):
    """A picture with slow gradients, which JPEG keeps nearly as they are."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], axis=-1)


@pytest.fixture
def pictures(tmp_path):
    paths = [f"album/{k}.png" for k in range(6)]
    for k, path in enumerate(paths):
        save(tmp_path / "images" / path, np.full((40, 40, 3), 10 * k))
    return tmp_path / "images", paths, tmp_path / "cache"


def open_small(pictures):
    folder, paths, cache = pictures
    return open_cache(folder, paths, 40, cache, progress=False)


def test_pixels_and_shape(pictures):
    images = open_small(pictures)
    assert images.shape == (6, 3, 40, 40)
    assert images.dtype == np.uint8
    assert [int(image.max()) for image in images] == [0, 10, 20, 30, 40, 50]
    assert not images.flags.writeable


def test_the_number_of_threads_changes_nothing(pictures, tmp_path):
    folder, paths, _ = pictures
    one, four = (open_cache(folder, paths, 33, tmp_path / str(n), workers=n, progress=False) for n in (1, 4))
    assert (one == four).all()


def test_a_wide_picture_is_cut_in_the_middle(tmp_path):
    pixels = np.zeros((40, 120, 3))
    pixels[:, 40:80] = (200, 100, 50)  # the middle third is what remains
    face = decode_face(save(tmp_path / "wide.png", pixels), 40)
    assert face.shape == (3, 40, 40)
    assert (face == np.array([200, 100, 50])[:, None, None]).all()


def test_grey_and_palette_pictures_become_rgb(tmp_path):
    save(tmp_path / "grey.png", np.full((50, 50), 77))
    assert (decode_face(tmp_path / "grey.png", 40) == 77).all()
    Image.new("RGB", (50, 50), (10, 20, 30)).quantize().save(tmp_path / "palette.png")
    assert decode_face(tmp_path / "palette.png", 40)[:, 0, 0].tolist() == [10, 20, 30]


def test_scaled_decoding_agrees_with_torchvision(tmp_path):
    """816 pixels to 100: decoded at a quarter of the size, within 3 of 255 of a full decode and antialiased resize."""
    path = save(tmp_path / "large.jpg", smooth(816, 816), quality=95)
    assert np.abs(decode_face(path, 100).astype(int) - full_decode(path)).max() <= 3


def full_decode(path, size=100):
    """torchvision's antialiased resize of the picture decoded at its full size."""
    with Image.open(path) as image:
        return reference.resize(reference.pil_to_tensor(image), [size, size], antialias=True).numpy()


@needs_real_faces
def test_real_photographs_agree_with_torchvision():
    for path in sorted(REAL_FACES.glob("aligned/*/*.jpg"))[:20]:
        assert np.abs(decode_face(path, 100).astype(int) - full_decode(path)).mean() < 1.0


def test_a_second_opening_decodes_nothing(pictures, monkeypatch):
    first = np.array(open_small(pictures))
    monkeypatch.setattr("data.cache.decode_face", lambda *_: pytest.fail("decoded again"))
    assert (open_small(pictures) == first).all()


def test_a_replaced_picture_rebuilds_the_whole_cache(pictures, monkeypatch):
    folder, paths, _ = pictures
    open_small(pictures)
    save(folder / paths[2], np.full((40, 40, 3), 200))
    decoded = []
    monkeypatch.setattr("data.cache.decode_face", lambda path, size: decoded.append(path) or decode_face(path, size))
    images = open_small(pictures)
    assert sorted(decoded) == [folder / path for path in paths]
    assert [int(image.max()) for image in images] == [0, 10, 200, 30, 40, 50]


def test_a_changed_list_and_another_size_are_other_caches(pictures):
    folder, paths, cache = pictures
    open_small(pictures)
    assert open_cache(folder, paths[:3], 40, cache, progress=False).shape == (3, 3, 40, 40)
    assert open_cache(folder, paths, 50, cache, progress=False).shape == (6, 3, 50, 50)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "zip", "overwritten", "gone", "index of something else"])
def test_a_damaged_cache_is_rebuilt(pictures, damage):
    expected = np.array(open_small(pictures))
    (file,) = pictures[2].glob("faces_*/images.npy")
    content = file.read_bytes()
    if damage == "cut short":
        file.write_bytes(content[:-100])
    elif damage in ("emptied", "zip"):
        file.write_bytes({"emptied": b"", "zip": b"PK\x03\x04"}[damage])
    elif damage == "overwritten":
        file.write_bytes(content[:-100] + b"x" * 100)
    elif damage == "gone":
        file.unlink()
    else:
        (file.parent / "index.json").write_text("[1, 2]")
    assert (open_small(pictures) == expected).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a picture", "is no image"), (b"", "is no image"), ("truncated", "is truncated or damaged")],
)
def test_broken_pictures_are_named_and_nothing_is_left(pictures, content, message):
    folder, paths, cache = pictures
    if content == "truncated":
        whole = save(folder / "whole.jpg", smooth(300, 300)).read_bytes()
        content = whole[: len(whole) // 2]
    (folder / paths[3]).write_bytes(content)
    (folder / paths[4]).write_bytes(content)
    with pytest.raises(UserError, match=rf"{paths[3]}' {message}.*\(and 1 more images\)"):
        open_small(pictures)
    assert [p.name for p in cache.iterdir()] == [".lock"]


def test_a_missing_picture_is_named(pictures):
    (pictures[0] / pictures[1][1]).unlink()
    with pytest.raises(UserError, match=r"cannot read the image '.*1\.png'"):
        open_small(pictures)


def test_a_picture_that_cannot_be_opened_is_not_called_damaged(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.png' cannot be read: "):
        decode_face(tmp_path / "nowhere.png", 40)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_with_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", np.zeros((50, 50, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(UserError, match=r"bomb\.png' is 50x50, more pixels"):
        decode_face(path, 40)


def test_a_cache_folder_that_cannot_be_written_is_an_error(pictures):
    folder, paths, cache = pictures
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write the cache '.*' \(0 MiB\)"):
        open_cache(folder, paths, 40, cache, progress=False)


BUILD_SLOWLY = """
import sys, time
import data.cache
decode = data.cache.decode_face
def slow(path, size):
    print("started", flush=True)
    time.sleep(0.3)
    return decode(path, size)
data.cache.decode_face = slow
data.cache.open_cache(sys.argv[1], sys.argv[3:], 40, sys.argv[2], workers=1, progress=False)
"""


def start_slow_builder(pictures):
    folder, paths, cache = pictures
    call = [sys.executable, "-c", BUILD_SLOWLY, str(folder), str(cache), *paths]
    builder = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert builder.stdout.readline() == "started\n"
    return builder


def test_a_second_process_waits_for_the_first(pictures, monkeypatch):
    builder = start_slow_builder(pictures)
    monkeypatch.setattr("data.cache.decode_face", lambda *_: pytest.fail("two builders at once"))
    assert open_small(pictures).shape == (6, 3, 40, 40)
    assert builder.wait() == 0
    builder.stdout.close()


def test_a_killed_builder_locks_nobody_out(pictures):
    builder = start_slow_builder(pictures)
    builder.kill()
    builder.wait()
    builder.stdout.close()
    assert len(list(pictures[2].glob(".*.unfinished"))) == 1
    assert [int(image.max()) for image in open_small(pictures)] == [0, 10, 20, 30, 40, 50]
    assert not list(pictures[2].glob(".*.unfinished"))
