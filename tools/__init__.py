"""The smaller scripts, run as `python -m tools.NAME`."""
