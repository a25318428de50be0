"""From an empty process to results, as a user's script does it; started by ``own_process.time_start``."""

from __future__ import annotations

import json
import sys
import time

import torch

from hrformer.predict.predictors import load


def main() -> None:
    """Load weights and predict on a picture twice.

    Reads "weights" (file), "picture" (file), "options" (of ``hrformer.load``), "threads" (0 for torch's own number) and
    "cpu". Writes readings of the monotonic clock: after the imports, after loading, after each result.
    """
    order = json.load(sys.stdin)
    times = [time.monotonic()]
    if order["threads"]:
        torch.set_num_threads(order["threads"])
    predictor = load(order["weights"], "cpu" if order["cpu"] else None, **order["options"])
    times.append(time.monotonic())
    for _ in range(2):
        predictor(order["picture"])
        times.append(time.monotonic())
    sys.stdout.write(json.dumps(times))


if __name__ == "__main__":
    main()
