"""The process: it starts with a line, ends gently, and says with its exit code whether all was well."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import hrformer.cli.serve
from exported_pose import POSE, exported_pose
from half_kernels import pretend_half_kernels
from hrformer.__main__ import main
from hrformer.cli.arguments import ServeArguments
from hrformer.serve.app import Service
from hrformer.serve.options import ServeOptions
from hrformer.serve.server import listen, load_service
from serve_load import Case, Load, cases_of, metrics_of, multipart, pictures, server
from small_service import NANO, PICTURES, nano_service

CAT = (PICTURES / "cat.jpg").read_bytes()


def status_of(address: str, path: str) -> int:
    try:
        with urllib.request.urlopen(address + path, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def head(model: str, body: bytes) -> bytes:
    kind = "multipart/form-data; boundary=picture-boundary"
    lines = [f"POST /v1/models/{model}:predict HTTP/1.1", "Host: x", f"Content-Type: {kind}"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]).encode()


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def answer(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_a_client_that_leaves_frees_its_place(
    running: Callable[[Service], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its picture has come whole, and while it waits for the answer."""
    service = nano_service("cifar10", queue=1)
    model = service.models["cifar10"]
    predictor: Any = model.predictor
    plain, batches = predictor.run, []

    def slow(pixels: Any, options: Any) -> Any:
        batches.append(len(pixels))
        time.sleep(0.5)
        return plain(pixels, options)

    monkeypatch.setattr(predictor, "run", slow)
    body = multipart("a.jpg", CAT)
    address = running(service)
    with socket.create_connection(("127.0.0.1", port_of(address))) as leaving:
        leaving.sendall(head("cifar10", body) + body)
        wait_until(lambda: model.places.used == 1)
    wait_until(lambda: model.places.used == 0, 0.4)  # before the network is through
    with socket.create_connection(("127.0.0.1", port_of(address))) as half:
        half.sendall(head("cifar10", body) + body[:100])
        time.sleep(0.1)
    with socket.create_connection(("127.0.0.1", port_of(address))) as staying:
        staying.sendall(head("cifar10", body) + body)
        assert answer(staying).startswith(b"HTTP/1.1 200")
    counted = asyncio.run(metrics_of("127.0.0.1", port_of(address)))
    assert counted['hrformer_requests_total{model="cifar10",status="499"}'] == 2


