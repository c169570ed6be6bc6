"""How a script ends: status 0, or one clear line on standard error and status 2."""

import signal
import sys

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
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def fail(message):
    one_line = " ".join(message.split())
    print(f"error: {one_line}", file=sys.stderr)
    return 2
