"""Makes the starter weights: MobileNetV2 pretrained on pictures that this project draws itself. One command, one seed.

    python tools/pretrain_starter.py [--out panorama/starter] [--seed N] [--cache DIR] ...

Draws two sets (tools/formulas.py: pictures of formulas with their class, landscapes with their labels), trains one extractor on both at
once, measures BatchNorm's statistics at the size that trainings use, and writes mobilenet_v2.safetensors (float16) with
mobilenet_v2.json, which says how it was made. The same options give the same bytes on the same machine with as many threads; another
processor or version of PyTorch rounds differently. docs/starter.md has the cost and what the weights are worth.
"""

import argparse
import datetime
import hashlib
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import formulas  # noqa: E402

from panorama import hardware, preprocessing  # noqa: E402
from panorama.files import write_atomically  # noqa: E402
from panorama.model import Classifier, batchnorms, build  # noqa: E402

_DRAWN_SIDE = 128
_WARM_UP = 0.05  # of all steps
_LABELS_WEIGHT = 3.0  # about as large as the loss of the classes


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; their defaults made the weights that ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "panorama" / "starter")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "panorama-starter", help="drawn pictures, 1.5 GB")
    parser.add_argument("--seed", type=int, default=20_260)
    parser.add_argument("--formulas", type=int, default=200 * formulas.N_CLASSES, help="how many pictures of formulas to draw")
    parser.add_argument("--landscapes", type=int, default=10_000, help="how many landscapes to draw")
    parser.add_argument("--drawn-side", type=int, default=_DRAWN_SIDE)
    parser.add_argument("--landscape-share", type=float, default=0.5, help="of every batch")
    parser.add_argument(
        "--stages",
        type=stages,
        default=stages("64:120000,96:100000,128:80000"),
        metavar="SIDE:PICTURES,...",
        help="what is seen at which size",
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--calibration", type=int, default=512, help="pictures that BatchNorm's statistics are measured on")
    parser.add_argument("--calibration-side", type=int, default=224)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="written into the JSON")
    parser.add_argument("--draw-only", action="store_true")
    return parser.parse_args(arguments)


def stages(text: str) -> list[tuple[int, int]]:
    """ "64:120000,96:100000" -> [(64, 120000), (96, 100000)]: side in pixels, pictures seen."""
    return [(int(side), int(count)) for side, count in (part.split(":") for part in text.split(","))]


# ---- drawing


@dataclass(frozen=True)
class Drawn:
    """pictures: uint8 (n, side, side, 3). answers: int64 (n,) classes, or uint8 (n, n_labels)."""

    pictures: npt.NDArray[np.uint8]
    answers: npt.NDArray[Any]


def _draw_formula(job: tuple[int, int, int]) -> tuple[npt.NDArray[np.uint8], int]:
    return formulas.draw_formula(*job)


