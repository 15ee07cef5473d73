"""The gradients of a training step, on a CPU and on a GPU.

On a CPU the BatchNorms that are frozen are folded (`folding.Folded`), for it waits for memory. On a GPU a small network's step is a
thousand short kernels, and Python takes several times as long to start them one by one as they take (docs/speed.md). So there the plain
network's step is recorded as a CUDA graph, and from then on started as a whole.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from panorama.errors import PanoramaError
from panorama.folding import Folded
from panorama.model import Classifier, batchnorms

_ROUNDING = 0.05  # of the length of all gradients together
_WARM_UPS = 2  # what a graph cannot record is done in them: libraries choose what fits the shapes, and get it ready


class Gradients:
    """Computes the mean loss of batches and leaves its gradients in the parameters that train.

    Which those are, and the modes of the modules, is as it was when this was made. network: the whole classifier, or its head alone on
    features (batch, width). dtype: what a classifier computes in. distributed: with the gradients averaged over all processes.
    """

    def __init__(self, network: Classifier | nn.Linear, dtype: torch.dtype = torch.float32, *, distributed: bool = False) -> None:
        for parameter in network.parameters():  # those that train no longer, too: an optimizer goes by what it finds
            parameter.grad = None
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._dtype = dtype
        is_whole, is_on_gpu = isinstance(network, Classifier), self._parameters[0].is_cuda
        self._network: nn.Module = network
        if isinstance(network, Classifier) and not is_on_gpu:
            self._network = Folded(network, fuse_frozen=True)
        if distributed:
            self._network = DistributedDataParallel(self._network)
        # BatchNorms that train take the statistics of a batch, of which the rest of a recording's places must not be part.
        norms_train = any(norm.training for norm in batchnorms(network))
        self._may_record = is_on_gpu and is_whole and not distributed and not norms_train
        self._recording: _Recording | None = None

    def __call__(self, x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
        """The mean binary cross entropy in nats a cell, as a tensor that is good until the next call; the gradients are those of `weight` times it.

        x: pictures (batch, 3, side, side), or features. y: float targets (batch, n_labels). Raises PanoramaError for a batch that
        has no BatchNorm statistics.
        """
        if self._may_record and (self._recording is None or self._recording.shape[1:] != x.shape[1:]):
            self._record(x, y)
        # A single picture that joined a last batch makes it larger than the first.
        if self._recording is not None and len(x) <= self._recording.shape[0]:
            return self._recording(x, y)
        self._forget()
        loss = F.binary_cross_entropy_with_logits(self._logits(x), y)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _record(self, x: Tensor, y: Tensor) -> None:
        self._recording = None  # its memory is free before the next takes some
        self._forget()
        try:
            self._recording = _Recording(self._logits, self._parameters, x, y)
            self._may_record = self._recording.agrees()
        except torch.OutOfMemoryError:
            raise
        except (
            Exception
        ):  # control flow that depends on what the GPU computes, say, which fails in many ways; plain steps do it, too
            self._may_record = False
        if not self._may_record:
            self._recording = None
            self._forget()

    def _logits(self, x: Tensor) -> Tensor:
        lower = self._dtype is not torch.float32 and x.dim() == 4
        with torch.autocast(x.device.type, self._dtype, enabled=lower, cache_enabled=not self._may_record):
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
    """

    def __init__(self, logits: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], x: Tensor, y: Tensor) -> None:
        self.shape = x.shape
        self._x, self._y = x.clone(), y.clone()
        self._counts = torch.full((len(x),), 1 / len(x), device=x.device)  # what each picture counts in the mean
        self._n = len(x)
        self._logits, self._parameters = logits, parameters
        here, aside = torch.cuda.current_stream(x.device), torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=[x.device]):  # dropout goes on as if nothing had been tried
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    self._step()
            here.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = self._step()
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]

    def _step(self) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        of_each = F.binary_cross_entropy_with_logits(self._logits(self._x), self._y, reduction="none").mean(1)
        loss = of_each @ self._counts
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def agrees(self) -> bool:
        """Whether the graph gives the loss and the gradients of the step it was recorded from, up to what rounding does in bfloat16."""
        where = [self._x.device]
        with torch.random.fork_rng(devices=where):
            expected = [self._step(), *(parameter.grad for parameter in self._parameters)]
        with torch.random.fork_rng(devices=where):
            self._graph.replay()
        found = [self._loss, *(gradient for _, gradient in self._gradients)]
        one, two = (torch.cat([part.float().flatten() for part in parts if part is not None]) for parts in (expected, found))
        return len(one) == len(two) and bool((one - two).norm() <= _ROUNDING * one.norm())  # False where one is not finite

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
