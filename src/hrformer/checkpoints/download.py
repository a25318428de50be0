"""Fetch published weight files once: cached, verified, whole or not at all, and with one clear error if that fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import tqdm

from hrformer.checkpoints.registry import WeightEntry, bundled_folder, find_weights, list_bundled
from hrformer.files import cache_dir, sha256_of, write_file

_OFFLINE_VARIABLES = ("HRFORMER_OFFLINE", "HF_HUB_OFFLINE")
_TIMEOUT = 30.0  # seconds without any data after which a connection counts as broken


class DownloadError(RuntimeError):
    """A weight file could not be fetched or is not the published one."""


def resolve_weights(name_or_path: str | os.PathLike[str]) -> tuple[Path, WeightEntry | None]:
    """Local file of a network's weights, given by name or as a file, and the registry's entry if given by name.

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


def fetch_weights(entry: WeightEntry) -> Path:
    """Local file of an entry, downloaded at the first call and taken from the cache afterwards.

    A file put into the cache by hand counts as downloaded; its hash is compared like any other's. DownloadError says
    why a file cannot be fetched and where to put it by hand.
    """
    if entry.origin == "bundled":
        return bundled_folder() / entry.filename
    destination = cache_dir() / entry.filename
    if destination.is_file():
        if problem := _hash_problem(destination, entry.sha256_prefix):
            said = "is not the published file (delete it to have that downloaded)"
            raise DownloadError(f"{destination} {said}: {problem}")
        return destination
    cached = try_to_load_from_cache(*entry.hub_location) if entry.hub_location else None  # shared with timm
    if isinstance(cached, str):
        return Path(cached)
    try:
        return _download(entry, destination)
    except Exception as error:  # the hub's client raises what its transport does, which differs between versions
        url = hf_hub_url(*entry.hub_location) if entry.hub_location else entry.url
        reason = f"no connection ({error.reason})" if type(error) is URLError else str(error).strip()
        message = f"cannot download {url}: {(reason or type(error).__name__).splitlines()[0].rstrip('.')}. "
        message += f"To go on without the network, put the file at {destination} by hand."
        if names := [bundled.name for bundled in list_bundled() if bundled.task == entry.task]:
            message += f" The package holds weights for {entry.task} that need no network: {', '.join(names)}."
        raise DownloadError(message) from error


def _download(entry: WeightEntry, destination: Path) -> Path:
    """Fetch one file, or raise whatever went wrong."""
    for variable in _OFFLINE_VARIABLES:
        if os.environ.get(variable, "").strip().lower() in ("1", "on", "yes", "true"):
            raise ConnectionError(f"{variable} is set, so the network is not used")
    if entry.hub_location is not None:
        # Asked first, since the hub's client would try for 23 seconds, with five warnings.
        urlopen(Request(hf_hub_url(*entry.hub_location), method="HEAD"), timeout=_TIMEOUT).close()
        return Path(hf_hub_download(*entry.hub_location))
    write_file(destination, lambda part: _fetch(entry.url, part, entry.sha256_prefix, destination.name))
    return destination


def _fetch(url: str, part: Path, sha256_prefix: str | None, name: str) -> None:
    """Write the content of an address, with a bar on standard error where that is a terminal.

    ``torch.hub.download_url_to_file`` would wait for a silent server for ever, and take half a file for a whole one
    where there is no hash.
    """
    with urlopen(Request(url, headers={"User-Agent": "hrformer"}), timeout=_TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        bar = tqdm.wrapattr(response, "read", total=total or None, desc=name, unit="B", unit_scale=True, disable=None)
        with bar as reader, part.open("wb") as file:
            shutil.copyfileobj(reader, file)
    if total and (size := part.stat().st_size) != total:
        raise ConnectionError(f"the connection ended after {size} of {total} bytes")
    if problem := _hash_problem(part, sha256_prefix):
        raise ConnectionError(f"the server sent another file than the published one: {problem}")


def _hash_problem(path: Path, sha256_prefix: str | None) -> str:
    """How a file's sha256 differs from the published one; empty where it does not, or none is published."""
    if sha256_prefix is None or (digest := sha256_of(path)).startswith(sha256_prefix):
        return ""
    return f"expected a sha256 starting with {sha256_prefix}, got {digest}"
