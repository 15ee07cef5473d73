"""BatchNorm computed inside the convolution before it: the same function for less memory traffic.

A BatchNorm with frozen statistics is an affine map of each channel, so `bn(conv(x))` is one convolution with weights
w * g / sqrt(v + eps) and bias b + (c - m) * g / sqrt(v + eps), where g, b, m, v are its scale, shift, mean and variance and c the
convolution's own bias. On a CPU a third of MobileNetV2's forward pass is its BatchNorms (benchmarks/forward.py).

In training the folded weights are computed from the real parameters in every step, so gradients, optimizer and checkpoints
are those of the plain model.
"""

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.func import functional_call

from panorama import activations, blocked, depthwise, fusing
from panorama.model import Classifier, load_weights, replace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Folded(nn.Module):
    """Computes what `model` computes in the modes its modules are in now; its parameters are the model's own.

    BatchNorms in eval mode are folded, those in train mode stay. Backbones that cannot be traced are left as they are.
    fuse_frozen: what does not learn now, and must not begin to, computes its ReLUs inside the convolutions (`fusing.py`), and the first blocks
    in another format of memory (`blocked.py`).
    """

    def __init__(self, model: Classifier, *, fuse_frozen: bool = False) -> None:
        super().__init__()
        self.model = model
        self._pairs = fusing.pairs(model, _CONVOLUTIONS, _foldable)
        skeleton = copy.deepcopy(model)
        for convolution, norm in self._pairs.items():
            module = skeleton.get_submodule(convolution)
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros(module.out_channels, device=module.weight.device))
            replace(skeleton, norm, nn.Identity())
        depthwise.adopt(skeleton)
        activations.adopt(skeleton)
        self._skeleton = (skeleton,)  # in a tuple, so that its tensors are no parameters of this module
        if fuse_frozen and all(bool(value.isfinite().all()) for value in self.tensors().values()):
            fusing.fuse(skeleton, lambda name: not self._learns(name))
            blocked.adopt_first(skeleton.extractor, self._n_left())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_labels)."""
        logits: Tensor = functional_call(self._skeleton[0], self.tensors(), (x,))
        return logits

    def skeleton(self) -> Classifier:
        """The model without the BatchNorms that are folded, with weights of no meaning."""
        return self._skeleton[0]

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer of the skeleton, computed from the model's."""
        given = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        tensors = {name: given[name] for name in self._skeleton[0].state_dict() if name in given}
        for convolution, norm in self._pairs.items():
            scale = given[f"{norm}.weight"] * torch.rsqrt(given[f"{norm}.running_var"] + self._epsilon(norm))
            weight, bias = given[f"{convolution}.weight"], given.get(f"{convolution}.bias")
            centre = given[f"{norm}.running_mean"] if bias is None else given[f"{norm}.running_mean"] - bias
            tensors[f"{convolution}.weight"] = weight * scale.view(-1, *[1] * (weight.dim() - 1))
            tensors[f"{convolution}.bias"] = given[f"{norm}.bias"] - centre * scale
        return tensors

    def _learns(self, convolution: str) -> bool:
        parts = (convolution, self._pairs.get(convolution, convolution))
        return any(parameter.requires_grad for part in parts for parameter in self.model.get_submodule(part).parameters())

    def _n_left(self) -> int:
        """How many of the first modules, one after the other, do not learn."""
        parts = blocked.first(self.model.extractor)
        return len(list(itertools.takewhile(lambda part: not any(p.requires_grad for p in part.parameters()), parts)))

    def _epsilon(self, norm: str) -> float:
        return float(self.model.get_submodule(norm).eps)  # type: ignore[arg-type]


def for_inference(model: Classifier) -> Classifier:
    """A copy of `model` in eval mode with every BatchNorm folded, and every ReLU too where that pays, its weights as they are now.

    Its extractor may compute in another format of memory (`blocked.py`); hooks on layers inside take what they see through `blocked.dense`.
    """
    plain = folded(model)
    fusing.fuse(plain)
    blocked.adopt(plain.extractor)
    return plain


def folded(model: Classifier) -> Classifier:
    """A copy of `model` in eval mode with every BatchNorm folded, in plain modules."""
    network = Folded(copy.deepcopy(model).eval())
    plain = network.skeleton()
    with torch.no_grad():
        load_weights(plain, network.tensors())
    return plain


def _foldable(norm: nn.Module) -> bool:
    return (
        isinstance(norm, _NORMS)
        and not norm.training
        and norm.affine
        and norm.running_mean is not None
        and norm.running_var is not None
    )
