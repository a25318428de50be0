"""What the commands say: results on standard output, everything else on standard error.

Of several processes of one run only the first speaks, but all of them report errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import cv2
from rich.console import Console

INTERRUPTED = 130  # Exit code after Ctrl-C, as shells have it


def guarded(run: Callable[[], int], typed: Sequence[str], untold: tuple[type[Exception], ...] = ()) -> int:
    """Exit code of a command; errors become one line, with the traceback only where ``--debug`` is typed or set.

    Args:
        run: the command, with the parsing, since errors may come before the command is known.
        typed: the command line.
        untold: errors that another process of the same run reports.
    """
    # OpenCV's own remarks on broken files would tear the progress bars; errors name these files.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return run()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in typed or os.environ.get("HRFORMER_DEBUG", "") not in ("", "0"):
            raise
        if not isinstance(error, untold):
            number = process_number()
            _print(f"{f'process {number}: ' if number else ''}error: {_described(error)}", stderr=True)
        return 2


def _described(error: Exception) -> str:
    """The message alone where it was written for users, else with the kind of error and how to learn more."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    # DownloadError is a RuntimeError of ours; torch's own need the name to make sense.
    if isinstance(error, ValueError | OSError | ImportError) or type(error).__module__.startswith("hrformer."):
        return str(error)
    return f"{type(error).__name__}: {error} (set HRFORMER_DEBUG=1 to see where)"


def say(text: str) -> None:
    """Print a line of the result as it is, neither wrapped nor coloured."""
    if process_number() == 0:
        _print(text)


def note(text: str) -> None:
    """Print a line about the work itself."""
    if process_number() == 0:
        _print(text, stderr=True)


def _print(text: str, *, stderr: bool = False) -> None:
    """With escapes for the bytes of file names that are not UTF-8."""
    printable = text.encode(errors="backslashreplace").decode()
    Console(stderr=stderr).print(printable, markup=False, highlight=False, soft_wrap=True)


def wide_console() -> Console:
    """For tables: as wide as the terminal; where there is none, wide enough for a file or a pipe."""
    console = Console(highlight=False, quiet=process_number() > 0)
    return console if console.is_terminal else Console(highlight=False, width=160, quiet=process_number() > 0)


def process_number() -> int:
    """Number of this process among those that a launcher started together; 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))
