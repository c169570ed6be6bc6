"""Files that appear whole or not at all, and locks that end with their holder."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError


@contextlib.contextmanager
def atomic_write(path, mebibytes=None):
    """Yield a temporary path to write; it replaces `path` once the block ends without an error.

    Whatever happens before that, a full disk or a killed process, `path` keeps its old content.

    Args:
        path: the file to create or replace; missing folders are created.
        mebibytes: the expected size, for the error message.

    Raises:
        UserError: the file cannot be written.
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
        size = f" ({mebibytes:,.0f} MiB)" if mebibytes else ""
        raise UserError(f"cannot write '{path}'{size}: {error.strerror or error}{free_space(path)}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def free_space(path):
    """'; N MiB are free there', or '' where that cannot be determined."""
    try:
        return f"; {shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free there"
    except OSError:
        return ""


def write_text(path, text):
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path, table):
    """Write a DataFrame without its index."""
    with atomic_write(path) as unfinished:
        table.to_csv(unfinished, index=False)


@contextlib.contextmanager
def locked(path, when_busy):
    """Hold an exclusive lock within the block; the system releases it however the process ends.

    Args:
        path: the lock file; its folder exists.
        when_busy: called when another process holds the lock. It may raise; otherwise this process waits.

    Raises:
        OSError: the lock file cannot be created.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        when_busy()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
