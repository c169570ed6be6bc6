"""The report on a run or on models: tables, plots, the HTML page and the misclassified faces. It knows no training."""

import logging
import os

# Charts look the same whatever the user's own settings are, some of which need a display or LaTeX.
os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
logging.getLogger("matplotlib").setLevel(logging.ERROR)  # such as a home folder that cannot be written
