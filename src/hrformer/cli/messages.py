"""What the commands say: results on standard output, everything else on standard error.

Of several processes of one run only the first speaks, but all of them report errors.
"""

from __future__ import annotations

import os

from rich.console import Console


def say(text: str) -> None:
    """Print a line of the result as it is, neither wrapped nor coloured."""
    if process_number() == 0:
        Console().print(_printable(text), markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line about the work itself."""
    if process_number() == 0:
        Console(stderr=True).print(_printable(text), markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print an error, with the process it happened in where there are others."""
    number = process_number()
    where = f"process {number}: " if number else ""
    Console(stderr=True).print(_printable(f"{where}error: {text}"), markup=False, highlight=False, soft_wrap=True)


def _printable(text: str) -> str:
    """With escapes for the bytes of file names that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def wide_console() -> Console:
    """For tables: as wide as the terminal; where there is none, wide enough for a file or a pipe."""
    console = Console(highlight=False, quiet=process_number() > 0)
    return console if console.is_terminal else Console(highlight=False, width=160, quiet=process_number() > 0)


def process_number() -> int:
    """Number of this process among those that a launcher started together; 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))
