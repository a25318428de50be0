"""Two processes on the CPU against one with the same total batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from forked import fork_several
from hrformer.losses import classification_cross_entropy
from hrformer.train.config import ClassificationRun, PoseRun, SaveConfig
from hrformer.train.config_file import write_config
from hrformer.train.distributed import any_process, processes, share_batch_norm
from hrformer.train.loop import train
from hrformer.train.run_folder import checkpoint_path, read_state
from hrformer.zoo import create_model
from training import WEIGHTS, longer

SCRIPT = """
import sys
from pathlib import Path
from hrformer.train.config_file import read_config
from hrformer.train.loop import train
train(read_config(Path(sys.argv[1])), Path(sys.argv[2]))
"""


# The second process reads no picture any more once the first has logged an update.
FAILING = """
import os, sys
from pathlib import Path
import cv2
log, decode = Path(sys.argv[2]) / "metrics.jsonl", cv2.imdecode
def failing(*arguments):
    if os.environ["RANK"] == "1" and log.exists() and '"train"' in log.read_text():
        raise RuntimeError("out of order")
    return decode(*arguments)
cv2.imdecode = failing
"""


def launch(
    config: PoseRun | ClassificationRun, folder: Path, *, fsdp: bool = False, before: str = "", fails: bool = False
) -> Path:
    """Run a configuration in two processes, as torchrun does; returns the run directory."""
    write_config(config, folder / "run.json")
    (folder / "script.py").write_text(before + SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HRFORMER_DEBUG": "1"}
    if fsdp:
        # What `accelerate launch --use_fsdp --fsdp_version 2` sets.
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    done = subprocess.run(
        [*command, str(folder / "script.py"), str(folder / "run.json"), str(folder / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stderr[-3000:]
    return folder / "two"


def events(out: Path, kind: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_train_like_one(pose_run: PoseRun, tmp_path: Path, fsdp: bool) -> None:
    # Sums of two halves round differently. A fresh network multiplies such differences by more than ten in every
    # update, a trained one does not; the exact comparison, in float64, is the next test.
    model, optim = (
        replace(pose_run.model, init=str(WEIGHTS / "hrformer_nano_lspet.safetensors")),
        replace(pose_run.optim, lr=1e-4),
    )
    config = longer(replace(pose_run, model=model, optim=optim), 6)
    train(config, tmp_path / "one")
    two = launch(config, tmp_path, fsdp=fsdp)
    one_rows, two_rows = events(tmp_path / "one", "train"), events(two, "train")
    assert [row["update"] for row in two_rows] == [row["update"] for row in one_rows]
    assert events(two, "start")[0]["processes"] == 2
    assert [row["loss"] for row in two_rows] == pytest.approx([row["loss"] for row in one_rows], rel=1e-3)
    first, second = events(tmp_path / "one", "validation")[-1], events(two, "validation")[-1]
    assert first["scores"]["joints"] == second["scores"]["joints"] > 0
    assert first["scores"]["pck@0.2"] == pytest.approx(second["scores"]["pck@0.2"], abs=0.03)
    assert (two / "best.safetensors").exists()


@pytest.mark.slow
def test_first_process_saves_what_an_error_in_another_would_lose(
    classification_run: ClassificationRun, tmp_path: Path
) -> None:
    config = replace(
        longer(classification_run, 400),
        runtime=replace(classification_run.runtime, cache_gb=0),
        save=SaveConfig(every_minutes=0),
        validate_updates=400,
    )
    two = launch(config, tmp_path, before=FAILING, fails=True)
    end = events(two, "end")[0]
    assert end["state"] == "failed"
    assert read_state(checkpoint_path(two))[0].update == end["update"] > 0
    assert "--resume" in (two / "log.txt").read_text()


def _gradients(folder: str, rank: int, world: int) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world
    )
    torch.manual_seed(0)
    model = create_model("hrformer_nano", "classification", num_classes=3, head_planes=4, head_width=32).double()
    model = DistributedDataParallel(share_batch_norm(model, torch.device("cpu")))
    x, labels = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    classification_cross_entropy(model(x[share]), labels[share]).backward()
    if rank == 0:
        found = {name: p.grad for name, p in model.module.named_parameters()}
        torch.save(found | dict(model.module.named_buffers()), f"{folder}/gradients{world}.pt")
    torch.distributed.destroy_process_group()


def _halves(rank: int, folder: str) -> None:
    _gradients(folder, rank, 2)
    _shared_halves(rank, folder)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes that see half of a batch each leave in a folder."""
    folder = tmp_path_factory.mktemp("halves")
    fork_several(_halves, str(folder), count=2)
    return folder


@pytest.mark.slow
def test_gradients_and_statistics_of_two_processes_are_those_of_the_whole_batch(halves: Path) -> None:
    _gradients(str(halves), 0, 1)
    one, two = (torch.load(halves / f"gradients{world}.pt", weights_only=True) for world in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        # Biases in front of a batch norm have no gradient but rounding, 1e-17.
        torch.testing.assert_close(
            two[name], value, rtol=1e-8, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_shared_batch_norm_is_plain_alone() -> None:
    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.randn(4, 3, 5, 5)
    shared = share_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.device("cpu"))
    shared.load_state_dict(plain.state_dict())
    assert torch.equal(shared(x), plain(x))
    assert shared.state_dict().keys() == plain.state_dict().keys()


def _shared_halves(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    norm = share_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), torch.device("cpu"))
    out = norm(x[2 * rank : 2 * rank + 2])
    (out * torch.arange(4.0)[2 * rank : 2 * rank + 2, None, None, None]).square().sum().backward()
    assert x.grad is not None
    group = processes()
    assert group is not None
    assert any_process(rank == 1)
    torch.save(
        {"out": out.detach(), "grad": group.gather(x.grad)[rank], "state": norm.state_dict()}, f"{folder}/{rank}.pt"
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_shared_batch_norm_over_two_processes_is_that_of_the_whole_batch(halves: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    norm = nn.Sequential(nn.BatchNorm2d(3))
    out = norm(x)
    (out * torch.arange(4.0)[:, None, None, None]).square().sum().backward()
    first, second = (torch.load(halves / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(torch.cat([first["out"], second["out"]]), out.detach())
    assert x.grad is not None
    torch.testing.assert_close(first["grad"] + second["grad"], x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second["state"]["0.running_var"], norm[0].running_var)
