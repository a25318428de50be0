from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrformer.data.classification_sets import open_classification
from hrformer.data.loader import (
    Batch,
    LoaderDataset,
    PictureCache,
    batches_of,
    collate,
    default_workers,
    seeded,
    to_device,
)
from hrformer.data.order import Key, TrainOrder, eval_order
from hrformer.data.set_types import ClassificationSet, DataError
from hrformer.data.source_config import ClassificationSource
from hrformer.data.transforms.classification import TrainClassification
from hrformer.data.transforms.settings import ClassificationAugment

TRANSFORM = TrainClassification(ClassificationAugment(size=(40, 40)))


class Memory(ClassificationSet):
    """Pictures in memory: item i is grey i, of i % 3 + 4 rows; every second item shares the picture before it."""

    name, classes = "memory", ("a",)

    def __init__(self, count: int = 12) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def file(self, index: int) -> str:
        return f"memory/{index}.png"

    def picture(self, index: int) -> int:
        return index // 2

    def pixels(self, index: int) -> np.ndarray:
        self.read.append(index)
        pixels = np.full((self.picture(index) % 3 + 4, 5, 3), self.picture(index), np.uint8)
        pixels.setflags(write=False)  # as Pillow gives them
        return pixels

    def label(self, index: int) -> int:
        return 0


class FailsAt:
    """A transform that fails at one item; module level, so that it can be pickled."""

    def __init__(self, index: int, error: BaseException | None) -> None:
        self.index, self.error = index, error

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["index"] == self.index:
            if self.error is None:
                os._exit(3)
            raise self.error
        return item


@pytest.fixture(scope="module")
def cifar(data_dir: Path) -> ClassificationSet:
    return open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")


def random_transform(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"draw": torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()])}


def require_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


def test_workers_and_cache_change_nothing(cifar: ClassificationSet) -> None:
    order = TrainOrder(num_items=len(cifar), batch_size=24, seed=5)
    plain = list(batches_of(LoaderDataset(cifar, TRANSFORM, 5), order.batches(40, 44)))
    assert plain[0]["image"].shape == (24, 3, 40, 40)
    assert plain[0]["image"].dtype == torch.uint8
    assert plain[0]["image"].is_contiguous()
    assert sorted(plain[0]) == ["image", "index", "label"]
    assert plain[0]["label"].tolist() == [cifar.label(int(index)) for index in plain[0]["index"]]
    require_equal(list(batches_of(LoaderDataset(cifar, TRANSFORM, 5), order.batches(40, 44), workers=2)), plain)
    cache = PictureCache(cifar)
    assert cache.complete
    cached = LoaderDataset(cifar, TRANSFORM, 5, cache)
    require_equal(list(batches_of(cached, order.batches(40, 44))), plain)
    require_equal(list(batches_of(cached, order.batches(40, 44), workers=2)), plain)
    other = list(batches_of(LoaderDataset(cifar, TRANSFORM, 6), order.batches(40, 44)))
    assert not torch.equal(other[0]["image"], plain[0]["image"])


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (1, 2), (2, 3)])
def test_processes_and_parts_see_the_same_pictures(cifar: ClassificationSet, world_size: int, parts: int) -> None:
    dataset = LoaderDataset(cifar, TRANSFORM, 1)
    shape = {"num_items": len(cifar), "batch_size": 12, "seed": 1}
    (whole,) = batches_of(dataset, TrainOrder(**shape).batches(3, 4))
    shares = [
        batch
        for rank in range(world_size)
        for batch in batches_of(
            dataset, TrainOrder(world_size=world_size, rank=rank, parts=parts, **shape).batches(3, 4)
        )
    ]
    assert len(shares) == world_size * parts
    require_equal([{name: torch.cat([share[name] for share in shares]) for name in whole}], [whole])


def test_an_item_is_augmented_anew_in_every_epoch(cifar: ClassificationSet) -> None:
    dataset = LoaderDataset(cifar, TRANSFORM, 1)
    first, again, later = next(batches_of(dataset, [[Key(7, 0), Key(7, 0), Key(7, 1)]]))["image"]
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_loads_every_item_once(world_size: int) -> None:
    found = [
        index
        for rank in range(world_size)
        for batch in batches_of(
            LoaderDataset(Memory(11), random_transform, 0),
            eval_order(11, 2, world_size, rank),
        )
        for index in batch["index"].tolist()
    ]
    assert sorted(found) == list(range(11))


