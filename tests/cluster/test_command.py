"""``hrformer predict --engine ray``: what it refuses at once, and one run on a Ray of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from half_kernels import pretend_half_kernels
from hrformer.__main__ import main
from hrformer.cli.arguments import ClassifyArguments
from hrformer.cli.inputs import expand
from hrformer.cli.predict_ray import make_predictor
from hrformer.cluster.job import Machines, cluster
from small_cluster import SOURCE
from training import WEIGHTS

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NANO = str(WEIGHTS / "hrformer_nano_cifar10.safetensors")


def command(*more: str) -> list[str]:
    return ["predict", "classify", *more, "--weights", NANO, "--engine", "ray"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pictures"], "draws no pictures"),
        (["--device", "cuda:1"], "--device must be cpu or cuda"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--weights", str(WEIGHTS / "hrformer_nano_lspet.safetensors")], "are for pose"),
    ],
)
def test_what_cannot_be_done_is_told_at_once(options: list[str], said: str, tmp_path: Path, capsys) -> None:
    pytest.importorskip("ray")
    assert main([*command("a.jpg", "--out", str(tmp_path / "out")), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_workers_load_the_precision_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretend_half_kernels(monkeypatch)
    asked = ClassifyArguments(weights=NANO, device="cpu", fast=True, precision="auto")
    assert make_predictor(asked)[0].precision == "bf16"
    assert made == ["bf16"]


def test_inputs_that_are_not_there_leave_no_job(tmp_path: Path, capsys) -> None:
    pytest.importorskip("ray")
    assert main(command(str(tmp_path / "nofolder"), "--out", str(tmp_path / "out"))) == 2
    assert "nofolder: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out" / "inputs").exists()


def test_without_ray_the_pip_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray.data.checkpoint.checkpoint_writer", None)
    assert main(command("a.jpg", "--out", str(tmp_path / "out"))) == 2
    assert "pip install 'hrformer[cluster]'" in capsys.readouterr().err


def test_an_address_whose_package_is_absent_ends_it_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    pq.write_table(pa.table({"uri": ["a.jpg", "s3://bucket/a.jpg"]}), tmp_path / "m.parquet")
    assert main(command(str(tmp_path / "m.parquet"), "--out", str(tmp_path / "out"))) == 2
    assert "pip install s3fs" in capsys.readouterr().err
    assert not (tmp_path / "out" / "inputs").exists()


def test_the_plain_engine_reads_manifests_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg", None, "s3://bucket/b.jpg", "a.jpg"]}), tmp_path / "m.parquet")
    assert expand([str(tmp_path / "m.parquet")], tmp_path / "out").files == [f"{tmp_path}/a.jpg", "s3://bucket/b.jpg"]


def test_workers_are_gpus_or_cores() -> None:
    nodes = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 8.0}, {"CPU": 200.0}]
    assert Machines.of(nodes, cpu=False) == Machines(workers=16, gpus=1, cores=4, threads=20)
    assert Machines.of(nodes, cpu=True) == Machines(workers=296, gpus=0, cores=1, threads=4)
    assert Machines.of([{"CPU": 2.0, "GPU": 2.0}], cpu=False) == Machines(workers=2, gpus=1, cores=1, threads=17)


@pytest.mark.slow
def test_a_folder_on_this_machine(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))  # of the workers
    for number, path in enumerate(sorted((data_dir / "cifar10" / "val").rglob("*.jpg"))[::100]):
        (tmp_path / f"{number}.jpg").write_bytes(path.read_bytes())
    out = tmp_path / "out"
    typed = command(str(tmp_path), str(tmp_path / "absent.jpg"), "--out", str(out), "--top-k", "2")
    assert main(typed) == 1
    said = capfd.readouterr()
    assert "10 pictures predicted" in said.out
    assert f"{tmp_path}/absent.jpg: no such file" in said.err
    assert "Traceback" not in said.err
    rows = pq.read_table(out / "results").to_pylist()
    assert sorted(row["uri"] for row in rows) == sorted(
        str(path) for path in [*tmp_path.glob("*.jpg"), tmp_path / "absent.jpg"]
    )
    assert {len(row["labels"]) for row in rows if row["error"] is None} == {2}
    record = json.loads((out / "inputs" / "run.json").read_text())
    assert (record["names"][0], record["run"]["precision"]) == ("airplane", "fp32")
    # Nothing is left to do, but to say it again.
    assert main([*typed, "--resume"]) == 1
    assert "10 pictures predicted, 11 had been done before" in capfd.readouterr().out
    assert main(typed) == 2
    assert "--resume" in capfd.readouterr().err
    assert main([*typed, "--resume", "--flip"]) == 2
    assert "flip False, this one has flip True" in capfd.readouterr().err
    assert main([*typed, "--resume", "--precision", "bf16"]) == 2
    assert "precision fp32, this one has precision bf16" in capfd.readouterr().err


def test_an_address_without_a_cluster_is_told_in_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(RuntimeError, match=r"no Ray cluster at 127\.0\.0\.1:1"), cluster("127.0.0.1:1"):
        pass
