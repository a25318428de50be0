"""Fetch published weight files once: cached, verified, atomic, and with one clear error when that fails.

The order of events for one file: look in the cache, lock, look again, continue or start ``<file>.part``, check length
and hash, rename.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock
from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from hrformer.checkpoints.registry import WeightEntry, bundled_folder, find_weights, list_bundled
from hrformer.checkpoints.transfer import (
    Advance,
    PartialFile,
    TransferError,
    complete_transfer,
    read_json,
    require_reachable,
)
from hrformer.files import cache_dir, sha256_of

_FILE_SUFFIXES = {".pth", ".pt", ".safetensors", ".tar", ".bin", ".ckpt", ".pdparams"}
_OFFLINE_VARIABLES = ("HRFORMER_OFFLINE", "HF_HUB_OFFLINE")


class DownloadError(RuntimeError):
    """A weight file could not be fetched or is not the published one."""


def fetch_weights(entry: WeightEntry | str, *, progress: bool = True) -> Path:
    """Local file of an entry, downloaded at the first call and taken from the cache afterwards.

    Args:
        entry: An entry, its name, or a local file as a ``file://`` URL or a path (with a folder or a weight
            file's suffix, so that it cannot be taken for a name), which is returned as it is.
        progress: Show a bar on standard error where that is a terminal.

    Raises:
        ValueError: unknown name.
        FileNotFoundError: a local file that does not exist.
        DownloadError: the file cannot be fetched; the message says why and where to put it by hand.
    """
    if isinstance(entry, str):
        if local := _local_file(entry):
            return local
        entry = find_weights(entry)
    if entry.origin == "bundled":
        return bundled_folder() / entry.filename
    destination = cache_dir() / entry.filename
    try:
        if entry.hub_location is not None:
            return _fetch_from_hub(entry.hub_location, destination, progress)
        return download(entry.url, destination, entry.sha256_prefix, progress)
    except DownloadError as error:
        names = [bundled.name for bundled in list_bundled() if bundled.task == entry.task]
        if not names:
            raise
        offer = f"The package holds weights for {entry.task} that need no network: {', '.join(names)}."
        raise DownloadError(f"{error} {offer}") from error


def resolve_weights(name_or_path: str | os.PathLike[str]) -> tuple[Path, WeightEntry | None]:
    """Local file of a network's weights, given by name or as a file.

    Args:
        name_or_path: a name that ``hrformer models`` lists, or a path.

    Returns:
        The file, and the registry's entry if it was given by name.

    Raises:
        ValueError: unknown name, or that of a person detector.
        FileNotFoundError: no such file.
        DownloadError: see :func:`fetch_weights`.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if path.is_file():
        return path, None
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no weight file {name}; `hrformer models` lists the names of published weights")
    entry = find_weights(name)
    if entry.task == "detection":
        raise ValueError(f"{name} is a person detector; use it with a pose model: predictor(..., detector={name!r})")
    return fetch_weights(entry), entry


