"""Pictures as the network sees them: the same squares as PyTorch's own functions cut, whatever the way they are computed."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2.functional import normalize, resize

from panorama import preprocessing


def noise(n: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pillows(image: Image.Image, side: int) -> np.ndarray:
    return np.array(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)).astype(int)


@pytest.mark.parametrize("side", [37, 256])
@pytest.mark.parametrize(
    "size",
    [(384, 256), (256, 384), (256, 256), (255, 257), (20, 300), (1, 1), (1, 500), (500, 1), (3, 2), (147, 148), (1023, 700), (1024, 700), (1500, 100)],
)  # fmt: skip
def test_a_picture_is_squeezed_as_pillow_does_it(size: tuple[int, int], side: int) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = preprocessing.square(image, side)
    assert (found.shape, found.dtype) == ((side, side, 3), np.uint8)
    assert np.abs(found - pillows(image, side)).max() <= 1
    if min(size) > 100:
        assert np.abs(found - pillows(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), side)).max() > 10, "the negative control"


def test_a_square_holds_the_whole_picture_whatever_its_shape() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    for width, height in ((400, 60), (60, 400), (24, 24)):
        image = Image.new("RGB", (width, height))
        for number, colour in enumerate(colours):
            image.paste(colour, (number % 2 * width // 2, number // 2 * height // 2, width, height))
        pixels = preprocessing.square(image, 32)
        assert [tuple(pixels[row, column].tolist()) for row in (2, 29) for column in (2, 29)] == colours


@pytest.mark.parametrize("side", [3, 160, 224])
def test_views_are_those_of_pytorchs_affine_grid(side: int) -> None:
    views = preprocessing.random_views(5, torch.Generator().manual_seed(1))
    pixels = noise(5, 256)
    grid = F.affine_grid(views, [5, 3, side, side], align_corners=False)
    images = pixels.permute(0, 3, 1, 2).float()
    cut = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    expected = normalize(cut / 255, list(preprocessing.IMAGENET_MEAN), list(preprocessing.IMAGENET_STD))
    torch.testing.assert_close(preprocessing.for_training(pixels, views, side), expected, rtol=0, atol=1e-3)


def test_a_view_that_changes_nothing_is_the_picture_itself() -> None:
    views = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]], [[-1.0, 0, 0], [0, 1.0, 0]]])  # the second is mirrored
    pixels = noise(1, 32).repeat(2, 1, 1, 1)
    plain, mirrored = preprocessing.for_training(pixels, views, 32)
    torch.testing.assert_close(plain, preprocessing.for_evaluation(pixels, 32)[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(mirrored, plain.flip(2), rtol=0, atol=1e-3)
    assert (plain - mirrored).abs().max() > 1, "the negative control"


def test_evaluation_is_torchvisions_resize_and_normalisation() -> None:
    pixels = noise(2, 256)
    expected = normalize(
        resize(pixels.permute(0, 3, 1, 2).float(), [224, 224], antialias=False) / 255,
        list(preprocessing.IMAGENET_MEAN), list(preprocessing.IMAGENET_STD),
    )  # fmt: skip
    found = preprocessing.for_evaluation(pixels, 224)
    assert (found - expected).abs().max() < 0.02  # bytes are resampled to bytes: half of one of 255 each
