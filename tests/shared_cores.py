"""What a process does of which several share the cores: calls of a small network, and their processor time."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import torch

from hrformer.fast.optimize import optimize
from hrformer.zoo import create_model


def run_calls(kind: str, threads: int, calls: int, pipe: Connection) -> None:
    """Say when all is warm, wait for an answer, and give the processor time of a call in seconds."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    x = torch.rand(2, 3, 128, 96)
    fast = optimize(model)

    def step() -> None:
        if kind == "inference":
            fast(x)
        else:
            model.train()(x).square().mean().backward()

    for _ in range(3):
        step()
    pipe.send("ready")
    pipe.recv()
    start = time.process_time()
    for _ in range(calls):
        step()
    pipe.send((time.process_time() - start) / calls)
