"""What oneDNN's blocked format of memory brings a backbone on this machine, in float32: forward passes with it and without, in turn.

    python -m benchmarks.blocked [BACKBONE ...] [--rounds 15]

Prints, for a batch of 32 at 224 pixels and one of 16 at 373 (corners), the median over rounds of how many times as many pictures a second it computes, and
the quartiles. The weights are random, which the time does not depend on.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import Tensor, nn

from panorama import blocked, folding, fusing, hardware
from panorama.model import build


def seconds(network: nn.Module, x: Tensor) -> float:
    started = time.perf_counter()
    network(x)
    return time.perf_counter() - started


def uses(network: nn.Module, x: Tensor) -> bool:
    seen: list[bool] = []
    inner = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    handle = inner.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_mkldnn))
    for _ in range(2):  # the first picture of a shape is computed both ways
        network(x[:1])
    handle.remove()
    return seen[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="*", default=["mobilenet_v2"])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    hardware.keep_memory()
    for name in args.backbones:
        plain = folding.folded(build(name, 5, seed=0).to(memory_format=torch.channels_last))
        fusing.fuse(plain)
        other = copy.deepcopy(plain)
        assert isinstance(other.extractor, nn.Module)
        blocked.use([other.extractor])
        for batch, size in ((32, 224), (16, 373)):
            x = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                if not uses(other, x):
                    print(f"{name}, {batch} of {size} pixels: not used, for PyTorch lacks an operation of it there")
                    continue
                for network in (plain, other) * 3:
                    network(x)
                times = [(seconds(plain, x), seconds(other, x)) for _ in range(args.rounds)]
            low, middle, high = statistics.quantiles([before / after for before, after in times], n=4)
            rates = [batch / statistics.median(column) for column in zip(*times, strict=True)]
            print(
                f"{name}, {batch} of {size} pixels: {middle:.2f} times ({low:.2f} to {high:.2f}); {rates[0]:.0f} and {rates[1]:.0f} images a second",
                flush=True,
            )


if __name__ == "__main__":
    main()
