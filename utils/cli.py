"""Run a script: status 0, or one clear line on standard error and status 2. Errors are printed here only."""

import contextlib
import errno
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

from utils.errors import UserError, is_out_of_memory

LONGEST_LINE = 500  # characters of an error
OUTPUT_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EBADF)
LOST_CONNECTIONS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")  # in messages of torch
SHOW_TRACEBACK = "AGE_TRACEBACK"  # an environment variable
RAISE_AGAIN = 1.0  # seconds after a signal


def prepare_streams():
    """Open closed standard streams on /dev/null, so that no other file takes their place, and print any text."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with contextlib.suppress(AttributeError):  # a stream of a notebook or a test
        sys.stdout.reconfigure(errors="replace")  # such as ± on an ASCII terminal
        if os.name == "nt" and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")


def run_script(main, leave=sys.exit):
    """Call `main`, which returns an exit status or None, and then `leave` with the status.

    An error gives 2 after one line that names it, Ctrl-C 130, SIGTERM 143 and a closed pipe 141. AGE_TRACEBACK=1 shows
    the traceback of an internal error.
    """
    prepare_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    before = {number: signal.signal(number, end_script) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    try:
        status = call(main) or call(sys.stdout.flush)
    finally:
        signal_is_caught()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        sys.stdout.flush()
    except OSError:  # it was reported above; Python would try once more, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    leave(status)


def end_script(number, frame=None):
    """Handle a signal by an exception, so that what is half-written is cleaned up on the way out.

    Python drops an exception that a __del__ method raises, and NumPy some more. So it is raised again each second until
    `signal_is_caught`, and what was dropped is not printed. Windows has no such timer.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda *_: end_script(number))
        signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN)
    sys.unraisablehook = lambda unraisable: None
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def signal_is_caught():
    """Stop raising the exception of a signal."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def call(function):
    """The exit status of a function; an error is one line on standard error."""
    try:
        return function() or 0
    except SystemExit as ending:
        signal_is_caught()
        return ending.code or 0
    except KeyboardInterrupt:
        signal_is_caught()
        with contextlib.suppress(OSError):
            print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output is gone, as with `| head`
        return 141
    except Exception as error:
        return fail(explain(error))


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
    if isinstance(error, RuntimeError) and any(name in message for name in LOST_CONNECTIONS):
        return "another process of this training has ended or cannot be reached; its own error says why"
    if os.environ.get(SHOW_TRACEBACK):
        traceback.print_exception(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"internal error: {type(error).__name__} in {where}: {message} ({SHOW_TRACEBACK}=1 shows the traceback)"


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


def percent(fraction, digits=0):
    """A fraction as "81 %"; a missing value as a dash."""
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.{digits}f} %"


def counted(number, noun):
    """A whole number with its noun: 1 photograph, 1,000 photographs."""
    return f"{number:,.0f} {noun}" + ("" if round(number) == 1 else "s")


def p_value(p):
    """A p value as text; a missing one as a dash."""
    return "–" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def shorten(text, longest):
    """A text without its middle where it has more than `longest` characters."""
    head = longest * 2 // 3
    return text if len(text) <= longest else f"{text[:head]} ... {text[len(text) - (longest - head - 5) :]}"


def require_package(package, needed_by, requirements):
    """Check that an optional package is installed.

    Args:
        package: its import name.
        needed_by: the script or option that needs it.
        requirements: the file that lists it, such as "requirements-export.txt".

    Raises:
        UserError: it is missing.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{needed_by} needs the package {package}: python -m pip install -r {requirements}")


def command_line(*words):
    """Words as a command line that this system's shell reads as these."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def python_command(*words):
    """The command line of this interpreter with further words, relative to the current folder where possible."""
    python, here = Path(sys.executable), Path.cwd()
    return command_line(str(python.relative_to(here) if python.is_relative_to(here) else python), *words)
