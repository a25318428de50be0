"""Two real processes against one."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

import evaluating_processes
from forked import fork_several
from parity import assert_near


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs torch's gloo")
def test_two_processes_find_what_one_finds(data_dir: Path, tmp_path: Path) -> None:
    fork_several(evaluating_processes.run, 2, str(data_dir), str(tmp_path), count=2)
    alone = evaluating_processes.evaluate_all(data_dir, None)
    for rank in range(2):
        for one, other in zip(alone, pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()), strict=True):
            assert_near(other.scores, one.scores)
            assert other.intervals == one.intervals
            assert other.items == one.items
            assert [example.index for example in other.worst] == [example.index for example in one.worst]
            for a, b in zip(one.worst, other.worst, strict=True):
                assert a.score == pytest.approx(b.score, abs=1e-4)
                assert np.allclose(a.prediction, b.prediction, atol=1e-3)
