"""Shared memory, through which worker processes hand over their batches: how much there is, and what to do for want
of it.
"""

from __future__ import annotations

import re
import shutil

SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps it; containers get 64 MB of it unless they are told otherwise."""

MORE_SHARED_MEMORY = "docker run --shm-size 8g, or --ipc host"

_NO_WORKERS = "--runtime.workers 0 (of eval: --workers 0)"

_CAUSES = (
    (
        # What torch and the kernel say where shared memory is used up.
        r"no space left on device|shared memory|/torch_\w+|unable to mmap|bus error|cannot allocate memory",
        f"shared memory ({SHARED_MEMORY}) is used up; give more of it ({MORE_SHARED_MEMORY}), or take fewer workers: "
        f"{_NO_WORKERS} does without",
    ),
    (
        r"too many open files|ancdata",
        f"too many files are open at once; raise the limit (ulimit -n 65536), or take no workers: {_NO_WORKERS}",
    ),
    (
        r"signal: killed|exited unexpectedly|memoryerror|out of memory",
        "the system ended it, most likely for want of memory; take a smaller --runtime.cache-gb, or fewer workers: "
        f"{_NO_WORKERS} does without",
    ),
)


def free_shared_memory() -> int | None:
    """Bytes of shared memory that are free; None where that cannot be asked."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def worker_error(text: str) -> str:
    """Cause and remedy, in one line, of the failure of a process that loads data.

    ``text`` is that of torch's error, which may hold the worker's whole traceback.
    """
    last = text.strip().splitlines()[-1].strip() if text.strip() else "no reason given"
    # A traceback quotes lines of code, so only its end is looked at.
    remedies = (f"Remedy: {remedy}" for pattern, remedy in _CAUSES if re.search(pattern, last, re.IGNORECASE))
    remedy = next(remedies, f"{_NO_WORKERS} does without such processes")
    return f"a process that loads data failed: {last.rstrip('.')}. {remedy}"


def size_text(size: float) -> str:
    """Bytes for people: "64 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
