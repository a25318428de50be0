"""What every test may rely on: shared folders, fixed seeds, no network, one torch thread per xdist worker."""

from __future__ import annotations

import os

# Read by OpenMP and huggingface_hub when they load, hence set before anything imports torch or timm.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import random
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with data sets and goldens: ``$HRFORMER_SHARED``, else ``shared`` beside the checkout.

    Skips the test where the default folder is absent. A variable that points nowhere is a mistake, so it fails.
    """
    named = os.environ.get("HRFORMER_SHARED")
    folder = Path(named) if named else REPOSITORY.parent / "shared"
    if folder.is_dir():
        return folder.resolve()
    if named:
        pytest.fail(f"HRFORMER_SHARED={named} is not a folder", pytrace=False)
    pytest.skip("needs the shared data: set HRFORMER_SHARED to its folder, or put it at ../shared")


@pytest.fixture(scope="session")
def parity_dir(shared_dir: Path) -> Path:
    """Goldens made with the reference models (``shared/parity``)."""
    return _subfolder(shared_dir, "parity")


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    """Small data sets: cifar10, lspet, camvid, coco_tiny (``shared/data``)."""
    return _subfolder(shared_dir, "data")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Same random numbers in every test, whatever ran before it and on whichever worker."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the weight cache at a temporary folder: no test reads or fills the user's own."""
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path_factory.getbasetemp() / "hrformer-home"))


def _subfolder(shared: Path, name: str) -> Path:
    folder = shared / name
    if not folder.is_dir():
        pytest.skip(f"the shared data has no folder {name!r}")
    return folder
