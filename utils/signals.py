"""Stopping gracefully: the first signal lets a step finish and the work be saved, a second one stops at once."""

import signal
import sys
import time

from utils.cli import end_script, printable
from utils.distributed import SINGLE_PROCESS


class Interruption:
    """Within the context, SIGINT and SIGTERM only set `requested`, which a loop reads after each of its steps.

    A second signal raises KeyboardInterrupt at once. A request to several processes may reach each of them twice
    (from the terminal and from torchrun), so that signals within `grace` seconds count as one.

    Args:
        step: what a step is called on standard error.
        distributed: the processes that stop together.
    """

    def __init__(self, step="step", distributed=SINGLE_PROCESS):
        self.step, self.distributed = step, distributed
        self.requested = 0
        self.grace = 2.0 if distributed.world_size > 1 else 0.0
        self.requested_at = 0.0

    def __enter__(self):
        self.earlier = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception):
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def on_signal(self, number, frame):
        if self.requested:
            if time.monotonic() - self.requested_at < self.grace:
                return
            end_script(signal.SIGINT)
        self.requested, self.requested_at = number, time.monotonic()
        print(f"\nstopping after this {self.step}; a second signal stops at once", file=sys.stderr)

    def agreed(self):
        """Whether any of the processes that train together was asked to stop; all get the same answer."""
        agreed = self.distributed.max(self.requested)
        # A signal that arrives during the exchange waits for the next step, so that all stop at the same one.
        self.requested = agreed or self.requested
        return agreed != 0

    def leave(self, command):
        """End this process with the signal's exit status; the main process prints the command that resumes."""
        self.distributed.barrier()  # torchrun stops the others as soon as one has ended
        if self.distributed.is_main_process:
            print(f"\nstopped and saved; resume with\n\n    {printable(command)}\n", file=sys.stderr)
        sys.exit(128 + self.requested)
