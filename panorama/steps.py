"""The gradients of a training step, on a CPU and on a GPU.

On a CPU the BatchNorms that are frozen are folded (`folding.Folded`), for it waits for memory. On a GPU a small network's step is
hundreds of short kernels, and Python takes several times as long to start them one by one as they take (docs/speed.md). So there the plain
network's step is recorded as a CUDA graph, and from then on started as a whole.
"""

import functools
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from panorama.errors import PanoramaError
from panorama.folding import Folded
from panorama.model import Classifier, batchnorms

_WARM_UPS = 2  # what a graph cannot record is done in them: libraries choose what fits the shapes, and get it ready
_ROUNDING = (
    0.05  # what a recording may differ by from the step it was made of: of the loss, and of the length of all gradients together
)


class Gradients:
    """Computes the mean loss of batches and leaves its gradients in the parameters that train.

    Which those are, and the modes of the modules, is as it was when this was made. network: the whole classifier, or its head alone on
    features (batch, width). dtype: what a classifier computes in. distributed: with the gradients averaged over all processes.
    record: whether steps may be recorded, where that is possible.
    """

    def __init__(
        self,
        network: Classifier | nn.Linear,
        dtype: torch.dtype = torch.float32,
        *,
        distributed: bool = False,
        record: bool = True,
    ) -> None:
        for parameter in network.parameters():  # those that train no longer, too: an optimizer goes by what it finds
            parameter.grad = None
        self.dtype = dtype
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        is_whole, is_on_gpu = isinstance(network, Classifier), self._parameters[0].is_cuda
        self._network: nn.Module = network
        if isinstance(network, Classifier) and not is_on_gpu:
            self._network = Folded(network, fuse_frozen=True)
        if distributed:
            self._network = DistributedDataParallel(self._network)
        # BatchNorms that train take the statistics of a batch, of which the rest of a recording's places must not be part.
        norms_train = any(norm.training for norm in batchnorms(network))
        self._may_record = record and is_on_gpu and is_whole and not distributed and not norms_train
        self._recording: _Recording | None = None

    @property
    def recorded(self) -> torch.Size | None:
        """The shape of the batches whose step is recorded, or None."""
        return None if self._recording is None else self._recording.shape

    def __call__(self, x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
        """The mean binary cross entropy in nats a cell, as a tensor that is good until the next call; the gradients are those of `weight` times it.

        x: pictures (batch, 3, side, side), or features. y: float targets (batch, n_labels). Raises PanoramaError for a batch that
        has no BatchNorm statistics.
        """
        if self._may_record and (self._recording is None or self._recording.shape[1:] != x.shape[1:]):
            self._record(x, y)
        # A single picture that joined a last batch makes it larger than the first.
        if self._recording is not None and weight == 1.0 and len(x) <= self._recording.shape[0]:
            return self._recording(x, y)
        self._forget()
        loss = F.binary_cross_entropy_with_logits(self._logits(x), y)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _record(self, x: Tensor, y: Tensor) -> None:
        """Leaves no recording where the memory does not do for one, or where it fails in one of many ways: plain steps do it, too."""
        self._recording = None  # its memory is free before the next takes some
        problem = ""
        try:
            self._recording = _Recording(self._logits, self._parameters, x, y)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:  # out of the handler: the error no longer holds what it met
            print(f"panorama: steps are not recorded as a CUDA graph ({problem})", file=sys.stderr)
            self._may_record = False
            torch.cuda.empty_cache()
        self._forget()

    def _logits(self, x: Tensor) -> Tensor:
        lower = self.dtype is not torch.float32 and x.dim() == 4
        with torch.autocast(x.device.type, self.dtype, enabled=lower, cache_enabled=not self._may_record):
            try:
                logits: Tensor = self._network(x)  # (batch, n_labels)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise PanoramaError(
                    "A batch of one small picture has no BatchNorm statistics. Use a batch size of 2 or more (--batch-size), "
                    "larger pictures (--image-size), or pretrained weights."
                ) from error
        return logits.float()

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


class _Recording:
    """A step as a CUDA graph, which reads and writes the same memory each time. shape: of the largest batch that it takes.

    A smaller batch leaves pictures of an earlier one at the end, which count nothing: a graph takes one shape only.
    Raises RuntimeError where the graph does not give what the step it was recorded from gives.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], x: Tensor, y: Tensor) -> None:
        self.shape = x.shape
        self._x, self._y = x.clone(), y.clone()
        self._counts = torch.full((len(x),), 1 / len(x), device=x.device)  # what each picture counts in the mean
        self._n = len(x)

        def step() -> Tensor:
            for parameter in parameters:
                parameter.grad = None
            of_each = F.binary_cross_entropy_with_logits(logits(self._x), self._y, reduction="none").mean(1)
            loss = of_each @ self._counts
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        here, aside = torch.cuda.current_stream(x.device), _stream(x.device)
        generator = torch.cuda.default_generators[x.device.index or 0]
        chance, spare = generator.get_state(), generator.clone_state()  # dropout goes on as if nothing had been tried
        try:
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    step()
                self._x.copy_(x.flip(0))  # with the labels of others: another loss than that of the batch that is recorded
                generator.set_state(chance)
                expected = step(), [parameter.grad for parameter in parameters]
            here.wait_stream(aside)
            self._x.copy_(x)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may do what they like meanwhile.
            with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
                self._loss = step()
            self._gradients = [(parameter, parameter.grad) for parameter in parameters]
            self._x.copy_(x.flip(0))
            generator.set_state(chance)
            self._graph.replay()
            found = self._loss, [gradient for _, gradient in self._gradients]
            if not (_are_close([expected[0]], [found[0]]) and _are_close(expected[1], found[1])):
                raise RuntimeError("the recorded step gives other gradients than the plain one")
            generator.set_state(chance)
        except Exception:
            # Not every PyTorch leaves a capture that failed (seen in the sources of 2.11).
            torch.cuda.set_stream(here)
            generator.graphsafe_set_state(spare)
            raise

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        self._x[:n].copy_(x)
        self._y[:n].copy_(y)
        if n != self._n:
            self._n = n
            self._counts[:n].fill_(1 / n)
            self._counts[n:].zero_()
        self._graph.replay()
        for parameter, gradient in self._gradients:  # another step may have put its own there
            parameter.grad = gradient
        return self._loss


@functools.cache
def _stream(where: torch.device) -> torch.cuda.Stream:
    """One for all recordings: libraries keep a working memory for each stream."""
    return torch.cuda.Stream(where)  # type: ignore[no-untyped-call]


def _are_close(expected: list[Tensor | None], found: list[Tensor | None]) -> bool:
    """Whether all tensors together differ by no more than rounding does in bfloat16; False where one is not finite, or missing in one of the two."""
    apart = size = 0.0
    for one, two in zip(expected, found, strict=True):
        if one is None or two is None:
            if one is not two:
                return False
            continue
        apart += float((one - two).float().square().sum())
        size += float(one.float().square().sum())
    return apart <= _ROUNDING**2 * size
