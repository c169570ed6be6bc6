"""The one error that a user can put right, and a lack of memory, which has many names."""


class UserError(Exception):
    """Bad input: a value, a file or a setting.

    The message is one line that quotes the offending value and says what would be right. The scripts print it on
    standard error and exit with status 2.
    """


def is_out_of_memory(error):
    """torch, which need not have been imported, reports it as RuntimeError, or as a class of its own."""
    known = ("out of memory", "allocate memory", "bad_alloc", "could not create a")  # the last one is oneDNN's
    if isinstance(error, RuntimeError) and any(words in str(error) for words in known):
        return True
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