def test_limits_of_time_and_size_on_the_wire(running: Callable[[Service], str]) -> None:
    """Who sends too slowly is told so, and who sends too much gets the answer while still sending."""
    service = nano_service("cifar10", upload=0.3, body_bytes=100_000)
    address = running(service)
    body = multipart("a.jpg", CAT[:50_000])
    with socket.create_connection(("127.0.0.1", port_of(address))) as slow:
        slow.sendall(head("cifar10", body) + body[:100])
        assert answer(slow).startswith(b"HTTP/1.1 408")
    large = multipart("a.jpg", bytes(3_000_000))
    with socket.create_connection(("127.0.0.1", port_of(address))) as much:
        much.sendall(head("cifar10", large) + large)
        assert b"the request has more than" in answer(much)
    with socket.create_connection(("127.0.0.1", port_of(address))) as endless:  # it may not be read for ever
        endless.sendall(head("nobody", large * 100).replace(b"Connection: close", b"Connection: keep-alive"))
        start, sent = time.monotonic(), 0
        endless.settimeout(20)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - start < 15:
                sent += endless.send(bytes(2**16))
        assert time.monotonic() - start < 10
        assert sent < 2**26
    chunked = head("cifar10", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with socket.create_connection(("127.0.0.1", port_of(address))) as asking:
        start = time.monotonic()
        asking.sendall(head("cifar10", large).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
        assert answer(asking).startswith(b"HTTP/1.1 413")  # not 100: the body is not wanted
        assert time.monotonic() - start < 1.9
    with socket.create_connection(("127.0.0.1", port_of(address))) as unknown:
        parts = [large[start : start + 0x10000] for start in range(0, len(large), 0x10000)]
        unknown.sendall(chunked + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n")
        assert answer(unknown).startswith(b"HTTP/1.1 413")
    assert status_of(address, "/readyz") == 200


DYING = """
import sys
from hrformer.serve import server
from hrformer.serve.options import ServeOptions

options = ServeOptions(deadline=float(sys.argv[3]), stalled=1.0 if sys.argv[2] == "stuck" else 300.0)
service = server.load_service([f"cifar10={sys.argv[1]}"], options, device="cpu")
predictor = service.models["cifar10"].predictor

def raised(*_):
    raise {"runtime": RuntimeError("device lost"), "thread": SystemExit(1)}[sys.argv[2]]

def stuck(*_):
    import time
    time.sleep(60)

predictor.run = stuck if sys.argv[2] == "stuck" else raised
listening = server.listen("127.0.0.1", 0)
code = server.run_server(service, listening, lambda _: print(server.address_of(listening), flush=True))
sys.exit(print(service.dead, file=sys.stderr) or code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "told"), [("runtime", "device lost"), ("thread", "has ended"), ("stuck", "not answered")]
)
def test_a_dead_worker_turns_readiness_red_and_ends_the_process(way: str, told: str) -> None:
    command = [sys.executable, "-c", DYING, NANO["cifar10"], way, "0.5" if way == "stuck" else "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert status_of(address, "/readyz") == 200
        body = multipart("a.jpg", CAT)
        with socket.create_connection(("127.0.0.1", port_of(address))) as client:
            client.sendall(head("cifar10", body) + body)
            status = answer(client)[:12]
        assert status in (b"HTTP/1.1 503", b"HTTP/1.1 504")
        wait_until(lambda: status_of(address, "/readyz") == 503, 5)
        assert status_of(address, "/healthz") == 200
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1, errors
    assert told in errors
    assert "Traceback" not in errors


def test_readiness_turns_red_before_the_door_closes(running: Callable[[Service], str]) -> None:
    service = nano_service("cifar10")
    address = running(service)
    assert status_of(address, "/readyz") == 200
    service.leaving = True
    assert status_of(address, "/readyz") == 503
    body = multipart("a.jpg", CAT)
    with socket.create_connection(("127.0.0.1", port_of(address))) as client:
        client.sendall(head("cifar10", body) + body)
        assert answer(client).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_request() -> None:
    """Every request whose bytes were sent before the signal gets a whole answer, and the process ends with 0."""
    cases = cases_of([NANO["cifar10"]], list(pictures(3)))

    async def work(host: str, port: int, process: subprocess.Popen[str]) -> tuple[Load, int]:
        load = Load(host, port, cases, body_bytes=2**25)
        clients = asyncio.create_task(load.steady(24, seconds=20))
        await asyncio.sleep(2)
        process.send_signal(signal.SIGTERM)
        sent = load.tally.sent
        await asyncio.wait([clients], timeout=0.01)
        # Later ones find nobody listening: not accepted, hence no loss.
        await asyncio.to_thread(process.wait, 30)
        clients.cancel()
        await asyncio.gather(clients, return_exceptions=True)
        return load, sent

    with server([NANO["cifar10"]]) as (host, port, process):
        load, sent = asyncio.run(work(host, port, process))
    assert process.returncode == 0
    tally = load.tally
    assert tally.statuses[200] > 20
    assert set(tally.statuses) <= {200, 503}
    assert not tally.wrong
    # 24 clients: those that connected after the signal, and nobody else, may have found a closed door.
    assert tally.answered >= sent
    assert all("Connect" in line for line in tally.lost), tally.lost[:3]


@pytest.mark.slow
def test_overload_for_10_seconds() -> None:
    """As in ``benchmarks/serve_load.py``: 200 clients of all kinds, twice what the server can do."""
    weights = [NANO["cifar10"], NANO["lspet"]]
    cases = cases_of(weights, list(pictures(6)), detector="picture")
    limit = 2**20
    with server(weights, "--body-bytes", str(limit), "--detector", "picture") as (host, port, process):
        load = Load(host, port, cases, body_bytes=limit)
        calm = asyncio.run(load.steady(8, 4.0))
        assert not calm.problems()
        storm = asyncio.run(load.storm(2 * calm.answered / 4.0, 10.0))
        assert status_of(f"http://{host}:{port}", "/readyz") == 200
    assert process.returncode == 0
    assert not storm.problems()
    assert storm.statuses[200] > 0.2 * storm.sent
    assert storm.statuses[413] > 0
    assert storm.statuses[422] > 0
    assert storm.aborted > 0.2 * storm.sent


def test_the_load_test_sees_what_is_wrong(running: Callable[[Service], str]) -> None:
    """An answer for another picture, and a server that is not there."""
    service = nano_service("cifar10")
    port = port_of(running(service))
    right, other = cases_of([NANO["cifar10"]], list(pictures(2)))[:2]
    path = "/v1/models/cifar10:predict"
    swapped = Case(path=path, body=right.body, expected=other.expected)
    load = Load("127.0.0.1", port, [swapped], body_bytes=2**25)
    assert asyncio.run(load.steady(1, requests=2)).problems()
    silent = listen("127.0.0.1", 0)
    closed = silent.getsockname()[1]
    silent.close()
    lost = asyncio.run(Load("127.0.0.1", closed, [swapped], body_bytes=2**25).steady(1, requests=1))
    assert "1 sent, but 0 answered" in lost.problems()[0]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([], "name the weights to serve"),
        (["nothing"], "nothing"),
        ([f"a={NANO['cifar10']}", f"a={NANO['lspet']}"], "two models are called 'a'"),
        ([f"a b={NANO['cifar10']}"], "no name for a model"),
        ([NANO["cifar10"], "--queue", "0"], "queue must be above 0"),
        ([NANO["cifar10"], "--deadline", "inf"], "deadline must be above 0 and less than 1e+12, got inf"),
        ([NANO["cifar10"], "--max-wait", "nan"], "max_wait must be"),
        ([NANO["cifar10"], "--detector", "picture"], "of which there is none here"),
        ([NANO["cifar10"], "--host", "nonsense.invalid"], "nonsense.invalid"),
        ([NANO["cifar10"], "--port", "99999"], "port"),
        ([NANO["cifar10"], "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        ([NANO["cifar10"], "--token-file", "/nonexistent"], "No such file"),
    ],
)
def test_wrong_use_is_one_line(typed: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = [] if "--port" in typed else ["--port", "0"]
    assert main(["serve", *typed, *port]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_taken_port_is_told_before_models_are_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "nothing", "--port", str(taken.getsockname()[1])]) == 2
    assert re.search(r"cannot listen on 127.0.0.1, port \d+: Address already in use; choose", capsys.readouterr().err)


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hrformer.cli.serve, "missing", ImportError("No module named 'fastapi'"))
    assert main(["serve", NANO["cifar10"]]) == 2
    assert "pip install 'hrformer[serve]'" in capsys.readouterr().err


def test_the_command_has_the_defaults_of_the_limits() -> None:
    typed, limits = ServeArguments(), ServeOptions()
    names = {field.name for field in fields(limits)} - {"upload", "pictures"}
    assert {name: getattr(typed, name) for name in names} == {name: getattr(limits, name) for name in names}


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert hrformer.cli.serve._token(file) == "secret"
    monkeypatch.setenv("HRFORMER_TOKEN", "other")
    assert hrformer.cli.serve._token(None) == "other"
    file.write_text("two words")
    with pytest.raises(ValueError, match="one word"):
        hrformer.cli.serve._token(file)


@pytest.mark.parametrize(
    ("fast", "precision", "runs"),
    [(True, "fp32", "fp32"), (True, "bf16", "bf16"), (True, "auto", "bf16"), (False, "bf16", "bf16")],
)
def test_precision_reaches_the_models_and_their_description(
    fast: bool, precision: Any, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, told = pretend_half_kernels(monkeypatch), list[str]()
    asked: dict[str, Any] = {"fast": fast, "precision": precision, "device": "cpu", "told": told.append}
    service = load_service([f"a={NANO['lspet']}"], ServeOptions(), **asked)
    with TestClient(service.guard) as client:
        assert client.get("/v1/models").json()["models"][0]["precision"] == runs
        answer = client.post("/v1/models/a:predict", files={"image": CAT}, data={"boxes": "[[20, 30, 200, 250]]"})
        assert len(answer.json()["results"][0]["people"]) == 1
    service.batcher.close()
    assert made == ([runs] * 2 if fast else [])  # of the model, and of the detector that finds people for it
    assert (f"a: precision: {runs}" in told) is (precision != "fp32")


def test_a_precision_that_no_model_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrformer.serve.server.is_exported", lambda source: True)
    with pytest.raises(ValueError, match="'bf16' is for weights; an exported file keeps"):
        load_service(["a.onnx"], ServeOptions(), precision="bf16")
    with pytest.raises(ValueError, match="must be 'fp32', 'bf16' or 'auto', got 'fp16'"):
        load_service([NANO["cifar10"]], ServeOptions(), precision="fp16")  # type: ignore[arg-type]


@pytest.mark.slow
def test_exported_files_are_served(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The whole pipeline of a file; options that are part of its graph are refused."""
    report, _ = exported_pose(tmp_path_factory, tmp_path / "pose")
    service = load_service([f"file={report.file}", f"plain={POSE}"], ServeOptions(), detector="picture")
    with TestClient(service.guard) as client:
        sent = {"files": {"image": CAT}, "data": {"boxes": "[[20, 30, 200, 250], [9, 9, 60, 80]]"}}
        file, plain = (client.post(f"/v1/models/{name}:predict", **sent).json() for name in ("file", "plain"))
        people, expected = (answer["results"][0]["people"] for answer in (file, plain))
        assert len(people) == 2
        for person, other in zip(people, expected, strict=True):
            np.testing.assert_allclose(person["keypoints"], other["keypoints"], atol=0.05)
        refused = client.post("/v1/models/file:predict", files={"image": CAT}, data={"flip": "false"})
        assert refused.status_code == 422
        assert "was exported with flip=True" in refused.json()["detail"]
        assert sorted(client.get("/v1/models").json()["models"][0]["fixed"]) == ["flip", "shift"]
    service.batcher.close()
