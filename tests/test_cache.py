"""The cache: right pixels, built once, rebuilt where its sources changed, nothing half-written."""

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys
import warnings
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_FACES, ROOT, needs_real_faces
from PIL import EpsImagePlugin, Image, ImageCms, PngImagePlugin
from torchvision.transforms.v2 import functional as reference

from data import cache as cache_module
from data.cache import open_cache
from data.duplicates import both_signatures
from data.images import decode_face
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
    """The Cache of the pictures at 40 pixels."""
    folder, paths, cache = pictures
    return open_cache(folder, paths, 40, cache)


def colours(pictures):
    """The brightest value of each cached picture."""
    return [int(image.max()) for image in open_small(pictures).images]


def cached_file(pictures, name="images.npy"):
    (path,) = pictures[2].glob(f"faces_*/{name}")
    return path


def test_pixels_and_shape(pictures):
    images = open_small(pictures).images
    assert images.shape == (6, 3, 40, 40)
    assert images.dtype == np.uint8
    assert [int(image.max()) for image in images] == [0, 10, 20, 30, 40, 50]
    assert not images.flags.writeable


def test_the_number_of_threads_changes_nothing(pictures, tmp_path, monkeypatch):
    folder, paths, _ = pictures
    found = []
    for count in (1, 4):
        monkeypatch.setattr("data.images.ThreadPool", functools.partial(ThreadPool, count))
        found.append(open_cache(folder, paths, 33, tmp_path / str(count)).images)
    assert (found[0] == found[1]).all()


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


def test_a_replaced_picture_rebuilds_its_shard(pictures, monkeypatch):
    folder, paths, _ = pictures
    open_small(pictures)
    save(folder / paths[2], np.full((40, 40, 3), 200))
    decoded = []
    monkeypatch.setattr("data.cache.decode_face", lambda path, *rest: decoded.append(path) or decode_face(path, *rest))
    assert colours(pictures) == [0, 10, 200, 30, 40, 50]
    assert sorted(decoded) == [str(folder / path) for path in paths]


def test_a_changed_list_and_another_size_are_other_caches(pictures):
    folder, paths, cache = pictures
    open_small(pictures)
    assert open_cache(folder, paths[:3], 40, cache).images.shape == (3, 3, 40, 40)
    assert open_cache(folder, paths, 50, cache).images.shape == (6, 3, 50, 50)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a picture", "is no image"), (b"", "is no image"), ("truncated", "is truncated or damaged")],
)
def test_broken_pictures_are_named_or_left_out(pictures, content, message):
    folder, paths, cache = pictures
    if content == "truncated":
        whole = save(folder / "whole.jpg", smooth(300, 300)).read_bytes()
        content = whole[: len(whole) // 2]
    (folder / paths[3]).write_bytes(content)
    (folder / paths[4]).write_bytes(content)
    hint = r"\(and 1 more images\); --skip-damaged 2 leaves out as many$"
    with pytest.raises(UserError, match=rf"{paths[3]}' {message}.*{hint}"):
        open_small(pictures)
    with pytest.raises(UserError, match=rf"--skip-damaged 1: 2 images cannot be read, first '.*{paths[3]}' .*; '"):
        open_cache(folder, paths, 40, cache, skip_damaged=1)
    found = open_cache(folder, paths, 40, cache, skip_damaged=2)
    assert list(found.damaged) == [3, 4] and message in found.damaged[3]
    assert [int(image.max()) for image in found.images] == [0, 10, 20, 0, 0, 50]
    save(folder / paths[3], np.full((40, 40, 3), 70))
    save(folder / paths[4], np.full((40, 40, 3), 80))
    assert colours(pictures) == [0, 10, 20, 70, 80, 50]


def test_an_image_that_can_be_read_again_is_read(pictures, monkeypatch):
    """A network drive may fail for a moment."""
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "decode_face", raise_error)
        assert len(open_cache(*pictures[:2], 40, pictures[2], skip_damaged=6).damaged) == 6
    assert colours(pictures) == [0, 10, 20, 30, 40, 50]


def raise_error(*_):
    raise UserError("the network is down")


def bomb(path, side):
    """A small file of many pixels."""
    Image.new("1", (side, side)).save(path)
    assert path.stat().st_size < 2**17


