"""Transfers that break off, are taken up, meet changed files or no server at all; only missing bytes are fetched."""

from __future__ import annotations

import functools
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrformer.checkpoints.download import DownloadError, download
from weight_server import CONTENT, WeightServer, allow_local_network, closed_port

DIGEST = hashlib.sha256(CONTENT).hexdigest()
quick = functools.partial(download, progress=False, backoff=0.001, timeout=5.0)


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_local_network(monkeypatch)


@pytest.fixture
def server() -> Iterator[WeightServer]:
    with WeightServer() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def part_of(target: Path) -> Path:
    return target.with_name("weights.pth.part")


def leave_part(server: WeightServer, target: Path, size: int) -> None:
    """An earlier run that broke off after ``size`` bytes."""
    server.script = [size]
    with pytest.raises(DownloadError):
        quick(server.url, target, attempts=1)
    assert part_of(target).read_bytes() == server.content[:size]
    server.ranges.clear()
    server.sent.clear()
    server.script = ["whole"]


def test_resume_fetches_only_what_is_missing(server: WeightServer, target: Path) -> None:
    leave_part(server, target, 200_000)
    quick(server.url, target, DIGEST[:8])
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=200000-"]
    assert server.sent == [len(CONTENT) - 200_000]


def test_resume_without_notes_when_a_hash_will_judge(server: WeightServer, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    quick(server.url, target, DIGEST[:8])
    assert target.read_bytes() == CONTENT
    assert server.sent == [len(CONTENT) - 1000]


def test_part_of_unknown_version_is_not_continued(server: WeightServer, target: Path) -> None:
    """Neither a validator nor a hash could tell whether the halves belong together."""
    target.parent.mkdir()
    part_of(target).write_bytes(b"something else")
    quick(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None]


def test_part_of_another_url_is_not_continued(server: WeightServer, target: Path) -> None:
    leave_part(server, target, 1000)
    quick(server.url.replace("weights", "other"), target, DIGEST[:8])
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None]


def test_complete_part_needs_no_request(server: WeightServer, target: Path) -> None:
    leave_part(server, target, 1000)
    part_of(target).write_bytes(CONTENT)
    quick(server.url, target, DIGEST[:8])
    assert target.read_bytes() == CONTENT
    assert server.ranges == []


def test_server_that_ignores_ranges(server: WeightServer, target: Path) -> None:
    leave_part(server, target, 1000)
    server.script = ["no ranges"]
    quick(server.url, target, DIGEST[:8])
    assert target.read_bytes() == CONTENT
    assert (server.ranges, server.sent) == (["bytes=1000-"], [len(CONTENT)])


def test_range_beyond_the_file_starts_again(server: WeightServer, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT + b"tail of a longer file")
    quick(server.url, target, DIGEST[:8])
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 21}-", None]


def test_broken_transfers_are_taken_up(server: WeightServer, target: Path) -> None:
    server.script = [100_000, 50_000, "status 503", "whole"]
    quick(server.url, target, DIGEST[:8])
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert sum(server.sent) == len(CONTENT)


def test_always_broken_gives_one_error_and_keeps_the_part(server: WeightServer, target: Path) -> None:
    server.script = [10_000]
    with pytest.raises(DownloadError, match="ended after 30000 of 307200 bytes, the last of 3 attempts") as caught:
        quick(server.url, target, DIGEST[:8], attempts=3)
    for needed in (server.url, str(target), f"30000 bytes are kept in {part_of(target)}"):
        assert needed in str(caught.value)
    assert part_of(target).read_bytes() == CONTENT[:30_000]
    assert not target.exists()


def test_waits_longer_each_time(server: WeightServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("hrformer.checkpoints.transfer.time.sleep", waits.append)
    server.script = ["status 503"]
    with pytest.raises(DownloadError, match="503"):
        quick(server.url, target, backoff=1.0)
    assert waits == [1.0, 2.0, 4.0]


def test_missing_file_is_not_asked_for_twice(server: WeightServer, target: Path) -> None:
    server.script = ["status 404"]
    with pytest.raises(DownloadError, match="the server answered 404"):
        quick(server.url, target)
    assert len(server.ranges) == 1


def test_changed_file_is_not_spliced(server: WeightServer, target: Path) -> None:
    leave_part(server, target, 100_000)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    quick(server.url, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert server.sent == [len(CONTENT)]  # If-Range made it send the new file whole


@pytest.mark.parametrize("answer", ["foreign part", "shifted part"])
def test_part_that_does_not_fit_is_refused(server: WeightServer, target: Path, answer: str) -> None:
    """A server that honours Range but not If-Range, and one that sends other bytes than asked for."""
    leave_part(server, target, 100_000)
    server.script = [answer, "whole"]
    quick(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-", None]


def test_file_that_shrank_is_noticed_by_its_length(server: WeightServer, target: Path) -> None:
    """No validator, but a hash; the announced length alone tells that the bytes are of another version."""
    server.etag = None
    server.script = [1000, "whole"]
    shorter = CONTENT[:-500]
    change = functools.partial(setattr, server, "content", shorter)  # between the two attempts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hrformer.checkpoints.transfer.time.sleep", lambda _: change())
        quick(server.url, target, hashlib.sha256(shorter).hexdigest())
    assert target.read_bytes() == shorter
    assert server.ranges == [None, "bytes=1000-", None]


def test_no_validator_and_no_hash_restarts(server: WeightServer, target: Path) -> None:
    server.etag = None
    server.script = [100_000, "whole"]
    quick(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_silent_server_times_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/weights.pth"
        with pytest.raises(DownloadError, match=r"the server did not answer .*timed out"):
            quick(url, tmp_path / "weights.pth", attempts=2, timeout=0.1)


def test_no_network_is_one_clear_error(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hrformer.checkpoints.transfer.time.sleep", lambda _: pytest.fail("being offline is not retried")
    )
    url = f"http://127.0.0.1:{closed_port()}/weights.pth"
    with pytest.raises(DownloadError) as caught:
        quick(url, target)
    message = str(caught.value)
    assert message.startswith(f"cannot download {url}: no connection to 127.0.0.1:")
    assert message.endswith(f"put the file at {target} by hand.")
    assert "refused" in message
