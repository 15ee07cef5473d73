"""Kernel heads against scikit-learn's kernel ridge regression, and what they must not know."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from panorama import kernel
from panorama.kernel import Judgement, Likeness, joined, neighbours
from panorama.noise import NoiseModel, fit_noise

Floats = npt.NDArray[np.floating[Any]]


def world(
    seed: int, n: int = 90, n_labels: int = 3, width: int = 12
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of length 1, labels that depend on them and on each other, and the last third held out."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, width))
    hidden = features @ rng.normal(size=(width, n_labels)) + 2 * rng.normal(size=(n, 1)) + rng.normal(size=(n, n_labels))
    return joined(features), (hidden > 0.5).astype(np.int8), np.arange(0, n * 2 // 3), np.arange(n * 2 // 3, n)


def judge(x: npt.NDArray[np.float32], *arrays: npt.NDArray[Any], seed: int = 0) -> Judgement:
    return kernel.judge(Likeness(x), *arrays, seed=seed)


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[npt.NDArray[np.int64]]:
    """Positions of the images that each machine learned from."""
    found: list[npt.NDArray[np.int64]] = []
    between = Likeness.between

    def noted(self: Likeness, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> torch.Tensor:
        if rows is columns:
            found.append(rows)
        return between(self, rows, columns)

    monkeypatch.setattr(Likeness, "between", noted)
    return found


def ridge(likeness: Floats, targets: Floats, likeness_new: Floats) -> Floats:
    found: Floats = KernelRidge(alpha=1.0, kernel="precomputed").fit(likeness, targets.astype(float)).predict(likeness_new)
    return found


def test_rows_have_length_one_and_each_view_weighs_the_same() -> None:
    rng = np.random.default_rng(0)
    found = joined(rng.normal(size=(20, 5)), 1000 * rng.random((20, 50)))
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert np.linalg.norm(found[:, :5], axis=1) == pytest.approx(np.full(20, 0.5**0.5), abs=1e-5)


def test_a_picture_without_any_feature_has_a_row_of_zeros() -> None:
    assert (joined(np.zeros((2, 4)), np.zeros((2, 3))) == 0).all()


@pytest.mark.parametrize("kept", [0, 4000])
def test_alone_is_scikit_learns_kernel_ridge_without_the_held_out_images(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_MOST_KEPT", kept)
    x, y, training, held_out = world(0)
    expected = ridge(rbf_kernel(x[training], gamma=1) + 1, y[training], rbf_kernel(x[held_out], x[training], gamma=1) + 1)
    assert judge(x, y, training, held_out).alone == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kept", [0, 4000])
def test_a_quarter_of_the_squared_distance_is_that_of_early_layers(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_MOST_KEPT", kept)
    x, _, training, held_out = world(0)
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(90, 8)).astype(np.float32) * 100 + 7, rng.normal(size=(90, 4)).astype(np.float32)]
    maps[0][:, 2] = 0.1  # tells nothing
    early = kernel.joined_early(maps)
    assert early is not None
    by_hand = [StandardScaler().fit_transform(rows) for rows in maps]
    roots = [np.sign(rows) * np.sqrt(np.abs(rows)) for rows in by_hand]
    roots = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in roots]
    assert early == pytest.approx(np.hstack(roots) / 2**0.5, abs=1e-4)
    both = np.hstack([x * 0.75**0.5, early * 0.25**0.5])
    expected = rbf_kernel(both, gamma=1)
    found = Likeness(x, early).between(held_out, training).numpy()
    assert found == pytest.approx(expected[np.ix_(held_out, training)], abs=1e-5)
    assert np.abs(found - Likeness(x).between(held_out, training).numpy()).max() > 0.05, "the negative control"


def test_early_layers_that_are_the_same_for_all_say_nothing_and_take_no_part() -> None:
    same = np.full((5, 8), 0.3, np.float32)
    nearly = same + np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32) * 1e-3  # a camera that does not move
    other = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    for maps in ([], [same], [same[:1]], [same, nearly]):
        assert kernel.joined_early(maps) is None
    alone, beside = kernel.joined_early([other]), kernel.joined_early([same, other])
    assert alone is not None
    assert (alone == beside).all()


@pytest.mark.parametrize("kept", [0, 4000])
def test_in_context_is_scikit_learns_kernel_ridge_on_pictures_and_other_labels(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other labels are believed as they stand, the second kernel is written out here."""
    monkeypatch.setattr(kernel, "_MOST_KEPT", kept)
    x, y, training, held_out = world(1, n_labels=4)
    monkeypatch.setattr(kernel, "_believed", lambda values, *_: torch.from_numpy(values.astype(np.float64)))
    found = judge(x, y, training, held_out)
    for k in range(4):
        others = np.delete(y, k, axis=1).astype(float)

        def likeness(a: npt.NDArray[np.int64], others: Floats = others) -> Floats:
            pictures, labels = rbf_kernel(x[a], x[training], gamma=1), rbf_kernel(others[a], others[training], gamma=0.25)
            return pictures * labels + 1

        assert found.in_context[:, k] == pytest.approx(ridge(likeness(training), y[training, k], likeness(held_out)), abs=1e-4)


