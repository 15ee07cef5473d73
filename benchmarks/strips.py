"""Where along a panorama a label is seen: does the strip of the predict page point at the right side? Drawn pictures, so the truth is known.

    python benchmarks/strips.py RUN_FOLDER [--cases 50] [--seed 0] [--keep FOLDER]

RUN_FOLDER is a run with the demo's labels (the last line of `python -m panorama demo` names one). Each case is a panorama of 6:1: two drawn
landscapes of 3:1 that fade into each other in the middle tenth, each with labels of its own. A label counts as found when the likeliest of the strip's
windows has its centre on the label's side; a case when each of its labels is. For comparison: the side by chance.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panorama.prediction import Predictor, Strip
from panorama.scenery import draw_scene
from panorama.terrain import DEMO_LABELS

HALF = (720, 240)
_FADE = 0.1  # of the whole width
_SIDES = ("left", "right")


def panorama(sides: tuple[list[str], list[str]], rng: np.random.Generator) -> Image.Image:
    """Two landscapes side by side, (1296, 240): 6:1 less what fades into each other, on each only the labels given for it."""
    width, height = HALF
    fade = round(_FADE * 2 * width)
    left, right = (np.asarray(draw_scene(labels, HALF, rng), np.float32) for labels in sides)
    weight = np.linspace(1, 0, fade)[None, :, None]
    middle = left[:, width - fade :] * weight + right[:, :fade] * (1 - weight)
    whole = np.concatenate([left[:, : width - fade], middle, right[:, fade:]], axis=1)
    return Image.fromarray(whole.round().astype(np.uint8)).resize((6 * height, height), Image.Resampling.LANCZOS)


def sides_of(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """One or two labels for the left, others for the right."""
    labels = rng.permutation(DEMO_LABELS).tolist()
    cut = int(rng.integers(1, 3))
    return labels[:cut], labels[cut : cut + int(rng.integers(1, 3))]


def side_seen(strip: Strip, values: npt.NDArray[np.float32]) -> int:
    """0 where the likeliest window has its centre in the left half, 1 in the right."""
    best = int(values.argmax())
    return int((strip.lefts[best] + strip.rights[best]) / 2 > 0.5)


def main() -> None:
    """Draws, asks the run's model and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the panoramas there, to look at")
    options = parser.parse_args()
    predictor = Predictor.load(options.run)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[bool]] = {label: [] for label in DEMO_LABELS}
    whole = []
    for case in range(options.cases):
        rng = np.random.default_rng((options.seed, case))
        sides = sides_of(rng)
        picture = panorama(sides, rng)
        strip = predictor.strip(picture)
        assert strip is not None
        right = {
            label: side_seen(strip, strip.probabilities[:, predictor.labels.index(label)]) == side
            for side, labels in enumerate(sides)
            for label in labels
        }
        for label, is_right in right.items():
            found[label].append(is_right)
        whole.append(all(right.values()))
        if options.keep:
            name = "_".join([_SIDES[0], *sides[0], _SIDES[1], *sides[1], *([] if whole[-1] else ["missed"])])
            picture.save(options.keep / f"{case:03}_{name}.jpg", quality=90)
    print(f"{len(whole)} panoramas of 6:1, seed {options.seed}")
    for label, each in found.items():
        print(f"{label:10} {sum(each):3} of {len(each):3} on its side")
    chance = np.mean(
        [0.5 ** sum(len(side) for side in sides_of(np.random.default_rng((options.seed, case)))) for case in range(options.cases)]
    )
    print(f"all labels of the picture on their side: {sum(whole)} of {len(whole)} ({np.mean(whole):.0%}; by chance {chance:.0%})")


if __name__ == "__main__":
    main()
