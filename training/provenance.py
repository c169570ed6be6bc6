"""The origin of a model: code, libraries and machine."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path


def provenance(runtime):
    """{"commit", "versions", "trained_on"} for the record of a model file."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    return {
        "commit": current_commit(),
        "versions": {"python": platform.python_version(), **versions},
        "trained_on": str(runtime),
    }


@functools.cache
def current_commit():
    """The commit of this code, with '-dirty' behind it where files differ; '' outside a git checkout.

    Read once: the code that runs is the one that was there at the start.
    """
    try:
        call = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
