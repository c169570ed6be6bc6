"""Imports torch. A script that imports this before all modules that need torch starts in three quarters of the time.

An import creates hundreds of thousands of objects, none of which is garbage, and Python's garbage collector looks
through all of them again and again. It pauses meanwhile, and never looks through these later either.
"""

import gc

gc.disable()
try:
    import torch  # noqa: F401
finally:
    gc.freeze()
    gc.enable()
