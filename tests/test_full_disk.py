"""A disk that is really full: the file-size limit of a process makes its writes fail part of the way."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

LIMITED = """
import resource, sys
import numpy as np, pandas as pd, torch
from data.cache import open_cache
from models.checkpoint import save_plain
from utils.errors import UserError
from utils.files import write_csv, write_json
folder = sys.argv[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    {statement}
except UserError as error:
    print(error)
    sys.exit(2)
"""


def run_limited(statement, folder):
    program = LIMITED.format(statement=statement)
    return subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "statement", "message"),
    [
        ("fold_0.pt", 'save_plain(folder + "/fold_0.pt", {"state_dict": {"w": torch.zeros(1 << 20)}})', "(4 MiB)"),
        ("log.csv", 'write_csv(folder + "/log.csv", pd.DataFrame(np.zeros((1 << 18, 4))))', ""),
        ("results.json", 'write_json(folder + "/results.json", ["x" * (1 << 21)])', ""),
    ],
)
def test_the_old_file_stays_and_the_message_names_it(tmp_path, name, statement, message):
    (tmp_path / name).write_bytes(b"the last good one")
    done = run_limited(statement, tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"cannot write '{tmp_path / name}' {message}".strip() in done.stdout
    assert "MiB are free there" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"the last good one"


def test_a_cache_that_does_not_fit_leaves_nothing(tmp_path):
    for k in range(40):
        Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / f"{k}.png")
    paths = [f"{k}.png" for k in range(40)]
    done = run_limited(f'open_cache(folder, {paths}, 100, folder + "/cache", progress=False)', tmp_path)
    assert done.returncode == 2, done.stderr
    assert "cannot write the cache" in done.stdout
    assert "(1 MiB)" in done.stdout
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
