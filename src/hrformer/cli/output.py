"""The folder of results: what is written when, and what a later run can go on from."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

from hrformer.cli.inputs import OutputNames
from hrformer.cli.messages import note
from hrformer.data.images import is_url
from hrformer.predict.results import (
    JPEG_SIDE,
    Keypoints,
    Result,
    Segmentation,
    check_finite,
    write_json,
    write_picture,
)

_FLUSH_SECONDS = 30.0  # How long finished results may exist in memory only


class OutputFolder:
    """Writes results as they come.

    ``predictions.json`` holds the results, ``images.json`` file name, image id, size and result files of each
    picture, for pose the names of the ``joints`` and their skeleton, and under ``unreadable`` and ``failed`` the other
    pictures with the reason; ``pictures/`` the drawings, and ``masks/`` the class ids of segmentation.

    Args:
        folder: made if absent.
        run: what is running, such as task and weights; results of different runs are never mixed.
        pictures: whether drawings are wanted.
        resume: keep what an earlier, equal run wrote; ValueError if that is from another run or cannot be read.
    """

    def __init__(self, folder: Path, run: dict[str, Any], *, pictures: bool, resume: bool) -> None:
        self.folder, self.run, self.pictures = folder, run, pictures
        self.images_file, self.predictions_file = folder / "images.json", folder / "predictions.json"
        self.unreadable: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.nobody: list[str] = []  # pictures of this run in which pose found no one
        self._joints: dict[str, Any] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._predictions: dict[int, list[dict[str, Any]]] = {}
        self._planned: dict[str, tuple[int, str]] = {}
        self._flushed, self._pause = time.monotonic(), _FLUSH_SECONDS
        folder.mkdir(parents=True, exist_ok=True)
        if resume and self.images_file.exists():
            self._read()
        elif self.images_file.exists():
            note(f"{folder} holds results of an earlier run, which are replaced; --out takes another folder")

    def has(self, source: str) -> bool:
        """Whether everything wanted for this picture is there."""
        row = self._rows.get(_identity(source))
        if row is None or (self.pictures and not row["picture"]):
            return False
        return all((self.folder / row[kind]).is_file() for kind in ("picture", "mask") if row[kind])

    def plan(self, sources: Iterable[str]) -> None:
        """Give every picture its id and name before the run, so that they depend on the list of inputs alone.

        A file named by a number has that id, as COCO's are; the others get the numbers left over from 1 on.
        """
        fresh = [source for source in sources if _identity(source) not in self._rows]
        names = OutputNames(row["name"] for row in self._rows.values())
        used = {row["id"] for row in self._rows.values()}
        ids: dict[str, int] = {}
        for source in fresh:
            stem = Path(source).stem
            if stem.isdecimal() and int(stem) not in used:
                ids[source] = int(stem)
                used.add(ids[source])
        free = (number for number in count(1) if number not in used)
        for source in fresh:
            self._planned[_identity(source)] = (ids[source] if source in ids else next(free), names.choose(source))

    def add(self, result: Result) -> None:
        """Write the files of one result and take note of it; with NaN, or if that is impossible, it failed."""
        assert result.path is not None
        identity = _identity(result.path)
        row = self._rows.get(identity)
        image_id, name = (row["id"], row["name"]) if row else self._planned[identity]
        suffix = "jpg" if max(result.image.shape) <= JPEG_SIDE else "png"
        picture = f"pictures/{name}.{suffix}" if self.pictures else ""
        mask = f"masks/{name}.png" if isinstance(result, Segmentation) else ""
        try:
            check_finite(result)
            if mask:
                result.save(self.folder / mask)
            if picture:
                write_picture(self.folder / picture, result.draw())
        except (ValueError, MemoryError) as error:
            self.failed[result.path] = str(error)
            return
        if isinstance(result, Keypoints):
            self._predictions[image_id] = result.to_coco(image_id)
            skeleton = result.skeleton.to_dict() if result.skeleton else None
            self._joints = {"joints": {"names": list(result.names), "skeleton": skeleton}}
            self.nobody += [] if len(result) else [result.path]
        else:
            self._predictions[image_id] = [{"image_id": image_id} | result.to_dict() | ({"mask": mask} if mask else {})]
        self._rows[identity] = {
            "id": image_id,
            "file_name": result.path if is_url(result.path) else Path(result.path).name,
            "width": result.image.shape[1],
            "height": result.image.shape[0],
            "source": identity,
            "name": name,
            "picture": picture,
            "mask": mask,
        }
        if time.monotonic() - self._flushed > self._pause:
            self.flush()

    def flush(self) -> None:
        """Write ``predictions.json`` and ``images.json`` as of now."""
        start = time.monotonic()
        rows = sorted(self._rows.values(), key=lambda row: str(row["source"]))
        write_json(self.predictions_file, [record for row in rows for record in self._predictions[row["id"]]])
        # Written last: a picture counts as done only if it is listed here.
        others = {"unreadable": self.unreadable, "failed": self.failed}
        write_json(self.images_file, {"run": self.run} | self._joints | {"images": rows} | others)
        self._flushed = time.monotonic()
        # Long lists take long to write; spend at most a twentieth of the time on it.
        self._pause = max(_FLUSH_SECONDS, 20 * (self._flushed - start))

    def _read(self) -> None:
        try:
            index = json.loads(self.images_file.read_text(encoding="utf-8"))
            rows = {row["source"]: row for row in index["images"]}
            predictions: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in rows.values()}
            for record in json.loads(self.predictions_file.read_text(encoding="utf-8")):
                if record["image_id"] in predictions:
                    predictions[record["image_id"]].append(record)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"cannot go on from the results in {self.folder} ({error}); leave out --resume") from error
        different = [key for key in {**self.run, **index["run"]} if self.run.get(key) != index["run"].get(key)]
        if different:
            before, now = (", ".join(f"{key} {run.get(key)}" for key in different) for run in (index["run"], self.run))
            raise ValueError(
                f"the results in {self.folder} come from a run with {before}, this one has {now}: "
                "choose another --out, or leave out --resume to replace them"
            )
        self._rows, self._predictions = rows, predictions
        self._joints = {key: index[key] for key in ("joints",) if key in index}


def _identity(source: str) -> str:
    """The same for one picture however it is typed."""
    return source if is_url(source) else os.path.abspath(source)
