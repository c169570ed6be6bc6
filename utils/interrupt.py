"""Stopping politely: the first signal lets the step finish and the work be saved, a second stops at once."""

import signal
import sys
import time

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interruption:
    """Within the context, SIGINT and SIGTERM only set `requested`; the training loop looks at it.

    A second signal raises KeyboardInterrupt where the program stands. shared: several processes train together; the
    same wish then may come to each of them twice, and what comes within two seconds counts as one.
    """

    def __init__(self, shared=False):
        self.requested = 0
        self.patience = 2.0 if shared else 0.0
        self.asked = 0.0

    def __enter__(self):
        self.earlier = {number: signal.signal(number, self.note) for number in EXIT_STATUS}
        return self

    def __exit__(self, *exception):
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def note(self, number, frame):
        if self.requested:
            if time.monotonic() - self.asked < self.patience:
                return
            raise KeyboardInterrupt
        self.requested, self.asked = number, time.monotonic()
        print("\nstopping after this step; once more stops at once", file=sys.stderr)

    def agreed(self, world):
        """Whether any of the processes that train together was asked to stop."""
        agreed = world.largest(self.requested)
        # A signal that came while they agreed waits for the next step, so that all stop at the same one.
        self.requested = agreed or self.requested
        return agreed != 0

    def leave(self, advice):
        """End the process with the signal's exit status, and say how to go on; of several processes one has advice."""
        if advice:
            print(f"\nstopped and saved; go on with\n\n    {advice}\n", file=sys.stderr)
        sys.exit(EXIT_STATUS[self.requested])
