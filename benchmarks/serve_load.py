"""``hrformer serve`` under load on this machine: too many clients, slow ones, ones that leave and ones that err.

    python benchmarks/serve_load.py --seconds 60
    python benchmarks/serve_load.py --requests 10000

The first starts a server with the bundled weights, measures what it answers per second (its capacity), and sends twice
as much from 200 clients. Every request must end as 200, 4xx, 429, 503 or 504, none may be lost, and each answer must be
the direct prediction for its picture. The second sends so many requests of mixed sizes and looks at the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import hrformer
from conditions import describe

BUNDLED = ("hrformer_tiny_things", "hrformer_tiny_people17", "hrformer_tiny_petspeople")
PICTURES = Path(hrformer.__file__).parent / "export" / "pictures"
CLIENTS = 200
SLOW, LEAVING, MALFORMED, OVERSIZED = 0.10, 0.30, 0.05, 0.02
"""Shares of the clients' requests: bodies that come in drops, connections closed early, and what is to be refused."""
PATIENCE = 60.0
BOUNDARY = "picture-boundary"
ALLOWED = {200, 400, 413, 415, 422, 429, 503, 504}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One request that may be sent, and the right answer to it."""

    path: str
    body: bytes
    kind: str = f"multipart/form-data; boundary={BOUNDARY}"
    expected: dict[str, Any] | None = None  # None: it is to be refused


@dataclass(kw_only=True, slots=True)
class Tally:
    """What became of the requests."""

    sent: int = 0
    aborted: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of those answered 200

    @property
    def answered(self) -> int:
        """Requests with a whole response."""
        return sum(self.statuses.values())

    def problems(self) -> list[str]:
        """What should not have happened; empty if all is well."""
        odd = [
            f"{number} answers of status {status}" for status, number in self.statuses.items() if status not in ALLOWED
        ]
        if self.sent != self.answered + self.aborted:
            odd.append(f"{self.sent} sent, but {self.answered} answered and {self.aborted} given up by the client")
        return odd + self.lost[:5] + self.wrong[:5]

    def summary(self, seconds: float) -> str:
        """One paragraph."""
        times = np.array(self.seconds or [np.nan])
        p50, p99 = np.percentile(times, [50, 99])
        statuses = ", ".join(f"{status}: {self.statuses[status]}" for status in sorted(self.statuses))
        return (
            f"{self.sent} sent = {self.answered} answered ({statuses}) + {self.aborted} given up by the client; "
            f"{self.statuses[200] / seconds:.1f} pictures/s, p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms; "
            f"{len(self.wrong)} wrong, {len(self.lost)} lost"
        )


def pictures(count: int = 12, *, largest: int = 401) -> Iterator[np.ndarray[Any, Any]]:
    """Photographs of the package at mixed sizes, RGB."""
    rng = random.Random(0)
    files = sorted(PICTURES.glob("*.jpg"))
    for number in range(count):
        bgr = cv2.imread(str(files[number % len(files)]))
        assert bgr is not None
        width, height = rng.randint(64, largest), rng.randint(64, largest)
        yield np.ascontiguousarray(cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)[:, :, ::-1])


def multipart(name: str, data: bytes, **fields: str) -> bytes:
    """A form with one picture and text fields."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n'
        for key, text in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def cases_of(weights: Sequence[str], images: Sequence[np.ndarray[Any, Any]], detector: str | None = None) -> list[Case]:
    """A request for each picture and model, with the direct prediction by the same weights.

    ``detector`` is the one that the server was told to find people by.
    """
    cases = []
    for source in weights:
        predictor = hrformer.load(source, "cpu", fast=True)
        path = f"/v1/models/{Path(source).stem}:predict"
        for number, image in enumerate(images):
            done, data = cv2.imencode(".png", image[:, :, ::-1])
            assert done
            result: Any = predictor(image, **({"detector": detector} if predictor.task == "pose" else {}))
            expected = result.to_dict() | {"file_name": f"{number}.png"}
            cases.append(Case(path=path, body=multipart(f"{number}.png", data.tobytes()), expected=expected))
    return cases


