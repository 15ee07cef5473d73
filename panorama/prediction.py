"""From a run folder to a predictor: pictures in, probabilities out."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from panorama import hardware, preprocessing
from panorama.checkpoint import ModelCard, load_model
from panorama.features import batch_size
from panorama.folding import for_inference
from panorama.images import PictureError, open_rgb, square
from panorama.model import Classifier

_Decoded = npt.NDArray[np.uint8] | str
_DECODERS = 2
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Prediction:
    """One picture's answer: probabilities (n_labels,) in label order, or the problem that kept it from being read."""

    name: str
    probabilities: npt.NDArray[np.float32] | None
    problem: str | None = None


class Predictor:
    """The best model of a run. `labels` is the order of the probabilities; `threshold` the run's own; `sha256` that of its weights."""

    def __init__(self, model: Classifier, card: ModelCard) -> None:
        self.where = hardware.device()
        self._model, self._card = for_inference(model).to(self.where), card
        self.labels, self.threshold, self.sha256 = card.labels, card.threshold, card.sha256

    @classmethod
    def load(cls, run: Path) -> "Predictor":
        """Raises CheckpointError when the run has no sound model."""
        return cls(*load_model(run))

    def predict_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """(n_images, n_labels) probabilities of upright RGB pictures (`images.open_rgb`)."""
        return self._predict([square(image, self._side) for image in images])

    def predict(self, sources: Iterable[tuple[str, Path | bytes]]) -> Iterator[Prediction]:
        """One Prediction for each (name, file or bytes), in order; decoding overlaps with computing."""
        with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
            waiting: list[tuple[list[str], list[Future[_Decoded]]]] = []
            for chunk in itertools.chain(_chunks(sources, batch_size(self.where)), itertools.repeat([], _BATCHES_AHEAD)):
                waiting.append(([name for name, _ in chunk], [pool.submit(self._decode, source) for source in chunk]))
                if len(waiting) > _BATCHES_AHEAD:
                    names, futures = waiting.pop(0)
                    yield from self._answers(names, [future.result() for future in futures])

    @property
    def _side(self) -> int:
        return preprocessing.stored_side(self._card.image_size)

    def _decode(self, source: tuple[str, Path | bytes]) -> _Decoded:
        try:
            return square(open_rgb(source[1], source[0], at_least=self._side), self._side)
        except PictureError as error:
            return str(error)

    def _answers(self, names: list[str], decoded: list[_Decoded]) -> Iterator[Prediction]:
        rows = iter(self._predict([pixels for pixels in decoded if not isinstance(pixels, str)]))
        for name, pixels in zip(names, decoded, strict=True):
            if isinstance(pixels, str):
                yield Prediction(name, None, pixels)
            else:
                yield Prediction(name, next(rows))

    @torch.inference_mode()
    def _predict(self, squares: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        if not squares:
            return np.zeros((0, len(self.labels)), np.float32)
        x = preprocessing.for_evaluation(torch.from_numpy(np.stack(squares)).to(self.where), self._card.image_size)
        return torch.sigmoid(self._model(x)).cpu().numpy()


def _chunks(sources: Iterable[tuple[str, Path | bytes]], size: int) -> Iterator[list[tuple[str, Path | bytes]]]:
    left = iter(sources)
    while chunk := list(itertools.islice(left, size)):
        yield chunk
