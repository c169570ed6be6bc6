"""Imports torch in less time. A script imports this before all modules that need torch.

An import creates hundreds of thousands of objects that stay, and Python's garbage collector looks through all of them
again and again. Here it pauses meanwhile, and looks through these no more, neither later nor while Python ends.
"""

import atexit
import gc

was_enabled = gc.isenabled()
gc.collect()  # what is garbage by now would stay, too
gc.disable()
try:
    import torch  # noqa: F401
finally:
    gc.freeze()
    atexit.register(gc.freeze)
    if was_enabled:
        gc.enable()
