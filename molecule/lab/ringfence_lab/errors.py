"""The one exception that the command line turns into one line and exit status 1."""


class LabError(Exception):
    """What failed, and what the user can do about it, in one line."""
