"""How many programs fill a GPU."""

from __future__ import annotations

import torch


def resident_programs(device: torch.device, per_processor: int) -> int:
    """Programs that fill a GPU when each multiprocessor holds ``per_processor`` of them; 4 where there is no GPU.

    Kernels that keep sums in registers are launched with about this many programs, each going through many tiles:
    few partial sums are left to add, in a fixed order, so results do not change from run to run on one GPU model.
    """
    if device.type != "cuda":
        return 4
    return per_processor * torch.cuda.get_device_properties(device).multi_processor_count
