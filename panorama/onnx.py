"""A run's model as one ONNX file: squeezed pictures in, probabilities out, for programs without Python or torch.

Needs the packages of requirements-onnx.txt.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from panorama import preprocessing
from panorama.checkpoint import load_model
from panorama.errors import PanoramaError
from panorama.folding import folded
from panorama.model import Classifier

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of requirements-onnx.txt; the last is only for `engine`


class Whole(nn.Module):
    """Normalisation, network and sigmoid: uint8 (batch, side, side, 3) of squeezed RGB pictures -> probabilities (batch, n_labels)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self._model = model
        self._mean = torch.tensor(preprocessing.IMAGENET_MEAN).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(preprocessing.IMAGENET_STD).view(1, 3, 1, 1) * 255

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2).float()
        return torch.sigmoid(self._model((images - self._mean) / self._std))


def export(run: Path, out: Path) -> None:
    """Writes the best model of a run to `out`; labels and preprocessing are in the file's metadata.

    Raises CheckpointError when the run has no sound model, PanoramaError when the packages are missing.
    """
    model, card = load_model(run)
    side, stored = card.image_size, preprocessing.stored_side(card.image_size)
    network = Whole(folded(model).to(memory_format=torch.contiguous_format)).eval()
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    written = exported(network, example, "pixels", "probabilities")
    facts = {
        "labels": json.dumps(list(card.labels), ensure_ascii=True),
        "input": f"uint8 RGB {side} x {side}: the whole upright picture squeezed to {stored} x {stored}, then to {side} x {side}, bilinear",
        "backbone": card.backbone,
        "threshold": f"{card.threshold:g}",
        "model_sha256": card.sha256,
    }
    for key, value in facts.items():
        written.metadata_props.add(key=key, value=value)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_bytes(written.SerializeToString())
    temporary.replace(out)


def exported(network: nn.Module, example: Tensor, takes: str, gives: str) -> Any:
    """A network as an onnx.ModelProto, for batches of any size of what `example` is two of.

    takes, gives: the names of what goes in and comes out. Raises PanoramaError when the packages are missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  # what torch writes ONNX with
    except ImportError as error:
        raise PanoramaError(
            f"Writing ONNX needs the package {error.name}: pip install -r requirements-onnx.txt, then try again."
        ) from error
    program = torch.onnx.export(
        network, (example,), dynamo=True, verbose=False, input_names=[takes], output_names=[gives],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    assert program is not None
    return program.model_proto