def test_leave_one_out_in_closed_form_is_as_many_refits_of_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, learned: list[npt.NDArray[np.int64]]
) -> None:
    x, y, training, held_out = world(2, n=60)
    weighed: list[Floats] = []

    def spy(targets: npt.NDArray[np.int8], scores: Floats, **options: bool) -> NoiseModel:
        assert (targets == y[learned[-1]]).all()
        weighed.append(scores)
        return fit_noise(targets, scores, **options)

    monkeypatch.setattr(kernel, "fit_noise", spy)
    judge(x, y, training, held_out)
    assert sorted(learned[0].tolist()) == training.tolist()
    for position, i in enumerate(learned[0].tolist()):
        rest = training[training != i]
        expected = ridge(rbf_kernel(x[rest], gamma=1) + 1, y[rest], rbf_kernel(x[[i]], x[rest], gamma=1) + 1)
        assert weighed[0][position] == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize("n_labels", [1, 2, 40])
def test_the_value_of_a_cell_changes_none_of_its_own_scores(n_labels: int) -> None:
    x, y, training, held_out = world(3, n_labels=n_labels)
    before = judge(x, y, training, held_out)
    for k in range(min(n_labels, 4)):
        turned = y.copy()
        turned[held_out, k] ^= 1
        after = judge(x, turned, training, held_out)
        assert (after.alone == before.alone).all()
        assert (after.in_context[:, k] == before.in_context[:, k]).all()


def test_the_negative_control_another_label_of_the_picture_changes_the_score_in_context() -> None:
    x, y, training, held_out = world(3)
    turned = y.copy()
    turned[held_out, 0] ^= 1
    changed = judge(x, turned, training, held_out).in_context[:, 1] != judge(x, y, training, held_out).in_context[:, 1]
    assert changed.mean() > 0.9


def test_other_held_out_images_change_no_score() -> None:
    x, y, training, held_out = world(4)
    few = judge(x, y, training, held_out[:3])
    many = judge(x, y, training, held_out)
    assert many.alone[:3] == pytest.approx(few.alone, abs=1e-6)
    assert many.in_context[:3] == pytest.approx(few.in_context, abs=1e-6)


def test_labels_in_another_order_have_the_same_scores_in_that_order() -> None:
    x, y, training, held_out = world(5, n_labels=5)
    order = np.array([3, 0, 4, 1, 2])
    one, other = judge(x, y, training, held_out), judge(x, y[:, order], training, held_out)
    assert other.alone == pytest.approx(one.alone[:, order], abs=1e-5)
    assert other.in_context == pytest.approx(one.in_context[:, order], abs=1e-5)


def test_context_tells_a_forgotten_label_from_a_hard_picture() -> None:
    """Two kinds of picture show nothing plainly. The first carry both labels or neither, the second one or the other.

    One new picture of each kind carries the second label and not the first. From the picture alone the first label is as
    likely in both; the first of them lacks it by mistake, the second does not.
    """
    rng = np.random.default_rng(6)
    n = 100
    kinds = np.repeat(np.eye(2, 16), n, axis=0) + 0.05 * rng.normal(size=(2 * n, 16))
    first = rng.integers(0, 2, 2 * n)
    second = np.r_[first[:n], 1 - first[n:]]
    x = joined(np.vstack([kinds, np.eye(2, 16)]))
    y = np.vstack([np.stack([first, second], 1), [[0, 1], [0, 1]]]).astype(np.int8)
    found = judge(x, y, np.arange(2 * n), np.array([2 * n, 2 * n + 1]))
    assert found.alone[:, 0] == pytest.approx([0.5, 0.5], abs=0.2)
    assert found.in_context[0, 0] > 0.8
    assert found.in_context[1, 0] < 0.2


