"""The four corners of a picture: where they are, in which order, and what is kept of them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from panorama.features import Pixels, corners_pass, extract, whole_pass
from panorama.model import Classifier, EarlyMap, build
from panorama.preprocessing import IMAGENET_MEAN, IMAGENET_STD, for_tiles, tiled_side

SIDE = 48  # of a tile; the picture's is 80, so that a tile of 0.6 is 48 pixels of it, one to one
COLOURS = [(220, 30, 30), (30, 200, 40), (40, 50, 210), (230, 220, 40)]  # top left, top right, bottom left, bottom right


def four_colours() -> npt.NDArray[np.uint8]:
    pixels = np.zeros((80, 80, 3), np.uint8)
    for colour, (top, left) in zip(COLOURS, [(0, 0), (0, 40), (40, 0), (40, 40)], strict=True):
        pixels[top : top + 40, left : left + 40] = colour
    return pixels


def as_pixels(normalised: torch.Tensor) -> npt.NDArray[np.float32]:
    """(batch, 3, side, side) -> (batch, side, side, 3), 0 to 255."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((normalised * std + mean) * 255).permute(0, 2, 3, 1).numpy()


def small_model(pool: nn.Module | None = None) -> Classifier:
    """Eight features that are neither 0 nor alike; with another pool than the average, no feature map."""
    torch.manual_seed(0)
    pool = pool or nn.AdaptiveAvgPool2d(1)
    return Classifier(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.LeakyReLU(), pool, nn.Flatten()), 8, 2)


def normalised(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(n, height, width, 3) -> what the network is given of them, by hand."""
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    return torch.from_numpy((pictures / 255 - mean) / std).permute(0, 3, 1, 2).float()


def pictures_on_disk(folder: Path) -> tuple[list[npt.NDArray[np.uint8]], Pixels]:
    rng = np.random.default_rng(1)
    pictures = [four_colours(), *rng.integers(0, 256, (2, 80, 80, 3)).astype(np.uint8)]
    paths = [folder / f"{i}.png" for i in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return pictures, Pixels(paths, [path.name for path in paths], 80)


def test_four_colours_land_in_four_tiles_as_one_reads() -> None:
    tiles = as_pixels(for_tiles(torch.from_numpy(four_colours())[None], SIDE))
    for tile, colour in zip(tiles, COLOURS, strict=True):
        seen = (np.abs(tile - colour).max(2) < 1).mean()
        assert seen > 0.6, "of the tile's 48 x 48 pixels 40 x 40 are its own quarter"


def test_tiles_are_cut_pixel_by_pixel_and_stay_with_their_picture() -> None:
    assert tiled_side(SIDE) == 80
    pixels = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3)).astype(np.uint8)
    tiles = as_pixels(for_tiles(torch.from_numpy(pixels), SIDE)).reshape(3, 4, SIDE, SIDE, 3)
    near, far = slice(0, 48), slice(32, 80)
    for position, (rows, columns) in enumerate([(near, near), (near, far), (far, near), (far, far)]):
        assert tiles[:, position] == pytest.approx(pixels[:, rows, columns], abs=0.1)


@torch.no_grad()
def test_features_of_corners_are_averages_of_parts_of_the_large_picture_s_map(tmp_path: Path) -> None:
    """Against the convolution called by hand: 39 x 39 places of 80 x 80 pixels, of which a corner has 60 %, 23 x 23."""
    pictures, pixels = pictures_on_disk(tmp_path)
    model = small_model()
    found = extract(corners_pass(model, pixels, image_size=SIDE, dtype=torch.float32), np.arange(3), 16)
    maps = model.extractor[1](model.extractor[0](normalised(np.stack(pictures)))).numpy()
    assert maps.shape == (3, 8, 39, 39)
    for row, places in zip(found, maps, strict=True):
        corners = [places[:, top : top + 23, left : left + 23] for top in (0, 16) for left in (0, 16)]
        each = np.stack([corner.mean((1, 2)) for corner in corners])
        assert row == pytest.approx(np.r_[each.max(0), each.mean(0)], abs=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.01, "the negative control: other pictures have other features"


@torch.no_grad()
def test_without_a_map_features_of_corners_are_those_of_each_corner_as_a_picture(tmp_path: Path) -> None:
    """Against the extractor called on each corner of each picture by hand."""
    pictures, pixels = pictures_on_disk(tmp_path)
    model = small_model(nn.AdaptiveMaxPool2d(1))
    found = extract(corners_pass(model, pixels, image_size=SIDE, dtype=torch.float32), np.arange(3), 16)
    for row, picture in zip(found, pictures, strict=True):
        corners = np.stack([picture[top : top + 48, left : left + 48] for top in (0, 32) for left in (0, 32)])
        each = model.extractor(normalised(corners)).numpy()
        assert row == pytest.approx(np.r_[each.max(0), each.mean(0)], abs=1e-4)


def test_a_backbone_of_one_size_cuts_its_corners_out(tmp_path: Path) -> None:
    """A vision transformer takes 224 pixels and no others."""
    pictures_on_disk(tmp_path)
    model = build("vit_b_32", 2, seed=0)
    pixels = Pixels([tmp_path / "1.png"], ["1.png"], tiled_side(224))
    found = extract(corners_pass(model, pixels, image_size=224, dtype=torch.float32), np.arange(1), 2 * 768)
    assert np.isfinite(found).all()
    assert np.ptp(found) > 0


def test_features_of_the_corners_of_no_picture_have_a_width() -> None:
    run = corners_pass(small_model(), Pixels([], [], 80), image_size=SIDE, dtype=torch.float32)
    assert extract(run, np.arange(0), 16).shape == (0, 2 * 8)


@torch.no_grad()
def test_a_pass_with_early_maps_has_their_quarters_behind_the_features(tmp_path: Path) -> None:
    pictures, pixels = pictures_on_disk(tmp_path)
    model = small_model()
    plain, both = (
        extract(whole_pass(model, pixels, image_size=80, dtype=torch.float32, early=early), np.arange(3), width)
        for early, width in (((), 8), ([EarlyMap("1", 8)], 8 + 4 * 8))
    )
    assert both[:, :8] == pytest.approx(plain, abs=1e-6)
    maps = model.extractor[0](normalised(np.stack(pictures))).numpy()  # 39 x 39: the quarters share the middle row and column
    quarters = [maps[:, :, top : top + 20, left : left + 20].mean((2, 3)) for top in (0, 19) for left in (0, 19)]
    assert both[:, 8:] == pytest.approx(np.stack(quarters, 2).reshape(3, 32), abs=1e-4)
