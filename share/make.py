"""Write what is installed below share/, manual pages and completions: python share/make.py DIR, a step of the build."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from pages import pages  # noqa: E402 - only now it is found
from shells import scripts  # noqa: E402


def files() -> dict[str, str]:
    """Everything: its place below share/, and its content."""
    return {f"man/man8/{name}": text for name, text in pages().items()} | scripts()


def main() -> None:
    target = Path(sys.argv[1])
    for name, text in files().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)


if __name__ == "__main__":
    main()
