"""What a training run is asked to do: frozen, validated, to and from JSON.

The defaults reach the quality of the seed notebook's recipe, or better, in a fraction of its epochs (docs/speed.md); `seed_recipe` gives
its own numbers. The two phases are data (`TrainConfig.phases`), so that the training loop has one body.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from panorama.errors import PanoramaError

PhaseName = Literal["adaptation", "fine tuning"]
Precision = Literal["auto", "float32", "bfloat16"]
FoldModels = Literal["auto", "heads", "trained"]
Schedule = Literal["cosine", "constant"]
Unfreeze = int | Literal["auto", "all"]
NAMED_WEIGHTS = ("imagenet", "starter", "none")  # any other value of `weights` is a path


@dataclass(frozen=True)
class Phase:
    """One phase of training. `patience` is how many epochs in a row without a lower validation loss end it.

    schedule: "constant", or "cosine": the learning rate rises to its value and falls to nothing over all epochs.
    """

    name: PhaseName
    max_epochs: int
    learning_rate: float
    patience: int
    schedule: Schedule = "constant"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that shapes a run except the data. Raises PanoramaError on values that cannot work.

    `weights` is "imagenet", "starter" (drawn pictures taught them; they ship with panorama), "none" or the path of a state dict. `unfreeze` is what
    fine tuning trains: "all" blocks, how many of the last, or "auto", all but the first, and from the second half of a cosine on fewer (`unfreezes`, `model.prepare_phase`). `validation_share` is taken from the training split; `test_share` only where the data brings no
    test split. `fold_models` says what judges a fold: "heads" on features of the pretrained extractor (seconds), or a model
    "trained" through both phases for each fold (a training each); "auto" takes heads where there is pretraining, for without it
    the features say little. `schedule` is that of fine tuning: "cosine" needs few epochs and all of them, "constant" goes on until
    patience ends it. `batch_size` is that of all processes together. `threshold` turns probabilities into predictions everywhere in the run's reports. Dropout and other
    regularisers are the backbone's own.
    """

    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    seed: int = 0
    image_size: int = 224
    batch_size: int = 32
    augmentation: bool = True
    validation_share: float = 0.15
    test_share: float = 0.2
    epochs_adaptation: int = 100
    learning_rate_adaptation: float = 1e-3
    patience_adaptation: int = 2
    epochs_finetuning: int = 4
    learning_rate_finetuning: float = 3e-4
    patience_finetuning: int = 5
    schedule: Schedule = "cosine"
    unfreeze: Unfreeze = "auto"
    weight_decay: float = 0.01
    precision: Precision = "auto"
    folds: int = 5
    fold_repeats: int = 2
    fold_models: FoldModels = "auto"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in _INTEGER_RANGES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise PanoramaError(f"{name} is {value!r}; expected a whole number from {low} to {high}.")
        for name, above, at_most in _NUMBER_RANGES:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or not above < value <= at_most:
                raise PanoramaError(f"{name} is {value!r}; expected a number above {above} and at most {at_most}.")
        if self.weight_decay < 0 or not math.isfinite(self.weight_decay):
            raise PanoramaError(f"weight_decay is {self.weight_decay!r}; expected 0 or more.")
        if self.unfreeze not in ("auto", "all") and (
            not isinstance(self.unfreeze, int) or isinstance(self.unfreeze, bool) or self.unfreeze < 1
        ):
            raise PanoramaError(f'unfreeze is {self.unfreeze!r}; expected "auto", "all" or a number of blocks, 1 or more.')
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise PanoramaError(f"precision is {self.precision!r}; expected auto, float32 or bfloat16.")
        if self.schedule not in ("cosine", "constant"):
            raise PanoramaError(f"schedule is {self.schedule!r}; expected cosine or constant.")
        if self.fold_models not in ("auto", "heads", "trained"):
            raise PanoramaError(f"fold_models is {self.fold_models!r}; expected auto, heads or trained.")
        if not self.backbone or not self.weights:
            raise PanoramaError("backbone and weights need a value; for example mobilenet_v2 and imagenet.")
        if self.epochs_adaptation + self.epochs_finetuning == 0:
            raise PanoramaError("Both phases have 0 epochs; give at least one of them an epoch.")

    @property
    def unfreezes(self) -> Unfreeze:
        """`unfreeze`, where "auto" is "all" unless photos taught the weights: what the first blocks of others see has not met them."""
        return "all" if self.unfreeze == "auto" and self.weights in ("none", "starter") else self.unfreeze

    @property
    def trains_folds(self) -> bool:
        """Whether each fold is judged by a model trained for it, not by a head on features."""
        return self.fold_models == "trained" or (self.fold_models == "auto" and self.weights == "none")

    @property
    def phases(self) -> tuple[Phase, Phase]:
        """Adaptation, then fine tuning."""
        return (
            Phase("adaptation", self.epochs_adaptation, self.learning_rate_adaptation, self.patience_adaptation),
            Phase(
                "fine tuning",
                self.epochs_finetuning,
                self.learning_rate_finetuning,
                self.patience_finetuning,
                self.schedule,
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """The config of a `to_json` dict. Raises PanoramaError on an unknown name."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise PanoramaError(f"Unknown training option {unknown[0]!r}; expected one of {', '.join(sorted(known))}.")
        return cls(**{"schedule": "constant", **values})  # what a run of an earlier version was asked for


_INTEGER_RANGES = (
    ("seed", 0, 2**31 - 1),
    ("image_size", 32, 1024),
    ("batch_size", 1, 4096),
    ("epochs_adaptation", 0, 10_000),
    ("epochs_finetuning", 0, 10_000),
    ("patience_adaptation", 1, 10_000),
    ("patience_finetuning", 1, 10_000),
    ("folds", 2, 50),
    ("fold_repeats", 1, 50),
)
_NUMBER_RANGES = (
    ("validation_share", 0.0, 0.5),
    ("test_share", 0.0, 0.9),
    ("learning_rate_adaptation", 0.0, 10.0),
    ("learning_rate_finetuning", 0.0, 10.0),
    ("threshold", 0.0, 1.0),
)


def seed_recipe() -> TrainConfig:
    """The seed notebook's numbers: a constant learning rate, a tenth of adaptation's in fine tuning, until patience ends it."""
    return TrainConfig(
        batch_size=64,
        epochs_finetuning=100,
        learning_rate_finetuning=1e-4,
        patience_finetuning=5,
        schedule="constant",
        unfreeze="all",
    )


def demo_config(seed: int = 0) -> TrainConfig:
    """How the demo trains: small pictures, and the weights that come with panorama, so that nothing has to be downloaded."""
    return TrainConfig(
        weights="starter",
        image_size=128,
        batch_size=16,
        seed=seed,
        epochs_adaptation=30,
        epochs_finetuning=6,
        learning_rate_finetuning=1e-3,
        patience_finetuning=10,
        fold_models="heads",
    )
