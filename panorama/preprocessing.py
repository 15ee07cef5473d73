"""From decoded pixels to what the network sees, on whole batches: one function for training, one for everything else.

Both cut a square from the squeezed picture (`images.square`) by one affine resampling and normalise it as ImageNet.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Pictures are kept this much larger than the crop, so that augmentation has something to crop from (the seed: 256 -> 224).
STORED_SIDE_FACTOR = 8 / 7
TILE_SHARE = 0.6  # of the width and of the height, so that what one tile cuts through another shows whole
# The seed's augmentation: rotation up to 15 degrees, crops of 80 to 100 % of the area, shape 3:4 to 4:3, mirrored or not.
_MAX_DEGREES, _MIN_AREA, _MAX_ASPECT = 15.0, 0.8, 4 / 3
VERSION = 1  # part of every cache key and checkpoint: raise it when the pixels that reach the network change


def stored_side(image_size: int) -> int:
    """The side in pixels of the stored square for a network input of `image_size`."""
    return round(image_size * STORED_SIDE_FACTOR)


def for_evaluation(pixels: Tensor, image_size: int) -> Tensor:
    """uint8 (batch, side, side, 3) -> normalised float32 (batch, 3, image_size, image_size), the whole picture."""
    theta = torch.eye(2, 3).expand(len(pixels), 2, 3)
    return _resample(pixels, theta, image_size)


def tiled_side(image_size: int) -> int:
    """The side in pixels of the square that `for_tiles` cuts at its own resolution."""
    return round(image_size / TILE_SHARE)


def for_tiles(pixels: Tensor, image_size: int) -> Tensor:
    """uint8 (batch, side, side, 3) -> (batch * 4, 3, image_size, image_size): the corners of each picture, overlapping."""
    theta = torch.eye(2, 3).repeat(len(pixels) * 4, 1, 1) * TILE_SHARE
    shift = 1 - TILE_SHARE
    theta[:, :, 2] = torch.tensor([[x, y] for y in (-shift, shift) for x in (-shift, shift)]).repeat(len(pixels), 1)
    return _resample(pixels.repeat_interleave(4, 0), theta, image_size)


def for_training(pixels: Tensor, image_size: int, generator: torch.Generator) -> Tensor:
    """As `for_evaluation`, each picture turned, cropped and perhaps mirrored at random, drawn from `generator`."""
    n = len(pixels)

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
    theta = torch.stack(
        [
            torch.stack([cos * width * mirror, -sin * height, shift_x], 1),
            torch.stack([sin * width * mirror, cos * height, shift_y], 1),
        ],
        1,
    )  # (batch, 2, 3): where in the stored square each output pixel looks
    return _resample(pixels, theta, image_size)


def _resample(pixels: Tensor, theta: Tensor, image_size: int) -> Tensor:
    images = pixels.permute(0, 3, 1, 2).float().div_(255)  # a channels_last view of the stored order
    mean, std = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    grid = F.affine_grid(theta.to(images.dtype), [len(images), 3, image_size, image_size], align_corners=False)
    # Reflection instead of black corners: a turned picture keeps the colours of its edge.
    cut = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return ((cut - mean) / std).contiguous(memory_format=torch.channels_last)
