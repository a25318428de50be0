"""Start of the script ``hrformer``: Ctrl-C ends it with one line even while torch is still being imported.

Outside the package, since importing that is what takes long.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process; for the exit codes see ``hrformer.__main__.main``."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    from hrformer.__main__ import command_of

    run = command_of(sys.argv[1:])
    signal.signal(signal.SIGINT, before)
    return run(sys.argv[1:])


def _stop(*_: object) -> None:
    # No exception: modules that are being imported may catch it or make another of it.
    os.write(2, b"interrupted\n")
    os._exit(130)