def download(
    url: str,
    destination: Path | str,
    sha256_prefix: str | None = None,
    progress: bool = True,
    *,
    attempts: int = 4,
    backoff: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Fetch ``url`` into ``destination`` unless it is there; interrupted transfers go on where they stopped.

    Args:
        url: ``http(s)://`` address. A ``file://`` URL or a path passes through: that file is checked and returned.
        destination: Final path. ``<destination>.part`` holds an unfinished transfer.
        sha256_prefix: Full sha256 or its leading hex digits; None skips the check.
        progress: Show a bar on standard error where that is a terminal.
        attempts: Requests at most, the first included.
        backoff: Seconds before the second request; doubles each time.
        timeout: Seconds without any data after which a connection counts as broken.

    Returns:
        The file: ``destination``, or the local file that ``url`` names.

    Raises:
        FileNotFoundError: ``url`` is a local file that does not exist.
        ValueError: ``url`` is of another kind.
        DownloadError: offline, refused, broken off too often, the wrong hash, or no room to write.
    """
    if local := _local_file(url):
        if sha256_prefix:
            _require_hash(local, sha256_prefix, f"{local} is not the published file")
        return local
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"expected an http(s) or file URL or a local path, got {url!r}")
    destination = Path(destination).expanduser()
    if _is_cached(destination, sha256_prefix):
        return destination
    if offline := _offline_variable():
        raise _error(url, destination, f"{offline} is set, so the network is not used")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if _is_cached(destination, sha256_prefix):  # another process was faster
                return destination
            path = destination.with_name(f"{destination.name}.part")
            part = PartialFile.open(path, url, hash_known=sha256_prefix is not None)
            with _progress_bar(destination.name, progress) as advance:
                complete_transfer(part, advance, attempts=attempts, backoff=backoff, timeout=timeout)
            _finish(part, destination, sha256_prefix)
    except (TransferError, OSError) as error:  # OSError: a full disk, a folder without write permission
        raise _error(url, destination, str(error)) from error
    return destination


def _finish(part: PartialFile, destination: Path, sha256_prefix: str | None) -> None:
    """Check the completed file and give it its name."""
    digest = sha256_of(part.path)
    if sha256_prefix and not digest.startswith(sha256_prefix):
        part.discard()
        raise DownloadError(
            f"{part.url} is not the published file: expected a sha256 starting with {sha256_prefix}, got {digest}. "
            "The download was deleted."
        )
    os.replace(part.path, destination)
    part.notes.unlink(missing_ok=True)
    _remember_hash(destination, digest)


def _is_cached(destination: Path, sha256_prefix: str | None) -> bool:
    """Whether ``destination`` is the file. A file put there by hand is hashed once; the answer is kept beside it.

    Raises:
        DownloadError: it is another file.
    """
    if not destination.is_file():
        return False
    if sha256_prefix is None:
        return True
    known = read_json(_hash_notes(destination))
    stat = destination.stat()
    unchanged = (known.get("size"), known.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
    if not (unchanged and str(known.get("sha256")).startswith(sha256_prefix)):
        problem = f"{destination} is not the published file (delete it to have that downloaded)"
        _remember_hash(destination, _require_hash(destination, sha256_prefix, problem))
    return True


def _require_hash(path: Path, sha256_prefix: str, problem: str) -> str:
    """The file's sha256.

    Raises:
        DownloadError: it does not start with ``sha256_prefix``.
    """
    digest = sha256_of(path)
    if not digest.startswith(sha256_prefix):
        raise DownloadError(f"{problem}: expected a sha256 starting with {sha256_prefix}, got {digest}")
    return digest


def _remember_hash(path: Path, digest: str) -> None:
    stat = path.stat()
    notes = {"sha256": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with suppress(OSError):  # a read-only cache is hashed every time
        _hash_notes(path).write_text(json.dumps(notes), encoding="utf-8")


def _hash_notes(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256.json")


def _local_file(text: str) -> Path | None:
    """Path named by a ``file://`` URL or by a string that can only be a path; None for names and other URLs.

    Raises:
        FileNotFoundError: there is no such file.
    """
    parts = urlsplit(text)
    if parts.scheme == "file":
        path = Path(url2pathname(parts.path))
    elif "://" in text or not (Path(text).suffix.lower() in _FILE_SUFFIXES or re.search(r"[/\\]", text)):
        return None
    else:
        path = Path(text).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    return path


def _offline_variable() -> str | None:
    """Name of the environment variable that forbids the network, if one does."""
    truthy = {"1", "on", "yes", "true"}
    return next((name for name in _OFFLINE_VARIABLES if os.environ.get(name, "").strip().lower() in truthy), None)


def _error(url: str, destination: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"cannot download {url}: {reason}. To go on without the network, put the file at {destination} by hand."
    )


def _fetch_from_hub(location: tuple[str, str], destination: Path, progress: bool) -> Path:
    """File of a Hugging Face repository, in that hub's own cache, which timm shares; a hand-placed file comes first."""
    repository, filename = location
    if destination.is_file():
        return destination
    cached = try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(repository, filename)
    if offline := _offline_variable():
        raise _error(url, destination, f"{offline} is set, so the network is not used")
    try:
        require_reachable(url, timeout=10.0)  # the hub's client would try for 23 seconds, with five warnings
    except TransferError as error:
        raise _error(url, destination, str(error)) from error
    silenced = not progress and not are_progress_bars_disabled()
    if silenced:
        disable_progress_bars()
    try:
        return Path(hf_hub_download(repository, filename))
    except Exception as error:  # the client's transport, and so what it raises, differs between its versions
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise _error(url, destination, reason.rstrip(".")) from error
    finally:
        if silenced:
            enable_progress_bars()


@contextmanager
def _progress_bar(name: str, wanted: bool) -> Iterator[Advance]:
    """Bar with bytes, rate and remaining time on standard error; a silent stand-in where that is not a terminal."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    visible = wanted and console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not visible) as bar:
        task = bar.add_task(name, total=None)
        yield lambda present, total: bar.update(task, completed=present, total=total)
