"""What the commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

from rich.console import Console


def say(text: str) -> None:
    """Print a line of the result as it is, neither wrapped nor coloured."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line about the work itself."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
