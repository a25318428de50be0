"""Cache, hash check, offline switch, progress bar and the places weights come from; no half file is ever used."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrformer.checkpoints import download as module
from hrformer.checkpoints import registry
from hrformer.checkpoints.download import DownloadError, fetch_weights
from hrformer.checkpoints.registry import WeightEntry, find_weights
from hrformer.files import cache_dir
from weight_server import CONTENT, WeightServer, allow_local_network, closed_port, point_hub_to

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    allow_local_network(monkeypatch)
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[WeightServer]:
    with WeightServer() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def entry_at(url: str, sha256_prefix: str | None = DIGEST[:8]) -> WeightEntry:
    entry = find_weights("hrformer_small_coco_256x192")
    return dataclasses.replace(entry, task=None, url=url, sha256_prefix=sha256_prefix)


@pytest.mark.parametrize("sha256", [None, DIGEST[:8], DIGEST])
def test_first_download_then_cache(server: WeightServer, target: Path, sha256: str | None) -> None:
    entry = entry_at(server.url, sha256)
    assert fetch_weights(entry) == target
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    server.close()
    assert fetch_weights(entry) == target
    assert server.requests == 1


@pytest.mark.parametrize(
    ("behaviour", "sha256", "words"),
    [
        ("whole", "deadbeef", f"expected a sha256 starting with deadbeef, got {DIGEST}"),
        (10_000, DIGEST, "the connection ended after 10000 of 307200 bytes"),
        (10_000, None, "the connection ended after 10000 of 307200 bytes"),
        ("status 404", None, "404"),
        ("status 503", DIGEST, "503"),
        ("silent", None, "timed out"),
    ],
)
def test_nothing_half_written_is_kept(
    server: WeightServer,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str | int,
    sha256: str | None,
    words: str,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    server.behaviour = behaviour
    with pytest.raises(DownloadError, match=words) as caught:
        fetch_weights(entry_at(server.url, sha256))
    assert str(caught.value).startswith(f"cannot download {server.url}: ")
    assert str(caught.value).endswith(f"put the file at {target} by hand.")
    assert list(target.parent.iterdir()) == []
    server.behaviour = "whole"
    assert fetch_weights(entry_at(server.url)).read_bytes() == CONTENT


@pytest.mark.parametrize("variable", ["HRFORMER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_switch(server: WeightServer, target: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    entry = entry_at(server.url)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=f"{variable} is set.*put the file at {re.escape(str(target))} by hand"):
        fetch_weights(entry)
    assert server.requests == 0
    monkeypatch.setenv(variable, "0")
    assert fetch_weights(entry) == target
    monkeypatch.setenv(variable, "1")
    assert fetch_weights(entry) == target


def test_no_network_is_one_clear_error(target: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/weights.pth"
    with pytest.raises(DownloadError, match=r"no connection \(.*refused\)\. .*by hand\.$") as caught:
        fetch_weights(entry_at(url))
    assert "\n" not in str(caught.value)


def test_file_put_there_by_hand_is_checked(target: Path) -> None:
    entry = entry_at(f"http://127.0.0.1:{closed_port()}/weights.pth")
    target.parent.mkdir()
    target.write_bytes(b"an error page saved under the wrong name")
    with pytest.raises(DownloadError, match=r"delete it.*expected a sha256 starting with .*, got"):
        fetch_weights(entry)
    target.write_bytes(CONTENT)
    assert fetch_weights(entry) == target


def test_unwritable_folder_is_a_download_error(server: WeightServer, target: Path) -> None:
    target.parent.write_text("not a folder")
    with pytest.raises(DownloadError, match=r"cannot download .*cache"):
        fetch_weights(entry_at(server.url))


def test_threads_that_download_at_once_get_whole_files(server: WeightServer, target: Path) -> None:
    server.behaviour = "slow"
    results: list[Path] = []
    fetch = functools.partial(fetch_weights, entry_at(server.url))
    threads = [threading.Thread(target=lambda: results.append(fetch())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [target] * 4
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("terminal", [True, False])
def test_bar_with_name_size_and_rate_on_a_terminal_only(
    server: WeightServer, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    fetch_weights(entry_at(server.url))
    if terminal:
        for shown in ("weights.pth", "100%", "B/s"):
            assert shown in screen.getvalue()
    else:
        assert screen.getvalue() == ""


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("HRFORMER_HOME")
    assert cache_dir() == tmp_path / "hrformer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "hrformer"


@pytest.mark.parametrize("name", ["hrformer_small_coco_256x192", "hrnet_w18_ms_in1k"])
def test_name_offline_says_where_to_put_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    place = re.escape(str(cache_dir() / find_weights(name).filename))
    with pytest.raises(DownloadError, match=f"HRFORMER_OFFLINE.*put the file at {place} by hand"):
        fetch_weights(find_weights(name))


def test_bundled_weights_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    bundled = dataclasses.replace(
        find_weights("hrnet_w18_ms_in1k"), name="b", url="package://weights/b.safetensors", origin="bundled"
    )
    assert fetch_weights(bundled) == registry.bundled_folder() / "b.safetensors"


def test_hub_file_is_fetched_once_and_a_hand_placed_one_wins(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_hub_to(server.url.rpartition("/")[0], tmp_path, monkeypatch)
    entry = find_weights("hrnet_w18_ms_in1k")
    first = fetch_weights(entry)
    assert first.read_bytes() == CONTENT
    assert first.is_relative_to(tmp_path / "models--timm--hrnet_w18.ms_in1k")
    server.close()
    assert fetch_weights(entry) == first
    by_hand = tmp_path / "cache" / "hrnet_w48_ms_in1k.safetensors"
    other = find_weights("hrnet_w48_ms_in1k")
    with pytest.raises(DownloadError, match=rf"no connection \(.*put the file at {re.escape(str(by_hand))}"):
        fetch_weights(other)
    by_hand.parent.mkdir()
    by_hand.write_bytes(CONTENT)
    assert fetch_weights(other) == by_hand
