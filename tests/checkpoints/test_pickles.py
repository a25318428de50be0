"""Pickles: what is read, what is refused, and that nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrformer.checkpoints.pickles import CheckpointError, load_pickle

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@contextmanager
def foreign_class(module: str, name: str, base: type) -> Iterator[type]:
    """A class of a package that exists only while a file is written."""
    parts = module.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    made = type(name, (base,), {"__module__": module})
    for full in names:
        sys.modules[full] = types.ModuleType(full)
    setattr(sys.modules[module], name, made)
    try:
        yield made
    finally:
        for full in names:
            del sys.modules[full]


def save(content: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


class Touch:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@ZIPPED
def test_tensors_and_plain_values(tmp_path: Path, zipped: bool) -> None:
    content = {"model": {"a": torch.arange(6.0).view(2, 3)}, "epoch": 3, "names": ["x", ("y", None, 1.5)]}
    found = load_pickle(save(content, tmp_path / "x.pth", zipped))
    assert torch.equal(found["model"]["a"], content["model"]["a"])  # type: ignore[index]
    assert found["epoch"] == 3
    assert found["names"] == ["x", ("y", None, 1.5)]


@ZIPPED
@pytest.mark.parametrize("module", ["yacs.config", "mmcv.utils.config", "mmengine.config.config"])
def test_configuration_classes_become_dictionaries(tmp_path: Path, zipped: bool, module: str) -> None:
    with foreign_class(module, "CfgNode", dict) as node:
        inner = node({"IMG_SIZE": 224})
        outer = node({"DATA": inner, "list": [1, 2]})
        outer.__dict__["_immutable"] = True
        path = save({"w": torch.ones(2), "config": outer}, tmp_path / "x.pth", zipped)
    found = load_pickle(path)
    assert found["config"] == {"DATA": {"IMG_SIZE": 224}, "list": [1, 2]}
    assert type(found["config"]) is dict
    assert module not in sys.modules


def test_classes_that_pickle_their_items_as_an_argument(tmp_path: Path) -> None:
    with foreign_class("mmengine.config.config", "ConfigDict", dict) as node:
        node.__reduce_ex__ = lambda self, protocol: (node, (dict(self),))  # type: ignore[method-assign, assignment]
        path = save({"w": torch.ones(2), "config": node(a=1)}, tmp_path / "x.pth")
    assert load_pickle(path)["config"] == {"a": 1}


@ZIPPED
def test_numpy_values(tmp_path: Path, zipped: bool) -> None:
    arrays = {
        "f8": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "bool": np.array([True, False]),
        "big": np.arange(3, dtype=">i4"),
        "text": np.array(["ab", "c"]),
        "empty": np.zeros((0, 3), np.float32),
    }
    found = load_pickle(save({**arrays, "scalar": np.float64(0.25), "count": np.int64(7)}, tmp_path / "x.pth", zipped))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert (found["scalar"], found["count"]) == (0.25, 7)


def test_arrays_of_objects_are_left_out(tmp_path: Path) -> None:
    path = save({"w": torch.ones(1), "objects": np.array([None, 1], dtype=object)}, tmp_path / "x.pth")
    assert load_pickle(path)["objects"] is None


def test_harmless_classes_of_the_standard_library(tmp_path: Path) -> None:
    content = {"w": torch.ones(1), "args": Namespace(lr=1), "path": Path("here"), "set": {1}}
    assert torch.equal(load_pickle(save(content, tmp_path / "x.pth"))["w"], torch.ones(1))


def test_logged_values_of_mmengine_name_getattr_and_get_nothing(tmp_path: Path) -> None:
    class Bound:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (dict, "keys")

    assert load_pickle(save({"w": torch.ones(1), "method": Bound()}, tmp_path / "x.pth"))["method"] == {}


@ZIPPED
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    witness = tmp_path / "witness"
    path = save({"state_dict": {"w": torch.ones(1)}, "x": Touch(witness)}, tmp_path / "x.pth", zipped)
    with pytest.raises(CheckpointError, match=r"(posix|nt)\.system.*sandbox|(posix|nt)\.system.*container") as caught:
        load_pickle(path)
    assert not witness.exists()
    assert "weights_only=False" in str(caught.value)  # how to convert it, once and elsewhere
    with path.open("rb") as file:
        assert b"system" in file.read()


@pytest.mark.parametrize("function", [eval, exec, __import__, open])
def test_builtin_functions_are_refused(tmp_path: Path, function: Any) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return function, ("1",)

    with pytest.raises(CheckpointError, match=f"refused.*{function.__name__}"):
        load_pickle(save({"w": torch.ones(1), "x": Call()}, tmp_path / "x.pth"))


def test_whole_modules_are_refused_by_name(tmp_path: Path) -> None:
    path = save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_pickle(path)


def test_stand_ins_do_not_outlive_the_call(tmp_path: Path) -> None:
    before = list(torch.serialization.get_safe_globals())
    load_pickle(save({"w": np.ones(2)}, tmp_path / "x.pth"))
    assert torch.serialization.get_safe_globals() == before


@ZIPPED
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.98])
def test_truncated_files(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = save({"w": torch.ones(10_000)}, tmp_path / "x.pth", zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=r"x\.pth is damaged or was not written by torch\.save"):
        load_pickle(path)


def test_other_pickles_and_archives(tmp_path: Path) -> None:
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps({"a": 1}))
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    program = tmp_path / "program.pt"
    with zipfile.ZipFile(program, "w") as file:
        file.writestr("program/data.pkl", b"")
        file.writestr("program/code/__torch__.py", "")
    for path, words in ((plain, "damaged or was not"), (archive, r"readme\.txt"), (program, "TorchScript")):
        with pytest.raises(CheckpointError, match=words):
            load_pickle(path)
