"""Parts that are alike in their labels, and near-duplicates that stay together."""

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import patch_picture, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from panorama.images import difference_hash
from panorama.pictures import Picture, duplicate_groups, scan
from panorama.scenery import draw_scene
from panorama.split import linked, near_duplicate_groups, stratify


def random_targets(n_images: int, shares: list[float], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((n_images, len(shares))) < shares).astype(np.int8)


# -- stratify


def test_ten_images_of_one_label_and_ten_of_another_are_halved() -> None:
    targets = np.array([[1, 0]] * 10 + [[0, 1]] * 10, np.int8)
    part = stratify(targets, (0.5, 0.5), seed=0)
    assert [targets[part == p].sum(0).tolist() for p in (0, 1)] == [[5, 5], [5, 5]]


def test_rare_label_is_in_every_fold() -> None:
    targets = np.zeros((100, 2), np.int8)
    targets[::2, 0] = 1
    targets[[3, 20, 41, 66, 97], 1] = 1  # five images, five folds
    part = stratify(targets, (1, 1, 1, 1, 1), seed=3)
    assert [targets[part == fold, 1].sum() for fold in range(5)] == [1] * 5
    assert np.bincount(part).tolist() == [20] * 5


def test_pairs_of_labels_are_in_proportion_too() -> None:
    both, first, second = [[1, 1]] * 20, [[1, 0]] * 40, [[0, 1]] * 40
    targets = np.array(both + first + second, np.int8)
    part = stratify(targets, (0.75, 0.25), seed=1)
    assert (targets[part == 1].sum(1) == 2).sum() == 5


def test_images_without_any_label_are_shared_out() -> None:
    assert np.bincount(stratify(np.zeros((50, 3), np.int8), (0.8, 0.2), seed=0)).tolist() == [40, 10]


def test_no_image_gives_no_part() -> None:
    assert stratify(np.zeros((0, 3), np.int8), (0.8, 0.2), seed=0).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_every_label_has_its_share_in_the_test_part(seed: int) -> None:
    targets = random_targets(400, [0.5, 0.3, 0.1, 0.05], seed)
    part = stratify(targets, (0.8, 0.2), seed=seed)
    assert abs((part == 1).sum() - 80) <= 4
    for label in range(4):
        assert abs(targets[part == 1, label].sum() - 0.2 * targets[:, label].sum()) <= 1.5  # a random split: up to 10


def test_same_seed_gives_the_same_parts_and_another_seed_others() -> None:
    targets = random_targets(200, [0.5, 0.3])
    first, again, other = (stratify(targets, (0.8, 0.2), seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_only_the_ratio_of_the_shares_matters() -> None:
    targets = random_targets(100, [0.4])
    assert np.array_equal(stratify(targets, (4, 1), seed=0), stratify(targets, (0.8, 0.2), seed=0))


@settings(max_examples=60, deadline=None)
@given(
    n_images=st.integers(1, 60), n_labels=st.integers(1, 5), n_parts=st.integers(2, 5), n_groups=st.integers(1, 60),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_each_image_has_one_part_and_no_group_is_divided(
    n_images: int, n_labels: int, n_parts: int, n_groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (n_images, n_labels)).astype(np.int8)
    groups = rng.integers(0, n_groups, n_images) * 17 - 5  # ids need not be 0, 1, 2, ...
    part = stratify(targets, (1.0,) * n_parts, seed=seed, groups=groups)
    assert part.shape == (n_images,)
    assert set(part.tolist()) <= set(range(n_parts))
    for group in np.unique(groups):
        assert len(set(part[groups == group].tolist())) == 1
    assert np.array_equal(part, stratify(targets, (1.0,) * n_parts, seed=seed, groups=groups))


@settings(max_examples=40, deadline=None)
@given(n_images=st.integers(20, 120), n_labels=st.integers(1, 4), seed=st.integers(0, 1000))
def test_parts_have_their_share_of_images_and_of_each_label(n_images: int, n_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n_images, n_labels)) < rng.uniform(0.05, 0.9, n_labels)).astype(np.int8)
    test = stratify(targets, (0.75, 0.25), seed=seed) == 1
    assert abs(test.sum() - n_images / 4) <= 1 + 2**n_labels  # each combination of labels may round by one
    assert (np.abs(targets[test].sum(0) - targets.sum(0) / 4) <= 1 + 2**n_labels / 2).all()


# -- near-duplicates: hand-made

LEFT_RIGHT = np.tile(np.repeat(np.linspace(0, 255, 8), 3), 8).astype(np.uint8)  # brighter to the right
TOP_DOWN = np.repeat(np.linspace(0, 255, 8), 24).astype(np.uint8)
HASH = 0x0123_4567_89AB_CDEF


def groups_of(*pictures: tuple[int, np.ndarray]) -> list[list[int]]:
    """The groups of more than one, as sorted lists of positions."""
    hashes = np.array([h for h, _ in pictures], np.uint64)
    groups = near_duplicate_groups(hashes, np.stack([t for _, t in pictures]).astype(np.uint8))
    lists = [np.flatnonzero(groups == g).tolist() for g in np.unique(groups)]
    return [members for members in lists if len(members) > 1]


def test_no_picture_and_one_picture_have_no_duplicates() -> None:
    assert near_duplicate_groups(np.zeros(0, np.uint64), np.zeros((0, 192), np.uint8)).tolist() == []
    assert groups_of((HASH, LEFT_RIGHT)) == []


def test_equal_pictures_share_a_group_and_others_do_not() -> None:
    assert groups_of((HASH, LEFT_RIGHT), (HASH, TOP_DOWN), (HASH, LEFT_RIGHT)) == [[0, 2]]


def test_brightness_and_contrast_do_not_count() -> None:
    assert groups_of((HASH, LEFT_RIGHT), (HASH, LEFT_RIGHT * 0.6), (HASH, 100 + LEFT_RIGHT * 0.4), (HASH, 255 - LEFT_RIGHT)) == [
        [0, 1, 2]
    ]


def test_hashes_may_differ_in_14_bits_anywhere_and_not_in_15() -> None:
    spread = sum(1 << (4 * i) for i in range(14))
    assert groups_of((HASH, LEFT_RIGHT), (HASH ^ spread, LEFT_RIGHT)) == [[0, 1]]
    assert groups_of((HASH, LEFT_RIGHT), (HASH ^ spread ^ (1 << 63), LEFT_RIGHT)) == []


def test_group_is_everything_that_links_connect() -> None:
    step = (1 << 10) - 1
    chain = [(HASH, LEFT_RIGHT), (HASH ^ step, LEFT_RIGHT), (HASH ^ step ^ (step << 10), LEFT_RIGHT)]
    assert groups_of(chain[0], chain[2]) == []
    assert groups_of(*chain) == [[0, 1, 2]]


def test_blank_pictures_are_not_alike_for_being_blank() -> None:
    blank = np.full(192, 200, np.uint8)
    nearly = blank.copy()
    nearly[::2] += 1
    assert groups_of((0, blank), (0, nearly), (0, nearly), (0, blank)) == []


def test_groups_do_not_depend_on_how_many_pairs_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (20, 192)).astype(np.uint8)
    thumbnails = originals[rng.integers(0, 20, 70)]
    hashes = np.zeros(70, np.uint64)
    whole = near_duplicate_groups(hashes, thumbnails)
    monkeypatch.setattr("panorama.split._MAX_BLOCK", 200)  # two rows at a time
    apart = near_duplicate_groups(hashes, thumbnails)
    same = whole[:, None] == whole
    assert np.array_equal(same, apart[:, None] == apart)
    assert np.array_equal(same, (thumbnails[:, None] == thumbnails).all(2))


