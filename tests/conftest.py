"""What every test may rely on: shared folders, fixed seeds, no network, one torch thread per xdist worker."""

from __future__ import annotations

import os

# Read by OpenMP and huggingface_hub when they load, hence set before anything imports torch or timm.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Read when a kernel is defined, hence set before anything imports one: without a GPU, kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from hrformer.data.images import LoadedImage, load_image

REPOSITORY = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# Float32 is compared with float32: cuDNN's 10 bits of mantissa would fail every bound.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: a process that has nothing left takes tests from the end of another's, and these are short."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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


@pytest.fixture(scope="session")
def coco_images(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "coco_tiny" / "images").glob("*.jpg"))


@pytest.fixture
def coco_people(data_dir: Path) -> dict[str, Any]:
    """The annotation file of coco_tiny, for each test anew: tests may change it."""
    text = (data_dir / "coco_tiny" / "annotations" / "person_keypoints.json").read_text()
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.fixture
def skier(coco_images: list[Path]) -> LoadedImage:
    """One person, 640 x 425."""
    return load_image(coco_images[0])


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def _subfolder(shared: Path, name: str) -> Path:
    folder = shared / name
    if not folder.is_dir():
        pytest.skip(f"the shared data has no folder {name!r}")
    return folder
