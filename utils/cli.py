"""How a script ends: status 0, or one clear line on standard error and status 2."""

import os
import signal
import sys

import torch

from data import DataError
from utils import UserError


def run_script(main):
    """Call `main` and leave the process with its exit status."""
    # As an exception, so that what is half-written is cleaned up on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except (UserError, DataError) as error:
        sys.exit(fail(str(error)))
    except (torch.OutOfMemoryError, MemoryError) as error:
        reason = (str(error) or "no memory is left").splitlines()[0]
        sys.exit(fail(f"{reason} A smaller --batch-size or --image-size needs less."))
    except BrokenPipeError:  # what reads the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def fail(message):
    one_line = " ".join(message.split())
    print(f"error: {one_line}", file=sys.stderr)
    return 2
