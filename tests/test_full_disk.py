"""A disk that is really full: the file-size limit of a process makes its writes fail part of the way."""

import contextlib
import resource

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data.cache import open_cache
from data.images import write_image
from utils.errors import UserError
from utils.files import replaced_outputs, write_csv, write_json, write_text
from utils.serialization import save_plain


@contextlib.contextmanager
def files_of_at_most(size):
    """The system refuses to make files larger than `size` bytes within the block; Python ignores its signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("name", "write", "size"),
    [
        ("fold_0.pt", lambda path: save_plain(path, {"state_dict": {"w": torch.zeros(1 << 20)}}), r" \(4 MiB\)"),
        ("log.csv", lambda path: write_csv(path, pd.DataFrame(np.zeros((1 << 18, 4)))), ""),
        ("results.json", lambda path: write_json(path, ["x" * (1 << 21)]), ""),
    ],
)
def test_the_old_file_stays_and_the_message_names_it(tmp_path, name, write, size):
    (tmp_path / name).write_bytes(b"the last good one")
    message = rf"^cannot write '{tmp_path / name}'{size}: .+; [\d,]+ MiB are free there$"
    with files_of_at_most(1 << 20), pytest.raises(UserError, match=message) as caught:
        write(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"the last good one"


def test_a_cache_that_does_not_fit_leaves_nothing(tmp_path):
    for k in range(40):
        Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / f"{k}.png")
    paths = [f"{k}.png" for k in range(40)]
    message = r"^cannot write the cache in '.*' \(1 MiB\): File too large$"  # 1,200,000 bytes
    with files_of_at_most(1 << 20), pytest.raises(UserError, match=message):
        open_cache(tmp_path, paths, 100, tmp_path / "cache")
    assert all(path.name.endswith(".lock") for path in (tmp_path / "cache").iterdir())
    assert open_cache(tmp_path, paths, 100, tmp_path / "cache").images.shape == (40, 3, 100, 100)


def test_a_folder_of_outputs_keeps_all_of_the_earlier_ones(tmp_path):
    """The second of three files does not fit: neither it nor the first one replaces anything."""
    before = {"a.png": "old a", "b.png": "old b", "index.csv": "a.png b.png", "notes.txt": "somebody's"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with (
        files_of_at_most(1 << 20),
        pytest.raises(UserError, match=r"^cannot write '.*big\.png': "),
        replaced_outputs(tmp_path, "index.csv", lambda name: name.endswith((".png", ".csv"))) as folder,
    ):
        write_text(folder / "a.png", "new a")
        write_text(folder / "big.png", "x" * (2 << 20))
        write_text(folder / "index.csv", "a.png big.png")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {**before, ".lock": ""}


def test_a_picture_that_does_not_fit_is_an_error(tmp_path):
    """Pillow's own writer ends without one."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    for name in ("a.jpg", "a.png"):
        with files_of_at_most(8192), pytest.raises(OSError, match="File too large"):
            write_image(tmp_path / name, noise)
        assert not (tmp_path / name).exists()  # not half of it
        write_image(tmp_path / name, noise)
        with Image.open(tmp_path / name) as written:
            assert written.size == (300, 300) and written.getpixel((0, 0)) is not None
