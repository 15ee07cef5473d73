"""A process that needs torch starts and ends nearly two seconds sooner: Python neither looks through torch's million objects while they
are made, nor takes them apart at the end.
"""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


@contextmanager
def imports() -> Iterator[None]:
    """No search for garbage while its block imports: what imports make is there to stay, and was looked through again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def leave(code: int) -> NoReturn:
    """Ends this process at once, with its output written. For the last line of a program, when its files are closed and its threads need nothing more."""
    atexit._run_exitfuncs()  # Python's own: semaphores and temporary folders
    for stream in (sys.stdout, sys.stderr):
        # Whoever read it may have gone; it is None where it was closed before Python began.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
