"""Pictures from formulas, each of a class, for pretraining without a single photo.

A class is a formula with its parameters; a picture of it is drawn with small changes of these, and with colours that say nothing of
the class, so that form must be learned. Fractals after Kataoka et al. 2020 (FractalDB), contours after Kataoka et al. 2022, occluding
shapes after Baradad et al. 2021 ("dead leaves"); noise, waves and cells are the usual textures. Everything follows from (seed, index).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from panorama.scenery import draw_scene
from panorama.terrain import DEMO_LABELS

Rng = np.random.Generator
Field = npt.NDArray[np.float32]  # (side, side)

# Which formulas, and how many classes of each.
CLASSES = {"fractal": 20, "noise": 20, "waves": 16, "cells": 12, "contour": 20, "leaves": 12}
N_CLASSES = sum(CLASSES.values())
KIND_OF_CLASS = np.repeat(np.arange(len(CLASSES)), list(CLASSES.values()))  # (N_CLASSES,) positions in CLASSES
SCENE_LABELS = DEMO_LABELS
_LABEL_COUNTS = (0.05, 0.40, 0.38, 0.17)  # how many of the labels a scene carries


def draw_formula(seed: int, index: int, side: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Picture number `index`, (side, side, 3), and its class, 0 to N_CLASSES - 1; classes take turns."""
    number = index % N_CLASSES
    kind = list(CLASSES)[KIND_OF_CLASS[number]]
    parameters = np.random.default_rng((seed, 1, number))
    rng = np.random.default_rng((seed, 2, index))
    field, mask = _KINDS[kind](parameters, rng, side)
    return _coloured(field, mask, rng), number


