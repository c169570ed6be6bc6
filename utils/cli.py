"""How a script starts and ends: status 0, or one clear line on standard error and status 2.

This is the one place where errors are printed.
"""

import contextlib
import errno
import os
import shlex
import signal
import sys
import traceback
import warnings
from pathlib import Path

from utils.errors import UserError, is_out_of_memory

LONGEST_LINE = 500  # characters of an error
OUTPUT_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EBADF)
SHOW_TRACEBACK = "AGE_TRACEBACK"  # an environment variable


def start_script():
    """Prepare a script before its slow imports: streams that can be printed to, quiet signals, no stray warnings."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed, so that the next file that is opened would become the output
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with contextlib.suppress(AttributeError):  # a stream of a notebook or a test
        sys.stdout.reconfigure(errors="replace")  # such as ± on an ASCII terminal
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave_at_once)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def leave_at_once(number, frame):
    """End the process while it imports and there is nothing to clean up."""
    with contextlib.suppress(OSError):
        os.write(2, b"\ninterrupted\n" if number == signal.SIGINT else b"")
    os._exit(128 + number)


def run_script(main):
    """Call `main` and exit with its status: 0, or 2 after one line that says what is wrong.

    `main` may return another exit status. Signals give 130 (Ctrl-C) and 143 (SIGTERM), a closed pipe 141. A mistake
    of this code is one line too, and AGE_TRACEBACK=1 shows the whole of it.
    """
    # As exceptions, so that what is half-written is cleaned up on the way out.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda *_: sys.exit(143)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        status, ended = call(main)
        if status in (0, None):
            status, _ = call(sys.stdout.flush)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        sys.stdout.flush()
    except OSError:  # it was reported above; Python would try once more, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if status or ended:
        sys.exit(status or 0)


def call(function):
    """Call a function; an error is one line on standard error.

    Returns:
        (exit status, whether it ends the script: --help does, with status 0).
    """
    try:
        return function(), False
    except SystemExit as ending:
        return ending.code, True
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("\ninterrupted", file=sys.stderr)
        return 130, True
    except BrokenPipeError:  # the reader of the output is gone, as with `| head`
        return 141, True
    except Exception as error:
        return fail(explain(error)), True


def explain(error):
    """The line for an exception that ends a script."""
    message = str(error)
    if isinstance(error, UserError):
        return message
    if is_out_of_memory(error):
        first = message.splitlines()[0] if message else "no memory is left"
        return f"{first}; a smaller --batch-size or --image-size needs less"
    if isinstance(error, OSError) and error.filename is None and error.errno in OUTPUT_ERRORS:
        return f"cannot write to the standard output: {error.strerror}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"'{error.filename}': {error.strerror}"
    if os.environ.get(SHOW_TRACEBACK):
        traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return f"a mistake in this program, {type(error).__name__} in {where}: {message} ({SHOW_TRACEBACK}=1 shows more)"


def fail(message):
    """Print the one line of an error; returns the exit status."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    line = f"error: {message}".encode(encoding, "backslashreplace").decode(encoding)
    with contextlib.suppress(OSError):  # a full disk behind it
        print(printable(line), file=sys.stderr, flush=True)
    return 2


def printable(text, longest=LONGEST_LINE):
    """Text from outside as one line that a terminal shows as it is.

    Control characters, which move the cursor or change the title, and invisible ones, which reorder the text, are
    escaped; the middle of a long text is left out.
    """
    text = shorten(" ".join(str(text).split()), longest)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shorten(shown, longest)


def shorten(text, longest):
    head = longest * 2 // 3
    return text if len(text) <= longest else f"{text[:head]} ... {text[len(text) - (longest - head - 5) :]}"


def python_command():
    """This interpreter as one would type it: by its relative path where it is below the current folder."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))
