"""From a run folder to a predictor: pictures in, probabilities out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from panorama import preprocessing
from panorama.checkpoint import ModelCard, load_model
from panorama.images import PictureError, open_rgb, square
from panorama.model import Classifier

_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """One picture's answer: probabilities (n_labels,) in label order, or the problem that kept it from being read."""

    name: str
    probabilities: npt.NDArray[np.float32] | None
    problem: str | None = None


class Predictor:
    """The best model of a run. `labels` is the order of the probabilities; `threshold` the run's own."""

    def __init__(self, model: Classifier, card: ModelCard) -> None:
        self._model, self._card = model, card
        self.labels, self.threshold = card.labels, card.threshold

    @classmethod
    def load(cls, run: Path) -> "Predictor":
        """Raises CheckpointError when the run has no sound model."""
        return cls(*load_model(run))

    def predict_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """(n_images, n_labels) probabilities of upright RGB pictures (`images.open_rgb`)."""
        side = preprocessing.stored_side(self._card.image_size)
        return self._predict([square(image, side) for image in images])

    def predict(self, sources: Sequence[tuple[str, Path | bytes]]) -> Iterator[Prediction]:
        """One Prediction for each (name, file or bytes), in order; decoding overlaps with computing."""
        side = preprocessing.stored_side(self._card.image_size)

        def decode(source: tuple[str, Path | bytes]) -> npt.NDArray[np.uint8] | str:
            try:
                return square(open_rgb(source[1], source[0], at_least=side), side)
            except PictureError as error:
                return str(error)

        with ThreadPoolExecutor(2) as pool:
            chunks = [sources[start : start + _BATCH] for start in range(0, len(sources), _BATCH)]
            waiting = [pool.submit(decode, source) for source in chunks[0]] if chunks else []
            for position, chunk in enumerate(chunks):
                decoded = [future.result() for future in waiting]
                following = chunks[position + 1] if position + 1 < len(chunks) else []
                waiting = [pool.submit(decode, source) for source in following]
                rows = iter(self._predict([pixels for pixels in decoded if not isinstance(pixels, str)]))
                for (name, _), pixels in zip(chunk, decoded, strict=True):
                    if isinstance(pixels, str):
                        yield Prediction(name, None, pixels)
                    else:
                        yield Prediction(name, next(rows))

    @torch.inference_mode()
    def _predict(self, squares: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        if not squares:
            return np.zeros((0, len(self.labels)), np.float32)
        x = preprocessing.for_evaluation(torch.from_numpy(np.stack(squares)), self._card.image_size)
        return torch.sigmoid(self._model(x)).numpy()
