"""What stands before the application: the bearer token, and how much and how long a client may send."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from hrformer.serve.batcher import QueueFull
from hrformer.serve.models import Places
from hrformer.serve.options import ServeOptions

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DRAIN_SECONDS, DRAIN_BYTES = 2.0, 16 * 2**20
"""So long, and so much, the rest of a refused body is read and dropped: who still sends could not read the answer."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""Of every answer; those that an answer has already stay."""

_INSIDE = "'self' 'unsafe-inline'"
DOCS_POLICY = f"default-src 'self'; script-src {_INSIDE}; style-src {_INSIDE}; img-src 'self' data:"
"""Content policy of the page that describes the API, which starts by a script inside it."""


class Guard:
    """An ASGI application around another one.

    Args:
        inner: the application.
        options: limits.
        token: what clients of the API must send as ``Authorization: Bearer``; None lets everybody in.
        refused: called with the status of every refusal of its own.
    """

    def __init__(
        self,
        inner: Any,
        options: ServeOptions,
        token: str | None = None,
        refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._inner, self._options = inner, options
        self._token, self._told = None if token is None else token.encode(), refused
        self._bytes = Places(options.bytes_in_work)
        self._uploads: set[asyncio.Timeout] = set()
        self.stopping = False

    def stop(self) -> None:
        """From now on requests are refused, also those whose bodies have not come yet."""
        self.stopping = True
        for limit in self._uploads:
            limit.reschedule(asyncio.get_running_loop().time())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        body = _Body(receive, self._options, self._bytes, asked=b"expect" in headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                if not await body.drain():
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                there = {name for name, _ in message["headers"]}
                own = HEADERS | ({"content-security-policy": DOCS_POLICY} if scope["path"] == "/docs" else {})
                extra = [(name.encode(), value.encode()) for name, value in own.items()]
                message["headers"] = [*message["headers"], *(row for row in extra if row[0] not in there)]
            await send(message)

        try:
            refused = self._refused(scope["path"], headers)
            if refused is not None:
                self._told(refused.status_code)
                await refused(scope, receive, answer)
                return
            scope["read_body"] = self._reader(body)
            await self._inner(scope, body.receive, answer)
        finally:
            body.close()

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> JSONResponse | None:
        protected = path.startswith("/v1/") or path == "/metrics"
        if protected and self._token is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if not hmac.compare_digest(given.strip(), self._token) or scheme.lower() != b"bearer":
                wrong = "the token is wrong" if given else "this server wants a token"
                detail = f"{wrong}: send it as Authorization: Bearer TOKEN"
                return JSONResponse({"detail": detail}, 401, headers={"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._options.body_bytes:
            return JSONResponse({"detail": too_large(self._options)}, 413)
        return None

    def _reader(self, body: _Body) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
        async def read(reading: Callable[[], Awaitable[Any]]) -> Any:
            """Await what reads the body, within its limits; HTTPException 408, 413, 429 or 503."""
            try:
                async with asyncio.timeout(self._options.upload) as limit:
                    self._uploads.add(limit)
                    try:
                        return await reading()
                    finally:
                        self._uploads.discard(limit)
            except TimeoutError:
                if self.stopping:
                    raise shutting_down() from None
                detail = f"the request did not arrive within {self._options.upload:g} seconds"
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            except QueueFull:
                raise busy("more is being sent than there is room for") from None

        return read


class _Body:
    """The body of one request as it comes, counted; ``asked``: the client sends it only when it is wanted."""

    def __init__(self, receive: Receive, options: ServeOptions, places: Places, *, asked: bool) -> None:
        self._receive, self._options, self._places = receive, options, places
        self._held = 0
        self._asked = asked
        self._ended = asked  # nothing to drain before it is asked for

    async def receive(self) -> Message:
        """The next message; HTTPException 413 past the limit, QueueFull where there is no room."""
        message = await self._next()
        size = len(message.get("body", b""))
        if self._held + size > self._options.body_bytes:
            raise HTTPException(413, too_large(self._options))
        self._places.take(size)
        self._held += size
        return message

    async def drain(self) -> bool:
        """Read on and drop what comes, for a while; whether that was all, so that another request may follow."""
        left = DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._ended and left > 0:
                    left -= len((await self._next()).get("body", b""))
        whole, self._ended = self._ended and not self._asked, True
        return whole

    def close(self) -> None:
        """Give the room back."""
        self._places.used -= self._held
        self._held = 0

    async def _next(self) -> Message:
        self._asked = False
        message = await self._receive()
        self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


def too_large(options: ServeOptions) -> str:
    """The sentence about a body that is."""
    return f"the request has more than {options.body_bytes / 2**20:g} MiB: send fewer or smaller pictures"


def busy(why: str, seconds: int = 1) -> HTTPException:
    """429, to be tried again."""
    return HTTPException(429, f"{why}: try again", {"Retry-After": str(seconds)})


def shutting_down() -> HTTPException:
    """503, with the connection closed."""
    return HTTPException(503, "the server is shutting down", {"Connection": "close"})