def test_seeded_puts_the_generators_back() -> None:
    def draw() -> tuple[float, ...]:
        # Two normal numbers are drawn at once, and numpy keeps the second.
        return torch.rand(()).item(), np.random.randn(), random.random(), random.gauss(0, 1)

    draw()
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = draw()
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])
    with seeded(5):
        inner = draw()
    with suppress(KeyError), seeded(5):
        assert draw() == inner
        raise KeyError
    assert draw() == expected
    with seeded(6):
        assert all(a != b for a, b in zip(draw(), inner, strict=True))


def test_loading_draws_nothing_from_the_generators_outside(cifar: ClassificationSet) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for workers in (0, 1):
        next(batches_of(LoaderDataset(cifar, TRANSFORM, 1), [[Key(0, 0)]], workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_seeding_leaves_the_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda _: pytest.fail("a GPU was seeded"))
    with seeded(1):
        pass


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("the box has no extent"), r"^memory/7\.png: the box has no extent$"),
        (DataError("memory/7.png: no label"), r"^memory/7\.png: no label$"),
        (IndexError("out of range"), r"^memory/7\.png: IndexError: out of range$"),
        (RuntimeError("shapes differ"), r"^memory/7\.png: RuntimeError: shapes differ$"),
    ],
)
def test_errors_name_the_file(workers: int, error: Exception, message: str) -> None:
    dataset = LoaderDataset(Memory(), FailsAt(7, error), 0)
    batches = batches_of(dataset, eval_order(12, 2), workers=workers)
    for number in range(3):
        assert next(batches)["index"].tolist() == [2 * number, 2 * number + 1]
    with pytest.raises(DataError, match=message):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_files_are_named(workers: int, tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"\xff\xd8 cut")
    data = open_classification(ClassificationSource(root=tmp_path), "train")
    with pytest.raises(DataError, match=r"train/a/1\.jpg: ") as caught:
        list(batches_of(LoaderDataset(data, TRANSFORM, 0), [[Key(0, 0)]], workers=workers))
    assert str(caught.value).count("1.jpg") == 1


def test_a_worker_that_dies_is_a_data_error() -> None:
    batches = batches_of(LoaderDataset(Memory(), FailsAt(1, None), 0), [[Key(0, 0)], [Key(1, 0)]], workers=1)
    with pytest.raises(DataError, match=r"a process that loads data failed: .*worker.*--runtime\.workers 0"):
        list(batches)


SMALL_SHARED_MEMORY = """
import logging
from data.test_loader import Memory
from hrformer.data.loader import LoaderDataset, PictureCache, batches_of
from hrformer.data.order import Key
import numpy as np

class Large(Memory):
    def pixels(self, index):
        return np.zeros((512, 512, 3), np.uint8)

logging.basicConfig()
print(PictureCache(Large()).complete)
print(sum(1 for _ in batches_of(LoaderDataset(Large(), lambda item: item, 0), [[Key(0, 0)]], workers=0)))
list(batches_of(LoaderDataset(Large(), lambda item: item, 0), [[Key(i, 0) for i in range(4)]] * 2, workers=1))
"""


@pytest.mark.slow
def test_too_little_shared_memory_ends_with_the_remedy() -> None:
    mounted = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own")
    command = [*own, sys.executable, "-c", SMALL_SHARED_MEMORY]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["False", "1"], done.stderr[-2000:]
    assert "decoded pictures are not kept: they need 5 MB of shared memory, 1 MB are free in /dev/shm" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "DataError: a process that loads data failed: " in last
    assert "docker run --shm-size 8g" in last
    assert "--runtime.workers 0" in last


def test_workers_end_at_once_after_an_error() -> None:
    start = time.monotonic()
    for number in range(2):
        batches = batches_of(LoaderDataset(Memory(), FailsAt(0, IndexError("x")), 0), [[Key(0, 0)]] * 9, workers=1)
        try:
            next(batches)
        except DataError as error:
            kept = error  # and with it the frames that hold the loader
        assert not multiprocessing.active_children(), number
    assert "memory/0.png" in str(kept)
    assert time.monotonic() - start < 5  # torch's patience with one worker