# -- near-duplicates: pictures


def picture(image: Image.Image, sha256: str = "") -> Picture:
    tiny = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), np.uint8).tobytes()
    return Picture(sha256, *image.size, difference_hash(image), tiny)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


COPIES = {
    "recompressed": lambda image: jpeg(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "small and recompressed": lambda image: jpeg(image.resize((image.width // 3, image.height // 3)), 60),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.75),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "squeezed": lambda image: image.resize((image.width, image.height * 3 // 4)),
    "a little cropped": lambda image: image.crop((image.width // 50, image.height // 50, image.width, image.height)),
}


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    """Drawn landscapes: eight times the same two labels, so that they look alike."""
    return [draw_scene(["sea", "sunset"], (192, 128), np.random.default_rng(seed)) for seed in range(8)]


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_only_they(kind: str, scenes: list[Image.Image]) -> None:
    copies = [COPIES[kind](image) for image in scenes]
    groups = duplicate_groups([picture(image) for image in [*scenes, *copies]])
    assert len(np.unique(groups)) == 8
    assert np.array_equal(groups[:8], groups[8:])


def test_pictures_with_the_same_labels_are_no_copies(scenes: list[Image.Image]) -> None:
    patches = [patch_picture(["red", "blue"], seed) for seed in range(40)]
    assert len(np.unique(duplicate_groups([picture(image) for image in [*scenes, *patches]]))) == 48


def test_files_with_the_same_bytes_are_copies_even_when_blank() -> None:
    blank = Image.new("RGB", (32, 32), "white")
    groups = duplicate_groups([picture(blank, "a"), picture(blank, "b"), picture(blank, "a")])
    assert groups[0] == groups[2] != groups[1]


def test_the_size_of_a_scanned_picture_is_that_of_the_whole_upright_one(tmp_path: Path) -> None:
    """The Dataset page shows it, and JPEGs are scanned at a reduced size."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    for name in ("turned.jpg", "turned.png"):
        Image.new("RGB", (1000, 600)).save(tmp_path / name, exif=exif)
        for _ in range(2):  # measured, and remembered
            (found,) = scan([tmp_path / name], [name], tmp_path)
            assert (found.width, found.height) == (600, 1000)


def test_copies_among_real_photos_are_found_and_look_alikes_are_not(tmp_path: Path) -> None:
    """Looked at by eye: each group shows one scene at two sizes or in two exposures; the last are other scenes."""
    copies = [("37", "41", "382"), ("39", "43"), ("49", "390"), ("56", "383"), ("292", "295"), ("60", "156")]
    others = ["915", "1124", "6", "1091", "910", "1156", "1494", "1596", "1598"]  # plain sea, plain sand, sunsets
    names = [name for group in copies for name in group] + others
    pictures = scan([shared("data", "scenes", "train", f"{name}.jpg") for name in names], names, tmp_path)
    groups = duplicate_groups(pictures)
    found = [tuple(n for n, g in zip(names, groups, strict=True) if g == group) for group in dict.fromkeys(groups.tolist())]
    assert found == [*copies, *((name,) for name in others)]


def test_linking_joins_whole_groups_and_leaves_the_others_alone() -> None:
    groups = np.array([7, 3, 7, 9, 3, 5])  # ids of any size
    found = linked(groups, np.array([0]), np.array([3]))
    assert [sorted(np.flatnonzero(found == value)) for value in dict.fromkeys(found.tolist())] == [[0, 2, 3], [1, 4], [5]]
    nothing = np.zeros(0, np.int64)
    assert linked(np.array([1, 1, 0]), nothing, nothing).tolist() == [0, 0, 2]
    assert linked(nothing, nothing, nothing).tolist() == []
