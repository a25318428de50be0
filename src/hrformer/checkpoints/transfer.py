"""One file over HTTP into a partial file that can be taken up again, by this process or by a later one.

What the server said of the file (its validator and full length) is kept beside the partial file, so that a transfer
goes on with the same version and never joins halves of two (RFC 9110, sections 13.1.5 If-Range and 14 Range).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

_CHUNK = 1 << 16  # bytes
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}  # may be gone at the next attempt

Advance = Callable[[int, "int | None"], object]  # called with (bytes present, bytes in all)


class TransferError(Exception):
    """A transfer failed for good; the message is the reason."""


class _Interrupted(Exception):
    """The transfer broke off; another attempt may succeed."""


class _Unreachable(_Interrupted):
    """No connection could be made at all."""


@dataclass(kw_only=True, slots=True)
class PartialFile:
    """Bytes of an unfinished transfer, and which version of the file they belong to (``<path>.json``).

    Attributes:
        path: Where the bytes are.
        url: Where they come from.
        hash_known: Whether the finished file will be compared with a published hash.
        validator: Strong ETag or Last-Modified of the version the bytes belong to.
        total: Its length in bytes.
    """

    path: Path
    url: str
    hash_known: bool
    validator: str | None = None
    total: int | None = None

    @classmethod
    def open(cls, path: Path, url: str, *, hash_known: bool) -> PartialFile:
        """Take up what an earlier run left at ``path``, unless it came from another URL."""
        part = cls(path=path, url=url, hash_known=hash_known)
        notes = read_json(part.notes)
        if notes.get("url", url) != url:
            part.discard()
        else:
            part.validator, part.total = notes.get("validator"), notes.get("total")
        return part

    @property
    def notes(self) -> Path:
        """File holding url, validator and total."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def size(self) -> int:
        """Bytes present."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def complete(self) -> bool:
        """Whether every byte is known to be present."""
        return self.total is not None and self.size == self.total

    @property
    def oversized(self) -> bool:
        """Whether there are more bytes than the file has."""
        return self.total is not None and self.size > self.total

    @property
    def resumable(self) -> bool:
        """Whether more bytes may follow: a file that changed meanwhile would show, in its validator or its hash."""
        return not self.oversized and (self.validator is not None or self.hash_known)

    def record(self, validator: str | None, total: int | None) -> None:
        """Remember which version of the file the bytes belong to."""
        self.validator, self.total = validator, total
        notes = {"url": self.url, "validator": validator, "total": total}
        self.notes.write_text(json.dumps(notes), encoding="utf-8")

    def discard(self) -> None:
        """Forget the bytes: the next attempt starts at the beginning."""
        self.validator = self.total = None
        for path in (self.path, self.notes):
            path.unlink(missing_ok=True)


def require_reachable(url: str, timeout: float) -> None:
    """Connect to the host of ``url``; any answer will do.

    Raises:
        TransferError: there is no connection.
    """
    parts = urlsplit(url)
    try:
        with urlopen(Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD"), timeout=timeout):
            return
    except HTTPError as error:
        error.close()
    except URLError as error:
        raise TransferError(f"no connection to {parts.netloc} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise TransferError(f"no answer from {parts.netloc} ({error!r})") from error


def complete_transfer(part: PartialFile, advance: Advance, *, attempts: int, backoff: float, timeout: float) -> None:
    """Fetch whatever ``part`` lacks, taking a broken transfer up again up to ``attempts`` times in all.

    A server that cannot be reached at all is not asked a second time: that is being offline, not a bad line.

    Args:
        part: Grows to the whole file; kept as it is when the transfer fails.
        advance: Told the bytes present and the bytes in all.
        attempts: Requests at most.
        backoff: Seconds before the second request; doubles each time.
        timeout: Seconds without data after which a connection counts as broken.

    Raises:
        TransferError: the server refused, could not be reached, or broke off every time.
        OSError: the local disk.
    """
    problem = _Interrupted("no attempt was made")
    reached = False
    for attempt in range(attempts):
        try:
            return _transfer(part, advance, timeout)
        except HTTPError as error:
            raise TransferError(f"the server answered {error.code} {error.reason}") from error
        except _Interrupted as error:
            reached = reached or not isinstance(error, _Unreachable)
            problem = error
        if not reached:
            break
        if attempt + 1 < attempts:
            time.sleep(backoff * 2**attempt)
    reason = str(problem)
    if reached and attempts > 1:
        reason += f", the last of {attempts} attempts"
    if part.size and part.resumable:
        reason += f"; {part.size} bytes are kept in {part.path} and the next call goes on from there"
    raise TransferError(reason) from problem


def _transfer(part: PartialFile, advance: Advance, timeout: float) -> None:
    """One request for whatever ``part`` lacks.

    Raises:
        HTTPError: a final refusal, such as 404.
        _Interrupted: anything another attempt may cure.
        OSError: the local disk.
    """
    if not part.resumable:
        part.discard()
    if part.complete:  # the last run ended between the last byte and the rename
        return
    with _request(part, timeout) as response:
        present = part.size if _continues(part, response) else 0
        advance(present, part.total)
        with part.path.open("ab" if present else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                present += len(chunk)
                advance(present, part.total)
            file.flush()
            os.fsync(file.fileno())
    if part.total is not None and not part.complete:
        raise _Interrupted(f"the connection ended after {part.size} of {part.total} bytes")


def _request(part: PartialFile, timeout: float) -> http.client.HTTPResponse:
    """Ask for the missing bytes; a file that changed meanwhile comes whole (If-Range)."""
    headers = {"User-Agent": "hrformer", "Accept-Encoding": "identity"}
    if offset := part.size:
        headers["Range"] = f"bytes={offset}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        response: http.client.HTTPResponse = urlopen(Request(part.url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing beyond our offset: these bytes are of another file
            part.discard()
        elif error.code not in _PASSING_STATUS:
            raise
        raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
    except URLError as error:
        raise _Unreachable(f"no connection to {urlsplit(part.url).netloc} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"the server did not answer ({error!r})") from error
    return response


def _continues(part: PartialFile, response: http.client.HTTPResponse) -> bool:
    """Whether the body continues ``part``; False when it is the whole file from the start.

    Raises:
        _Interrupted: it is neither; ``part`` is discarded, so the next attempt asks for the whole file.
    """
    validator = _validator(response)
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        part.record(validator, int(length) if length.isdecimal() else None)
        return False
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    total = int(span[2]) if span and span[2] != "*" else None
    fits = (
        span is not None
        and int(span[1]) == part.size
        and (part.validator is None or validator in (None, part.validator))
        and (part.total is None or total in (None, part.total))
    )
    if not fits:
        part.discard()
        raise _Interrupted("the server sent a part that does not fit the bytes already here")
    part.record(part.validator or validator, part.total or total)
    return True


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What If-Range may compare: a strong ETag, else the date; a weak ETag does not promise equal bytes."""
    etag: str | None = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    date: str | None = response.headers.get("Last-Modified")
    return date


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"the connection broke ({error!r})") from error
        if not chunk:
            return
        yield chunk


def read_json(path: Path) -> dict[str, Any]:
    """Notes kept beside a file; none, or half-written ones, count as empty."""
    with suppress(OSError, ValueError):
        notes = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(notes, dict):
            return notes
    return {}
