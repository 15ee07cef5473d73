"""Who goes into which part: iterative stratification that keeps near-duplicates together.

Pure functions on arrays. Used for the test split, the validation part and the folds of cross-validation.
"""

import numpy as np
import numpy.typing as npt

_MAX_LABELS_FOR_PAIRS = 40
_MAX_BLOCK = 2**24  # correlations held at once (64 MiB)
_FLAT_VARIANCE = 0.2  # in squared levels of 0..255: what rounding leaves in a blank picture's thumbnail


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
    hashes: npt.NDArray[np.uint64], thumbnails: npt.NDArray[np.uint8], *, max_bits: int = 14, min_correlation: float = 0.975
) -> npt.NDArray[np.int64]:
    """A group id for each image; images that show the same picture, resized, recompressed or brightened, share one.

    hashes: (n_images,) 64-bit difference hashes. thumbnails: (n_images, n_values) tiny RGB pictures of 0..255. Two images
    are linked when their thumbnails correlate by at least `min_correlation` (so brightness and contrast do not count) and
    their hashes differ in at most `max_bits` bits. A group is everything that links connect. A picture that varies by less
    than about 3 levels has nothing to be told by and is never linked. Every pair is compared: n_images**2 / 2 products.

    The limits were set by eye on 2,000 photos, of which they link 29 pairs: copies, and frames of one series. Not found: a
    second frame after the camera panned (0.968), which is no more alike than two sunsets over the sea (0.964) or two
    plain seas (0.977, but 21 bits).
    """
    n_images = len(hashes)
    links: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    values = _standardised(thumbnails)  # (n_images, n_values); the product of two rows is their correlation
    step = max(1, _MAX_BLOCK // max(1, n_images))
    for start in range(0, n_images, step):
        block = values[start : start + step] @ values[start:].T
        first, second = np.nonzero(block >= min_correlation)
        first, second = first[first < second] + start, second[first < second] + start
        close = np.bitwise_count(hashes[first] ^ hashes[second]) <= max_bits
        links.append((first[close], second[close]))
    empty = np.zeros(0, np.int64)
    first, second = (np.concatenate([empty, *side]) for side in zip(*links, strict=True)) if links else (empty, empty)
    return linked(np.arange(n_images), first, second)


def linked(groups: npt.NDArray[np.int64], first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The groups, with those of the images at `first` and `second` made one, pair by pair; an id is the position of a member."""
    _, member, group_of = np.unique(groups, return_index=True, return_inverse=True)
    parent = member[group_of].astype(np.int64)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        parent[root(j)] = root(i)
    return np.array([root(i) for i in range(len(groups))], dtype=np.int64)


def _standardised(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Each row with mean 0 and length 1, or shorter where it hardly varies."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    variance = np.mean(values**2, axis=1, keepdims=True) + _FLAT_VARIANCE
    scaled: npt.NDArray[np.float32] = values / np.sqrt(variance * max(1, thumbnails.shape[1]))
    return scaled
