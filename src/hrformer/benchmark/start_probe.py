"""From an empty process to results, as a user's script does it: ``python -m hrformer.benchmark.start_probe``.

Reads its order as JSON from standard input and writes points of time as JSON to standard output; see ``start``.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from hrformer.predict.predictors import load


def main() -> None:
    """Load weights and predict on a picture twice.

    The order holds "weights" (file), "picture" (file), "options" (of ``hrformer.load``) and "threads" (0 for torch's
    own number). Written are readings of the monotonic clock: after the imports, after loading, after each result.
    """
    order = json.load(sys.stdin)
    times = {"imported": time.monotonic()}
    if order["threads"]:
        torch.set_num_threads(order["threads"])
    predictor = load(order["weights"], "cpu" if order["cpu"] else None, **order["options"])
    times["loaded"] = time.monotonic()
    for name in ("first", "second"):
        predictor(order["picture"])
        times[name] = time.monotonic()
    sys.stdout.write(json.dumps(times))


if __name__ == "__main__":
    main()