NO_IMAGE = r"^'.*a\.png' is no image of the formats JPEG, PNG, WEBP$"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"^cannot read '.*a\.png': No such file or directory$"),
        (os.mkfifo, r"a\.png' is a named pipe; expected a regular file$"),
        (lambda path: bomb(path, 10_000), r"a\.png' is 10000x10000, more than 90 million pixels; save it smaller"),
        (lambda path: os.truncate(save(path, smooth(50, 50)), 65 * 2**20), r"a\.png' has 65 MiB; at most 64 are read$"),
        *((lambda path, k=kind: save(path, smooth(50, 50), format=k), NO_IMAGE)
          for kind in ("GIF", "BMP", "TIFF", "PPM", "PDF", "ICO")),
    ],
)  # fmt: skip
def test_files_that_are_refused_whatever_their_name(tmp_path, make, message):
    make(tmp_path / "a.png")
    with pytest.raises(UserError, match=message):
        decode_face(tmp_path / "a.png", 40)


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (lambda path: None, r"cannot read the image '.*1\.png'"),
        (os.mkfifo, r"1\.png' is no image: it is not a regular file$"),
    ],
)
def test_a_missing_picture_is_named(pictures, replace, message):
    folder, paths, cache = pictures
    (folder / paths[1]).unlink()
    replace(folder / paths[1])
    with pytest.raises(UserError, match=message):
        open_small(pictures)
    assert not cache.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_formats_of_photographs_are_read_whatever_their_name(tmp_path, kind):
    face = decode_face(save(tmp_path / "a.dat", np.full((50, 50, 3), 80), format=kind), 40)
    assert np.abs(face.astype(int) - 80).max() <= 2


EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow renders EPS with Ghostscript; here a script of its name tells whether it was started."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "a.jpg").write_text(EPS)
    with pytest.raises(UserError, match=r"a\.jpg' is no image of the formats JPEG, PNG, WEBP$"):
        decode_face(tmp_path / "a.jpg", 40)
    assert not (tmp_path / "started").exists()
    with Image.open(tmp_path / "a.jpg") as image, contextlib.suppress(OSError):
        image.load()  # without the restriction
    assert (tmp_path / "started").exists()


def test_greys_of_16_bits_are_scaled(tmp_path):
    greys = np.repeat(np.array([0, 255, 256, 32768, 51400, 65535], np.uint16), 8)[None].repeat(48, axis=0)
    Image.fromarray(greys).save(tmp_path / "grey.png")
    face = decode_face(tmp_path / "grey.png", 48)
    # The high byte of each.
    assert face[:, 20, ::8].tolist() == [[0, 0, 1, 128, 200, 255]] * 3


# What a camera writes for the way in which it was held, and where the top left corner of its picture is shown
# (Exif 2.3, tag 274): 1 is upright, 2 mirrored, 3 upside down, 6 and 8 turned to one side, and so on.
CORNERS = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}


@pytest.mark.parametrize(("orientation", "corner"), CORNERS.items())
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_turned_camera_is_turned_back(tmp_path, orientation, corner, kind):
    pixels = np.zeros((48, 48))
    pixels[:24, :24] = 255
    exif = Image.Exif()
    exif[274] = orientation
    face = decode_face(save(tmp_path / "a.jpg", pixels, format=kind, exif=exif.tobytes()), 48)[0]
    quarters = [[face[y : y + 16, x : x + 16].mean() > 128 for x in (4, 28)] for y in (4, 28)]
    assert np.argwhere(quarters).tolist() == [list(corner)]


def test_an_oblong_picture_is_cut_after_it_is_turned(tmp_path):
    pixels = np.zeros((40, 120, 3))
    pixels[:, 40:80] = (200, 100, 50)
    exif = Image.Exif()
    exif[274] = 6
    face = decode_face(save(tmp_path / "wide.png", pixels, exif=exif.tobytes()), 40)
    assert (face == np.array([200, 100, 50])[:, None, None]).all()


def test_a_palette_with_transparency_prints_nothing(tmp_path):
    image = Image.new("P", (50, 50), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=b"\xff\x80")
    with warnings.catch_warnings(action="error"):
        assert decode_face(tmp_path / "a.png", 40)[:, 7, 7].tolist() == [10, 20, 30]
        with Image.open(tmp_path / "a.png") as image, pytest.raises(UserWarning, match="Transparency"):
            image.convert("RGB")  # what would print it


