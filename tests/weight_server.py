"""A web server on this machine that breaks off, changes files, ignores ranges and disappears, for download tests."""

from __future__ import annotations

import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub.constants
import pytest

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes, several reads long


class WeightServer:
    """Serves ``content`` at every path; each request takes one instruction from ``script``, the last one stays.

    Instructions: "whole" (honour ranges), "no ranges" (always 200), an int (that many bytes, then hang up),
    "status NNN", "foreign part" (206 of another ETag), "shifted part" (206 of other bytes), "slow".
    """

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.script: list[str | int] = ["whole"]
        self.ranges: list[str | None] = []  # Range header of every GET
        self.sent: list[int] = []  # body bytes of every GET
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/weights.pth"

    def __enter__(self) -> WeightServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.content)))
                self.send_header("ETag", server.etag or "")
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test output clean."""

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        if isinstance(step, str) and step.startswith("status"):
            self.sent.append(0)
            request.send_error(int(step.split()[1]))
            return
        condition = request.headers.get("If-Range")
        ranged = asked is not None and step != "no ranges" and condition in (None, self.etag)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if ranged and asked else 0  # type: ignore[index]
        if start >= len(self.content):
            self.sent.append(0)
            request.send_error(416)
            return
        body = self.content[start:]
        request.send_response(206 if ranged or step == "foreign part" else 200)
        request.send_header("Content-Length", str(len(body)))
        if self.etag:
            request.send_header("ETag", '"other"' if step == "foreign part" else self.etag)
        if ranged:
            first = 0 if step == "shifted part" else start
            request.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        request.end_headers()
        if step == "slow":
            time.sleep(0.3)
        cut = body[:step] if isinstance(step, int) else body
        self.sent.append(len(cut))
        request.wfile.write(cut)
        request.close_connection = True


def allow_local_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only 127.0.0.1 is asked in these tests: undo the suite-wide ban on the network, and keep proxies out."""
    for name in ("HRFORMER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def closed_port() -> int:
    """A port of 127.0.0.1 nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