@pytest.fixture
def small_committees(monkeypatch: pytest.MonkeyPatch, learned: list[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
    """Parts of at most 40 images, three at most. The images each machine learned from."""
    for name, value in (("_MOST_IN_PART", 40), ("_LEAST_IN_PART", 20), ("_MOST_PARTS", 3)):
        monkeypatch.setattr(kernel, name, value)
    return learned


def test_a_committee_agrees_with_one_machine(
    monkeypatch: pytest.MonkeyPatch, small_committees: list[npt.NDArray[np.int64]]
) -> None:
    x, y, training, held_out = world(7, n=150)
    many = judge(x, y, training, held_out)
    assert len(small_committees) == 3
    monkeypatch.setattr(kernel, "_MOST_IN_PART", 2000)
    one = judge(x, y, training, held_out)
    assert np.corrcoef(many.alone.ravel(), one.alone.ravel())[0, 1] > 0.95
    assert np.corrcoef(many.in_context.ravel(), one.in_context.ravel())[0, 1] > 0.9


def test_a_committee_never_learns_from_a_held_out_image_nor_twice_from_one(
    small_committees: list[npt.NDArray[np.int64]],
) -> None:
    x, y, training, held_out = world(8, n=300)
    judge(x, y, training, held_out)
    learned = np.concatenate(small_committees).tolist()
    assert len(learned) == len(set(learned)) == 3 * 40
    assert set(learned) <= set(training.tolist())


def test_however_many_images_are_held_out_each_machine_learns_once(
    monkeypatch: pytest.MonkeyPatch, small_committees: list[npt.NDArray[np.int64]]
) -> None:
    x, y, training, held_out = world(13, n=300)
    at_once = judge(x, y, training, held_out)
    small_committees.clear()
    monkeypatch.setattr(kernel, "_AT_ONCE", 7)
    in_pieces = judge(x, y, training, held_out)
    assert len(small_committees) == 3
    assert in_pieces.alone == pytest.approx(at_once.alone, abs=1e-6)
    assert in_pieces.in_context == pytest.approx(at_once.in_context, abs=1e-6)


def test_with_many_labels_the_parts_are_smaller(small_committees: list[npt.NDArray[np.int64]]) -> None:
    x, y, training, held_out = world(9, n=300, n_labels=64)
    judge(x, y, training, held_out)
    assert [len(part) for part in small_committees] == [20, 20, 20]


def test_the_same_seed_gives_the_same_committee(small_committees: list[npt.NDArray[np.int64]]) -> None:
    x, y, training, held_out = world(10, n=150)
    one, two, other = (judge(x, y, training, held_out, seed=seed).in_context for seed in (1, 1, 2))
    assert (one == two).all()
    assert not (one == other).all()
    assert small_committees


@pytest.mark.parametrize("n", [0, 1, 2])
def test_next_to_nothing_to_learn_from_gives_numbers(n: int) -> None:
    x, y, _, held_out = world(11)
    found = judge(x, y, np.arange(n), held_out)
    for scores in (found.alone, found.in_context):
        assert scores.shape == (30, 3)
        assert ((scores >= 0) & (scores <= 1)).all()


def test_pictures_all_alike_are_given_about_the_base_rates() -> None:
    y = np.tile(np.array([[0, 1], [1, 1]], np.int8), (100, 1))
    found = judge(joined(np.ones((200, 4))), y, np.arange(150), np.arange(150, 200))
    assert found.alone == pytest.approx(np.tile([0.5, 1.0], (50, 1)), abs=0.02)


def test_neighbours_are_scikit_learns_without_the_image_itself() -> None:
    x, *_ = world(12)
    rows = np.array([5, 0, 77])
    found, likeness = neighbours(x, rows, 4)
    distance, expected = NearestNeighbors(metric="cosine", algorithm="brute").fit(x).kneighbors(x[rows], 5)
    assert (expected[:, 0] == rows).all()
    assert (found == expected[:, 1:]).all()
    assert likeness == pytest.approx(1 - distance[:, 1:], abs=1e-5)


def test_an_image_is_not_its_own_neighbour_among_exact_copies() -> None:
    found, likeness = neighbours(np.tile(joined(np.ones((1, 3))), (6, 1)), np.arange(6))
    assert all(i not in row for i, row in enumerate(found.tolist()))
    assert likeness == pytest.approx(np.ones((6, 5)))


@pytest.mark.parametrize(("n", "count"), [(0, 0), (1, 0), (2, 1), (4, 3)])
def test_of_few_images_there_are_as_many_neighbours_as_others(n: int, count: int) -> None:
    found, likeness = neighbours(joined(np.eye(max(n, 1))[:n]), np.arange(n))
    assert found.shape == likeness.shape == (n, count)


def test_look_alikes_stand_out_from_their_surroundings_and_like_pictures_do_not() -> None:
    rng = np.random.default_rng(0)
    apart = rng.random((40, 64)).astype(np.float32)
    copies = (apart[:3] + rng.normal(0, 0.01, (3, 64))).clip(0).astype(np.float32)
    first, second = kernel.look_alikes(kernel.joined(np.vstack([apart, copies])))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 40), (1, 41), (2, 42)]
    alike = (0.5 + rng.normal(0, 0.01, (40, 64))).astype(np.float32)  # every pair is more alike than the copies above
    assert len(kernel.look_alikes(kernel.joined(alike))[0]) == 0
    assert len(kernel.look_alikes(kernel.joined(apart[:3]))[0]) == 0, "too few to stand out from"


def test_the_few_examples_of_a_rare_label_are_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_MOST_IN_PART", 40), ("_LEAST_IN_PART", 20), ("_RARE", 3)):
        monkeypatch.setattr(kernel, name, value)
    targets = np.zeros((500, 2), np.int8)
    targets[[7, 70, 300], 0] = 1
    targets[::2, 1] = 1
    parts = list(kernel._parts(np.arange(500), targets, 0))
    assert len(parts) == 4
    for part in parts:
        assert {7, 70, 300} <= set(part.tolist())
        assert len(part) <= 40
        assert len(set(part.tolist())) == len(part)
