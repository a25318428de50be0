"""The folder of a job: its list of inputs, its Parquet files of results, and which of these count."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.cluster.rows import ID
from hrformer.files import replacing
from hrformer.predict.results import write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTS = 1_000
"""Parts that a list is cut into, as far as their sizes allow. Each is worked on as one and becomes one file."""

SMALLEST = 32
"""Pictures in a part."""

_PENDING = ".pending"
_ROWS_AT_ONCE = 1 << 17


class ClusterError(RuntimeError):
    """A job could not go on; the message says why."""


class JobFolder:
    """What a job keeps on a disk that all machines see.

    ``inputs/`` holds the list of pictures in parts and ``run.json``, which says what ran; ``results/`` the rows; and
    ``finished/`` Ray Data's checkpoints, a folder for each driver: for each file of results one with the ids in it.

    A file of results counts only with its file in ``finished/``. Ray Data writes the latter under a pending name before
    the results and gives it its own name after them, so a driver, machine or process that dies leaves results without
    it, which :meth:`settle` removes.

    Args:
        folder: absolute, made if absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs, self.results, self.finished = (folder / name for name in ("inputs", "results", "finished"))
        self.record = self.inputs / "run.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within it no other driver works in the folder; ValueError if one does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self.folder} is in use by another hrformer predict --engine ray") from None
            yield

    def prepare(
        self, run: dict[str, Any], pictures: Iterable[list[str]], *, names: Sequence[str], resume: bool, largest: int
    ) -> int:
        """Write the list of inputs of a new job, or go on with the one that is there; returns its number of pictures.

        Args:
            run: what runs on what, as JSON keeps it; an earlier job in the folder must be the same.
            pictures: paths and addresses, some at a time; not asked for where a job is continued.
            names: of joints or classes, which the rows do not say; kept in ``run.json``.
            resume: whether to go on with an earlier job.
            largest: pictures in a part of the list, at most.

        Raises:
            ValueError: there is an earlier job and ``resume`` is not set, or it is another one, or no picture came, or
                the folder holds something else under the names that are used here.
        """
        if self.record.exists():
            return self._known(run, resume)
        self.folder.mkdir(parents=True, exist_ok=True)
        for taken in filter(Path.exists, (self.inputs, self.results, self.finished)):
            raise ValueError(f"{taken} is there already and of no job: choose another --out")
        return self._write_inputs(pictures, largest, {"run": run, "names": list(names)})

    def _known(self, run: dict[str, Any], resume: bool) -> int:
        try:
            earlier = json.loads(self.record.read_text(encoding="utf-8"))
            before, number = dict(earlier["run"]), int(earlier["pictures"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"cannot go on from {self.record} ({error}); choose another --out") from error
        if not resume:
            raise ValueError(
                f"{self.folder} holds results of an earlier run: --resume goes on, another --out starts anew"
            )
        different = [key for key in {**run, **before} if run.get(key) != before.get(key)]
        if different:
            was, now = (", ".join(f"{key} {one.get(key)}" for key in different) for one in (before, run))
            raise ValueError(
                f"the results in {self.folder} come from a run with {was}, this one has {now}: choose another --out"
            )
        return number

    def _write_inputs(self, pictures: Iterable[list[str]], largest: int, record: dict[str, Any]) -> int:
        """Parts of the list, called by their first ids, and the record; all or nothing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        raw, parts = (self.folder / f".{kind}.{uuid.uuid4().hex[:8]}.tmp" for kind in ("list", "inputs"))
        number = 0
        try:
            schema = pa.schema([("uri", pa.string())])
            with pq.ParquetWriter(raw, schema) as writer:
                for some in pictures:
                    # Parquet keeps UTF-8 only; a file name of other bytes gets a row, whose error is that it is absent.
                    texts = [name.encode(errors="backslashreplace") for name in some]
                    writer.write_table(pa.table({"uri": pa.array(texts, pa.string())}))
                    number += len(some)
            if not number:
                raise ValueError("no pictures")
            size = min(max(number // PARTS, SMALLEST), largest)
            parts.mkdir()
            first = 0
            for table in _cut(pq.ParquetFile(raw).iter_batches(_ROWS_AT_ONCE), size, schema):
                ids = pa.array(np.arange(first, first + len(table)), pa.int64())
                pq.write_table(table.add_column(0, ID, ids), parts / f"{first:012}.parquet", compression="zstd")
                first += len(table)
            write_json(parts / self.record.name, record | {"pictures": number})
            os.replace(parts, self.inputs)
        finally:
            raw.unlink(missing_ok=True)
            shutil.rmtree(parts, ignore_errors=True)
        return number

    def settle(self) -> None:
        """Leave only files of results that count, and no id of which the results are gone.

        To be called while nobody writes. What it removes is done again. Beyond what Ray Data itself does, it removes
        results that a worker of a driver long dead wrote after the next one had looked, and both files of a pair where
        a second attempt at writing was cut off after a first had succeeded.
        """
        for folder in (self.results, self.finished):
            folder.mkdir(exist_ok=True)
        checkpoints = {file.stem: file for file in self.finished.glob("*/*.parquet")}
        sure = {base for base in checkpoints if not base.endswith(_PENDING) and base + _PENDING not in checkpoints}
        held = set()
        for file in self.results.iterdir():
            base = file.name.rpartition("-")[0]
            if base in sure:
                held.add(base)
            else:
                file.unlink()
        for base, file in checkpoints.items():
            if base not in held:
                file.unlink()

    def left(self, number: int) -> list[tuple[Path, NDArray[np.bool_]]]:
        """The parts of the list with pictures that have no row yet, and which of their rows these are.

        Ray Data could leave them out itself, but takes for it 8 bytes per finished picture on each of several machines.
        """
        import pyarrow.parquet as pq

        wanted = np.ones(number, bool)
        for file in self._counted():
            wanted[pq.read_table(file, columns=[ID])[ID].to_numpy()] = False
        parts = sorted(self.inputs.glob("*.parquet"))
        rows = np.split(wanted, [int(part.stem) for part in parts[1:]])
        return [(part, some) for part, some in zip(parts, rows, strict=True) if some.any()]

    def close(self, number: int) -> None:
        """Settle a job that has ended, and see to it that each picture has one row.

        Two rows can only come of a worker that outlived its driver and wrote while the next driver was at work.

        Raises:
            ClusterError: pictures are without a row; another run with ``--resume`` does them.
        """
        import pyarrow.parquet as pq

        self.settle()
        files = sorted(self.results.iterdir())
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        if rows != number:
            seen = np.zeros(number, bool)
            for file in files:
                ids = pq.read_table(file, columns=[ID])[ID].to_numpy()
                if seen[ids].any():
                    table = pq.read_table(file)
                    with replacing(file) as part:
                        pq.write_table(table.filter(~seen[ids]), part)
                seen[ids] = True
            if not seen.all():
                raise ClusterError(f"{int((~seen).sum())} of {number} pictures have no row; --resume tries them again")

    def done(self) -> int:
        """Pictures that have a row that counts."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(file).num_rows for file in self._counted())

    def _counted(self) -> Iterator[Path]:
        """Ray Data's files with the ids of finished pictures."""
        return (file for file in self.finished.glob("*/*.parquet") if not file.stem.endswith(_PENDING))

    def errors(self, most: int) -> tuple[int, list[tuple[str, str]]]:
        """How many rows have an error, and the first so many of them as (uri, error)."""
        import pyarrow.dataset as dataset

        rows = dataset.dataset(self.results, format="parquet")
        wrong = dataset.field("error").is_valid()
        first = rows.head(most, columns=["uri", "error"], filter=wrong).to_pylist()
        return rows.count_rows(filter=wrong), [(row["uri"], row["error"]) for row in first]


def _cut(batches: Iterable[Any], size: int, schema: Any) -> Iterator[Any]:
    """Tables of ``size`` rows, the last one of what is left."""
    import pyarrow as pa

    waiting: Any = pa.Table.from_batches([], schema)
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        whole = len(waiting) // size * size
        yield from (waiting.slice(start, size) for start in range(0, whole, size))
        waiting = waiting.slice(whole)
    if len(waiting):
        yield waiting
