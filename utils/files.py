"""Files that appear whole or not at all."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from utils import UserError


@contextlib.contextmanager
def replacing(path, mebibytes=None):
    """Give the name of a file to write; it takes the place of `path` once it is complete.

    Whatever happens before that, a full disk or a killed process, `path` keeps its old content.
    mebibytes: what the file will need, for the message. Raises UserError when it cannot be written.
    """
    path = Path(path)
    unfinished = path.parent / f".{path.stem}.unfinished{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        need = f" ({mebibytes:,.0f} MiB)" if mebibytes else ""
        raise UserError(f"cannot write '{path}'{need}: {error.strerror or error}{free_space(path)}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def free_space(path):
    """'; N MiB are free there', or '' where that cannot be told."""
    try:
        return f"; {shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free there"
    except OSError:
        return ""


def write_text(path, text):
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path, table):
    """table: a DataFrame, written without its index."""
    with replacing(path) as unfinished:
        table.to_csv(unfinished, index=False)
