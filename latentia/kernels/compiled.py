"""numba's `njit`, which is imported when a kernel is first called: importing it takes 0.4 s, and most programs that
import this library's models run no kernel of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from threading import RLock
from typing import Any

_ONE_AT_A_TIME = RLock()


class Kernel:
    """A function that numba compiles at its first call, as `numba.njit(**options)` would.

    Machine code knows no `Kernel`: those that the function's module has are replaced by numba's own dispatchers first.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]):
        self.function, self.options = function, options
        self.made: Any = None
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        return self.dispatcher()(*arguments)

    def dispatcher(self) -> Any:
        """numba's own, the same every time."""
        with _ONE_AT_A_TIME:
            if self.made is None:
                from numba import njit

                self.made = njit(**self.options)(self.function)
                names = self.function.__globals__
                found = {name: value for name, value in names.items() if isinstance(value, Kernel)}
                names.update((name, kernel.dispatcher()) for name, kernel in found.items())
            return self.made


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these options, but numba is imported at the first call."""
    return lambda function: Kernel(function, options)