def _draw_landscape(job: tuple[int, int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    return formulas.draw_landscape(*job)


def drawn(kind: str, options: argparse.Namespace) -> Drawn:
    """The set of `kind`, "formulas" or "landscapes", drawn once by processes on all cores, and kept in the cache."""
    count, seed, side = int(getattr(options, kind)), options.seed, options.drawn_side
    file = options.cache / f"{kind}-{seed}-{count}-{side}.npy"
    answers = file.with_suffix(".answers.npy")
    if not answers.exists():
        options.cache.mkdir(parents=True, exist_ok=True)
        draw = _draw_formula if kind == "formulas" else _draw_landscape
        started, found = time.perf_counter(), []
        part = file.with_suffix(".part.npy")
        pictures = np.lib.format.open_memmap(part, "w+", np.uint8, (count, side, side, 3))
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            jobs = ((seed, index, side) for index in range(count))
            for index, (picture, answer) in enumerate(pool.imap(draw, jobs, chunksize=32)):
                pictures[index] = picture
                found.append(answer)
        pictures.flush()
        part.replace(file)
        np.save(answers, np.array(found))
        print(f"drew {count} {kind} in {time.perf_counter() - started:.0f} s", flush=True)
    return Drawn(np.load(file, mmap_mode="r", allow_pickle=False), np.load(answers, allow_pickle=False))


# ---- training


class Students(nn.Module):
    """One extractor and a linear layer for each kind of question."""

    def __init__(self, model: Classifier, n_labels: int) -> None:
        super().__init__()
        self.extractor, self.classes = model.extractor, model.head
        self.labels = nn.Linear(model.head.in_features, n_labels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, N_CLASSES) of the classes and (batch, n_labels) of the labels."""
        features = self.extractor(x)
        return self.classes(features), self.labels(features)


def augmented(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """uint8 (n, drawn, drawn, 3) -> normalised (n, 3, side, side): turned, cropped, mirrored; colours moved, some blurred."""
    n = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    angle, area, aspect = uniform(-0.3, 0.3), uniform(0.25, 1.0), torch.exp(uniform(-0.3, 0.3))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    shift_x, shift_y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    views = torch.stack(
        [
            torch.stack([cos * width * mirror, -sin * height, shift_x], 1),
            torch.stack([sin * width * mirror, cos * height, shift_y], 1),
        ],
        1,
    )
    grid = F.affine_grid(views, [n, 3, side, side], align_corners=False)
    x = F.grid_sample(pixels.permute(0, 3, 1, 2).float() / 255, grid, padding_mode="reflection", align_corners=False)
    soft = F.interpolate(F.avg_pool2d(x, 2), (side, side), mode="bilinear", align_corners=False)
    x = torch.where(uniform(0, 1, 1, 1, 1) < 0.15, soft, x)
    grey = x.mean(1, keepdim=True)
    colour = torch.where(uniform(0, 1, 1, 1, 1) < 0.1, 0.0, uniform(0.5, 1.4, 1, 1, 1))  # a tenth without any
    x = grey + (x - grey) * colour
    centre = x.mean((1, 2, 3), keepdim=True)
    x = (centre + (x - centre) * uniform(0.7, 1.35, 1, 1, 1)) * uniform(0.75, 1.25, 1, 1, 1) * uniform(0.88, 1.12, 3, 1, 1)
    mean, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD))
    return ((x.clamp(0, 1) - mean) / scale).contiguous(memory_format=torch.channels_last)


def class_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy of the class, and of its kind: which formula it is of is learned long before its parameters are."""
    kinds = torch.from_numpy(formulas.KIND_OF_CLASS)
    by_kind = torch.stack([logits[:, kinds == kind].logsumexp(1) for kind in range(len(formulas.CLASSES))], 1)
    return F.cross_entropy(logits, wanted, label_smoothing=0.1) + F.cross_entropy(by_kind, kinds[wanted])


def order(count: int, rng: np.random.Generator) -> Iterator[int]:
    """Positions of a set for ever, each pass in a new order."""
    while count:
        yield from rng.permutation(count).tolist()


def train(students: Students, sets: tuple[Drawn, Drawn], options: argparse.Namespace) -> dict[str, Any]:
    """Trains through all stages and returns what it cost."""
    shapes, scenes = sets
    rng, generator = np.random.default_rng((options.seed, 4)), torch.Generator().manual_seed(options.seed)
    n_scenes = round(options.batch * options.landscape_share) if len(scenes.answers) else 0
    if not len(shapes.answers):
        n_scenes = options.batch
    orders = order(len(shapes.answers), rng), order(len(scenes.answers), np.random.default_rng((options.seed, 5)))
    plan = [(side, max(1, count // options.batch)) for side, count in options.stages]
    steps = sum(count for _, count in plan)
    decayed = [p for p in students.parameters() if p.dim() > 1]
    groups = [{"params": decayed}, {"params": [p for p in students.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    dtype = getattr(torch, options.precision)
    students.train()
    done, began, cost = 0, time.perf_counter(), {}
    hits, labels_loss = 0.0, math.log(2)  # running means
    for side, count in plan:
        started, shown = time.perf_counter(), time.perf_counter()
        for step in range(count):
            at = [next(orders[0]) for _ in range(options.batch - n_scenes)], [next(orders[1]) for _ in range(n_scenes)]
            pixels = np.concatenate([one.pictures[where] for one, where in zip(sets, at, strict=True) if where])
            x = augmented(torch.from_numpy(pixels), side, generator)
            with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
                classes, labels = students(x)
            split = options.batch - n_scenes
            loss = x.new_zeros(())
            if split:
                wanted = torch.from_numpy(shapes.answers[at[0]]).long()
                loss = loss + class_loss(classes[:split].float(), wanted)
                hits += 0.02 * (float((classes[:split].argmax(1) == wanted).float().mean()) - hits)
            if n_scenes:
                truth = torch.from_numpy(scenes.answers[at[1]]).float()
                seen = F.binary_cross_entropy_with_logits(labels[split:].float(), truth)
                loss = loss + _LABELS_WEIGHT * seen
                labels_loss += 0.02 * (float(seen.detach()) - labels_loss)
            if not torch.isfinite(loss):
                raise SystemExit(f"The loss is not finite at step {done}: use a lower --learning-rate.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(students.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            done += 1
            if time.perf_counter() - shown > 20 or step == count - 1:
                shown = time.perf_counter()
                rate = (step + 1) * options.batch / (shown - started)
                left = (count - step - 1) * options.batch / rate
                print(f"{side} px, step {done}/{steps}: loss {float(loss.detach()):.3f}, classes right {hits:.2f}, labels' loss {labels_loss:.3f}, {rate:.0f} img/s, "
                      f"{left:.0f} s left of this size", flush=True)  # fmt: skip
        cost[f"images_per_second_{side}px"] = round(count * options.batch / (time.perf_counter() - started), 1)
    return {"minutes_of_training": round((time.perf_counter() - began) / 60, 1), **cost}


def _rate(step: int, steps: int) -> float:
    """The share of the learning rate: up in a twentieth of all steps, then down by a cosine."""
    rise = max(1, round(_WARM_UP * steps))
    return (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@torch.no_grad()
def calibrate(students: Students, sets: tuple[Drawn, Drawn], options: argparse.Namespace) -> None:
    """BatchNorm's statistics as the mean over drawn pictures of the size that trainings use, prepared as there."""
    for norm in batchnorms(students.extractor):
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
        norm.train()
    rng = np.random.default_rng((options.seed, 6))
    parts = [(one, at) for one in sets if len(one.answers)
             for at in np.array_split(rng.permutation(len(one.answers))[: options.calibration // 2], max(1, options.calibration // 64))]  # fmt: skip
    for index in rng.permutation(len(parts)):
        one, at = parts[index]
        if len(at):
            students.extractor(
                preprocessing.for_evaluation(torch.from_numpy(one.pictures[np.sort(at)]), options.calibration_side)
            )
    students.eval()


def main(arguments: list[str] | None = None) -> None:
    """Draws, trains, writes."""
    options = parse(arguments)
    started = time.perf_counter()
    sets = drawn("formulas", options), drawn("landscapes", options)
    drawing = time.perf_counter() - started
    if options.draw_only:
        return
    hardware.keep_memory()
    torch.manual_seed(options.seed)  # dropout
    model = build("mobilenet_v2", formulas.N_CLASSES, seed=options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed + 1)
        students = Students(model, len(formulas.SCENE_LABELS))
    students.to(memory_format=torch.channels_last)
    cost = train(students, sets, options)
    calibrate(students, sets, options)
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in students.extractor.state_dict().items()
    }
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise SystemExit("A weight is not finite in float16.")
    data = save(state)
    recipe = {
        name: value for name, value in vars(options).items() if name not in ("out", "cache", "date", "draw_only")
    }  # fmt: skip
    card = {
        "what": "MobileNetV2 pretrained on drawn pictures; no photo and no other weights were used",
        "backbone": "mobilenet_v2",
        "sha256": hashlib.sha256(data).hexdigest(),
        "command": "python tools/pretrain_starter.py",
        "recipe": recipe,
        "date": options.date,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cost": {"minutes_of_drawing": round(drawing / 60, 1), **cost},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "mobilenet_v2.safetensors", data)
    write_atomically(options.out / "mobilenet_v2.json", (json.dumps(card, indent=1) + "\n").encode())
    print(f"{options.out / 'mobilenet_v2.safetensors'}: {len(data) / 1e6:.1f} MB, sha256 {card['sha256'][:12]}...")


if __name__ == "__main__":
    main()