def draw_landscape(seed: int, index: int, side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Drawn landscape number `index`, (side, side, 3), and which of SCENE_LABELS it shows, (5,) of 0/1; the demo draws others."""
    rng = np.random.default_rng((seed, 3, index))
    count = int(rng.choice(len(_LABEL_COUNTS), p=_LABEL_COUNTS))
    labels = [SCENE_LABELS[k] for k in rng.permutation(len(SCENE_LABELS))[:count]]
    small = labels[:1] if labels and rng.random() < 0.25 else []
    shape = float(np.exp(rng.uniform(-0.25, 0.6)))
    size = (round(side * max(1.0, shape)), round(side * max(1.0, 1 / shape)))
    picture = draw_scene(labels, size, rng, small=small).resize((side, side))
    truth = np.array([label in labels for label in SCENE_LABELS], np.uint8)
    return np.asarray(picture), truth


# ---- fields: each returns values of about 0 to 1 and how much of each place the figure covers


def _grid(side: int, rng: Rng, *, turn: float = 0.3) -> tuple[Field, Field]:
    """Coordinates of about -1 to 1, moved, scaled and turned a little."""
    step = np.linspace(-1, 1, side, dtype=np.float32)
    x, y = np.meshgrid(step, step)
    angle, scale = rng.uniform(-turn, turn), np.exp(rng.uniform(-0.3, 0.3))
    dx, dy = rng.uniform(-0.3, 0.3, 2)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    return (cos * x - sin * y + dx).astype(np.float32), (sin * x + cos * y + dy).astype(np.float32)


def _stretched(field: npt.NDArray[np.floating[Any]]) -> Field:
    low, high = np.percentile(field, (1, 99))
    return ((field - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)


def _fractal(parameters: Rng, rng: Rng, side: int) -> tuple[Field, Field]:
    """An iterated function system by the chaos game, many points at once."""
    n_maps = int(parameters.integers(2, 7))
    maps = parameters.uniform(-1, 1, (n_maps, 2, 3))
    for matrix in maps:  # contracting, or it flies apart
        matrix[:, :2] *= parameters.uniform(0.45, 0.92) / max(np.linalg.norm(matrix[:, :2], 2), 1e-3)
    odds = np.abs(np.linalg.det(maps[:, :, :2])) + 0.03
    maps = (maps * rng.uniform(0.9, 1.1, maps.shape)).astype(np.float32)
    points, kept = rng.uniform(-1, 1, (1500, 2)).astype(np.float32), []
    for step in range(24):
        chosen = maps[rng.choice(n_maps, len(points), p=odds / odds.sum())]
        points = np.einsum("nij,nj->ni", chosen[:, :, :2], points) + chosen[:, :, 2]
        if step > 5:
            kept.append(points)
    cloud = np.concatenate(kept)
    low, high = np.percentile(cloud, (1, 99), axis=0)
    size = float(max(high - low)) * rng.uniform(0.9, 1.5) + 1e-6
    at = ((cloud - (low + high) / 2) / size + 0.5 + rng.uniform(-0.1, 0.1, 2)) * side
    if rng.random() < 0.5:
        at = at[:, ::-1]
    column, row = at.astype(np.int64).T
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    density = np.bincount(row[inside] * side + column[inside], minlength=side * side).reshape(side, side).astype(np.float32)
    value = np.log1p(density)
    value /= max(float(value.max()), 1e-6)
    return value, np.minimum(density, 1)


def _noise(parameters: Rng, rng: Rng, side: int) -> tuple[Field, Field]:
    """Noise of a spectrum: its exponent, its band, how it is stretched, and what is done to it."""
    exponent, stretch = parameters.uniform(0.6, 3.0), np.exp(parameters.uniform(-1.6, 1.6))
    angle, band = parameters.uniform(0, np.pi) + rng.uniform(-0.15, 0.15), parameters.uniform(0, 1)
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    along, across = np.cos(angle) * fx + np.sin(angle) * fy, -np.sin(angle) * fx + np.cos(angle) * fy
    frequency = np.maximum(np.hypot(along * np.sqrt(stretch), across / np.sqrt(stretch)), 0.5 / side)
    zoom = np.exp(rng.uniform(-0.3, 0.3))
    spectrum = frequency ** -(exponent + rng.uniform(-0.1, 0.1))
    if band > 0.5:
        centre = np.exp(parameters.uniform(np.log(0.03), np.log(0.25))) * zoom
        spectrum = np.exp(-((np.log(frequency / centre) / 0.5) ** 2)) / frequency
    phases = rng.normal(size=spectrum.shape) + 1j * rng.normal(size=spectrum.shape)
    field = np.fft.irfft2(spectrum * phases, s=(side, side))
    field /= field.std() + 1e-9
    kind = int(parameters.integers(0, 5))
    if kind == 1:
        field = -np.abs(field)  # crests
    elif kind == 2:
        field = np.tanh(4 * field)  # spots, as reaction and diffusion leave them
    elif kind == 3:
        field = np.sin(parameters.uniform(2, 6) * field)  # marble
    elif kind == 4:
        field = np.round(field * 1.5)  # terraces
    return _stretched(field), np.ones((side, side), np.float32)


def _waves(parameters: Rng, rng: Rng, side: int) -> tuple[Field, Field]:
    """Waves added or multiplied: gratings, checks, tilings and quasi-crystals of a symmetry, some bent."""
    x, y = _grid(side, rng)
    fold, frequency = int(parameters.integers(1, 8)), parameters.uniform(6, 28)
    bend, twist = parameters.uniform(0, 1), parameters.uniform(0, np.pi)
    if bend > 0.6:
        x = x + np.float32(0.15) * np.sin(np.float32(parameters.uniform(2, 9)) * y + np.float32(rng.uniform(0, 6)))
    if bend > 0.85:
        x, y = np.hypot(x, y), np.arctan2(y, x) * np.float32(parameters.integers(1, 5) / 4)
    angles = twist + np.arange(fold) * np.pi / fold
    shares = [np.cos(np.float32(frequency) * (np.float32(np.cos(a)) * x + np.float32(np.sin(a)) * y) + np.float32(rng.uniform(0, 6.3)))
              for a in angles]  # fmt: skip
    field = np.prod(shares, 0) if parameters.random() < 0.35 else np.sum(shares, 0)
    hard = parameters.uniform(0, 1)
    if hard > 0.6:
        field = np.tanh(field * 5)
    elif hard > 0.4:
        field = np.abs(field)
    return _stretched(field), np.ones((side, side), np.float32)


def _cells(parameters: Rng, rng: Rng, side: int) -> tuple[Field, Field]:
    """Voronoi cells: how many, how regular, in which metric, and whether their floor, border or colour is seen."""
    rows = int(parameters.integers(3, 9))
    jitter, metric, look = parameters.uniform(0.05, 1.0), int(parameters.integers(0, 3)), int(parameters.integers(0, 3))
    stretch = np.exp(parameters.uniform(-0.7, 0.7))
    x, y = _grid(side, rng)
    step = (np.arange(rows + 2) - 0.5) * 2 / rows - 1
    px, py = np.meshgrid(step, step)
    px, py = ((p + rng.uniform(-jitter, jitter, p.shape) / rows).astype(np.float32).ravel() * 1.3 for p in (px, py))
    nearest, second = np.full((2, side, side), 9, np.float32)
    owner = np.zeros((side, side), np.int64)
    for k, (a, b) in enumerate(zip(px, py, strict=True)):
        dx, dy = np.abs(x - a) * np.float32(stretch), np.abs(y - b)
        distance = np.hypot(dx, dy) if metric == 0 else dx + dy if metric == 1 else np.maximum(dx, dy)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest = np.where(closer, distance, nearest)
        owner[closer] = k
    if look == 0:
        field = nearest
    elif look == 1:
        field = np.minimum(second - nearest, 0.12)
    else:
        field = rng.random(len(px)).astype(np.float32)[owner] + (second - nearest < 0.03)
    return _stretched(field), np.ones((side, side), np.float32)


def _contour(parameters: Rng, rng: Rng, side: int) -> tuple[Field, Field]:
    """A closed outline around a centre, by a few waves of its angle, drawn as a body or as nested lines."""
    x, y = _grid(side, rng, turn=np.pi)
    angle, away = np.arctan2(y, x), np.hypot(x, y)
    outline = np.full_like(angle, parameters.uniform(0.35, 0.65))
    for _ in range(int(parameters.integers(1, 4))):
        times, depth = int(parameters.integers(2, 12)), parameters.uniform(0.04, 0.22)
        outline += np.float32(depth * rng.uniform(0.85, 1.15)) * np.cos(times * angle)
    if parameters.random() < 0.3:  # corners instead of waves
        corners = int(parameters.integers(3, 8))
        outline = np.float32(0.6) * np.cos(np.pi / corners) / np.cos(np.mod(angle, 2 * np.pi / corners) - np.pi / corners)
    share = away / np.maximum(outline, 0.05)
    lines = int(parameters.integers(0, 7))
    field = share if lines < 2 else 0.5 + 0.5 * np.cos(share * np.float32(np.pi * lines))
    return field.clip(0, 1).astype(np.float32), (share < 1).astype(np.float32)


def _leaves(parameters: Rng, rng: Rng, side: int) -> tuple[Field, Field]:
    """Shapes that hide one another, their sizes by a power law; each plain, shaded or striped."""
    shape, exponent = int(parameters.integers(0, 4)), parameters.uniform(1.2, 3.2)
    smallest, filling, turned = parameters.uniform(0.02, 0.10), int(parameters.integers(0, 3)), parameters.random() < 0.5
    long = np.exp(parameters.uniform(0, 1.4))
    field = np.full((side, side), rng.random(), np.float32)
    power = 1 - exponent
    for _ in range(220):
        u = rng.random()
        radius = (smallest**power + u * (0.55**power - smallest**power)) ** (1 / power) * side
        reach = int(np.ceil(radius * long))
        cx, cy = rng.uniform(0, side, 2)
        left, top = max(0, int(cx) - reach), max(0, int(cy) - reach)
        right, bottom = min(side, int(cx) + reach + 1), min(side, int(cy) + reach + 1)
        if left >= right or top >= bottom:
            continue
        dy, dx = np.mgrid[top:bottom, left:right].astype(np.float32)
        dx, dy = (dx - cx) / radius, (dy - cy) / radius
        a = rng.uniform(0, np.pi) if turned else 0.0
        dx, dy = (np.cos(a) * dx - np.sin(a) * dy) / long, np.sin(a) * dx + np.cos(a) * dy
        inside = (
            np.hypot(dx, dy) < 1 if shape == 0
            else np.maximum(abs(dx), abs(dy)) < 0.8 if shape == 1
            else (dy < 0.6) & (dy > 1.7 * abs(dx) - 0.9) if shape == 2
            else np.sqrt(abs(dx)) + np.sqrt(abs(dy)) < 1.1
        )  # fmt: skip
        value = rng.random()
        paint = value + (0 if filling == 0 else 0.35 * dy if filling == 1 else 0.25 * np.sign(np.sin(9 * dx)))
        field[top:bottom, left:right][inside] = (paint if filling == 0 else paint[inside]) if np.ndim(paint) else value
    return field.clip(0, 1), np.ones((side, side), np.float32)


_KINDS: dict[str, Callable[[Rng, Rng, int], tuple[Field, Field]]] = {
    "fractal": _fractal, "noise": _noise, "waves": _waves, "cells": _cells, "contour": _contour, "leaves": _leaves,
}  # fmt: skip


# ---- colours, which say nothing of the class


def _palette(rng: Rng) -> npt.NDArray[np.float32]:
    """(256, 3): a way through two to five random colours, smooth or in steps."""
    stops = rng.random((int(rng.integers(2, 6)), 3))
    if rng.random() < 0.4:  # shades of one colour
        stops = stops[:1] * 0.7 + 0.3 * rng.random((1, 1)) + (np.linspace(-0.5, 0.5, len(stops))[:, None] * rng.choice([-1, 1]))
    at = np.linspace(0, len(stops) - 1, 256)
    if rng.random() < 0.2:
        at = np.round(at)
    low = np.minimum(at.astype(np.int64), len(stops) - 2)
    share = (at - low)[:, None]
    return (stops[low] * (1 - share) + stops[low + 1] * share).clip(0, 1).astype(np.float32)


def _coloured(field: Field, mask: Field, rng: Rng) -> npt.NDArray[np.uint8]:
    """(side, side, 3): the figure in a palette of its own, before a background of another where it does not cover."""
    side = len(field)
    picture = _palette(rng)[(field * 255).astype(np.int64)]
    if mask.min() < 1:
        behind, _ = _noise(np.random.default_rng(rng.integers(2**31)), rng, side)
        calm = rng.uniform(0, 0.5)
        ground = _palette(rng)[((0.5 + calm * (behind - 0.5)) * 255).astype(np.int64)]
        picture = picture * mask[..., None] + ground * (1 - mask[..., None])
    if rng.random() < 0.5:  # light from one side
        slope = np.linspace(*rng.uniform(0.5, 1.2, 2), side, dtype=np.float32)
        picture = picture * (slope[:, None, None] if rng.random() < 0.7 else slope[None, :, None])
    picture = picture + rng.standard_normal((side, side, 1), np.float32) * np.float32(rng.uniform(0, 0.03))
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)
