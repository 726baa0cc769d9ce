"""The errors a person sees: one line that says what was wrong, where, and what to do.

The command line prints ``error: MESSAGE`` for either class, without a traceback.
"""


class DpdmError(Exception):
    """The work failed: a damaged file, a spent budget, a full disk."""

    exit_status = 1


class RequestError(DpdmError, ValueError):
    """The request was wrong: an unknown key, a value that makes no promise."""

    exit_status = 2
