"""One run at a time in a run directory."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from types import TracebackType

from hrformer.train.distributed import told_to_all

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""File in the run directory that names the process at work there, on its first line."""


class RunLock:
    """Context in which no other process may run in a directory; made if absent, and gone again if it stays empty.

    The system itself releases the lock when the process ends, however it ends. File systems without locks, and
    Windows, go without.

    Args:
        out: run directory.
        main: whether this is the main process, which holds the lock for all processes of its run.

    Raises:
        ValueError: another run is at work there.
    """

    def __init__(self, out: Path, *, main: bool = True) -> None:
        self.out, self._main = out, main
        self._path = out / LOCK
        self._file: int | None = None
        self._made = False

    def __enter__(self) -> RunLock:
        error = ""
        if self._main and fcntl is not None:
            try:
                self._take()
            except ValueError as held:
                error = str(held)
        told_to_all(error)
        return self

    def _take(self) -> None:
        self._made = not self.out.exists()
        self.out.mkdir(parents=True, exist_ok=True)
        while self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                # Not flock, which workers that outlive their process would go on holding.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(file, 200).decode(errors="replace").strip()
                os.close(file)
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    return
                raise ValueError(
                    f"{self.out}: another run is at work in this folder ({holder or 'an unknown process'}); wait for "
                    "its end, stop it, or choose another --out"
                ) from None
            # Whoever held it before may have removed the file since it was opened.
            if self._path.exists() and os.stat(self._path).st_ino == os.fstat(file).st_ino:
                self._file = file
            else:
                os.close(file)
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None
        if self._made and not any(self.out.iterdir()):
            self.out.rmdir()
