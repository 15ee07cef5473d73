"""Who goes into which part: iterative stratification that keeps near-duplicates together.

Pure functions on arrays. Used for the test split, the validation part and the folds of cross-validation.
"""

import numpy as np
import numpy.typing as npt

_MAX_LABELS_FOR_PAIRS = 40


def stratify(
    targets: npt.NDArray[np.int8],
    shares: tuple[float, ...],
    *,
    seed: int,
    groups: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """The part (0..len(shares)-1) of each image, so that every part has each label, and each pair, in proportion.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011) with label pairs as further labels (Szymanski,
    Kajdanowicz 2017), over groups instead of single images: images of one group (near-duplicates) share a part.

    targets: (n_images, n_labels) of 0/1. shares: one positive number a part; only their ratio matters.
    groups: (n_images,) ids, None when every image stands alone. The same arguments give the same answer.
    """
    n_images = len(targets)
    if groups is None:
        groups = np.arange(n_images)
    _, group_of = np.unique(groups, return_inverse=True)
    n_groups = int(group_of.max()) + 1 if n_images else 0
    evidence = _with_pairs(targets)  # (n_images, n_evidence)
    counts = np.zeros((n_groups, evidence.shape[1]))
    np.add.at(counts, group_of, evidence)
    sizes = np.bincount(group_of, minlength=n_groups).astype(float)

    ratio = np.asarray(shares, float) / sum(shares)
    wanted = np.outer(counts.sum(0), ratio)  # (n_evidence, n_parts): still to be placed
    wanted_images = sizes.sum() * ratio  # (n_parts,)
    part_of = np.full(n_groups, -1)
    rng = np.random.default_rng(seed)
    remaining = counts.sum(0)
    order = rng.permutation(n_groups)

    def place(group: int, preference: npt.NDArray[np.float64]) -> None:
        best = np.flatnonzero(preference == preference.max())
        if len(best) > 1:
            best = best[wanted_images[best] == wanted_images[best].max()]
        part = int(best[0]) if len(best) == 1 else int(rng.choice(best))
        part_of[group] = part
        wanted[:, part] -= counts[group]
        wanted_images[part] -= sizes[group]
        remaining[:] -= counts[group]

    while (remaining > 0).any():
        rarest = int(np.where(remaining > 0, remaining, np.inf).argmin())
        for group in order[(part_of[order] < 0) & (counts[order, rarest] > 0)]:
            place(int(group), wanted[rarest])
    for group in order[part_of[order] < 0]:  # images without any label
        place(int(group), wanted_images)
    return part_of[group_of] if n_images else np.zeros(0, np.int64)


def _with_pairs(targets: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """The targets beside one column for each pair of labels that occurs together at least twice."""
    n_labels = targets.shape[1]
    if not 1 < n_labels <= _MAX_LABELS_FOR_PAIRS:
        return targets
    first, second = np.triu_indices(n_labels, 1)
    pairs = targets[:, first] & targets[:, second]
    return np.hstack([targets, pairs[:, pairs.sum(0) >= 2]])


def near_duplicate_groups(
    hashes: npt.NDArray[np.uint64], thumbnails: npt.NDArray[np.uint8], *, max_bits: int = 3, max_difference: float = 12.0
) -> npt.NDArray[np.int64]:
    """A group id for each image; images with almost the same hash and almost the same colours share one.

    hashes: (n_images,) 64-bit difference hashes. thumbnails: (n_images, n_values) tiny pictures of 0..255. Two images
    are linked when their hashes differ in at most `max_bits` bits (at most 3: found by comparing within equal
    16-bit quarters, of which at least one must then be equal) and their thumbnails by at most `max_difference` on average.
    A group is everything that links connect.
    """
    parent = np.arange(len(hashes))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for shift in (0, 16, 32, 48):
        quarter = (hashes >> np.uint64(shift)) & np.uint64(0xFFFF)
        order = np.argsort(quarter, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(quarter[order]) != 0])
        for bucket in np.split(order, starts[1:]):
            for position, i in enumerate(bucket[:-1]):
                rest = bucket[position + 1 :]
                close = rest[np.bitwise_count(hashes[rest] ^ hashes[i]) <= max_bits]
                if not len(close):
                    continue
                difference = np.abs(thumbnails[close].astype(np.int16) - thumbnails[i]).mean(1)
                for j in close[difference <= max_difference]:
                    parent[root(int(j))] = root(int(i))
    return np.array([root(i) for i in range(len(hashes))], dtype=np.int64)
