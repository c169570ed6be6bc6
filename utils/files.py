"""The one place that writes files, which appear whole or not at all, and that takes locks."""

import contextlib
import errno
import glob
import itertools
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path

from utils.errors import UserError
from utils.reading import ANY_SIZE, MIB, NO_WAIT, exists, open_regular, reason

try:
    import fcntl
except ImportError:  # on Windows
    import msvcrt

    fcntl = None

SECONDS_BEFORE_A_LINE = 5  # most locks are held for a moment, of which nobody needs to know
SECONDS_BETWEEN_LINES = 60
RETRIES = (0.1, 0.4, 1.5)  # seconds between them
UMASK = os.umask(0o022)  # the only way to read it is to set it
os.umask(UMASK)


@contextlib.contextmanager
def atomic_write(path, mebibytes=None):
    """Yield a temporary path to write; it replaces `path` once the block ends without an error.

    Whatever happens before that, a full disk or a killed process, `path` keeps its old content. A link stays a link:
    its target is replaced. A device or a pipe, such as /dev/null, is written to.

    Args:
        path: the file to create or replace; missing folders are created.
        mebibytes: the expected size, for the error message.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        if is_special(path):
            with tempfile.TemporaryDirectory() as folder:
                unfinished = Path(folder, Path(path).name)
                yield unfinished
                write_through(unfinished, path)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_file(target) as unfinished:
            yield unfinished
            with open(unfinished, "r+b") as file:  # Windows writes out only what is open for writing
                os.fsync(file.fileno())
            replace(unfinished, target)
    except OSError as error:
        size, free = f" ({mebibytes:,.0f} MiB)" if mebibytes else "", ""
        if error.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # torch's errors have None
            with contextlib.suppress(OSError):
                free = f"; {shutil.disk_usage(Path(path).parent).free / MIB:,.0f} MiB are free there"
        raise UserError(f"cannot write '{path}'{size}: {reason(error)}{free}") from None


def replace(source, target):
    """`os.replace`; on Windows a target that another process is reading is tried again for a while. Raises OSError."""
    for seconds in () if fcntl else RETRIES:
        with contextlib.suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(seconds)
    return os.replace(source, target)


@contextlib.contextmanager
def unfinished_file(target):
    """Yield a new file beside a target, which no other writer uses and which is removed at the end if it is there.

    Its writer holds a lock on it, so that files of writers that were killed can be told from others and are removed.
    On Windows, which renames no open file, neither is so.
    """
    pattern = f".{glob.escape(target.stem)}.*.unfinished{glob.escape(target.suffix)}"
    for stale in target.parent.glob(pattern) if fcntl else ():
        with contextlib.suppress(OSError, UserError), open_regular(stale, ANY_SIZE) as file:
            if try_lock(file.fileno(), stale):
                stale.unlink()
    file, unfinished = locked_file(target)
    if not fcntl:
        file.close()
    try:
        os.chmod(unfinished, 0o666 & ~UMASK)
        yield unfinished
    finally:
        file.close()
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def locked_file(target):
    """(Open file, path) of a new file beside a target, locked if the file system has locks. Raises OSError."""
    while True:
        descriptor, name = tempfile.mkstemp(f".unfinished{target.suffix}", f".{target.stem}.", target.parent)
        mine = True
        with contextlib.suppress(UserError):  # without locks, nothing is removed
            mine = try_lock(descriptor, name)
        if mine and os.fstat(descriptor).st_nlink:  # another writer did not take it for one of a killed process
            return os.fdopen(descriptor, "rb"), Path(name)
        os.close(descriptor)


def is_special(path):
    """Whether a path names a device, a pipe or, below /dev and /proc, an open file of a process. Raises UserError."""
    try:
        paths = {Path(os.path.abspath(path)), Path(os.path.realpath(path))}
    except (OSError, ValueError) as error:  # the current folder is gone, or the name holds a null character
        raise UserError(f"cannot write '{path}': {reason(error)}") from None
    if any(name.is_relative_to(root) for name in paths for root in ("/dev", "/proc")):
        return not any(name.is_relative_to("/dev/shm") for name in paths)
    return exists(path) and not Path(path).is_file() and not Path(path).is_dir()


def write_through(source, path):
    """Copy a file into a device or a pipe. Raises OSError, also for a pipe that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream that has no descriptor
            if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                stream.flush()  # and then to the same position of the same file
                descriptor = os.dup(stream.fileno())
                break
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | NO_WAIT)
        if NO_WAIT:
            os.set_blocking(descriptor, True)
    with open(source, "rb") as file, os.fdopen(descriptor, "wb") as output:
        shutil.copyfileobj(file, output)


