"""A web server on this machine that breaks off, refuses and stays silent, for download tests."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes, several reads long


class WeightServer:
    """Serves ``CONTENT`` at every path.

    Attributes:
        behaviour: "whole", "slow", "silent", an int (that many bytes, then hang up), or "status NNN".
        requests: number of GET requests so far.
    """

    def __init__(self) -> None:
        self.behaviour: str | int = "whole"
        self.requests = 0
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
                server.requests += 1
                behaviour = server.behaviour
                if isinstance(behaviour, str) and behaviour.startswith("status"):
                    self.send_error(int(behaviour.split()[1]))
                    return
                if behaviour in ("slow", "silent"):
                    time.sleep(0.3)
                self.do_HEAD()
                self.wfile.write(CONTENT[:behaviour] if isinstance(behaviour, int) else CONTENT)

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.send_header("ETag", '"v1"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test output clean."""

        return Handler


def allow_local_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only 127.0.0.1 is asked in these tests: undo the suite-wide ban on the network, and keep proxies out."""
    for name in ("HRFORMER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def point_hub_to(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_DISABLE_XET do to huggingface_hub, which reads them when it loads."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    # Older versions, such as 0.34, hold a copy of this one.
    monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def closed_port() -> int:
    """A port of 127.0.0.1 nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
