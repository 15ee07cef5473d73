"""What this machine computes on, and in which precision it is fast."""

import json
import time
from pathlib import Path

import torch
from torch import nn

from panorama.config import Precision

_CLEARLY_FASTER = 1.3


def device() -> torch.device:
    """CUDA where there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(where: torch.device) -> str:
    """The device in words."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    return f"CPU, {torch.get_num_threads()} threads"


def precision(wanted: Precision, where: torch.device, cache: Path) -> torch.dtype:
    """float32 or bfloat16: as asked, or for "auto" the one that a measured training step says is faster here.

    The measurement (under a second) is kept in `cache`, so that runs on one machine agree.
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    key = f"{torch.__version__} {describe(where)}"
    file = cache / "precision.json"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        speed_up = _seconds(where, torch.float32) / _seconds(where, torch.bfloat16)
        known = {key: "bfloat16" if speed_up > _CLEARLY_FASTER else "float32"}
        cache.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known))
    return torch.bfloat16 if known[key] == "bfloat16" else torch.float32


def _seconds(where: torch.device, dtype: torch.dtype) -> float:
    """The fastest of a few training steps of two pointwise convolutions, where MobileNet spends its time."""
    with torch.random.fork_rng():
        block = nn.Sequential(nn.Conv2d(32, 192, 1), nn.ReLU6(), nn.Conv2d(192, 32, 1))
        block = block.to(where).to(memory_format=torch.channels_last)
        x = torch.randn(16, 32, 56, 56, device=where).contiguous(memory_format=torch.channels_last)
    best = float("inf")
    for _ in range(5):
        if where.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(where.type, dtype, enabled=dtype is not torch.float32):
            block(x).float().mean().backward()
        if where.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
