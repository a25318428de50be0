"""The texts of torch's errors about workers, as its versions write them, and the remedy that each gets."""

from __future__ import annotations

import pytest

from hrformer.data.loader import size_text, worker_error

CAUGHT = (
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    '  File "worker.py", line 351, in _worker_loop\n    data = fetcher.fetch(index)\n'
)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (f"{CAUGHT}RuntimeError: unable to write to file </torch_7_1_0>: No space left on device (28)", "--shm-size"),
        (
            "unable to open shared memory object </torch_7_1_0> in read/write mode: Too many open files (24)",
            "--shm-size",
        ),
        (
            f"{CAUGHT}RuntimeError: unable to mmap 4816896 bytes from file </torch_7_1_0>: Cannot allocate memory",
            "--shm-size",
        ),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "--shm-size",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "want of memory"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "want of memory"),
        ("received 0 items of ancdata", "ulimit -n"),
        ("[Errno 24] Too many open files", "ulimit -n"),
        ("something new", "--runtime.workers 0"),
        ("", "--runtime.workers 0"),
    ],
)
def test_every_error_of_a_worker_ends_with_its_remedy(text: str, remedy: str) -> None:
    told = worker_error(text)
    assert remedy in told
    assert "--runtime.workers 0" in told
    assert "\n" not in told
    assert "Traceback" not in told


def test_sizes() -> None:
    assert [size_text(value) for value in (64 << 20, 8e9)] == ["67 MB", "8.0 GB"]