def write_text(path, text):
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path, table):
    """Write a DataFrame without its index."""
    with atomic_write(path) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n")


def check_output(path, is_ours, kind):
    """Refuse to replace a file that is no earlier output of the same kind.

    Args:
        path: the file that is to be written; None for an output that is not given.
        is_ours: a function of the path; it tells, or raises UserError, whether that file is such an output.
        kind: the output, in words.

    Raises:
        UserError: something else is there.
    """
    if path is None:
        return
    if not os.fspath(path) or Path(path).is_dir():
        problem = f"'{path}' is {'a folder' if os.fspath(path) else 'no file name'}"
        raise UserError(f"{problem}: name the file for {kind}")
    if is_special(path) or not exists(path):
        return
    with contextlib.suppress(UserError):
        if Path(path).is_file() and (os.path.getsize(path) == 0 or is_ours(path)):
            return
    raise UserError(f"'{path}' exists and is not {kind}; it is not replaced: choose another name")


def refuse_overlaps(outputs):
    """Refuse outputs that are one path, or one of which lies within another.

    Args:
        outputs: {option: path}; None for an option that is not given.

    Raises:
        UserError: it names the two options.
    """
    given = [(name, path, Path(os.path.realpath(path))) for name, path in outputs.items() if path is not None]
    for (name, path, place), (other, other_path, other_place) in itertools.combinations(given, 2):
        if place == other_place or place in other_place.parents or other_place in place.parents:
            raise UserError(f"{name} '{path}' and {other} '{other_path}': one is, or holds, the other; give two apart")


@contextlib.contextmanager
def replaced_outputs(folder, manifest, is_output):
    """Yield a folder to fill with files; afterwards they replace the earlier outputs in `folder`.

    The new files are moved in once the block has ended, `manifest` last, and earlier outputs that are not among them
    are removed: at every moment the files that the manifest lists are there, whole. Other files stay.

    Args:
        folder: it is created where it does not exist.
        manifest: the name of the file that lists the others.
        is_output: a function of a file name: whether earlier calls may have written it.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / ".outputs.unfinished"
    with locked(folder / ".lock"):
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir()
        try:
            yield staging
            new = sorted((path.name for path in staging.iterdir()), key=lambda name: (name == manifest, name))
            with signals_later():
                for name in new:
                    replace(staging / name, folder / name)
                for path in folder.iterdir():
                    if is_output(path.name) and path.name not in new and not path.is_dir():
                        path.unlink()
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def signals_later():
    """Let Ctrl-C and SIGTERM wait until the block ends; not on Windows."""
    mask = getattr(signal, "pthread_sigmask", None)
    before = mask and mask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def locked(path, when_busy=None):
    """Hold an exclusive lock within the block; the system releases it however the process ends.

    Args:
        path: the lock file; its folder exists.
        when_busy: called when another process holds the lock. It may raise; otherwise this process waits, and says so
            on standard error every minute; the first time after five seconds where there is no `when_busy`.

    Raises:
        OSError: the lock file cannot be created.
        UserError: something that is no lock file has its name, or the file system has no locks.
    """
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise UserError(f"'{path}' is no lock file, which is an empty regular one; move it away")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not try_lock(descriptor, path):
            if when_busy is not None:
                when_busy()
            next_line = time.monotonic() + (SECONDS_BETWEEN_LINES if when_busy else SECONDS_BEFORE_A_LINE)
            while not try_lock(descriptor, path):
                if time.monotonic() >= next_line:
                    print(f"waiting for the process that holds '{path}'", file=sys.stderr, flush=True)
                    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor, path):
    """Lock an open file unless another process holds it; whether it is locked. Raises UserError without any locks."""
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        return False
    except OSError as error:
        raise UserError(f"the file system of '{path}' has no locks ({error.strerror}); choose another folder") from None
    return True
