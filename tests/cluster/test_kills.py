"""Jobs on a cluster of two nodes of which something is killed on the way: no row is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.predictors import load
from hrformer.predict.results import Classification
from small_cluster import DEADLINE, TwoNodes, finished_uris, picture_server, rows_of, start_driver
from training import WEIGHTS

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")

NANO = WEIGHTS / "hrformer_nano_cifar10.safetensors"
SECONDS = 0.03  # That a picture takes to come, so that there is something to kill in the middle of
BROKEN = ("005.jpg", "070.jpg")
ABSENT = ("absent.jpg", "gone.jpg")


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    """With 100 MB of object store on each node."""
    two = TwoNodes()
    yield two
    two.stop()


@pytest.fixture(scope="module")
def files(data_dir: Path) -> dict[str, bytes]:
    """124 pictures, two of which are cut off."""
    paths = sorted((data_dir / "cifar10" / "val").rglob("*.jpg"))[::8][:124]
    found = {f"{i:03}.jpg": path.read_bytes() for i, path in enumerate(paths)}
    return found | {name: found[name][:200] for name in BROKEN}


@pytest.fixture(scope="module")
def expected(files: dict[str, bytes]) -> dict[str, Classification]:
    """What the plain predictor says of the readable ones."""
    predictor = load(NANO, "cpu")
    assert isinstance(predictor, ClassificationPredictor)
    names = [name for name in files if name not in BROKEN]
    return dict(zip(names, predictor([files[name] for name in names]), strict=True))


def check_rows(rows: list[dict[str, Any]], names: list[str], expected: dict[str, Classification]) -> None:
    assert [row["id"] for row in rows] == list(range(len(names)))
    assert [row["uri"].rpartition("/")[2] for row in rows] == names
    wrong = {row["uri"].rpartition("/")[2]: row["error"] for row in rows if row["error"] is not None}
    assert sorted(wrong) == sorted([*BROKEN, *ABSENT])
    assert all("404" in wrong[name] for name in ABSENT)
    for row, name in zip(rows, names, strict=True):
        if name in expected:
            assert row["labels"] == list(expected[name].labels)
            # Batches begin elsewhere, which changes sums by rounding, as in tests/predict/test_classify.py.
            assert row["probabilities"] == pytest.approx(expected[name].probabilities, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
@pytest.mark.parametrize(("killed", "seed"), [("worker", 1), ("driver", 2), ("node", 3)])
def test_every_picture_has_one_row(
    killed: str,
    seed: int,
    cluster: TwoNodes,
    files: dict[str, bytes],
    expected: dict[str, Classification],
    tmp_path: Path,
) -> None:
    names = [*files, *ABSENT]
    with picture_server(files, SECONDS) as (address, asked):
        manifest, out = tmp_path / "list.parquet", tmp_path / "out"
        pq.write_table(pa.table({"uri": [f"{address}/{name}" for name in names]}), manifest)
        command = ["predict", "classify", str(manifest), "--weights", str(NANO), "--out", str(out)]
        driver = start_driver(command, cluster.address)
        try:
            while not asked and driver.poll() is None:
                time.sleep(0.02)
            time.sleep(random.Random(seed).uniform(0, 3))
            if killed == "worker":
                os.kill(random.Random(seed).choice(cluster.workers()), signal.SIGKILL)
            elif killed == "node":
                cluster.kill_node()
            else:
                driver.kill()
                driver.communicate()
                before = _asked_for_finished(out, asked)
                driver = start_driver([*command, "--resume"], cluster.address)
            said, _ = driver.communicate(timeout=DEADLINE)
        finally:
            driver.kill()
            driver.communicate()
            if killed == "node":
                cluster.replace_node()
        assert driver.returncode == 1, said
        assert f"could not be read or failed ({len(BROKEN) + len(ABSENT)})" in said
        check_rows(rows_of(out), names, expected)
        if killed == "driver":
            assert {name: asked[name] for name in before} == before, "finished pictures were opened again"


def _asked_for_finished(out: Path, asked: Counter[str]) -> dict[str, int]:
    names = [uri.rpartition("/")[2] for uri in finished_uris(out)]
    return {name: asked[name] for name in names}