def everything(pictures):
    """All that a cache says, in plain values."""
    cache = open_small(pictures)
    return cache.images[:].tobytes(), cache.sha256, cache.pictures.signatures.tolist(), cache.pictures.pairs.tolist()


class TestTheCacheIsWhatWasWritten:
    """A cache is used where its sources and its bytes are those of its making; otherwise it is built anew."""

    @pytest.fixture
    def pictures(self, pictures):
        """Pictures of noise, of which the second and the fifth are alike."""
        noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3))
        noise[4] = noise[1]
        for path, pixels in zip(pictures[1], noise, strict=True):
            save(pictures[0] / path, pixels)
        return pictures

    def test_what_it_holds(self, pictures):
        images, sha256, signatures, pairs = everything(pictures)
        file, index = cached_file(pictures), cached_file(pictures, "index.npz")
        content, status = index.read_bytes(), file.stat()
        assert {path.name for path in file.parent.iterdir()} == {"images.npy", "index.npz"}
        assert content[-32:] == hashlib.sha256(content[:-32]).digest()
        assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        recorded = cache_module.read_index(index)["status"].tolist()
        assert recorded == list(map(str, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)))
        assert pairs == [[1, 4]]
        assert signatures == both_signatures(np.frombuffer(images, np.uint8).reshape(6, 3, 40, 40)).tolist()

    def test_a_later_opening_reads_nothing(self, pictures, monkeypatch):
        first = everything(pictures)
        for name in ("decode_face", "check_images", "write_index"):
            monkeypatch.setattr(cache_module, name, lambda *_, name=name: pytest.fail(name))
        assert everything(pictures) == first

    @pytest.mark.parametrize("change", ["times", "copied"])
    def test_other_times_or_another_file_are_read_once(self, pictures, monkeypatch, change):
        first, file = everything(pictures), cached_file(pictures)
        if change == "times":
            os.utime(file, (1e9, 1e9))
        else:
            shutil.copy2(file, file.with_name("copy"))
            file.with_name("copy").replace(file)
        read, calls = cache_module.check_images, []
        monkeypatch.setattr(cache_module, "check_images", lambda folder: calls.append(folder) or read(folder))
        monkeypatch.setattr(cache_module, "decode_face", lambda *_: pytest.fail("decoded again"))
        assert everything(pictures) == everything(pictures) == first
        assert len(calls) == 1

    @pytest.mark.parametrize("name", ["images.npy", "index.npz"])
    @pytest.mark.parametrize("damage", ["bits", "cut short", b"", b"PK\x03\x04", b"\x93NUMPY", None])
    def test_damage(self, pictures, monkeypatch, name, damage):
        """Of one file, wherever it is: nothing follows from it."""
        first, path = everything(pictures), cached_file(pictures, name)
        monkeypatch.setattr(cache_module, "SETTLED", 0.02)
        content, status = path.read_bytes(), path.stat()
        for position in range(0, len(content), max(1, len(content) // 20)) if damage == "bits" else [0]:
            if damage is None:
                path.unlink()
            elif damage == "bits":
                path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            else:
                path.write_bytes(content[:-100] if damage == "cut short" else damage)
            if damage:
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert everything(pictures) == first
            assert name == "index.npz" or path.read_bytes() == content

    @pytest.mark.parametrize("how", ["in place", "by another file"])
    def test_a_picture_with_the_size_and_time_of_the_old_one(self, pictures, how):
        """As `cp -p` and `rsync -t` leave it."""
        folder, paths, _ = pictures
        path = folder / paths[2]
        old = path.stat()
        open_small(pictures)
        new = save(folder / "new.png", np.full((40, 40, 3), 77)).read_bytes()
        padded = new + bytes(old.st_size - len(new)) if len(new) < old.st_size else new
        path.write_bytes(padded) if how == "in place" else (folder / "new.png").replace(path)
        os.truncate(path, old.st_size)
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
        assert colours(pictures)[2] == 77

    @pytest.mark.parametrize("name", ["index.npz", "images.npy"])
    @pytest.mark.parametrize("kind", ["pipe", "link to /dev/zero", "dangling link", "link to a file"])
    def test_something_else_in_the_place_of_its_files(self, pictures, tmp_path, name, kind):
        first, path = everything(pictures), cached_file(pictures, name)
        path.unlink()
        (tmp_path / "mine.txt").write_text("keep")
        targets = {"link to /dev/zero": "/dev/zero", "dangling link": "/nowhere"}
        os.mkfifo(path) if kind == "pipe" else path.symlink_to(targets.get(kind, tmp_path / "mine.txt"))
        assert everything(pictures) == first
        assert stat.S_ISREG(path.lstat().st_mode)
        assert (tmp_path / "mine.txt").read_text() == "keep"

    @pytest.mark.parametrize("name", ["images.npy", "index.npz"])
    def test_an_array_of_objects_runs_nothing(self, pictures, name):
        """NumPy's files may hold pickles, which run code; with a right checksum, too, they are not opened."""
        first, folder = everything(pictures), cached_file(pictures).parent
        trap = np.array([Trap(pictures[2] / "sprung")], dtype=object)
        index = cache_module.read_index(folder / "index.npz")
        if name == "images.npy":
            np.save(folder / name, trap, allow_pickle=True)
            index |= cache_module.check_images(folder)
        else:
            index["signatures"] = trap
        cache_module.write_index(folder / "index.npz", index)
        assert everything(pictures) == first
        assert not (pictures[2] / "sprung").exists()


class Trap:
    """A pickle that would create a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestNothingForeignIsRemoved:
    def test_a_file_in_a_damaged_cache(self, pictures):
        open_small(pictures)
        file = cached_file(pictures)
        file.write_bytes(b"damaged")
        (file.parent / "notes.txt").write_text("keep")
        with pytest.raises(UserError, match=r"' holds 'notes\.txt', which is no part of a cache; move it away$"):
            open_small(pictures)
        assert (file.parent / "notes.txt").read_text() == "keep"
        assert file.read_bytes() == b"damaged"
        assert not list(pictures[2].glob(".*.unfinished"))

    def test_a_file_in_a_sound_cache_disturbs_nobody(self, pictures):
        expected = np.array(open_small(pictures).images)
        file = cached_file(pictures)
        (file.parent / "notes.txt").write_text("keep")
        assert (open_small(pictures).images == expected).all()
        assert (file.parent / "notes.txt").read_text() == "keep"

    def test_a_folder_that_looks_like_an_unfinished_shard(self, pictures):
        open_small(pictures)
        folder = cached_file(pictures).parent
        mine = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(folder)
        mine.mkdir()
        (mine / "notes.txt").write_text("keep")
        with pytest.raises(UserError, match=r"' holds 'notes\.txt', which is no part of a cache; move it away$"):
            open_small(pictures)
        assert (mine / "notes.txt").read_text() == "keep"

    @pytest.mark.parametrize("kind", ["file", "link to a folder"])
    def test_something_else_with_the_name_of_the_cache(self, pictures, tmp_path, kind):
        open_small(pictures)
        (folder,) = pictures[2].glob("faces_*")
        shutil.rmtree(folder)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "images.npy").write_text("keep")
        if kind == "file":
            folder.write_text("keep")
        else:
            folder.symlink_to(tmp_path / "mine")
        with pytest.raises(UserError, match="cannot write the cache"):
            open_small(pictures)
        assert (tmp_path / "mine" / "images.npy").read_text() == "keep"
        assert folder.read_text() == "keep" if kind == "file" else folder.is_symlink()

    def test_something_else_with_the_name_of_the_lock(self, pictures):
        open_small(pictures)
        lock = cached_file(pictures, "").with_name(f".{cached_file(pictures, '').name}.lock")
        shutil.rmtree(cached_file(pictures, ""))
        lock.write_text("keep")
        with pytest.raises(UserError, match=r"\.lock' is no lock file, which is an empty regular one; move it away$"):
            open_small(pictures)
        assert lock.read_text() == "keep"


def test_a_cache_that_is_larger_than_the_disk_is_refused_before_anything_is_decoded(pictures, monkeypatch):
    """Three times 6 * (10^7)^2 bytes."""
    folder, paths, cache = pictures
    monkeypatch.setattr("data.cache.decode_face", lambda *_: pytest.fail("decoded"))
    message = r"^cannot write the cache in '.*' \(1,716,613,770 MiB\): only [0-9,]+ MiB are free there$"
    with pytest.raises(UserError, match=message):
        open_cache(folder, paths, 10_000_000, cache)
    assert not list(cache.iterdir())


def test_a_cache_folder_that_cannot_be_written_is_an_error(pictures):
    folder, paths, cache = pictures
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write the cache in '.*' \(0 MiB\)"):
        open_cache(folder, paths, 40, cache)


BUILD_SLOWLY = """
import sys, time
import data.cache
decode = data.cache.decode_face
def slow(*face):
    print("started", flush=True)
    time.sleep(0.3)
    return decode(*face)
data.cache.decode_face = slow
data.cache.open_cache(sys.argv[1], sys.argv[3:], 40, sys.argv[2])
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
    assert open_small(pictures).images.shape == (6, 3, 40, 40)
    assert builder.wait() == 0
    builder.stdout.close()


def test_a_killed_builder_locks_nobody_out(pictures):
    builder = start_slow_builder(pictures)
    builder.kill()
    builder.wait()
    builder.stdout.close()
    assert len(list(pictures[2].glob(".*.unfinished"))) == 1
    assert colours(pictures) == [0, 10, 20, 30, 40, 50]
    assert not list(pictures[2].glob(".*.unfinished"))


class TestShards:
    """Shards of four, so that the six pictures have two; other processes build them, too."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(cache_module, "SHARD", 4)

    @pytest.fixture
    def decoded(self, monkeypatch):
        """The names of the files that are decoded."""
        names = []
        record = lambda path, *rest: names.append(os.path.basename(path)) or decode_face(path, *rest)  # noqa: E731
        monkeypatch.setattr(cache_module, "decode_face", record)
        return names

    def test_rows_are_read_as_from_one_array(self, pictures):
        images = open_small(pictures).images
        whole = np.concatenate(images.arrays)
        assert [len(array) for array in images.arrays] == [4, 2]
        assert (images.shape, images.dtype, images.nbytes, len(images)) == (whole.shape, whole.dtype, whole.nbytes, 6)
        rows = np.array([5, 0, 3, 4, 4])
        assert (images[rows] == whole[rows]).all()
        assert (images[2:5] == whole[2:5]).all() and (images[5] == whole[5]).all() and (images[:] == whole).all()
        assert images[rows[:0]].shape == (0, 3, 40, 40)

    def test_signatures_pairs_and_checksum_are_those_of_all(self, pictures):
        noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3))
        noise[5] = noise[1]  # in different shards
        for path, pixels in zip(pictures[1], noise, strict=True):
            save(pictures[0] / path, pixels)
        cache = open_small(pictures)
        assert cache.pictures.pairs.tolist() == [[1, 5]]
        assert (cache.pictures.signatures == both_signatures(cache.images[:])).all()
        files = [Path(array.filename).read_bytes() for array in cache.images.arrays]
        sums = [hashlib.sha256(content).hexdigest() for content in files]
        assert cache.sha256 == hashlib.sha256("".join(sums).encode()).hexdigest()

    def test_only_the_shard_of_a_changed_picture_is_decoded(self, pictures, decoded):
        open_small(pictures)
        decoded.clear()
        save(pictures[0] / pictures[1][5], np.full((40, 40, 3), 200))
        assert colours(pictures) == [0, 10, 20, 30, 40, 200]
        assert sorted(decoded) == ["4.png", "5.png"]

    def test_a_build_that_is_interrupted_goes_on(self, pictures, decoded):
        whole = (pictures[0] / "album/5.png").read_bytes()
        (pictures[0] / "album/5.png").write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"5\.png' is no image"):
            open_small(pictures)
        (pictures[0] / "album/5.png").write_bytes(whole)
        decoded.clear()
        assert colours(pictures) == [0, 10, 20, 30, 40, 50]
        assert sorted(decoded) == ["4.png", "5.png"]

    @pytest.mark.parametrize("how", ["moved", "copied with its times"])
    def test_a_folder_elsewhere_is_not_decoded_again(self, pictures, decoded, how):
        folder, paths, cache = pictures
        first = everything(pictures)
        decoded.clear()
        (shutil.move if how == "moved" else shutil.copytree)(folder, folder.with_name("elsewhere"))
        elsewhere = folder.with_name("elsewhere"), paths, cache
        assert everything(elsewhere) == first and not decoded
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache_module, "digest_of", lambda file: pytest.fail("compared again"))
            assert everything(elsewhere) == first

    def test_another_picture_in_a_copied_folder_is_noticed(self, pictures):
        """With the size and the time of the one that it replaces."""
        folder, paths, cache = pictures
        open_small(pictures)
        shutil.copytree(folder, folder.with_name("elsewhere"))
        path = folder.with_name("elsewhere") / paths[2]
        old = path.stat()
        save(path, np.full((40, 40, 3), 70))
        assert path.stat().st_size == old.st_size
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert colours((folder.with_name("elsewhere"), paths, cache)) == [0, 10, 70, 30, 40, 50]

    def test_two_processes_build_a_shard_each(self, pictures, decoded):
        builder = start_slow_builder(pictures)  # it has begun with the first shard, of all six
        assert colours(pictures) == [0, 10, 20, 30, 40, 50]
        assert builder.wait() == 0
        builder.stdout.close()
        assert sorted(decoded) == [f"{k}.png" for k in range(6)]


def test_a_photograph_of_108_megapixels(tmp_path):
    """It decodes at an eighth of its size."""
    Image.new("RGB", (12_000, 9_000), (200, 100, 50)).save(tmp_path / "a.jpg")
    assert np.abs(decode_face(tmp_path / "a.jpg", 40)[:, 5, 5].astype(int) - (200, 100, 50)).max() <= 2


class TestWhatLiesBesideThePixels:
    """It does not matter: a good photograph is read whatever its metadata hold."""

    @pytest.mark.parametrize("value", [(-1, 0), "six", -3, 77])
    def test_an_orientation_that_is_none(self, tmp_path, value):
        exif = Image.Exif()
        exif[274] = value if isinstance(value, int) and value > 0 else 1
        exif[282] = 72.0
        save(tmp_path / "a.jpg", smooth(60, 60), exif=exif)
        content = bytearray((tmp_path / "a.jpg").read_bytes())
        if not isinstance(value, int) or value < 0:  # an entry of another type: signed rational, text, signed short
            place = content.index(b"\x12\x01\x03\x00") if b"\x12\x01\x03\x00" in content else content.index(b"\x01\x12")
            little = b"\x12\x01\x03\x00" in content
            kind = {tuple: 10, str: 2, int: 8}[type(value)]
            content[place + 2 : place + 4] = kind.to_bytes(2, "little" if little else "big")
        (tmp_path / "a.jpg").write_bytes(content)
        assert np.abs(decode_face(tmp_path / "a.jpg", 40).astype(int) - full_decode(tmp_path / "a.jpg", 40)).max() <= 3

    def test_much_text_in_a_png(self, tmp_path):
        text = PngImagePlugin.PngInfo()
        text.add_text("comment", "x" * (3 << 20), zip=True)
        save(tmp_path / "a.png", np.full((50, 50, 3), 80), pnginfo=text)
        assert (decode_face(tmp_path / "a.png", 40) == 80).all()

    def test_a_wrong_checksum(self, tmp_path):
        """Of an ancillary chunk it does not matter, of the pixels it does."""
        text = PngImagePlugin.PngInfo()
        text.add_text("comment", "some words")
        save(tmp_path / "a.png", smooth(50, 50), pnginfo=text)
        content = (tmp_path / "a.png").read_bytes()
        expected = decode_face(tmp_path / "a.png", 40)
        (tmp_path / "a.png").write_bytes(content.replace(b"some words", b"some Words"))
        assert (decode_face(tmp_path / "a.png", 40) == expected).all()
        place = content.index(b"IHDR") + 4 + 13  # its own checksum
        (tmp_path / "b.png").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"b\.png' is no image"):
            decode_face(tmp_path / "b.png", 40)

    def test_cmyk_with_and_without_the_marker_of_adobe(self, tmp_path):
        """Adobe's are inverted. Red is no cyan, all magenta, all yellow, no black."""
        Image.new("CMYK", (50, 50), (0, 255, 255, 0)).save(tmp_path / "adobe.jpg")
        Image.new("CMYK", (50, 50), (255, 0, 0, 255)).save(tmp_path / "plain.jpg")  # Pillow inverts it
        content = (tmp_path / "plain.jpg").read_bytes()
        start = content.index(b"\xff\xee")
        length = int.from_bytes(content[start + 2 : start + 4], "big")
        (tmp_path / "plain.jpg").write_bytes(content[:start] + content[start + 2 + length :])
        for name in ("adobe.jpg", "plain.jpg"):
            red, green, blue = decode_face(tmp_path / name, 40)[:, 20, 20]
            assert red > 240 and green < 10 and blue < 10, name

    def test_linear_light_is_converted_whatever_its_profile_is_called(self, tmp_path):
        """Half of the light is 188 in sRGB (IEC 61966-2-1, by hand 187.5)."""
        profile = adobe_rgb(gamma=1.0, name=b"a linear sRGB")
        save(tmp_path / "a.png", np.full((50, 50, 3), 128), icc_profile=profile)
        assert decode_face(tmp_path / "a.png", 40)[:, 5, 5].tolist() == [188, 188, 188]

    def test_a_progressive_jpeg_needs_memory_for_all_of_its_pixels(self, tmp_path):
        black = Image.new("L", (10_000, 10_000))
        black.save(tmp_path / "baseline.jpg")
        black.save(tmp_path / "progressive.jpg", progressive=True)
        assert decode_face(tmp_path / "baseline.jpg", 40).max() == 0
        with pytest.raises(UserError, match="is 10000x10000, more than 90 million pixels; save it smaller"):
            decode_face(tmp_path / "progressive.jpg", 40)

    def test_animations_and_wholly_transparent_pictures_are_named(self, tmp_path):
        frames = [Image.new("RGBA", (50, 50), colour) for colour in ("black", "red")]
        for name in ("a.png", "a.webp"):
            frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
            with pytest.raises(UserError, match=f"{name}' is an animation of 2 pictures; save one of them"):
                decode_face(tmp_path / name, 40)
        frames = [frame.convert("RGB") for frame in frames]
        frames[1].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[:1])  # as telephones write
        assert decode_face(tmp_path / "a.jpg", 40)[:, 20, 20].tolist() == [254, 0, 0]
        for mode, name in (("RGBA", "b.png"), ("LA", "c.png"), ("RGBA", "d.webp")):
            Image.new(mode, (50, 50), 0).save(tmp_path / name)
            with pytest.raises(UserError, match=f"{name}' is wholly transparent"):
                decode_face(tmp_path / name, 40)

    def test_a_colour_profile_is_converted_to_srgb(self, tmp_path):
        """Adobe RGB's (120, 90, 60) by hand: linear by the gamma of 2.2, by its matrix to XYZ, and by sRGB's back."""
        save(tmp_path / "a.png", np.full((50, 50, 3), (120, 90, 60)), icc_profile=adobe_rgb())
        found = decode_face(tmp_path / "a.png", 40)[:, 5, 5].tolist()
        assert found == [131, 90, 56]  # 130.8, 89.6 and 55.5
        for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"damaged"):
            save(tmp_path / "a.png", np.full((50, 50, 3), (120, 90, 60)), icc_profile=profile)
            assert decode_face(tmp_path / "a.png", 40)[:, 5, 5].tolist() == [120, 90, 60]


def adobe_rgb(gamma=2.19921875, name=b"wide\0"):
    """A minimal ICC profile with the primaries (D50) and the gamma of Adobe RGB (1998)."""
    primaries = {"r": (0.60974, 0.31111, 0.01947), "g": (0.20528, 0.62567, 0.06087), "b": (0.14919, 0.06322, 0.74457)}
    tags = {f"{c}XYZ": b"XYZ " + bytes(4) + fixed(values) for c, values in primaries.items()}
    tags |= {f"{c}TRC": b"curv" + bytes(4) + struct.pack(">IH2x", 1, round(gamma * 256)) for c in "rgb"}
    tags |= {"wtpt": b"XYZ " + bytes(4) + fixed((0.9642, 1, 0.8249)), "cprt": b"text" + bytes(4) + b"none\0\0\0\0"}
    tags["desc"] = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(79)
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x", start + len(data), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    header += fixed((0.9642, 1, 0.8249))
    return header.ljust(128, b"\0") + table + data


def fixed(values):
    return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))
