"""Fetch published weight files once: cached, verified, whole or not at all, and with one clear error if that fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.request import Request, urlopen

from hrformer.checkpoints.hub import SCHEME, TIMEOUT, HubFile, plain_reason, require_network
from hrformer.checkpoints.registry import WeightEntry, bundled_folder, find_weights, list_bundled
from hrformer.files import cache_dir, sha256_of, write_file


class DownloadError(RuntimeError):
    """A weight file could not be fetched or is not the published one."""


def resolve_weights(name_or_path: str | os.PathLike[str]) -> tuple[Path, WeightEntry | None]:
    """Local file of a network's weights, and the registry's entry if they are given by their name in there.

    They are given by name, as a file, or as ``hf://OWNER/REPO[@REVISION][/FILE]`` on the Hugging Face Hub, whose cache
    and tokens are used; without FILE it is ``model.safetensors``.

    Raises:
        ValueError: unknown name, or that of a person detector, or a reference of another form.
        FileNotFoundError: no such file.
        DownloadError: see :func:`fetch_weights`; or the Hub has no such file, or not for this user.
    """
    name = os.fspath(name_or_path)
    if name.startswith(SCHEME):
        return _fetch_reference(name), None
    path = Path(name).expanduser()
    if path.is_file():
        return path, None
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no weight file {name}; `hrformer models` lists the names of published weights")
    entry = find_weights(name)
    if entry.task == "detection":
        raise ValueError(f"{name} is a person detector; use it with a pose model: predictor(..., detector={name!r})")
    return fetch_weights(entry), entry


def _fetch_reference(reference: str) -> Path:
    """Local copy of a file on the Hub, the newest where the revision is a branch and the network is there."""
    file = HubFile.parse(reference)
    try:
        return file.fetch()
    except Exception as error:  # the hub's client raises what its transport does, which differs between versions
        raise DownloadError(f"cannot load {reference}: {file.reason_of(error)}.") from error


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
    hub_file = HubFile.parse(entry.url) if entry.hub_location else None
    if hub_file is not None and (cached := hub_file.cached()) is not None:  # shared with timm
        return cached
    try:
        return _download(entry, destination) if hub_file is None else hub_file.fetch()
    except Exception as error:  # as for references
        url = entry.url if hub_file is None else hub_file.url()
        reason = plain_reason(error) if hub_file is None else hub_file.reason_of(error)
        message = f"cannot download {url}: {reason}. "
        message += f"To go on without the network, put the file at {destination} by hand."
        if names := [bundled.name for bundled in list_bundled() if bundled.task == entry.task]:
            message += f" The package holds weights for {entry.task} that need no network: {', '.join(names)}."
        raise DownloadError(message) from error


def _download(entry: WeightEntry, destination: Path) -> Path:
    """Fetch one file, or raise whatever went wrong."""
    require_network()
    write_file(destination, lambda part: _fetch(entry.url, part, entry.sha256_prefix, destination.name))
    return destination


def _fetch(url: str, part: Path, sha256_prefix: str | None, name: str) -> None:
    """Write the content of an address, with a bar on standard error where that is a terminal.

    ``torch.hub.download_url_to_file`` would wait for a silent server for ever, and take half a file for a whole one
    where there is no hash.
    """
    from huggingface_hub.utils import tqdm

    with urlopen(Request(url, headers={"User-Agent": "hrformer"}), timeout=TIMEOUT) as response:
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
