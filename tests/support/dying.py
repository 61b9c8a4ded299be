"""Work that is killed in the middle: done in a process of its own, which dies just before its n-th step."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from pylvs.director import Director


def in_child(work: Callable[[], object]) -> int:
    """Do something in a process of its own.

    Returns:
        The number that the work returned, 0 if none; 99 after an exception; or the signal that ended it, negated.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = int(work() or 0)  # type: ignore[call-overload]
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(
    number: int, places: Iterable[tuple[Any, str]], work: Callable[[], object], torn: bool = False
) -> Callable[[], object]:
    """The work, for `in_child`, but killed just before its n-th step.

    Args:
        number: n, from 1; more than there are: nobody dies.
        places: whose functions are steps, and what they are called.
        torn: if the step is to store a record, its last argument, half of it is stored before.
    """

    def run() -> object:
        left = number

        def dies(original: Callable) -> Callable:
            def step(*arguments: Any, **more: Any) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    if torn and isinstance(record := arguments[-1], bytes):
                        original(*arguments[:-1], record[: len(record) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **more)

            return step

        for place, name in places:
            setattr(place, name, dies(getattr(place, name)))
        return work()

    return run


def by_director(work: Callable[[Director], object]) -> Callable[[], None]:
    """Work of a director that is opened for it: one of before a fork is not the child's."""

    def run() -> None:
        with Director() as director:
            work(director)

    return run
