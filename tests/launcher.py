"""Run scripts, each in a fork of this process, which has imported torch once and does nothing else.

Each line of standard input is an order, as JSON; standard output has the number of the process, then its exit status.
The fork runs the script from its first line to its last and ends without Python's slow cleaning up.
"""

import gc
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import main  # noqa: F401
import test_code  # noqa: F401


def obey(order):
    """In the fork; it never returns."""
    signal.alarm(order["seconds"])
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    for descriptor, path in enumerate([os.devnull, order["stdout"], order["stderr"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
    if order["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
    if order["more_memory"]:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + order["more_memory"],) * 2)
    sys.argv = order["command"]
    status = 0
    try:
        if sys.argv[0].endswith(".py"):
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        status = ending.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    gc.freeze()
    for line in sys.stdin:
        if not (child := os.fork()):
            obey(json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
