"""Standard input as the original's script ipvsadm-restore takes it."""

import sys
from io import BytesIO, TextIOWrapper


def take() -> None:
    """Read all of standard input and go on with that, without the lines that begin with #.

    It is read before the table is emptied: it may come from an ipvsadm-save that is still running. Comments leave empty
    lines, so that those behind them keep their numbers.

    Raises:
        OSError: it cannot be read.
    """
    if sys.stdin is None:
        return
    lines = sys.stdin.buffer.read().split(b"\n")
    text = b"\n".join(b"" if line.startswith(b"#") else line for line in lines)
    sys.stdin = TextIOWrapper(BytesIO(text), encoding=sys.stdin.encoding)
