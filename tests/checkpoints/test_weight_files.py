"""Weight files on disk: told apart by content, one clear error for everything else."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.weight_files import read_weights, stored_tensor
from hrformer.files import write_file
from hrformer.zoo import create_model

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def test_suffixes_do_not_matter(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.pth", metadata={"k": "v"})
    torch.save(TENSORS, tmp_path / "x.safetensors")
    torch.save(TENSORS, tmp_path / "noend", _use_new_zipfile_serialization=False)
    for name in ("x.pth", "x.safetensors", "noend"):
        file = read_weights(tmp_path / name)
        assert set(file.tensors) == set(TENSORS)
        assert all(torch.equal(file.tensors[key], value) for key, value in TENSORS.items())
        assert file.metadata == ({"k": "v"} if name == "x.pth" else {})
        assert file.label == name


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "best_state_dict", "state_dict_ema"])
def test_wrappers(wrapper: str) -> None:
    file = read_weights({wrapper: TENSORS, "epoch": 3, "optimizer": {"state": {}}})
    assert set(file.tensors) == set(TENSORS)
    assert set(file.skipped) == {"epoch", "optimizer"}
    assert file.extras["epoch"] == 3


def test_nested_wrappers_and_a_name_where_others_keep_weights() -> None:
    file = read_weights({"model": "pose_hrnet", "checkpoint": {"state_dict": TENSORS, "meta": {"epoch": 1}}})
    assert set(file.tensors) == set(TENSORS)
    assert file.extras["meta"] == {"epoch": 1}


def test_state_dict_goes_before_averaged_weights() -> None:
    other = {"a.weight": torch.zeros(1)}
    file = read_weights({"state_dict_ema": other, "state_dict": TENSORS})
    assert torch.equal(file.tensors["a.weight"], TENSORS["a.weight"])
    assert file.skipped == {"state_dict_ema": "other weights; those under 'state_dict' are read"}


def test_entries_that_are_no_tensors_are_reported() -> None:
    assert read_weights({**TENSORS, "version": 2}).skipped == {"version": "not a tensor"}


def test_parameters_lose_their_gradient() -> None:
    assert not read_weights({"w": torch.nn.Parameter(torch.ones(1))}).tensors["w"].requires_grad


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello world\n" * 10, "is not a weight file but of another kind"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"PK\x03\x04" + bytes(100), "damaged or was not written by torch.save"),
        (b"\x80\x02" + bytes(100), "damaged or was not written by torch.save"),
        (b"\x7fELF" + bytes(100), "of another kind"),
        (b"\xff" * 7 + b"\x00{" + bytes(50), "damaged safetensors"),
        ((20).to_bytes(8, "little") + b'{"a": not JSON     }', "damaged safetensors"),
    ],
)
def test_one_clear_error_each(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_weights(path)
    assert "weights.pth" in str(caught.value)


@pytest.mark.parametrize("kept", [4, 12, -1])
def test_truncated_safetensors(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged safetensors"):
        read_weights(path)


def test_a_flipped_byte_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"w": torch.full((1000,), 3.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((2,), 3.0).numpy().tobytes()) + 402] ^= 1  # still a finite number
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth is damaged .*checksum of x/data/0 does not match"):
        read_weights(path)


@pytest.mark.parametrize("at", [-70, -30])
def test_a_damaged_directory_of_a_zip(at: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(TENSORS, path)
    content = bytearray(path.read_bytes())
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_weights(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_values_that_are_no_weights(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    bad = {"a": torch.ones(2), "b.weight": torch.tensor([1, torch.nan, torch.nan], dtype=dtype)}
    bad["c.running_var"] = torch.tensor([0.0, -1.0, 1.0, torch.inf])
    (save_file if name == "x.safetensors" else torch.save)(bad, tmp_path / name)
    words = r"b\.weight has 2 of 3 values that are not finite.*c\.running_var has 2 of 4 .*finite or below 0"
    for source in (tmp_path / name, bad):
        with pytest.raises(CheckpointError, match=words) as caught:
            read_weights(source)
        assert "a has" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([1e300, 1.0], dtype=torch.float64), "1 of 2 values that are not finite"),
        (torch.ones(2, dtype=torch.complex64), "not a plain tensor of real values"),
        (torch.eye(2).to_sparse(), "not a plain tensor of real values"),
        (torch.ones(2, device="meta"), "not a plain tensor of real values"),
        (torch.ones(2, dtype=torch.int8), "torch.int8, not floating point"),
    ],
)
def test_tensors_that_cannot_be_weights_in_32_bits(value: torch.Tensor, words: str) -> None:
    with pytest.raises(CheckpointError, match=f"conv.weight (has|is) .*{words}"):
        read_weights({"conv.weight": value})


def test_text_called_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("just some text, longer than a few bytes")
    with pytest.raises(CheckpointError, match="damaged safetensors"):
        read_weights(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no weight file .*nowhere\.pth"):
        read_weights(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 1}}])
def test_no_tensors(content: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_weights(content)
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth holds no state dict"):
        read_weights(tmp_path / "x.pth")


def test_half_precision_keeps_what_would_overflow() -> None:
    assert stored_tensor(torch.tensor([1.5]), half=True).dtype == torch.float16
    assert stored_tensor(torch.tensor([1e6]), half=True).dtype == torch.float32
    assert stored_tensor(torch.tensor(3), half=True).dtype == torch.int64
    assert stored_tensor(torch.tensor([1.5]), half=False).dtype == torch.float32


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_saved_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """safetensors makes its files readable by the owner alone, so a shared folder or a wheel could not use them."""
    (tmp_path / "ordinary").touch()
    saved = save_checkpoint(create_model("hrformer_nano"), tmp_path / "x.safetensors")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


@pytest.mark.parametrize(
    "write",
    [
        lambda part: torch.save({"x": torch.zeros(99_999)}, part),
        lambda part: save_file({"x": torch.zeros(99_999)}, part),
    ],
)
def test_a_disk_that_takes_no_more_is_named(write: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file may not grow beyond that: to the writers the same as a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"last\.pt could not be written; there are \d+ MiB left on its disk"):
            write_file(path, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
    assert path.read_text() == "old"
