"""A few random sequences of kills, signals, damage, races and resumes; `make test-long` runs three hundred."""

import subprocess
import sys

from conftest import ROOT


def test_whatever_happens_to_a_run_it_ends_with_the_same_bits_or_is_refused():
    # In a process of its own: it forks, which one with the threads of pytest cannot do safely.
    command = [sys.executable, str(ROOT / "benchmarks" / "run_machine.py"), "--sequences", "2", "--steps", "3"]
    done = subprocess.run([*command, "--jobs", "1", "--seed", "3"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("2 sequences in ")
