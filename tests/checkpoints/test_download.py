"""Cache, hash check, offline switch, locking, progress bar and the places weights come from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hrformer.checkpoints import download as module
from hrformer.checkpoints import registry
from hrformer.checkpoints.download import DownloadError, download, fetch_weights
from hrformer.checkpoints.registry import find_weights
from hrformer.files import cache_dir
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


def test_first_download_then_cache(server: WeightServer, target: Path) -> None:
    assert quick(server.url, target, DIGEST[:8]) == target
    assert target.read_bytes() == CONTENT
    assert not list(target.parent.glob("*.part*"))
    server.close()
    assert quick(server.url, target, DIGEST[:8]) == target
    assert server.sent == [len(CONTENT)]


@pytest.mark.parametrize("sha256", [None, DIGEST[:8], DIGEST])
def test_hash_may_be_absent_short_or_full(server: WeightServer, target: Path, sha256: str | None) -> None:
    assert quick(server.url, target, sha256).read_bytes() == CONTENT


def test_wrong_hash_deletes_the_download(server: WeightServer, target: Path) -> None:
    with pytest.raises(DownloadError, match=f"expected a sha256 starting with deadbeef, got {DIGEST}"):
        quick(server.url, target, "deadbeef")
    assert not target.exists()
    assert not list(target.parent.glob("*.part*"))


@pytest.mark.parametrize("variable", ["HRFORMER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_switch(server: WeightServer, target: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=f"{variable} is set.*put the file at {re.escape(str(target))} by hand"):
        quick(server.url, target)
    assert server.ranges == []
    monkeypatch.setenv(variable, "0")
    assert quick(server.url, target) == target
    monkeypatch.setenv(variable, "1")
    assert quick(server.url, target) == target


def test_file_put_there_by_hand_is_checked_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{closed_port()}/weights.pth"
    target.parent.mkdir()
    target.write_bytes(b"an error page saved under the wrong name")
    with pytest.raises(DownloadError, match=r"delete it.*expected a sha256 starting with .*, got"):
        quick(url, target, DIGEST[:8])
    target.write_bytes(CONTENT)
    assert quick(url, target, DIGEST[:8]) == target
    monkeypatch.setattr(module, "sha256_of", lambda path: pytest.fail(f"{path} was hashed again"))
    assert quick(url, target, DIGEST[:8]) == target


def test_unwritable_folder_is_a_download_error(server: WeightServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match=r"cannot download .*file"):
        quick(server.url, tmp_path / "file" / "weights.pth")


def test_threads_share_one_transfer(server: WeightServer, target: Path) -> None:
    server.script = ["slow"]
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(quick(server.url, target, DIGEST[:8]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [target] * 4
    assert target.read_bytes() == CONTENT
    assert server.sent == [len(CONTENT)]


@pytest.mark.slow
def test_processes_share_one_transfer(server: WeightServer, target: Path) -> None:
    server.script = ["slow"]
    code = "import sys; from hrformer.checkpoints.download import download; download(*sys.argv[1:])"
    source = Path(module.__file__).parents[2]
    command = [sys.executable, "-c", code, server.url, str(target), DIGEST[:8]]
    environment = os.environ | {"PYTHONPATH": str(source)}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert target.read_bytes() == CONTENT
    assert server.sent == [len(CONTENT)]


def test_bar_shows_name_size_and_rate_on_a_terminal(
    server: WeightServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = functools.partial(Console, force_terminal=True, width=120)
    monkeypatch.setattr(module, "Console", lambda file: terminal(file=screen))
    quick(server.url, target, progress=True)
    for shown in ("weights.pth", "307.2/307.2 kB", "/s"):
        assert shown in screen.getvalue()
    screen.truncate(0)
    quick(server.url, target.with_name("second.pth"), progress=False)
    assert "second" not in screen.getvalue()


def test_no_bar_when_output_is_not_a_terminal(
    server: WeightServer, target: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    quick(server.url, target, progress=True)
    assert capfd.readouterr() == ("", "")


def test_local_files_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "my weights.pth"
    path.write_bytes(CONTENT)
    assert fetch_weights(str(path)) == path
    assert fetch_weights(path.as_uri()) == path
    assert download(path.as_uri(), tmp_path / "unused", DIGEST[:8]) == path
    with pytest.raises(DownloadError, match="is not the published file: expected a sha256 starting with deadbeef"):
        download(str(path), tmp_path / "unused", "deadbeef")
    for missing in ("missing.pth", str(tmp_path / "missing"), (tmp_path / "missing").as_uri()):
        with pytest.raises(FileNotFoundError, match=r"no weight file at .*missing"):
            fetch_weights(missing)


@pytest.mark.parametrize("url", ["ftp://example.org/weights.pth", "weights"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=f"expected an http.* got '{url}'"):
        download(url, tmp_path / "weights.pth")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("HRFORMER_HOME")
    assert cache_dir() == tmp_path / "hrformer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "hrformer"


def test_entry_is_fetched_into_the_cache(server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path))
    entry = dataclasses.replace(find_weights("hrformer_small_coco_256x192"), url=server.url, sha256_prefix=DIGEST[:8])
    assert fetch_weights(entry, progress=False) == tmp_path / "weights.pth"
    wrong = dataclasses.replace(entry, sha256_prefix="0" * 8)
    with pytest.raises(DownloadError, match="expected a sha256 starting with 00000000"):
        fetch_weights(wrong, progress=False)


def test_name_offline_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path))
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    for name in ("hrformer_small_coco_256x192", "hrnet_w18_ms_in1k"):
        place = tmp_path / find_weights(name).filename
        with pytest.raises(DownloadError, match=f"HRFORMER_OFFLINE.*put the file at {re.escape(str(place))} by hand"):
            fetch_weights(name)


def test_bundled_weights_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    bundled = dataclasses.replace(
        find_weights("hrnet_w18_ms_in1k"), name="b", url="package://weights/b.safetensors", origin="bundled"
    )
    assert fetch_weights(bundled) == registry.bundled_folder() / "b.safetensors"


def test_hub_file_is_fetched_once_and_a_hand_placed_one_wins(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path / "home"))
    endpoint = server.url.rpartition("/")[0]
    options_of: dict[str, dict[str, Any]] = {
        "hf_hub_url": {"endpoint": endpoint},
        "hf_hub_download": {"endpoint": endpoint, "cache_dir": tmp_path},
        "try_to_load_from_cache": {"cache_dir": tmp_path},
    }
    for name, options in options_of.items():
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), **options))
    first = fetch_weights("hrnet_w18_ms_in1k", progress=False)
    assert first.read_bytes() == CONTENT
    assert first.is_relative_to(tmp_path / "models--timm--hrnet_w18.ms_in1k")
    server.close()
    assert fetch_weights("hrnet_w18_ms_in1k", progress=False) == first
    by_hand = tmp_path / "home" / "hrnet_w48_ms_in1k.safetensors"
    with pytest.raises(DownloadError, match=f"no connection to 127.0.0.1.*put the file at {re.escape(str(by_hand))}"):
        fetch_weights("hrnet_w48_ms_in1k", progress=False)
    by_hand.parent.mkdir()
    by_hand.write_bytes(CONTENT)
    assert fetch_weights("hrnet_w48_ms_in1k") == by_hand
