"""From a run folder to a predictor: pictures in, probabilities out."""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from panorama import hardware, preprocessing
from panorama.checkpoint import ModelCard, load_model
from panorama.engine import Engine, plain
from panorama.folding import for_inference
from panorama.fusing import TRACING
from panorama.hardware import batch_size
from panorama.images import PictureError, open_rgb
from panorama.model import Classifier, class_activation, feature_map

_Item = TypeVar("_Item")
_Decoded = npt.NDArray[np.uint8] | str
_DECODERS = 2
_BATCHES_AHEAD = 2
_DECODING = threading.BoundedSemaphore(4)  # at once in lanes, however many: a large picture may take most of a gigabyte
WIDE = 2.0  # times as wide as high: from here on a picture gets a strip
_WINDOW_SHAPE, _WINDOWS_OVERLAP, _MOST_WINDOWS = 1.5, 0.5, 48


@dataclass(frozen=True)
class Strip:
    """Where along a wide picture the labels are seen: windows as high as the picture, from left to right, each judged by itself.

    lefts, rights: (n_windows,) shares of the width, in [0, 1]. probabilities: (n_windows, n_labels).
    """

    lefts: npt.NDArray[np.float64]
    rights: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One picture's answer: probabilities (n_labels,) in label order, or the problem that kept it from being read."""

    name: str
    probabilities: npt.NDArray[np.float32] | None
    problem: str | None = None


class Predictor:
    """The best model of a run. `labels` is the order of the probabilities; `threshold` the run's own; `sha256` that of its weights.

    engine: what computes the probabilities; the maps of `heat` are torch's.
    """

    def __init__(self, model: Classifier, card: ModelCard, engine: Engine = plain) -> None:
        self.where = hardware.device()
        self.labels, self.threshold, self.sha256 = card.labels, card.threshold, card.sha256
        with TRACING:
            self._model, self._card = for_inference(model).to(self.where), card
            self._network = engine(self._model, card)
            with torch.inference_mode():
                self._place = feature_map(self._model, card.image_size)

    @classmethod
    def load(cls, run: Path, engine: Engine = plain) -> "Predictor":
        """Raises CheckpointError when the run has no sound model, and what the engine raises."""
        return cls(*load_model(run), engine)

    def predict_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """(n_images, n_labels) probabilities of upright RGB pictures (`images.open_rgb`)."""
        return self._predict([preprocessing.square(image, self._side) for image in images])

    def predict(self, sources: Iterable[tuple[str, Path | bytes]]) -> Iterator[Prediction]:
        """One Prediction for each (name, file or bytes), in order; decoding overlaps with computing."""
        lanes = self._network.lanes
        if lanes is not None:
            for found in lanes.map(self._answered, _chunks(sources, lanes.at_once)):
                yield from found
            return
        with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
            decoding: deque[tuple[list[str], list[Future[_Decoded]]]] = deque()
            for chunk in itertools.chain(_chunks(sources, batch_size(self.where)), itertools.repeat([], _BATCHES_AHEAD)):
                decoding.append(([name for name, _ in chunk], [pool.submit(self._decode, source) for source in chunk]))
                if len(decoding) > _BATCHES_AHEAD:
                    names, futures = decoding.popleft()
                    decoded = [future.result() for future in futures]
                    with TRACING:
                        answers = self._probabilities(decoded)
                    yield from _in_order(names, decoded, answers)

    @torch.inference_mode()
    def heat(self, image: Image.Image) -> npt.NDArray[np.float32] | None:
        """(n_labels, height, width) how likely each label is at each place of the picture, 0 to 1; None for backbones that have no such map."""
        if self._place is None:
            return None
        x = preprocessing.for_evaluation(
            torch.from_numpy(np.array(preprocessing.square(image, self._side)))[None].to(self.where), self._card.image_size
        )
        with TRACING:
            _, places = class_activation(self._model, self._place, x)
        return torch.sigmoid(places[0]).cpu().numpy()

    def strip(self, image: Image.Image) -> Strip | None:
        """Where along the width the labels are seen; None for a picture less than twice as wide as high.

        Squeezed to a square, a small sea at the end of a panorama is a few pixels wide; in a window of its own it is a sea.
        """
        if image.width < WIDE * image.height:
            return None
        lefts, rights = windows(image.width / image.height)
        edges = zip((lefts * image.width).round().astype(int), (rights * image.width).round().astype(int), strict=True)
        return Strip(lefts, rights, self.predict_images([image.crop((left, 0, right, image.height)) for left, right in edges]))

    @property
    def _side(self) -> int:
        return preprocessing.stored_side(self._card.image_size)

    def _decode(self, source: tuple[str, Path | bytes]) -> _Decoded:
        try:
            return preprocessing.square(open_rgb(source[1], source[0], at_least=self._side), self._side)
        except PictureError as error:
            return str(error)

    def _answered(self, chunk: Sequence[tuple[str, Path | bytes]]) -> list[Prediction]:
        """What a lane makes of its pictures."""
        decoded: list[_Decoded] = []
        for source in chunk:
            with _DECODING:
                decoded.append(self._decode(source))
        return list(_in_order([name for name, _ in chunk], decoded, self._probabilities(decoded)))

    def _predict(self, squares: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        lanes = self._network.lanes
        if lanes is not None:
            return np.concatenate([self._probabilities([]), *lanes.map(self._probabilities, _chunks(squares, lanes.at_once))])
        with TRACING:
            return self._probabilities(squares)

    @torch.inference_mode()
    def _probabilities(self, decoded: Sequence[_Decoded]) -> npt.NDArray[np.float32]:
        """(n, n_labels), a row for each squeezed picture among them."""
        squares = [pixels for pixels in decoded if not isinstance(pixels, str)]
        if not squares:
            return np.zeros((0, len(self.labels)), np.float32)
        x = preprocessing.for_evaluation(torch.from_numpy(np.stack(squares)).to(self.where), self._card.image_size)
        return torch.sigmoid(self._network.logits(x)).cpu().numpy()


def _in_order(names: Sequence[str], decoded: Sequence[_Decoded], answers: npt.NDArray[np.float32]) -> Iterator[Prediction]:
    """The predictions of a batch; answers: one row for each picture that could be read."""
    rows = iter(answers)
    for name, pixels in zip(names, decoded, strict=True):
        if isinstance(pixels, str):
            yield Prediction(name, None, pixels)
        else:
            yield Prediction(name, next(rows))


def windows(aspect: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Left and right ends, as shares of the width, of overlapping windows one and a half times as wide as high that cover a picture.

    aspect: width over height, more than 1.5. At most 48 windows: those of a longer picture are wider.
    """
    width = max(_WINDOW_SHAPE / aspect, 1 / (1 + (_MOST_WINDOWS - 1) * (1 - _WINDOWS_OVERLAP)))
    n = 1 + int(np.ceil((1 - width) / (width * (1 - _WINDOWS_OVERLAP)) - 1e-9))
    lefts = np.linspace(0, 1 - width, n)
    return lefts, lefts + width


def _chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    left = iter(items)
    while chunk := list(itertools.islice(left, size)):
        yield chunk