def refused_cases(path: str, body_bytes: int) -> tuple[list[Case], Case]:
    """Malformed requests, and an oversized one."""
    return [
        Case(path=path, body=multipart("a.png", b"no picture at all")),
        Case(path=path, body=multipart("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 64)),
        Case(path=path, body=multipart("a.png", b"x", nonsense="1")),
        Case(path=path, body=b"{", kind="application/json"),
        Case(path=path, body=b'{"image": "?"}', kind="application/json"),
        Case(path=path, body=b"hello", kind="text/plain"),
        Case(path=path, body=b"--wrong\r\n"),
    ], Case(path=path, body=bytes(body_bytes + 1000))


def difference(found: Any, expected: Any, place: str = "") -> str:
    """Where an answer differs from the direct prediction by more than rounding; empty where it does not."""
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return f"{place}: {sorted(found)} for {sorted(expected)}"
        return next(filter(None, (difference(found[key], expected[key], f"{place}.{key}") for key in expected)), "")
    if isinstance(expected, list | tuple):
        if len(found) != len(expected):
            return f"{place}: {len(found)} for {len(expected)}"
        pairs = enumerate(zip(found, expected, strict=True))
        return next(filter(None, (difference(a, b, f"{place}[{i}]") for i, (a, b) in pairs)), "")
    if isinstance(expected, float):
        # Sums of another batch size round otherwise: thousandths of a pixel, hundred thousandths of a share.
        near = abs(found - expected) <= 2e-3 + 1e-4 * abs(expected)
        return "" if near else f"{place}: {found} for {expected}"
    return "" if found == expected else f"{place}: {found!r} for {expected!r}"


@contextmanager
def server(weights: Sequence[str], *options: str) -> Iterator[tuple[str, int, subprocess.Popen[str]]]:
    """A server in a process of its own: host, port and process. It must end with 0 after SIGTERM."""
    command = [sys.executable, "-m", "hrformer", "serve", *weights, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://([\d.]+):(\d+)", line)
            if found is None:
                raise RuntimeError(f"the server did not start: {line!r}")
            yield found[1], int(found[2]), process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


class Load:
    """Clients of one server.

    Args:
        host: of the server, on this machine.
        port: of it.
        cases: requests with right answers.
        body_bytes: the server's limit.
        seed: of the clients' choices.
    """

    def __init__(self, host: str, port: int, cases: Sequence[Case], *, body_bytes: int, seed: int = 0) -> None:
        self._host, self._port, self._cases = host, port, cases
        self._bad, self._oversized = refused_cases(cases[0].path, body_bytes)
        self._rng = random.Random(seed)
        self.tally = Tally()

    async def steady(self, clients: int, seconds: float = float("inf"), requests: int = sys.maxsize) -> Tally:
        """Well-behaved clients, each with one request at a time, for so long or so many requests in all."""
        end, left = time.monotonic() + seconds, iter(range(requests))

        async def client() -> None:
            while time.monotonic() < end and next(left, None) is not None:
                await self._request(self._rng.choice(self._cases))

        self.tally = Tally()
        await asyncio.gather(*(client() for _ in range(clients)))
        return self.tally

    async def storm(self, rate: float, seconds: float, clients: int = CLIENTS) -> Tally:
        """``rate`` requests per second in all, at random times, from clients of all kinds."""
        end = time.monotonic() + seconds

        async def client() -> None:
            while True:
                await asyncio.sleep(self._rng.expovariate(rate / clients))
                if time.monotonic() > end:
                    return
                await self._any_request()

        self.tally = Tally()
        await asyncio.gather(*(client() for _ in range(clients)))
        return self.tally

    async def _any_request(self) -> None:
        draw = self._rng.random()
        if draw < MALFORMED:
            await self._request(self._rng.choice(self._bad))
        elif draw < MALFORMED + OVERSIZED:
            await self._request(self._oversized)
        elif draw < MALFORMED + OVERSIZED + SLOW:
            await self._request(self._rng.choice(self._cases), drops=8)
        elif draw < MALFORMED + OVERSIZED + SLOW + LEAVING:
            await self._request(self._rng.choice(self._cases), leave=self._rng.choice(["halfway", "waiting"]))
        else:
            await self._request(self._rng.choice(self._cases))

    async def _request(self, case: Case, *, drops: int = 1, leave: str = "") -> None:
        """Send one; ``drops`` is in how many pieces, and ``leave`` when the client goes."""
        self.tally.sent += 1
        start, writer = time.monotonic(), None
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                head = f"POST {case.path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {case.kind}\r\n"
                head += f"Content-Length: {len(case.body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode())
                if leave == "halfway":
                    writer.write(case.body[: len(case.body) // 2])
                    await writer.drain()
                    await asyncio.sleep(self._rng.random() * 0.2)
                    self.tally.aborted += 1
                    return
                await self._send(writer, case.body, drops)
                if leave == "waiting":
                    await asyncio.sleep(self._rng.random() * 0.2)
                    self.tally.aborted += 1
                    return
                status, content = await _response(reader)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.tally.lost.append(f"{case.path}: no whole response after {time.monotonic() - start:.1f} s: {error!r}")
            return
        finally:
            if writer is not None:
                writer.transport.abort() if leave else writer.close()
        self._judge(case, status, content, time.monotonic() - start)

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, body: bytes, drops: int) -> None:
        size = -(-len(body) // drops)
        with suppress(
            ConnectionError
        ):  # who is refused early may find nobody reading; the answer is there all the same
            for place in range(0, len(body), max(size, 1)):
                writer.write(body[place : place + size])
                await writer.drain()
                if drops > 1:
                    await asyncio.sleep(0.2)

    def _judge(self, case: Case, status: int, content: bytes, seconds: float) -> None:
        self.tally.statuses[status] += 1
        if status != 200:
            if case.expected is not None and status in (400, 413, 415, 422):
                self.tally.wrong.append(f"{case.path}: {status} {content[:200]!r}")
            return
        if case.expected is None:
            self.tally.wrong.append(f"{case.path}: an answer to what should be refused")
            return
        self.tally.seconds.append(seconds)
        if found := difference(json.loads(content)["results"][0], case.expected, case.path):
            self.tally.wrong.append(found)


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and content of a response; EOFError or ValueError if it is not whole."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    found = re.search(r"content-length: (\d+)", head.lower())
    if found is None:
        raise ValueError(f"no length: {head[:80]!r}")
    return int(head.split()[1]), await reader.readexactly(int(found[1]))


async def metrics_of(host: str, port: int) -> dict[str, float]:
    """The server's counters by name with labels."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    _, content = await _response(reader)
    writer.close()
    rows = (line.rpartition(" ") for line in content.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def mean_batch(counters: dict[str, float]) -> str:
    """Mean batch size of each network."""
    sums = {
        name[len("hrformer_batch_size_sum") :]: value for name, value in counters.items() if "batch_size_sum" in name
    }
    means = {label: value / counters[f"hrformer_batch_size_count{label}"] for label, value in sums.items()}
    return ", ".join(f"{label[len('{model=') : -1]} {mean:.2f}" for label, mean in means.items())


async def overload(load: Load, host: str, port: int, seconds: float) -> list[str]:
    """Capacity, then a storm of twice as much; prints both and returns problems."""
    warm = min(5.0, seconds / 4)
    await load.steady(4, 2.0)
    calm = await load.steady(8, warm)
    capacity = calm.answered / warm
    print(f"capacity, 8 clients, {warm:g} s: {calm.summary(warm)}")
    problems = calm.problems()
    storm = await load.storm(2 * capacity, seconds)
    counters = await metrics_of(host, port)
    print(f"twice that, {CLIENTS} clients, {seconds:g} s: {storm.summary(seconds)}")
    print(f"mean batch: {mean_batch(counters)}; memory {counters['process_resident_memory_bytes'] / 1e6:.0f} MB")
    return problems + storm.problems()


async def many(load: Load, host: str, port: int, requests: int, steps: int = 10) -> list[str]:
    """So many requests one after another, with the memory at each step; prints it and returns problems."""
    problems, sizes = [], []
    for step in range(steps):
        start = time.monotonic()
        tally = await load.steady(8, requests=requests // steps)
        sizes.append((await metrics_of(host, port))["process_resident_memory_bytes"] / 1e6)
        problems += tally.problems()
        print(
            f"step {step + 1} of {steps}: {tally.summary(time.monotonic() - start)}; memory {sizes[-1]:.0f} MB",
            flush=True,
        )
    # What the allocator keeps for pictures of all sizes is there after the first third.
    grown = sizes[-1] - max(sizes[: max(steps // 3, 1)])
    if grown > 0.05 * sizes[-1]:
        problems.append(f"memory grew by {grown:.0f} MB: {[round(size) for size in sizes]}")
    return problems


def main() -> int:
    """Run from the command line; 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", default=BUNDLED, help="names or files; default: the bundled weights")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--requests", type=int, default=0, help="instead of overload, send so many")
    parser.add_argument("--largest", type=int, default=401, help="longest side of the pictures, pixels")
    arguments = parser.parse_args()
    facts = describe("cpu", "")
    print(
        ", ".join(f"{name} {facts[name]}" for name in ("date", "commit", "cpu", "cores", "kernels", "torch", "python"))
    )
    cases = cases_of(arguments.weights, list(pictures(24, largest=arguments.largest)))
    limit = 2**22
    with server(arguments.weights, "--body-bytes", str(limit)) as (host, port, process):
        load = Load(host, port, cases, body_bytes=limit)
        work = (
            many(load, host, port, arguments.requests)
            if arguments.requests
            else overload(load, host, port, arguments.seconds)
        )
        problems = asyncio.run(work)
    if process.returncode:
        problems.append(f"the server ended with {process.returncode} after SIGTERM")
    print("\n".join(f"PROBLEM: {problem}" for problem in problems) or "no problem")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
