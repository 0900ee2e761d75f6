"""What can go wrong through no fault of the code: every one of these says what to do about it.

The command prints the message of a `LatentiaError` without a traceback and exits with status 2.
"""


class LatentiaError(Exception):
    """An error whose message is meant for the person at the keyboard."""


def check_not_negative(**options: float) -> None:
    """Raise `OptionError` for one that is negative, NaN or infinite."""
    for name, value in options.items():
        if not 0 <= value < float("inf"):
            raise OptionError(f"{name}={value}: it must be a number of at least 0")


class DataError(LatentiaError, ValueError):
    """Data that cannot be used: names the file, row and column."""


class OptionError(LatentiaError, ValueError):
    """An argument that makes no sense: names it and what it may be."""


class RunError(LatentiaError, RuntimeError):
    """A run directory that is missing, finished, foreign, damaged or from a newer version."""


class CapabilityError(LatentiaError, TypeError):
    """A verb that this model does not answer: names the method that would make it."""


class NonFiniteError(LatentiaError, ArithmeticError):
    """A quantity that became inf or NaN while learning: names the first one."""


class LikelihoodFell(LatentiaError, ArithmeticError):
    """EM lowered its own objective: a statistic or an M-step is wrong, or precision ran out."""


class ProcessLost(LatentiaError, RuntimeError):
    """One of several processes that fit together has ended, or cannot be reached."""
