"""How a script ends: status 0, or one clear line on standard error and status 2."""

import os
import shlex
import signal
import sys
from pathlib import Path

from utils.errors import UserError


def run_script(main):
    """Call `main` and exit with its status: 0, or 2 after one line that says what is wrong.

    `main` may return another exit status. Signals give 130 (Ctrl-C) and 143 (SIGTERM), a closed pipe 141.
    """
    # As an exception, so that what is half-written is cleaned up on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        status = main()
    except UserError as error:
        sys.exit(fail(str(error)))
    except MemoryError as error:
        sys.exit(fail_for_memory(error))
    except BrokenPipeError:  # the reader of the output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which need not have been imported yet
            raise
        sys.exit(fail_for_memory(error))
    if status:
        sys.exit(status)


def fail(message):
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def fail_for_memory(error):
    reason = (str(error) or "no memory is left").splitlines()[0]
    return fail(f"{reason} A smaller --batch-size or --image-size needs less.")


def python_command():
    """This interpreter as one would type it: by its relative path where it is below the current folder."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))
