"""Files that this package writes: whole or not at all, where caches lie, and what a file's bytes are."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name in the same folder, made if absent, whose file takes the place of ``path`` at the end.

    No half-written file is ever seen, and after an error none is left. The file gets the permissions of any new file;
    safetensors' own writer would leave it to its owner alone.

    Raises:
        OSError: the folder cannot be written to, or its disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        part.touch()
        mode = part.stat().st_mode
        try:
            yield part
        except (RuntimeError, SafetensorError) as error:
            # The writers of torch and safetensors say "unexpected pos 12488256" and the like where a disk is full.
            free = shutil.disk_usage(path.parent).free / 2**20
            raise OSError(
                f"{path} could not be written; there are {free:.0f} MiB left on its disk ({error})"
            ) from error
        part.chmod(mode)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that becomes ``path`` at the end; after an error nothing is left.

    Raises:
        ValueError: ``path`` is a file, or a folder that holds something.
        OSError: it cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is there already; name a new folder, or an empty one")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            path.rmdir()
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a whole file or none: ``write`` is called with the name that :func:`replacing` gives."""
    with replacing(path) as part:
        write(part)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_dir() -> Path:
    """Folder of downloaded files: ``$HRFORMER_HOME``, else ``$XDG_CACHE_HOME/hrformer``, else ``~/.cache/hrformer``."""
    if home := os.environ.get("HRFORMER_HOME"):
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "hrformer"
