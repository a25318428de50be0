"""The process around the application: models loaded, a socket, signals, and the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from hrformer.fast.choice import Precision, check_precision
from hrformer.predict.exported import is_exported
from hrformer.predict.predictors import AnyPredictor, load
from hrformer.serve.app import Service
from hrformer.serve.batcher import Batcher
from hrformer.serve.metrics import Metrics
from hrformer.serve.models import Places, ServedModel, quiet_thread
from hrformer.serve.options import ServeOptions

RED_BEFORE_CLOSING = 1.0
"""Seconds after a signal in which ``/readyz`` says 503 while requests are still taken, for load balancers."""

READ_BEFORE_CLOSING = 0.5
"""Seconds between the end of listening and that of idle connections: what has been sent by then is read."""

RED_SECONDS = 2.0
"""So long a server whose runtime has failed goes on answering 503, for who watches ``/readyz``."""


def load_service(
    weights: Sequence[str],
    options: ServeOptions,
    *,
    device: str | None = None,
    fast: bool = True,
    precision: Precision = "fp32",
    detector: str | None = None,
    token: str | None = None,
    told: Callable[[str], object] = lambda _: None,
) -> Service:
    """Load models, run each once, and put them behind one batcher.

    Args:
        weights: names from ``hrformer models``, weight files or exported files, each perhaps as NAME=FILE.
        options: limits.
        device: where weights run; None takes the GPU if there is one.
        fast: run weights through ``hrformer.optimize``.
        precision: of the products of weights, see ``load``; exported files keep their own.
        detector: who finds people for models of pose, see ``PosePredictor.stream``.
        token: of clients of the API; None lets everybody in.
        told: called with a line about each model.

    Raises:
        ValueError: no weights, two models of one name, a name that is none, weights that answer with NaN, or a
            precision that is unknown or applies to none of the models.
        FileNotFoundError, CheckpointError, DownloadError, ImportError: see ``load``.
    """
    if not weights:
        raise ValueError("name the weights to serve: hrformer serve WEIGHTS [WEIGHTS ...]")
    named = [_named(text) for text in weights]
    names = [name for name, _ in named]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two models are called {min(twice)!r}: give one another name, NAME=FILE")
    predictors = _loaded([source for _, source in named], device, fast, precision)
    if detector is not None and not any(predictor.task == "pose" for predictor in predictors):
        raise ValueError("--detector finds people for models of pose, of which there is none here")
    metrics = Metrics()
    on_gpu = any(predictor.device.type == "cuda" for predictor in predictors)
    batcher = Batcher(
        max_batch=options.max_batch,
        max_wait=options.max_wait,
        capacity=options.people_in_work + options.queue,
        whole=on_gpu,  # every length of a batch is a CUDA graph
        observe=metrics.batch,
    )
    pool = ThreadPoolExecutor(max(2, min(os.cpu_count() or 2, 16)), "hrformer-pictures", initializer=quiet_thread)
    pixels, people = Places(options.pixels_in_work), Places(options.people_in_work)
    models = []
    for name, predictor in zip(names, predictors, strict=True):
        shared: dict[str, Any] = {"batcher": batcher, "pool": pool, "pixels": pixels, "people": people}
        model = ServedModel(name, predictor, options, detector=detector, fast=fast, precision=precision, **shared)
        model.warm_up()
        models.append(model)
        told(f"{name}: {predictor.task}, {predictor.info.name} on {predictor.device}")
        if precision != "fp32":
            told(f"{name}: {predictor.precision_note}")
    return Service(models, batcher, pool, options, metrics, token)


def _loaded(sources: Sequence[str], device: str | None, fast: bool, precision: Precision) -> list[AnyPredictor]:
    """Predictors of weights as asked for, and of exported files as they are."""
    check_precision(precision)
    if precision != "fp32" and all(map(is_exported, sources)):
        raise ValueError(f"precision {precision!r} is for weights; an exported file keeps what it was exported with")
    asked: dict[str, Any] = {"device": device, "fast": fast, "precision": precision}
    return [load(source) if is_exported(source) else load(source, **asked) for source in sources]


def _named(text: str) -> tuple[str, str]:
    """Name and source of NAME=FILE, or of a file or weights without a name."""
    name, sign, source = text.partition("=")
    if not sign or "/" in name:
        source = text
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(text).stem if os.sep in text or Path(text).suffix else text)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} is no name for a model: letters, digits, '.', '_' and '-' only, as NAME=FILE")
    return name, source


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; OSError with what to do where the port is taken or the host is not this machine's."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot listen on {host}, port {port}: {reason}; choose others with --host and --port"
        ) from error


def address_of(listening: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    service: Service, listening: socket.socket, started: Callable[[uvicorn.Server], object] = lambda _: None
) -> int:
    """Answer until SIGTERM or Ctrl-C.

    Args:
        service: what answers.
        listening: the socket, closed at the end.
        started: called with the server when requests are answered; its ``should_exit`` ends it as a signal does.

    Returns:
        0 after a signal, when all accepted requests are answered; 1 where the networks cannot run any more, for the
        reason in ``service.dead``.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # clients' faults are told to them
    config = uvicorn.Config(
        service.guard,
        http="httptools",  # in C: chunks of single bytes would keep a parser in Python busy
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(service.options.deadline) + 5,
    )
    server = _Server(config, service, started)
    server.run(sockets=[listening])
    service.batcher.close(2.0)
    return 1 if service.dead else 0


class _Server(uvicorn.Server):
    """Uvicorn that stops gently, exits with 0 for it, and watches the networks."""

    def __init__(self, config: uvicorn.Config, service: Service, begun: Callable[[uvicorn.Server], object]) -> None:
        super().__init__(config)
        self._service, self._begun = service, begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.create_task(self._watch())
        self._begun(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.leaving = True
        await asyncio.sleep(RED_BEFORE_CLOSING)
        for server in self.servers:
            server.close()
        await asyncio.sleep(READ_BEFORE_CLOSING)
        self._service.guard.stop()
        await super().shutdown(sockets)
        self._watching.cancel()

    async def _watch(self) -> None:
        """Ends the server some time after the networks have failed."""
        while not self._service.problem():
            await asyncio.sleep(0.1)
        await asyncio.sleep(RED_SECONDS)
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn would raise the signal again after a gentle end, which makes an exit code of its own."""
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
