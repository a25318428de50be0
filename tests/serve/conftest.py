"""Real small networks behind a real server, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from hrformer.serve.app import Service
from hrformer.serve.server import address_of, listen, run_server
from small_service import nano_service


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    made = nano_service(
        "cifar10", "lspet", "camvid", body_bytes=2**20, pixels=1_000_000, network_pixels=1_000_000, people=5, pictures=3
    )
    yield made
    made.batcher.close()


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(service.guard) as made:
        yield made


@pytest.fixture
def running() -> Iterator[Callable[[Service], str]]:
    """Starts a service on a port of its own; the address. They end with the test."""
    started: list[tuple[threading.Thread, Any]] = []

    def start(service: Service) -> str:
        ready, box = threading.Event(), []
        socket = listen("127.0.0.1", 0)
        address = address_of(socket)

        def run() -> None:
            run_server(service, socket, lambda server: (box.append(server), ready.set()))

        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(10)
        started.append((thread, box[0]))
        return address

    yield start
    for thread, server in started:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
