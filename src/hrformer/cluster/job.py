"""A job on a Ray cluster: from the list of pictures in a folder to Parquet files, each picture once."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.cluster.folder import ClusterError, JobFolder
from hrformer.cluster.rows import ID
from hrformer.cluster.worker import Make, Worker

STORE_BYTES = 200_000_000
"""Of the object store that is started here; only addresses and results go through it."""

_WORKER_CPUS, _SMALL_CPUS = 0.8, 0.05
"""Cores that a worker with one reserves, and a task that reads the list or writes results. Not a whole one, so that
these tasks find a place beside workers on all cores."""

_READS = 16  # Pictures that a worker on a GPU waits for at once, beside those that it decodes

_RETRIES, _MOST_FAILED = 5, 10
"""A picture may kill a worker's process outright. Its part of the list is tried again so often, then left, and other
parts go on; more parts than the latter end the job. What is left is tried once more, as long as rows come of it."""

_CONNECT_SECONDS = 10.0

_PAUSE = 1.0  # Seconds between two looks at what is done


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """What a cluster has for workers.

    Attributes:
        workers: one for each GPU, or each core where there is none or none is wanted.
        gpus: that each takes: 0 or 1.
        cores: that each may keep busy.
        threads: of each, in which pictures are read and decoded; more than cores, since reading is mostly waiting.
    """

    workers: int
    gpus: int
    cores: int
    threads: int

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, float]], *, cpu: bool) -> Machines:
        """Of machines with these numbers of "CPU" and "GPU", as Ray counts them; ``cpu`` leaves GPUs alone."""
        if not cpu and (graphic := [node for node in nodes if node.get("GPU", 0) >= 1]):
            cores = max(min(int(node.get("CPU", 1) // node["GPU"]) for node in graphic), 1)
            workers = sum(int(node["GPU"]) for node in graphic)
            return cls(workers=workers, gpus=1, cores=cores, threads=cores + _READS)
        return cls(workers=max(sum(int(node.get("CPU", 0)) for node in nodes), 1), gpus=0, cores=1, threads=_READS // 4)


def check_ray() -> None:
    """ImportError with the line that installs it, unless Ray Data is there with checkpoints as they are needed here."""
    try:
        from ray.data.checkpoint.checkpoint_writer import PendingCheckpoint
    except ImportError as error:
        raise ImportError(f"--engine ray needs more packages: pip install 'hrformer[cluster]' ({error})") from error
    assert PendingCheckpoint is not None


@contextmanager
def cluster(address: str | None) -> Iterator[list[dict[str, float]]]:
    """Within it Ray is connected, quietly; yields the numbers of "CPU" and "GPU" of each machine.

    Args:
        address: of a cluster, as ``ray start`` prints it, or "auto"; None takes ``RAY_ADDRESS``, else starts Ray here,
            on all cores and GPUs of this machine, and ends it at the end.

    Raises:
        ClusterError: there is no cluster at this address.
    """
    import ray.data

    told: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What ends a job is raised; Ray logs it as well, with tracebacks.
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if address and (server := re.fullmatch(r"(.+):(\d+)", address)):
            # Ray itself would wait for minutes.
            socket.create_connection((server[1], int(server[2])), _CONNECT_SECONDS).close()
        if address:
            ray.init(address=address, **told)
        else:
            # Else Ray ends every process but as many as there are cores, and starts another for each file of results.
            os.environ.setdefault("RAY_num_workers_soft_limit", str(3 * cores + 4))
            told |= {"num_cpus": cores, "object_store_memory": STORE_BYTES, "include_dashboard": False}
            ray.init(address="local", **told)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def run_job(
    folder: JobFolder, make: Make, task: str, number: int, machines: Machines, show: Callable[[str, int, int], object]
) -> None:
    """Work on the pictures that have no row yet, until each has one. Ray must be connected, the folder locked.

    Args:
        folder: prepared and settled.
        make: loads the predictor with its options; is called on each worker.
        task: of the predictor.
        number: of pictures in the list.
        machines: where to work.
        show: is told what is being done, how much of it is done, and how much there is.

    Raises:
        ClusterError: a worker could not load the predictor, results could not be written, or the cluster is gone.
    """
    before = number + 1
    # A machine that dies may use up the retries of several parts at once; they get others as long as that helps.
    while (left := folder.left(number)) and (count := sum(int(some.sum()) for _, some in left)) < before:
        before = count
        with _watched(folder, number, show):
            _work_on(left, folder, make, task, machines)
        folder.settle()
    folder.close(number)
    show("pictures", number, number)


def _work_on(
    left: list[tuple[Path, NDArray[np.bool_]]], folder: JobFolder, make: Make, task: str, machines: Machines
) -> None:
    """Once through all pictures that are left; parts whose retries are used up stay without rows."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, read_datasource
    from ray.data.checkpoint import CheckpointConfig
    from ray.util.annotations import RayDeprecationWarning

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = _MOST_FAILED
    context.checkpoint_config = CheckpointConfig(
        id_column=ID, checkpoint_path=str(folder.finished / uuid.uuid4().hex), delete_checkpoint_on_success=False
    )
    few: dict[str, Any] = {"concurrency": min(machines.workers, len(left))}
    listed = read_datasource(_source(left), override_num_blocks=len(left), num_cpus=_SMALL_CPUS, **few)
    with warnings.catch_warnings():
        # Another name for the number of retries is announced, but not there yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        rows = listed.map_batches(
            Worker,
            fn_constructor_args=(make, task, machines.threads, not machines.gpus),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=machines.workers, initial_size=machines.workers),
            num_cpus=machines.cores - 1 if machines.cores > 1 else _WORKER_CPUS,
            num_gpus=machines.gpus,
            ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
        )
    try:
        small = {"num_cpus": _SMALL_CPUS}
        rows.write_parquet(str(folder.results), ray_remote_args=small, compression="zstd", **few)
    except ray.exceptions.RayError as error:
        raise ClusterError(_cause(error)) from error


def _source(left: list[tuple[Path, NDArray[np.bool_]]]) -> Any:
    """A ``ray.data.Datasource`` of the parts of a list, each one block; Ray's own reader joins small files."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    # In here, so that Ray sends the code itself: a process that only reads the list need not import this package.
    def read(part: str, wanted: NDArray[np.bool_]) -> list[Any]:
        import pyarrow.parquet as pq

        return [pq.read_table(part).filter(wanted)]

    class Parts(Datasource):
        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(partial(read, str(part), wanted), about) for part, wanted in left]

        def estimate_inmemory_data_size(self) -> int | None:
            return None

    return Parts()


@contextmanager
def _watched(folder: JobFolder, number: int, show: Callable[[str, int, int], object]) -> Iterator[None]:
    """Within it a thread tells how much is done."""
    ended = threading.Event()

    def watch() -> None:
        pause = _PAUSE
        while not ended.wait(pause):
            start = monotonic()
            try:
                show("pictures", folder.done(), number)
            except OSError:  # a file that was renamed meanwhile
                continue
            # Many files take long to count; a twentieth of the time is enough for it.
            pause = max(_PAUSE, 20 * (monotonic() - start))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _cause(error: BaseException) -> str:
    """The last line of what a worker said, without the traceback of its machine."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"a worker failed: {type(cause).__name__}: {lines[-1] if lines else ''}"
