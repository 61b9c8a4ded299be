"""Waiting for a condition instead of for a time."""

import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")
PAUSE = 0.005


def wait_for(predicate: Callable[[], T | Literal[False] | None], what: str, seconds: float = 5.0) -> T:
    """Call predicate until it is true and return its result; TimeoutError, naming `what`, after so many seconds."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}; last seen: {result!r}")
        pause.wait(PAUSE)
