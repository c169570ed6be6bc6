"""The one error that a user can put right."""


class UserError(Exception):
    """Bad input: a value, a file or a setting.

    The message is one line that quotes the offending value and says what would be right. The scripts print it on
    standard error and exit with status 2.
    """
