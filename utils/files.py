"""Files that appear whole or not at all."""

import contextlib
import json
import os
from pathlib import Path

from utils import UserError


@contextlib.contextmanager
def replacing(path):
    """Give the name of a file to write; it takes the place of `path` once it is complete.

    Whatever happens before that, a full disk or a killed process, `path` keeps its old content.
    Raises UserError when the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path, text):
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path, table):
    """table: a DataFrame, written without its index."""
    with replacing(path) as unfinished:
        table.to_csv(unfinished, index=False)
