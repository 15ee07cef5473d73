"""Images a second of MobileNetV2, forward and in a training step: what each choice of panorama's brings on this machine.

    python benchmarks/forward.py [--size 224]

Also ONNX Runtime and OpenVINO where they are installed. Each line is measured in a process of its own, for memory that one keeps
would help the next.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Fold = Literal["nothing", "norms", "norms and ReLUs", "norms and ReLUs, blocked"]
# name: forward, training (of all blocks), fine tuning (as panorama does in its first half) or late (in its second), keep memory, channels_last, what is folded into the convolutions and whether the format of memory is blocked, bfloat16, batch
LINES: dict[str, tuple[str, bool, bool, Fold, bool, int]] = {
    "forward, plain, a picture at a time": ("forward", False, False, "nothing", False, 1),
    "forward, plain": ("forward", False, False, "nothing", False, 64),
    "forward, channels_last": ("forward", False, True, "nothing", False, 64),
    "forward, channels_last, folded": ("forward", False, True, "norms", False, 64),
    "the same, memory kept": ("forward", True, True, "norms", False, 64),
    "the same, batch 32": ("forward", True, True, "norms", False, 32),
    "the same, ReLU too": ("forward", True, True, "norms and ReLUs", False, 32),
    "the same, blocked": ("forward", True, True, "norms and ReLUs, blocked", False, 32),
    "ReLU too, bfloat16": ("forward", True, True, "norms and ReLUs", True, 32),
    "training step, plain": ("training", False, False, "nothing", False, 64),
    "training step, channels_last": ("training", False, True, "nothing", False, 64),
    "training step, channels_last, folded": ("training", False, True, "norms", False, 64),
    "training step, the same, memory kept": ("training", True, True, "norms", False, 64),
    "training step, the same, batch 32": ("training", True, True, "norms", False, 32),
    "training step, the same, bfloat16": ("training", True, True, "norms", True, 32),
    "fine tuning, first blocks left": ("fine tuning", True, True, "norms", False, 32),
    "fine tuning, first blocks left, bfloat16": ("fine tuning", True, True, "norms", True, 32),
    "fine tuning, second half": ("late", True, True, "norms", False, 32),
    "fine tuning, second half, bfloat16": ("late", True, True, "norms", True, 32),
}
RUNTIMES = ("ONNX Runtime", "OpenVINO", "OpenVINO, bfloat16")


def rate(compute: Callable[[], object], pictures: int) -> float:
    """The better of several rounds."""
    compute()
    best = float("inf")
    for _ in range(max(3, 64 // pictures)):
        started = time.perf_counter()
        compute()
        best = min(best, time.perf_counter() - started)
    return pictures / best


def torch_line(kind: str, keep: bool, channels_last: bool, fold: Fold, lower: bool, batch: int, size: int) -> float:
    import torch

    from panorama import blocked, hardware
    from panorama.folding import Folded, folded
    from panorama.fusing import fuse
    from panorama.model import build, prepare_phase

    if keep:
        hardware.keep_memory()
    model = build("mobilenet_v2", 5, seed=0)
    x = torch.rand(batch, 3, size, size)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    prepare_phase(model, "fine tuning", unfreeze="all" if kind == "training" else "auto", pretrained=True, late=kind == "late")
    if kind == "forward":
        network: torch.nn.Module = model.eval() if fold == "nothing" else folded(model)
        if fold.startswith("norms and ReLUs"):
            fuse(network)
        if fold.endswith("blocked"):  # `for_inference` does it where the machine gains
            blocked.use([network.extractor])  # type: ignore[list-item]

        @torch.inference_mode()
        def compute() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=lower):
                network(x)
    else:
        network = model if fold == "nothing" else Folded(model, fuse_frozen=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

        def compute() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=lower):
                logits = network(x)
            optimizer.zero_grad(set_to_none=True)
            logits.float().square().mean().backward()
            optimizer.step()

    return rate(compute, batch)


def runtime_line(name: str, size: int) -> float | None:
    import torch

    from panorama.folding import for_inference
    from panorama.model import build

    try:
        import onnx  # noqa: F401

        if name == "ONNX Runtime":
            import onnxruntime
        else:
            import openvino
    except ImportError:
        return None
    x = torch.rand(32, 3, size, size)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        program = torch.onnx.export(
            for_inference(build("mobilenet_v2", 5, seed=0)), (copy.deepcopy(x),), dynamo=True, verbose=False
        )
        assert program is not None
        program.save(str(file))
        if name == "ONNX Runtime":
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            given = {session.get_inputs()[0].name: x.numpy()}
            return rate(lambda: session.run(None, given), len(x))
        hint = "bf16" if "bfloat16" in name else "f32"
        compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return rate(lambda: compiled(x.numpy()), len(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--line", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.line:
        found = (
            runtime_line(options.line, options.size)
            if options.line in RUNTIMES
            else torch_line(*LINES[options.line], options.size)
        )
        print("not installed" if found is None else f"{found:.1f}")
        return
    for line in (*LINES, *RUNTIMES):
        command = [sys.executable, __file__, "--size", str(options.size), "--line", line]
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()[-1]
        print(f"{line:<44}{found:>14}", flush=True)


if __name__ == "__main__":
    main()
