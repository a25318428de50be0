"""The program ``hrformer``, also as ``python -m hrformer``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; None takes the process's own.

    Returns:
        Exit code: 0; 1 if some inputs could not be read; 2 for wrong usage and every other error; 130 after Ctrl-C,
            143 after SIGTERM.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    return command_of(typed)(typed)


def command_of(typed: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """What runs a command line; others than it are not imported, such as torchvision, which only training needs."""
    if typed[:1] == ["predict"]:
        from hrformer.cli.predict import main as predict

        return predict
    if typed[:1] == ["serve"]:
        from hrformer.cli.serve import main as serve

        return serve
    from hrformer.cli.main import main as others

    return others


if __name__ == "__main__":
    sys.exit(main())
