"""What the two scripts compose: configuration, engine, losses, metrics, checkpoints, plots."""


class UserError(Exception):
    """Something the user can put right. The message is one line that quotes the offending value
    and says what would be right; the scripts print it and exit with status 2."""
