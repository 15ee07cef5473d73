"""From a decoded picture to what the network sees: squeezed to a square once, then on whole batches, one function for training, one for everything else.

Both of these cut a square from the squeezed picture (`square`) by one bilinear resampling and normalise it as ImageNet. The work is
done where the pixels are: move them to the GPU as uint8, a quarter of the size.
"""

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Pictures are kept this much larger than the crop, so that augmentation has something to crop from (the seed: 256 -> 224).
STORED_SIDE_FACTOR = 8 / 7
TILE_SHARE = 0.6  # of the width and of the height, so that what one tile cuts through another shows whole
# The seed's augmentation: rotation up to 15 degrees, crops of 80 to 100 % of the area, shape 3:4 to 4:3, mirrored or not.
_MAX_DEGREES, _MIN_AREA, _MAX_ASPECT = 15.0, 0.8, 4 / 3
_GAP = 2.0  # Pillow's `reducing_gap`
VERSION = (
    2  # part of every cache key and checkpoint: raise it when the pixels that reach the network change by more than a last bit
)


def stored_side(image_size: int) -> int:
    """The side in pixels of the stored square for a network input of `image_size`."""
    return round(image_size * STORED_SIDE_FACTOR)


def square(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """The whole RGB picture squeezed to (side, side, 3) of 0..255, whatever its shape: bilinear, over all pixels that fall into one.

    The same pixels as Pillow's `resize` with `reducing_gap=2` up to 1 of 255, in half the time.
    A centre crop would cut the sides off a panorama, and with them what an annotator saw there. Measured on real scenes,
    frozen features of the squeezed picture also gave a higher out-of-fold mAP than the seed's centre crop (docs/decisions.md).
    """
    if max(image.size) >= 2 * _GAP * side:  # Pillow first averages whole pixels together, and a large picture is not copied
        return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=_GAP))
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    squeezed = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return squeezed[0].permute(1, 2, 0).contiguous().numpy()


def for_evaluation(pixels: Tensor, image_size: int) -> Tensor:
    """uint8 (batch, side, side, 3) -> normalised float32 (batch, 3, image_size, image_size), the whole picture."""
    images = pixels.permute(0, 3, 1, 2)
    if images.device.type != "cpu":
        images = images.float()  # only the CPU resamples bytes, several times faster than floats
    return _normalised(F.interpolate(images, (image_size, image_size), mode="bilinear", align_corners=False))


def tiled_side(image_size: int) -> int:
    """The side in pixels of the square that `for_tiles` cuts at its own resolution."""
    return round(image_size / TILE_SHARE)


def for_tiles(pixels: Tensor, image_size: int) -> Tensor:
    """uint8 (batch, tiled_side, tiled_side, 3) -> (batch * 4, 3, image_size, image_size): the corners of each picture, overlapping."""
    near, far = slice(None, image_size), slice(-image_size, None)
    corners = [pixels[:, rows, columns] for rows in (near, far) for columns in (near, far)]
    return _normalised(torch.stack(corners, 1).flatten(0, 1).permute(0, 3, 1, 2))


def random_views(n: int, generator: torch.Generator) -> Tensor:
    """(n, 2, 3): how each of n training pictures is turned, cropped and perhaps mirrored, drawn from `generator`."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle = uniform(-_MAX_DEGREES, _MAX_DEGREES) * (math.pi / 180)
    area = uniform(_MIN_AREA, 1.0)
    aspect = torch.exp(uniform(-math.log(_MAX_ASPECT), math.log(_MAX_ASPECT)))
    width = torch.clamp(torch.sqrt(area * aspect), max=1.0)  # share of the whole width
    height = torch.clamp(torch.sqrt(area / aspect), max=1.0)
    shift_x, shift_y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack(
        [
            torch.stack([cos * width * mirror, -sin * height, shift_x], 1),
            torch.stack([sin * width * mirror, cos * height, shift_y], 1),
        ],
        1,
    )  # where in the stored square each output pixel looks


def for_training(pixels: Tensor, views: Tensor, image_size: int) -> Tensor:
    """As `for_evaluation`, each picture seen through its row of `random_views`."""
    grid = _grid(views.to(pixels.device), image_size)
    images = pixels.permute(0, 3, 1, 2).float()  # a channels_last view of the stored order
    # Reflection instead of black corners: a turned picture keeps the colours of its edge.
    return _normalised(F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False))


def _grid(views: Tensor, side: int) -> Tensor:
    """What F.affine_grid gives, (n, side, side, 2), ten times as fast on a CPU: a sum of what each row and each column adds."""
    steps = (2 * torch.arange(side, device=views.device) + 1) / side - 1  # the centres of the output pixels
    across, down = views[:, :, 0, None] * steps, views[:, :, 1, None] * steps + views[:, :, 2, None]  # (n, 2, side)
    return (across[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)


def _normalised(images: Tensor) -> Tensor:
    """(batch, 3, height, width) of 0..255, channels_last -> float32 with ImageNet's mean and standard deviation taken out."""
    n, _, height, width = images.shape
    # Whole rows of pixels at once: over the three channels alone the CPU does not vectorise.
    mean, scale = _mean_and_scale(width, images.device)
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * 3).float()
    return rows.sub_(mean).mul_(scale).view(n, height, width, 3).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=16)
def _mean_and_scale(width: int, where: torch.device) -> tuple[Tensor, Tensor]:
    """For a row of `width` pixels; kept, for a GPU that is sent numbers is first waited for."""
    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=where).mul_(255).repeat(width)
        return mean, torch.tensor(IMAGENET_STD, device=where).mul_(255).reciprocal_().repeat(width)
