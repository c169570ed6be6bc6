"""Fold text files -> a table of faces -> a decoded cache -> batches.

This package knows nothing of networks, training or the configuration: every
function takes plain named values.
"""


class DataError(Exception):
    """The user's label files or images are not what they should be.

    The message is one line that quotes the offending value and says what would
    be right; the scripts print it and exit with status 2.
    """