def test_workers_leave_sigterm_to_the_process_that_loads() -> None:
    # Schedulers and `timeout` send it to every process; the run wants to save, with its workers alive.
    batches = batches_of(LoaderDataset(Memory(), FailsAt(-1, None), 0), [[Key(0, 0)]] * 9, workers=1)
    next(batches)
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert len(list(batches)) == 8
    start = time.monotonic()
    while multiprocessing.active_children() and time.monotonic() - start < 3:
        time.sleep(0.02)
    assert not multiprocessing.active_children()


def test_cache_holds_every_picture_once_or_none() -> None:
    source = Memory()
    cache = PictureCache(source, limit=1000)
    assert sorted(set(source.read)) == [0, 2, 4, 6, 8, 10]
    assert cache.complete
    source.read.clear()
    dataset = LoaderDataset(source, random_transform, 0, cache)
    images = [batch["image"][0] for batch in batches_of(dataset, [[Key(index, 0)] for index in range(12)])]
    assert source.read == []
    for index, image in enumerate(images):
        assert torch.equal(image, torch.full((3, index // 2 % 3 + 4, 5), index // 2, dtype=torch.uint8))
    assert cache.get(6) is None
    total = sum(rows * 5 * 3 for rows in (4, 5, 6)) * 2
    assert PictureCache(source, limit=total).complete
    for limit in (total - 1, total // 2, 0):
        small = PictureCache(source, limit=limit)
        assert not small.complete
        assert small.get(0) is None
    require_equal(
        list(batches_of(LoaderDataset(source, random_transform, 0, small), [[Key(3, 0)]])),
        list(batches_of(dataset, [[Key(3, 0)]])),
    )


def test_workers_share_the_memory_of_the_cache(cifar: ClassificationSet) -> None:
    cache = PictureCache(cifar)
    pixels = cache.get(0)
    assert pixels is not None
    pixels[:] = 77
    (batch,) = batches_of(LoaderDataset(cifar, FailsAt(-1, None), 0, cache), [[Key(0, 0)]], workers=1)
    assert (batch["image"] == 77).all()


def test_collate_stacks_what_fits_and_lists_the_rest() -> None:
    rows = [
        {"image": torch.full((3, 2, n), n), "value": float(n), "label": n, "name": str(n), "flag": True} for n in (1, 2)
    ]
    batch = collate(rows)
    assert isinstance(batch, dict)
    assert [image.shape for image in batch["image"]] == [(3, 2, 1), (3, 2, 2)]
    assert batch["value"].dtype == torch.float32
    assert (batch["label"].tolist(), batch["label"].dtype) == ([1, 2], torch.int64)
    assert (batch["name"], batch["flag"]) == (["1", "2"], [True, True])
    assert torch.equal(collate([rows[0], rows[0]])["image"], rows[0]["image"].expand(2, 3, 2, 1))


def test_pictures_of_many_sizes_come_through_workers_as_a_list() -> None:
    dataset = LoaderDataset(Memory(), random_transform, 0)
    (batch,) = batches_of(dataset, [[Key(0, 0), Key(2, 0)]], workers=1)
    assert [tuple(image.shape) for image in batch["image"]] == [(3, 4, 5), (3, 5, 5)]
    assert type(batch["image"][0]) is torch.Tensor
    moved = to_device(batch | {"name": ["a", "b"]}, torch.device("meta"))
    assert [image.device.type for image in moved["image"]] == ["meta", "meta"]
    assert (moved["index"].device.type, moved["name"]) == ("meta", ["a", "b"])


def test_endless_orders_are_read_as_they_are_needed() -> None:
    order = TrainOrder(num_items=12, batch_size=4).batches(0, 10**9)
    batches = batches_of(LoaderDataset(Memory(), random_transform, 0), order, workers=1)
    draws = [next(batches)["draw"] for _ in range(4)]
    assert len({tuple(row) for draw in draws for row in draw.tolist()}) == 16


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, world_size, expected in ((2, 1, 1), (1, 1, 0), (64, 1, 8), (8, 4, 1), (8, 8, 0)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert default_workers(world_size) == expected
