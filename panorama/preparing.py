"""What a worker does before it trains: weights, the split as it stays, and what cannot work said before the long work."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from panorama import checkpoint, hardware, preprocessing
from panorama.config import TrainConfig
from panorama.csvscan import counted
from panorama.datasets import DataSet, validation_part
from panorama.errors import PanoramaError
from panorama.events import RunStarted
from panorama.features import Pixels
from panorama.hardware import Precisions
from panorama.model import STARTER_BACKBONE, Classifier, DownloadError, calibrate_batchnorm, load_pretrained, on_cpu
from panorama.processes import Team
from panorama.runs import Run, keep_weights, write_rows

_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 512, 64
_CLEARLY_SLOWER = 2.0  # times: two tries of one picture on a busy machine say no finer


def load_weights(job: Run, model: Classifier, config: TrainConfig, team: Team) -> tuple[TrainConfig, str, str]:
    """The config with the weights that were loaded, what they are, and, where they are not those asked for, why: both in words.

    ImageNet weights that cannot be downloaded do not end a run of a backbone that starter weights ship for.
    """
    weights = instead = ""
    if team.is_first:
        try:
            weights = load_pretrained(model, config.backbone, config.weights)
        except DownloadError as error:
            reason = str(error).split(". Go on without")[0]
            if checkpoint.exists(job.folder):
                raise PanoramaError(f"{reason}. This run began with them: resume it with a network.") from error
            if config.backbone != STARTER_BACKBONE:
                raise
            instead = (
                f"{reason}. So this run starts from the starter weights that come with panorama: pictures that it draws taught them, "
                "and they are worth less than ImageNet's (docs/starter.md). With a network, start a new run."
            )
        if instead:
            config = keep_weights(job, "starter")
    else:  # the first, for which the others have waited, has written down what it went on with
        config = Run(job.folder).config
    if not weights:
        weights = load_pretrained(model, config.backbone, config.weights)
    return config, weights, instead


def refuse_other_weights(job: Run, config: TrainConfig, weights: str, origin: str) -> None:
    """Raises PanoramaError where the run began with weights of another fingerprint than `origin`; `weights` is what they are, in words.

    What adaptation learned would not fit them, and folds would start from others than the model.
    """
    begun = checkpoint.origins(job.folder)
    if not begun or origin in begun:
        return
    if config.weights == "none":
        raise PanoramaError(
            "This machine or this PyTorch draws other random weights than those this run began with. Resume it where it began, or start a new run."
        )
    raise PanoramaError(
        f"The weights this run began with have changed since: {weights}, with fingerprint {origin[:12]}... instead of {min(begun)[:12]}.... "
        "What the run has learned does not fit them. Put the earlier weights back, or start a new run."
    )


def final_splits(job: Run, data: DataSet, config: TrainConfig) -> npt.NDArray[np.str_]:
    """train, validation or test for each image; written once, so that a resumed run keeps them."""
    if job.has("split.csv"):
        images, written, _ = job.images()
        if images == list(data.images):
            return np.array(written)
        raise PanoramaError(
            "The pictures of this run's data set have changed since it started (some are missing, new or damaged). Start a new run."
        )
    splits = np.array(data.splits, dtype="<U10")
    splits[validation_part(data, config.validation_share, config.seed)] = "validation"
    root = data.source.root
    write_rows(
        job.folder / "split.csv",
        ["image", "split", "path"],
        [
            (image, split, path.relative_to(root).as_posix())
            for image, split, path in zip(data.images, splits, data.paths, strict=True)
        ],
    )
    return splits


def refuse_labels_that_never_vary(data: DataSet, train_at: npt.NDArray[np.int64]) -> None:
    """Raises PanoramaError where there is nothing to learn."""
    positives = data.targets[train_at].sum(0)
    if not ((positives > 0) & (positives < len(train_at))).any():
        raise PanoramaError(
            "No label is there in some training pictures and not in others, so there is nothing to learn. "
            "Add pictures, or check that the CSV's label columns were read as meant."
        )


def refuse_features_that_are_no_numbers(features: npt.NDArray[np.float32], images: Sequence[str]) -> None:
    """Raises PanoramaError for rows (n_images, width) with a value that is not finite: no training and no judgement follows from those."""
    broken = np.flatnonzero(~np.isfinite(features).all(1))
    if not len(broken):
        return
    others = f" and {counted(len(broken) - 1, 'other picture')}" if len(broken) > 1 else ""
    raise PanoramaError(
        f"{images[broken[0]]}{others}: the network's features are not finite numbers. Use other weights (--weights), or --precision float32 where bfloat16 was used."
    )


@torch.no_grad()
def try_out(model: Classifier, config: TrainConfig) -> None:
    """One forward pass before the long work: some backbones take pictures of one size only."""
    model.eval()
    try:
        on_cpu(model)(torch.zeros(1, 3, config.image_size, config.image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise PanoramaError(
            f"{config.backbone} does not take pictures of {config.image_size} x {config.image_size} pixels ({error}). "
            "Use --image-size 224, or another backbone."
        ) from error


def said_of_precision(config: TrainConfig, model: Classifier) -> str:
    """A warning, where bfloat16 was asked for and is clearly slower here; otherwise empty."""
    if config.precision != "bfloat16" or (slower := hardware.times_slower_in_bfloat16(model, config)) < _CLEARLY_SLOWER:
        return ""
    return (
        f"bfloat16, which was asked for, takes about {slower:.0f} times as long as float32 on this processor. "
        "Without --precision the faster of the two is chosen."
    )


def choose_precisions(earlier: RunStarted | None, config: TrainConfig, model: Classifier, cache: Path) -> Precisions:
    """A resumed run computes as it began."""
    if earlier is None:
        return hardware.precisions(config, model, cache)
    names = (earlier.precision, earlier.feature_precision or earlier.precision)
    began = (torch.bfloat16 if name == "bfloat16" else torch.float32 for name in names)
    return Precisions(*began)


def calibrate(
    model: Classifier, pixels: Pixels, train_at: npt.NDArray[np.int64], config: TrainConfig, where: torch.device
) -> None:
    """Gives BatchNorm of random weights the statistics of some training pictures."""
    chosen = np.random.default_rng(config.seed).permutation(train_at)[:_CALIBRATION_IMAGES]
    batches = (
        preprocessing.for_evaluation(pixels.batch(part), config.image_size).to(where)
        for part in np.array_split(chosen, max(1, len(chosen) // _CALIBRATION_BATCH))
    )
    calibrate_batchnorm(model, batches)
