"""How gansmith ends: one exception for users' mistakes, and the exit codes a script can rely on."""

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_STOPPED = 3
EXIT_DIVERGED = 4
EXIT_LOST = 5


class UserError(Exception):
    """A mistake of the user, or of the files given: shown as one message, without a traceback, exit code 2.

    The message names the flag or file, what was given, what is allowed, and what to type next.
    """


class TooFewClasses(UserError):
    """Images of fewer than two classes where classes were asked for; without them they could be used."""


class Stopped(Exception):
    """The run was asked to stop (signal or time limit), or its end could not be saved: exit code 3, the same
    command goes on from the last checkpoint."""


class Diverged(Exception):
    """Training met non-finite values beyond the retry limit: exit code 4."""


class ProcessLost(Exception):
    """Another process of the same run is gone: exit code 5, resumable from the last checkpoint."""
