"""Device code as applications have it: one function that is right, and two that are wrong on machines of others."""

from __future__ import annotations

import torch


def largest_card() -> str:
    """Return the accelerator with the most free memory, else the CPU."""
    if torch.cuda.is_available():
        free = {f"cuda:{index}": torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
        return max(free, key=lambda name: free[name])
    return "mps" if torch.backends.mps.is_available() else "cpu"


def room_for_reranker() -> int:
    """Return the bytes that are free on the reranker's card. Wrong: it takes for granted that there are two."""
    return torch.cuda.mem_get_info(1)[0]


def half_precision() -> torch.dtype:
    """Return the dtype for the GPU. Wrong: it takes any CUDA device for one that computes in bfloat16."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32
