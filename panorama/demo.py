"""A demo data set that the project draws itself: landscapes with five labels, and the errors annotators make.

Every picture is a small world seen by a camera: a height field in polar coordinates (distance x azimuth), so that
ranges hide ranges, dunes cast shadows and the sea reaches the horizon by geometry and not by art. The order of work is
`_compose` (what is where) -> `_relief` (heights) -> `_project` (what is seen) -> `_paint_sky`, `_paint_land`,
`_paint_water` -> `_plant` (trees) -> `_develop` (the picture).
Colours are linear light (sRGB squared) until `_develop`. Distances and heights are in kilometres, angles in radians.
"""

import csv
import functools
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from panorama.errors import PanoramaError

DEMO_LABELS: tuple[str, ...] = ("desert", "mountains", "sea", "sunset", "trees")
DRAWING_VERSION = 1  # raise it whenever the pixels or the planted errors of a given seed change

Array = npt.NDArray[np.floating[Any]]
Rgb = npt.NDArray[np.floating[Any]]  # (3,) or (..., 3), linear light

_TILE = 512  # side of the periodic noise tiles
_LEAVES = 2048  # points in a tree's template
_ATTEMPTS = 8  # compositions tried until every label can be seen


def _rgb(code: str) -> Rgb:
    return (np.frombuffer(bytes.fromhex(code), np.uint8).astype(np.float32) / 255) ** 2


def _smooth(low: float, high: float, x: Array) -> Array:
    t: Array = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(a: Array, b: Array, t: Array) -> Array:
    """`t` is (...,) and the colours (..., 3) or (3,)."""
    return a + (b - a) * t[..., None]


# ---- noise


@functools.cache
def _noise_tile(kind: str) -> Array:
    """(512, 512) periodic noise with mean 0 and deviation 1: `fractal`, `soft`, `cells` or `ridged` (crests up)."""
    rng = np.random.default_rng(sum(kind.encode()))
    fy, fx = np.fft.fftfreq(_TILE)[:, None] * _TILE, np.fft.rfftfreq(_TILE)[None] * _TILE
    frequency = np.maximum(np.hypot(fy, fx), 1)
    spectrum = {
        "fractal": np.where(frequency < 3, 0.2, 1) * frequency**-2.0,
        "soft": np.exp(-(((frequency - 5) / 3.5) ** 2)) * frequency**-1.0,
        "cells": np.exp(-(((frequency - 48) / 22) ** 2)) * frequency**-0.5,
        "ridged": np.exp(-(((frequency - 4) / 2.5) ** 2)) * frequency**-1.2,
    }[kind]
    phases = rng.normal(size=spectrum.shape) + 1j * rng.normal(size=spectrum.shape)
    tile = np.fft.irfft2(spectrum * phases, s=(_TILE, _TILE))
    tile /= tile.std()
    if (
        kind == "ridged"
    ):  # octaves of folded noise, each strong only where the one before is high: crests branch, valleys stay calm
        step, total, weight = np.arange(_TILE), np.zeros_like(tile), np.ones_like(tile)
        for octave in range(6):
            at = (step * 2**octave + 67 * octave) % _TILE
            fold = np.clip(1 - np.abs(tile[np.ix_(at, at)]) / 1.9, 0, 1) ** 1.5
            total += fold * weight * 0.42**octave
            weight = np.clip(fold * weight * 1.7, 0, 1)
        tile = (total - total.mean()) / total.std()
    return np.ascontiguousarray(tile, np.float32)


def _noise(kind: str, u: Array, v: Array) -> Array:
    """The tile at (u, v), bilinear; one unit is one period."""
    tile = _noise_tile(kind).ravel()
    x, y = u * np.float32(_TILE), v * np.float32(_TILE)
    x0, y0 = np.floor(x), np.floor(y)
    tx, ty = x - x0, y - y0
    i, j = x0.astype(np.int32) & (_TILE - 1), (y0.astype(np.int32) & (_TILE - 1)) * _TILE
    i1, j1 = (i + 1) & (_TILE - 1), (j + _TILE) & (_TILE * _TILE - 1)
    top, bottom = tile.take(j + i), tile.take(j1 + i)
    top += (tile.take(j + i1) - top) * tx
    bottom += (tile.take(j1 + i1) - bottom) * tx
    mixed: Array = top + (bottom - top) * ty
    return mixed


# ---- composition


@dataclass(frozen=True)
class _Part:
    """The share of the picture's width that a label takes: soft window around `centre`, in azimuth."""

    centre: float
    half_width: float

    @property
    def is_whole(self) -> bool:
        return self.half_width > 50

    def window(self, azimuth: Array, r: Array, origin: float) -> Array:
        """(n_distances, width) in 0..1; the borders wander with the distance, as shores and edges of woods do."""
        if self.is_whole:
            return np.ones((len(r), len(azimuth)), np.float32)
        away = np.log(r)
        wander = _noise("soft", away * 0.16 + np.float32(origin), azimuth * 0.16 + np.float32(origin) + 0 * away)
        lean = np.float32(0.35 * np.sin(40 * origin)) * (away + 0.9)
        offset = np.abs(azimuth - np.float32(self.centre) + self.half_width * (0.22 * wander + lean))
        return 1 - _smooth(self.half_width * 0.55, self.half_width * 1.45, offset)


@dataclass(frozen=True)
class _Scene:
    """Everything that was chosen before anything is drawn."""

    labels: frozenset[str]
    small: frozenset[str]
    width: int
    height: int
    horizon: float  # row
    focal: float  # pixels a radian
    eye: float  # camera over the ground, km
    parts: dict[str, _Part]
    dusk: float  # 0 = day, 1 = blazing
    sun_azimuth: float
    sun_elevation: float
    season: str
    visibility: float  # km
    origin: tuple[float, ...]  # offsets into the noise tiles: another world each time

    @property
    def azimuth(self) -> Array:
        return ((np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2) / self.focal).astype(np.float32)

    def has(self, label: str) -> bool:
        return label in self.labels

    def is_small(self, label: str) -> bool:
        return label in self.small


def _compose(labels: frozenset[str], small: frozenset[str], size: tuple[int, int], rng: np.random.Generator) -> _Scene:
    width, height = size
    focal = height * rng.uniform(1.0, 1.35) if height <= width else width * rng.uniform(1.1, 1.4)
    half_view = width / focal / 2
    dusk = 0.0
    if "sunset" in labels:
        dusk = rng.uniform(0.5, 0.62) if "sunset" in small else rng.uniform(0.72, 1.0)
    sun_in_view = bool(dusk) and "sunset" not in small and rng.random() < 0.75
    if sun_in_view:
        sun_azimuth, sun_elevation = rng.uniform(-0.75, 0.75) * half_view, rng.uniform(0.015, 0.11)
    elif dusk:
        sun_azimuth, sun_elevation = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0) * half_view, rng.uniform(-0.02, 0.03)
    else:
        sun_azimuth, sun_elevation = rng.choice([-1, 1]) * rng.uniform(0.9, 2.1), rng.uniform(0.3, 0.95)
    dry = "desert" in labels
    is_high = dry or "sea" in small or ("trees" in labels and bool({"sea", "mountains"} & labels))  # look over the trees
    if dry and not dusk:
        sun_elevation = rng.uniform(0.22, 0.5)  # dunes live on low light
    low, high = 0.36, 0.62
    if "mountains" in labels and "mountains" not in small:
        low, high = 0.5, 0.68
    if "sea" in small or "desert" in small:
        low, high = 0.38, 0.5
    parts = {label: _part(label in small, width / height, half_view, rng) for label in DEMO_LABELS}
    if {"sea", "mountains"} <= labels and (not parts["sea"].is_whole or rng.random() < 0.75):
        side = -np.sign(parts["sea"].centre) or rng.choice([-1, 1])  # leave the sea an open horizon: no lake is meant
        reach = 0.3 if "mountains" in small else rng.uniform(0.5, 0.75)
        parts["mountains"] = _Part(float(side * half_view * rng.uniform(0.5, 0.9)), half_view * reach)
    if "desert" in small:
        parts["desert"] = replace(parts["desert"], centre=float(rng.choice([-1, 1]) * rng.uniform(0.7, 1.0) * half_view))
    return _Scene(
        labels=labels,
        small=small,
        width=width,
        height=height,
        horizon=height * rng.uniform(low, high),
        focal=focal,
        eye=rng.uniform(0.03, 0.06) if is_high else rng.uniform(0.012, 0.035),
        parts=parts,
        dusk=dusk,
        sun_azimuth=float(sun_azimuth),
        sun_elevation=float(sun_elevation),
        season=str(
            rng.choice(["spring", "summer", "autumn", "winter"], p=[0.3, 0.4, 0.3, 0] if dry else [0.29, 0.35, 0.22, 0.14])
        ),
        visibility=float(np.exp(rng.uniform(np.log(16 if "mountains" in labels else 9), np.log(75)))),
        origin=tuple(rng.uniform(0, 100, 12).tolist()),
    )


def _part(is_small: bool, aspect: float, half_view: float, rng: np.random.Generator) -> _Part:
    if is_small:
        half_width = half_view * rng.uniform(0.22, 0.34) * (0.75 if aspect > 2 else 1)
    elif aspect > 2 and rng.random() < 0.6:  # in a panorama a label may sit in one part only
        half_width = half_view * rng.uniform(0.35, 0.6)
    else:
        return _Part(0.0, 100.0)
    return _Part(float(rng.choice([-1, 1]) * rng.uniform(0.15, 0.95) * (half_view - half_width * 0.6)), half_width)


# ---- heights


@dataclass(frozen=True)
class _Land:
    """The ground on the polar grid; arrays are (n_distances, width), near first."""

    distance: Array  # (n_distances,)
    x: Array
    z: Array
    height: Array  # over the sea, which is 0
    shore: Array  # > 0 land, < 0 sea, about km to the shore line
    sand: Array  # 0..1
    range: Array  # 0..1, belongs to the mountains
    forest: Array  # 0..1, canopy too far to draw trees


def _distances(scene: _Scene) -> Array:
    """Sampled evenly on the screen where the ground is flat, and evenly in log distance for what stands up behind."""
    below = scene.height - scene.horizon + 8
    rows = np.arange(below, 1.5, -1.5)
    near = scene.focal * scene.eye / below
    flat = scene.focal * scene.eye / rows
    behind = np.geomspace(max(near, 0.3), 42, 110)
    relief = np.geomspace(2.5, 24, 210) if scene.has("mountains") else behind[:0]  # slices coarser than a crag draw curtains
    return np.sort(np.concatenate([flat, behind, relief])).astype(np.float32)


def _relief(scene: _Scene, rng: np.random.Generator) -> _Land:
    distance, azimuth, o = _distances(scene), scene.azimuth, scene.origin
    r = distance[:, None]
    x, z = r * np.sin(azimuth), r * np.cos(azimuth)
    zero = np.zeros_like(x)
    roll = rng.uniform(0.006, 0.02)
    ground = _noise("soft", x / 9 + o[0], z / 9 + o[1]) * (roll * np.minimum(r, 4)) * _smooth(0.05, 0.6, r)
    ground += _noise("soft", x / 45 + o[2], z / 45 + o[3]) * (roll * np.minimum(r, 12)) * _smooth(1, 6, r)
    ground += _noise("fractal", x / 0.9 + o[1], z / 0.9 + o[2]) * (0.004 * np.minimum(r, 0.6))
    sand = _sand(scene, x, z, r) if scene.has("desert") else zero
    if scene.has("desert"):
        ground = ground * (1 - 0.8 * sand) + _dunes(scene, x, z, r, rng) * sand
    shore = _shore(scene, x, z, r, rng) if scene.has("sea") else zero + 1
    if scene.has("sea"):
        beach = np.clip(shore / (0.08 + 0.35 * r), 0, 1)
        ground = (np.maximum(ground, -0.3 * scene.eye) + 0.0035 * np.minimum(r, 4)) * beach + np.minimum(shore, 0) * 0.1
        ground = np.where(shore > 0, np.maximum(ground, 0.0004), np.minimum(ground, -0.0004))
    else:
        ground = np.maximum(ground, -0.6 * scene.eye * _smooth(0, 0.5, r))
    mountain = zero
    if scene.has("mountains"):
        peaks = _peaks(scene, x, z, r, rng)
        mountain = _smooth(0.08, 0.3, peaks)
        ground = np.where(peaks > 0.01, np.maximum(ground, 0) + peaks, ground)
        sand = sand * (1 - mountain)
        shore = np.where(peaks > 0.05, np.maximum(shore, 0.5), shore)
    forest = zero
    if scene.has("trees"):
        patches = _noise("soft", x / 2.2 + o[3], z / 2.2 + o[4]) + 0.5 * _noise("fractal", x + o[4], z + o[5])
        forest = _smooth(-0.5, 0.1, patches) * _smooth(0.25, 0.55, r) * scene.parts["trees"].window(azimuth, r, o[3])
        forest = forest * (shore > 0.05) * (1 - sand) * (1 - _smooth(0.35, 0.9, ground))
        if scene.is_small("trees"):
            forest = forest * (1 - _smooth(1.2, 2.0, r))
        canopy = _noise("cells", x / 0.9 + o[5], z / 0.9 + o[6])
        ground = ground + forest * (0.012 + 0.006 * canopy)
    return _Land(distance, x, z, ground.astype(np.float32), shore, sand, mountain, forest)


def _sand(scene: _Scene, x: Array, z: Array, r: Array) -> Array:
    o = scene.origin
    window = scene.parts["desert"].window(scene.azimuth, r, o[6])
    edge = 0.35 * _noise("fractal", x / 1.5 + o[6], z / 1.5 + o[7])
    if scene.is_small("desert"):
        reach = _smooth(0.09, 0.16, r)
        return _smooth(0.3, 0.6, window * reach + 0.25 * edge * window)
    return _smooth(0.3, 0.7, window + 0.35 * edge) if not scene.parts["desert"].is_whole else np.ones_like(x)


def _dunes(scene: _Scene, x: Array, z: Array, r: Array, rng: np.random.Generator) -> Array:
    """Long windward slopes, short steep lee sides, sharp winding crests, at two scales."""
    o, wind = scene.origin, rng.uniform(-0.9, 0.9)
    lee = np.float32(-np.sign(scene.sun_azimuth))  # the steep sides lie in the shade: that is what makes a dune readable
    across = lee * (x * np.float32(np.cos(wind)) + z * np.float32(np.sin(wind)))
    total = np.zeros_like(x)
    crest = 0.68
    for scale, steep, far in ((rng.uniform(0.16, 0.3), 0.17, 3.0), (rng.uniform(0.7, 1.3), 0.10, 12.0)):
        bend = _noise("soft", x / (scale * 30) + o[7], z / (scale * 30) + o[8])
        phase = across / scale + 0.7 * bend
        s = phase - np.floor(phase)
        profile = np.where(s < crest, (s / crest) ** 1.5, ((1 - s) / (1 - crest)) ** 1.15)
        swell = 0.65 + 0.45 * np.clip(_noise("soft", x / (scale * 18) + o[9], z / (scale * 18) + o[7]), -1.2, 1.5)
        reach = _smooth(scale * 0.15, scale * 1.1, r) * (1 - _smooth(far * 0.5, far, r))
        total += profile * swell * reach * np.float32(steep * scale)
    return total


def _shore(scene: _Scene, x: Array, z: Array, r: Array, rng: np.random.Generator) -> Array:
    """Signed: > 0 on land, < 0 at sea, in kilometres near the line."""
    o = scene.origin
    shore: Array
    wiggle = _noise("fractal", x / 2.5 + o[8], z / 2.5 + o[9])
    window = scene.parts["sea"].window(scene.azimuth, r, o[8])
    if scene.is_small("sea"):
        start = rng.uniform(0.22, 0.4)
        shore = np.maximum((start - r) * 0.8, (0.5 - window) * np.minimum(r, 3))
        return shore + 0.03 * wiggle * np.minimum(r, 1)
    if window.min() < 0.5:
        shore = np.maximum(rng.uniform(0.03, 0.16) - r, (0.5 - window) * np.minimum(r, 3))
        return shore + 0.04 * wiggle * np.minimum(r, 1)
    if rng.random() < 0.35 and not scene.labels & {"trees", "desert"}:
        return np.full_like(x, -0.5)  # the open sea
    tilt, start = rng.uniform(-0.75, 0.75), rng.uniform(1.6, 5) * scene.eye
    if scene.labels & {"trees", "desert"}:
        tilt, start = rng.choice([-1, 1]) * rng.uniform(0.55, 0.95), rng.uniform(3, 7) * scene.eye
    shore = start - z * np.float32(np.cos(tilt)) - x * np.float32(np.sin(tilt))
    return np.clip(shore, -1, 1) + np.float32(0.03) * wiggle * np.minimum(r * 3, 1)


def _peaks(scene: _Scene, x: Array, z: Array, r: Array, rng: np.random.Generator) -> Array:
    o, is_small = scene.origin, scene.is_small("mountains")
    start = rng.uniform(7, 12) if is_small else rng.uniform(3.2, 7)
    angle = rng.uniform(0.1, 0.15) if is_small else rng.uniform(0.16, 0.36)
    period = rng.uniform(22, 34)
    warp = _noise("soft", x / 20 + o[10], z / 20 + o[11])
    crests = _noise("ridged", x / period + o[9] + 0.04 * warp, z / period + o[10])
    bulk = _noise("soft", x / 24 + o[11], z / 24 + o[0])
    crags = _noise("ridged", x / (period / 7) + o[2], z / (period / 7) + o[3])
    shape = np.clip(0.5 + 0.34 * crests + 0.22 * bulk, 0, None)
    shape = shape * (0.97 + 0.06 * crags)
    reach = _smooth(start * 0.65, start * 1.35, r) * (1 - _smooth(26, 38, r))
    peaks: Array = shape * reach * scene.parts["mountains"].window(scene.azimuth, r, o[9]) * np.float32(angle * start)
    return peaks


# ---- light and sky

_DAYS = (  # zenith, horizon, how much direct sun
    ("3569b0", "c3daec", 1.0),
    ("2a5ea6", "dbe8f0", 1.0),
    ("4f86c2", "e4e6de", 0.9),
    ("4a86c8", "f3e3cc", 0.95),
    ("5d7fa0", "e9d9c4", 0.8),
    ("6e93bb", "d9dee2", 0.65),
    ("7f8c99", "c3c8cc", 0.35),
)
_DUSKS = (  # zenith, middle, horizon away from the sun, horizon under the sun, light
    ("26386c", "a4608c", "dd8470", "ffb648", "ff9a50"),
    ("1d2c54", "6b5690", "d8705f", "ff9338", "ff8240"),
    ("3a588c", "c88f96", "f0a878", "ffd070", "ffb060"),
    ("2a2444", "8c3e58", "da4c38", "ff7a26", "ff6a30"),
    ("31406e", "b86a6a", "f08a50", "ffc850", "ff9c48"),
)


@dataclass(frozen=True)
class _Light:
    zenith: Rgb
    middle: Rgb
    away: Rgb
    under: Rgb
    sun: Rgb
    ambient: Rgb
    haze: Rgb  # (width, 3), what distance fades to
    grade: float  # exposure


def _light(scene: _Scene, rng: np.random.Generator) -> _Light:
    zenith_code, horizon_code, direct = _DAYS[rng.integers(4 if scene.has("desert") else len(_DAYS))]
    zenith, away = _rgb(zenith_code), _rgb(horizon_code)
    middle, under = away * 0.55 + zenith * 0.45, away * 1.05
    sun = np.float32(direct * 1.65) * _rgb(str(rng.choice(["fff6e8", "fff0d8", "ffe9c8"])))
    ambient = zenith * 0.35 + away * np.float32(0.36 + 0.42 * (1 - direct))
    if scene.dusk:
        d = np.float32(scene.dusk)
        warm = [_rgb(code) for code in _DUSKS[rng.integers(len(_DUSKS))]]
        zenith, middle = zenith * 0.75 * (1 - d) + warm[0] * d, middle * 0.8 * (1 - d) + warm[1] * d
        away, under = away * 0.8 * (1 - d) + warm[2] * d, away * 0.4 * (1 - d) + warm[3] * (0.25 + 0.75 * d)
        sun = sun * (1 - d) * 0.5 + warm[4] * 0.95 * d
        ambient = (zenith * 0.9 + middle * 0.2 + away * 0.12 + 0.05) * np.float32(1.0 - 0.4 * d)
    near_sun = _near_sun(scene, scene.azimuth)
    haze = _mix(away, under, near_sun * 0.85) * np.float32(0.97)
    zenith, middle, away, under, sun, ambient, haze = (
        colour.astype(np.float32) for colour in (zenith, middle, away, under, sun, ambient, haze)
    )
    return _Light(zenith, middle, away, under, sun, ambient, haze, rng.uniform(0.94, 1.08))


def _near_sun(scene: _Scene, azimuth: Array) -> Array:
    near: Array = np.exp(-(((azimuth - np.float32(scene.sun_azimuth)) / np.float32(0.55)) ** 2))
    return near


def _paint_sky(scene: _Scene, light: _Light, rng: np.random.Generator) -> tuple[Rgb, Array]:
    """The sky, (height, width, 3); and the sun's disc behind its clouds, (height, width) in 0..1."""
    rise = np.maximum((scene.horizon - np.arange(scene.height, dtype=np.float32))[:, None] / scene.focal, 0)  # elevation
    azimuth = scene.azimuth[None]
    low, high = np.exp(-rise / 0.13), _smooth(0.12, 0.55, rise)
    sky: Rgb = _mix(light.middle, light.haze[None], low) + (light.zenith - light.middle) * high[..., None]
    if scene.dusk:
        distance = np.hypot((azimuth - scene.sun_azimuth) * 0.75, rise - scene.sun_elevation)
        glow = np.exp(-distance / 0.16) * 0.75 + np.exp(-distance / 0.04) * 0.6
        sky = sky + light.under * (glow * np.float32(scene.dusk**2))[..., None]
    sky, clouds = _paint_clouds(scene, light, sky.astype(np.float32), rise, rng)
    up = (scene.horizon - np.arange(scene.height, dtype=np.float32))[:, None] / scene.focal
    disc = 1 - _smooth(0.026, 0.031, np.hypot(azimuth - scene.sun_azimuth, up - scene.sun_elevation))
    return sky, disc * (1 - 0.85 * clouds) if scene.dusk else np.zeros_like(disc)


def _paint_clouds(scene: _Scene, light: _Light, sky: Rgb, rise: Array, rng: np.random.Generator) -> tuple[Rgb, Array]:
    """The sky with clouds on a plane overhead, and how much of it they cover, (height, width) in 0..1."""
    covered = np.zeros(sky.shape[:2], np.float32)
    cover = rng.choice([0.0, rng.uniform(0.25, 0.5), rng.uniform(0.5, 0.8)], p=[0.2, 0.45, 0.35])
    if scene.dusk:
        cover = rng.uniform(0.35, 0.75)
    if not cover:
        return sky, covered
    o, top = scene.origin, int(min(scene.horizon, scene.height)) + 1
    up, azimuth = rise[:top] + 0.07, scene.azimuth[None]
    style = rng.choice(["heaps", "streaks"], p=[0.6, 0.4])
    wide, deep = (0.15, 0.2) if style == "heaps" else (0.06, 0.3)
    u, v = azimuth / up * wide + o[2], 1 / up * deep * np.ones_like(azimuth) + o[3]
    body = _noise("fractal", u, v)
    towards = np.sign(scene.sun_azimuth) * 0.010
    lit_side = body - _noise("fractal", u + np.float32(towards), v - np.float32(0.006))
    edge = 1.3 - 2.2 * cover
    alpha = _smooth(edge, edge + (0.9 if style == "heaps" else 1.6), body) * _smooth(0.0, 0.05, rise[:top]) * 0.92
    thick = _smooth(edge + 0.5, edge + 2.0, body)
    if scene.dusk:
        near = _near_sun(scene, scene.azimuth)[None] * 0.7 + 0.3
        bright = _mix(light.away, light.under * 1.15, near) * np.float32(1.0)
        dark = light.zenith * 0.6 + light.middle * 0.35
        tone = np.clip(0.75 - 0.75 * thick + 0.5 * lit_side - 0.55 * rise[:top], 0, 1)
    else:
        bright, dark = light.sun * 0.55 + 0.42 + 0.0 * light.haze[None], light.away * 0.55 + light.zenith * 0.18
        tone = np.clip(0.85 - 0.55 * thick + 0.9 * lit_side, 0, 1)
    sky[:top] = _mix(sky[:top], _mix(dark, bright, tone), alpha)
    covered[:top] = alpha
    return sky, covered


# ---- ground

_MEADOWS = {
    "spring": ("74894e", "8c9c58", "667d48"),
    "summer": ("76804e", "a09a62", "838852"),
    "autumn": ("8c8250", "7a7a48", "9a8a58"),
    "winter": ("dfe4ea", "e8ebee", "c9cfd6"),
}
_SANDS = ("e2b76e", "db9c58", "e8c484", "d0824a", "e4bb7c")
_ROCKS = ("827c78", "8f8478", "747b86", "978a7c")
_DRY_ROCKS = ("9a6a50", "8c6450", "a57a5c")


def _paint_land(scene: _Scene, land: _Land, light: _Light, rng: np.random.Generator) -> Rgb:
    """(n_distances, width, 3): material, sun, shadow, sky light and haze."""
    o, r, x, z = scene.origin, land.distance[:, None], land.x, land.z
    mottle = _noise("fractal", x / 0.7 + o[4], z / 0.7 + o[3])
    fine = _noise("fractal", x / 0.06 + o[5], z / 0.06 + o[1]) * np.exp(-r / 0.5)
    slope_x, slope_z = _slopes(scene, land)
    one, two, three = (_rgb(code) for code in _MEADOWS[scene.season])
    colour = _mix(_mix(one, two, _smooth(-1, 1, mottle)), three, _smooth(0.2, 1.6, fine))
    if scene.has("mountains"):
        colour = _mix(colour, _rock(scene, land, mottle, slope_x, slope_z, rng), _smooth(0.05, 0.5, land.range))
    if scene.has("sea"):
        strand = _rgb(str(rng.choice(["8a8070", "b8a684", "77756e", "a39a84"])))
        beach = (1 - _smooth(0.012, 0.05, land.shore + 0.01 * mottle)) * (1 - land.range)
        colour = _mix(colour, strand, beach * (1 - land.sand))
    if scene.has("desert"):
        sand = _rgb(str(rng.choice(_SANDS)))
        ripples = np.sin((x * 0.8 + z * 0.6) * np.float32(900) + 2.5 * mottle + 3 * fine) * np.exp(-r / 0.09)
        slope_x = slope_x + np.float32(0.12) * ripples * land.sand
        sand_colour = sand * (1 + np.float32(0.025) * np.clip(mottle + fine, -2, 2))[..., None]
        colour = _mix(colour, sand_colour, land.sand)
    if scene.has("trees"):
        leaf = _leaf_colours(scene, 1, rng)[0] * 0.75
        tint = 1 + 0.22 * np.clip(_noise("cells", x / 0.5 + o[7], z / 0.5 + o[2]), -2, 2)
        colour = _mix(colour, leaf * tint[..., None], land.forest)
    blades = _noise("cells", x / 0.06 + o[2], z / 0.06 + o[6]) * np.exp(-r / 0.08)
    tufts = _noise("cells", x / 0.5 + o[8], z / 0.5 + o[0]) * np.exp(-r / 0.6)
    bare = 1 - 0.8 * np.maximum(land.sand, land.range)
    colour = colour * np.clip(1 + (0.10 * fine * bare + (0.13 * blades + 0.12 * tufts) * bare), 0.4, 1.7)[..., None]
    if scene.season in ("spring", "summer") and rng.random() < 0.35:
        flower = _rgb(str(rng.choice(["e8c83a", "d8502e", "b48ad0", "f2eee0"])))
        colour = _mix(
            colour,
            flower,
            _smooth(1.1, 1.7, blades * 1.6 + 0.6 * mottle) * (1 - np.maximum(land.sand, land.range)) * 0.8,
        )
    lit = _sunlight(scene, land, slope_x, slope_z)
    sky_light = 0.75 + 0.25 / np.sqrt(1 + slope_x**2 + slope_z**2)
    colour = colour * (light.ambient * sky_light[..., None] + light.sun * lit[..., None])
    mist = np.float32(1 / scene.visibility) * (0.55 + 0.9 * np.exp(-np.maximum(land.height, 0) / np.float32(0.25)))
    return _mix(colour, light.haze[None], 1 - np.exp(-r * mist)).astype(np.float32)


def _slopes(scene: _Scene, land: _Land) -> tuple[Array, Array]:
    r, ground = land.distance, np.maximum(land.height, 0)
    across = np.gradient(ground, axis=1) * (scene.focal / r)[:, None]
    gaps = np.maximum(np.diff(r), 1e-5)[:, None]
    away = np.concatenate([np.diff(ground, axis=0) / gaps, np.zeros_like(ground[:1])])
    away[1:] = (away[1:] + away[:-1]) / 2
    return np.clip(across, -4, 4).astype(np.float32), np.clip(away, -4, 4).astype(np.float32)


def _sunlight(scene: _Scene, land: _Land, slope_x: Array, slope_z: Array) -> Array:
    """The cosine to the sun, 0 in shadows: those are a running maximum along the arcs that the sun looks along."""
    turn = np.float32(scene.sun_azimuth) - scene.azimuth[None]
    elevation = max(scene.sun_elevation, 0.12)  # refraction and a bright sky: a sun on the horizon still models the land
    flat, up = np.float32(np.cos(elevation)), np.float32(np.sin(elevation))
    towards = (up - slope_x * np.sin(turn) * flat - slope_z * np.cos(turn) * flat) / np.sqrt(1 + slope_x**2 + slope_z**2)
    side = 1.0 if scene.sun_azimuth > 0 else -1.0
    ray = np.maximum(land.height, 0) + np.float32(side * np.tan(elevation)) * land.distance[:, None] * scene.azimuth[None]
    pad = scene.width // 4  # what stands outside the frame casts shadows too: mirror the frame's edge
    step = np.float32(side * np.tan(elevation)) * land.distance[:, None] / np.float32(scene.focal)
    edge = ray[:, -pad:][:, ::-1] if side > 0 else ray[:, :pad][:, ::-1]
    ramp = np.arange(pad, dtype=np.float32) * 2 + 1
    if side > 0:
        wide = np.concatenate([ray, edge + step * ramp], axis=1)
        crest = np.maximum.accumulate(wide[:, ::-1], axis=1)[:, ::-1][:, : scene.width]
    else:
        wide = np.concatenate([edge - step * ramp[::-1], ray], axis=1)
        crest = np.maximum.accumulate(wide, axis=1)[:, pad:]
    shadow = np.clip((crest - ray) / (0.0015 + 0.004 * land.distance[:, None]), 0, 1) * np.abs(np.sin(turn))
    lit: Array = np.clip(towards, 0, None) * (1 - 0.9 * shadow)
    return lit


def _rock(scene: _Scene, land: _Land, mottle: Array, slope_x: Array, slope_z: Array, rng: np.random.Generator) -> Rgb:
    dry = scene.has("desert") or (scene.season == "summer" and rng.random() < 0.3)
    rock = _rgb(str(rng.choice(_DRY_ROCKS if dry else _ROCKS)))
    steep = np.hypot(slope_x, slope_z)
    top = max(float(land.height.max()), 0.1)
    level = land.height / np.float32(top) + 0.06 * mottle
    bands = 1 + 0.12 * np.sin(land.height * np.float32(22) + 2 * mottle)
    colour: Rgb = rock * bands[..., None]
    if not dry:
        grass = _rgb(_MEADOWS[scene.season][0]) * 0.8
        colour = _mix(grass, colour, _smooth(0.12, 0.4, level + 0.18 * steep))
    line = rng.uniform(0.75, 1.2) if dry else {"winter": 0.1}.get(scene.season, rng.uniform(0.2, 0.6))
    snow = _smooth(line, line + 0.16, level - 0.14 * steep + 0.1)
    return _mix(colour, _rgb("f4f7fb"), snow)


# ---- from the world to the screen


@dataclass(frozen=True)
class _View:
    """What the camera sees, at twice the height so that ridge lines are smooth."""

    row: Array  # (n_distances, width) the screen row of each ground point, in full-size pixels
    index: npt.NDArray[np.int32]  # (2 * height, width) the first ground sample at or above the pixel; n_distances = sky
    share: Array  # (2 * height, width) how far from the sample before to it


def _project(scene: _Scene, land: _Land) -> _View:
    """A pixel shows the first ground that rises to it: the count of the samples that stay below (a histogram)."""
    n, width = land.height.shape
    rows = 2 * scene.height
    surface = np.maximum(land.height, 0)
    row = (scene.horizon - scene.focal * (surface - np.float32(scene.eye)) / land.distance[:, None]).astype(np.float32)
    line = np.minimum.accumulate(row, axis=0) * 2
    cell = np.clip(np.ceil(line), 0, rows).astype(np.int64) * width + np.arange(width)
    counts = np.bincount(cell.ravel(), minlength=(rows + 1) * width).reshape(rows + 1, width)
    below = np.cumsum(counts[::-1], axis=0)[::-1]  # samples whose line is at this row or under it
    index = below[1:].astype(np.int32)  # strictly under the pixel
    flat = np.clip(index, 1, n - 1) * width + np.arange(width, dtype=np.int32)
    far, near = row.ravel().take(flat), row.ravel().take(flat - width)
    y = np.arange(rows, dtype=np.float32)[:, None] / 2
    share = np.clip((near - y) / np.maximum(near - far, 1e-3), 0, 1)
    return _View(row, index, np.where(index == 0, 0, share).astype(np.float32))


def _look(view: _View, values: Array) -> Array:
    """(n_distances, width, channels) of the ground on the screen: (height, width, channels + 1), the last coverage."""
    n, width, channels = values.shape
    flat = (np.clip(view.index, 1, n - 1) * width + np.arange(width, dtype=np.int32)).ravel()
    table = values.reshape(n * width, channels)
    near, far = table.take(flat - width, axis=0), table.take(flat, axis=0)
    near += (far - near) * view.share.reshape(-1, 1)
    covered = (view.index < n).astype(np.float32).reshape(-1, 1)
    picture = np.concatenate([near * covered, covered], axis=1).reshape(-1, 2, width, channels + 1)
    seen: Array = (picture[:, 0] + picture[:, 1]) / 2
    return seen


def _paint_water(scene: _Scene, light: _Light, picture: Rgb, water: Array, rng: np.random.Generator) -> Rgb:
    """Sky and coast mirrored in moving water, its own colour where one looks down into it, glitter under the sun."""
    top = max(int(scene.horizon) - 1, 0)
    drop = np.maximum(np.arange(top, scene.height, dtype=np.float32) - scene.horizon, 0)[:, None] + 0.3
    columns = np.arange(scene.width)
    o = scene.origin
    scale = drop + 5
    rough = rng.uniform(0.5, 1.3)
    u, v = (
        (columns[None] - scene.width / 2).astype(np.float32) / scale * 0.035 + o[6],
        np.log(scale) * 0.9 + o[7] + 0 * columns,
    )
    swell = _noise("fractal", u.astype(np.float32), v.astype(np.float32))
    chop = _noise("cells", (u * 1.3).astype(np.float32), (v * 1.0).astype(np.float32))
    wave = swell * 0.6 + chop * 0.6
    seen = np.zeros((*wave.shape, 3), np.float32)
    for tap in (0.1, 0.6, 1.3, 2.2):  # waves tilt the mirror up: it draws what stands on the shore out towards us
        mirror = scene.horizon - drop - tap * (1 + 0.8 * wave) * rough * (3 + 0.10 * drop)
        mirror = np.clip(mirror, 0, max(scene.horizon - 1, 0)).astype(np.int64)
        seen += picture.reshape(-1, 3).take((mirror * scene.width + columns).ravel(), axis=0).reshape(seen.shape) / 4
    look_down = np.clip(drop / scene.focal, 0, 1)
    fresnel = np.clip(0.12 + 0.8 * (1 - look_down) ** 7 - 0.16 * rough * wave, 0.05, 0.92)
    deep = _rgb(str(rng.choice(["1d5a78", "17506a", "2a7d8a", "23607f", "2f6f7a", "1f4a63"])))
    body = deep * (light.ambient * 1.3 + light.sun * 0.45)
    sea = _mix(body * (1 + 0.25 * wave)[..., None], seen * np.float32(0.94), fresnel)
    azimuth = scene.azimuth[None]
    if scene.dusk:
        spread = 0.05 + 0.10 * look_down
        path = np.exp(-(((azimuth - np.float32(scene.sun_azimuth)) / spread) ** 2))
        sea = sea + light.under * (path * _smooth(-0.3, 1.4, wave) * 1.1)[..., None]
    else:
        sea = sea + light.sun * (_smooth(1.5, 3.0, wave) * 0.16 * _smooth(0, 25, drop))[..., None]
    caps = _smooth(1.7, 2.6, chop + 0.35 * swell) * _smooth(3, 30, drop) * np.float32(max(rough - 0.7, 0))
    sea = _mix(sea, (light.ambient + light.sun * 0.8) * 0.9, np.clip(caps, 0, 0.6))
    out = picture.copy()
    out[top:] = _mix(picture[top:], sea.astype(np.float32), water[top:])
    return out


# ---- trees

_SPECIES = ("spruce", "fir", "oak", "lime", "poplar", "pine", "bush", "palm")


@functools.cache
def _tree_templates() -> Array:
    """(n_species * 4, 2048, 6): x, y in tree heights, normal x, y, z, and the light that reaches it (-1 = wood)."""
    rng = np.random.default_rng(7)
    return np.stack([_tree_template(name, rng) for name in _SPECIES for _ in range(4)]).astype(np.float32)


def _tree_template(name: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    n = _LEAVES
    wood = {"spruce": 60, "fir": 60, "palm": 420, "pine": 420, "bush": 20}.get(name, 300)
    leaves = n - wood
    if name in ("spruce", "fir"):
        y = 1 - rng.random(leaves) ** 0.66 * 0.94
        tiers = rng.integers(6, 10)
        angle, out = rng.uniform(0, 2 * np.pi, leaves), rng.random(leaves) ** 0.4
        droop = (y * tiers + 0.35 * np.sin(3 * angle + 9 * y) + rng.uniform() + 0.4 * out) % 1
        ragged = 1 + 0.16 * np.sin(5 * angle + 31 * y)
        reach = (1 - y) ** 0.85 * (0.25 if name == "spruce" else 0.18) * (1.1 - 0.35 * droop) * ragged + 0.008
        x, z = np.cos(angle) * reach * out, np.sin(angle) * reach * out
        normal = np.stack([np.cos(angle), 0.5 - 0.3 * droop, -np.sin(angle)], 1)
        shade = 0.35 + 0.65 * out * (1 - 0.3 * droop)
    elif name == "palm":
        x, y, z, normal, shade = _palm_crown(leaves, rng)
    else:
        x, y, z, normal, shade = _leafy_crown(name, leaves, rng)
    trunk_top = {"spruce": 0.3, "fir": 0.3, "palm": 0.86, "pine": 0.85, "bush": 0.2}.get(name, 0.5)
    ty = rng.uniform(0, trunk_top, wood)
    bend = 0.10 * rng.uniform(-1, 1) if name == "palm" else 0.0
    thick = 0.009 if name in ("palm", "bush") else 0.013
    tx = rng.uniform(-1, 1, wood) * thick * (1.3 - ty) + bend * (0.86 - ty) * 2
    trunk = np.stack([tx, ty, tx / thick, np.full(wood, 0.2), np.full(wood, -0.6), np.full(wood, -1.0)], 1)
    foliage = np.stack([x, y, *normal.T, np.clip(shade, 0.1, 1)], 1)
    points, depth = np.concatenate([trunk, foliage]), np.concatenate([np.zeros(wood), z])
    return points[np.argsort(-depth, kind="stable")]  # far side first: the near leaves are painted over it


_Crown = tuple[npt.NDArray[np.float64], ...]


def _leafy_crown(name: str, n: int, rng: np.random.Generator) -> _Crown:
    """A heap of leafy balls; where they are says which tree it is."""
    low, high, wide, balls, radius = {
        "oak": (0.36, 0.86, 0.32, 24, 0.135),
        "lime": (0.28, 0.88, 0.20, 22, 0.125),
        "poplar": (0.16, 0.93, 0.045, 26, 0.065),
        "pine": (0.62, 0.93, 0.20, 14, 0.085),
        "bush": (0.25, 0.65, 0.45, 10, 0.28),
    }[name]
    t = rng.uniform(0, 1, balls)
    spread = wide * np.sqrt(np.clip(1 - (2 * t - 0.8) ** 2 * 0.6, 0.1, 1)) * np.sqrt(rng.random(balls))
    around = rng.uniform(0, 2 * np.pi, balls)
    centre = np.stack([np.cos(around) * spread, low + t * (high - low), np.sin(around) * spread], 1)
    size = radius * rng.uniform(0.7, 1.15, balls)
    ball = rng.integers(0, balls, n)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    out = rng.random(n) ** 0.3
    at = centre[ball] + direction * (size[ball] * out)[:, None] * (1, 0.85, 1)
    heart = (at - (0, (low + high) / 2, 0)) / (wide + radius, (high - low) / 2 + radius, wide + radius)
    normal = 0.65 * direction + 0.6 * heart
    normal[:, 2] *= -1
    shade = 0.25 + 0.45 * out * (0.55 + 0.45 * direction[:, 1]) + 0.4 * np.clip(np.linalg.norm(heart, axis=1), 0, 1)
    return at[:, 0], np.clip(at[:, 1], 0.02, 1.05), at[:, 2], normal, shade


def _palm_crown(n: int, rng: np.random.Generator) -> _Crown:
    fronds = rng.integers(11, 16)
    frond, t = rng.integers(0, fronds, n), rng.random(n)
    angle = frond * 2 * np.pi / fronds + rng.uniform(0, 1)
    length, lift = rng.uniform(0.26, 0.36, fronds)[frond], rng.uniform(0.10, 0.28, fronds)[frond]
    side = rng.uniform(-1, 1, n) * 0.035 * np.sin(np.pi * np.clip(t + 0.1, 0, 1))
    x = np.cos(angle) * length * t - np.sin(angle) * side
    z = np.sin(angle) * length * t + np.cos(angle) * side
    y = 0.86 + lift * t - 0.42 * t**2 - np.abs(side) * 0.8
    normal = np.stack([np.cos(angle) * 0.5, 0.8 - t, -np.sin(angle) * 0.5], 1)
    return x, y, z, normal, 0.5 + 0.5 * rng.random(n)


_LEAF_COLOURS = {
    "spring": ("5f7f3c", "738f44", "52733c", "84994e"),
    "summer": ("3f6a30", "4a7434", "567c38", "38602e"),
    "autumn": ("b8772c", "a85428", "c79a3a", "7c7a36", "93452a"),
    "winter": ("6b6258", "5a5550", "4d5a48", "73695c"),
}
_NEEDLES = ("2f5238", "2a4a38", "37583a", "27443a")


def _leaf_colours(scene: _Scene, count: int, rng: np.random.Generator, conifer: Array | None = None) -> Rgb:
    leaves = np.stack([_rgb(code) for code in _LEAF_COLOURS[scene.season]])
    needles = np.stack([_rgb(code) for code in _NEEDLES])
    colour = leaves[rng.integers(0, len(leaves), count)]
    if conifer is not None:
        colour = np.where(conifer[:, None] > 0, needles[rng.integers(0, len(needles), count)], colour)
    return (colour * rng.uniform(0.8, 1.25, (count, 1)) * rng.uniform(0.92, 1.08, (count, 3))).astype(np.float32)


@dataclass(frozen=True)
class _Trees:
    """One row a tree, the farthest first."""

    column: Array
    foot: Array  # screen row
    size: Array  # pixels
    distance: Array
    template: npt.NDArray[np.int64]
    colour: Rgb


def _sow(scene: _Scene, land: _Land, view: _View, rng: np.random.Generator) -> _Trees:
    part, is_small = scene.parts["trees"], scene.is_small("trees")
    half = scene.width / scene.focal / 2
    wide = min(part.half_width / half, 1.0)
    style = str(rng.choice(["forest", "groves", "park"], p=[0.45, 0.35, 0.2]))
    palms = (scene.has("desert") and not scene.is_small("desert")) or (
        scene.has("sea") and scene.season == "summer" and rng.random() < 0.4
    )
    count = int({"forest": 260, "groves": 200, "park": 110}[style] * wide * float(np.clip(half / 0.6, 0.8, 1.6)))
    if is_small or palms:
        count = int(rng.integers(9, 16)) if is_small else int(rng.integers(26, 46) * max(wide, 0.6))
    near = land.distance[0] * (2.6 if is_small else 1.25)
    far = near * 3 if is_small else max(0.55, near * 4)
    if palms:
        far = near * 3.5
    distance = np.exp(rng.uniform(np.log(near), np.log(far), count)).astype(np.float32)
    centre = part.centre if not part.is_whole else 0.0
    spread = min(part.half_width, half) if not part.is_whole else half * 1.1
    azimuth = (centre + rng.uniform(-1, 1, count) * spread * (0.75 if is_small else 1)).astype(np.float32)
    if (style != "forest" or palms) and not is_small:  # gather around a few places
        clumps = rng.uniform(-1, 1, max(count // (9 if palms else 16), 2)) * spread + centre
        gathered = clumps[rng.integers(0, len(clumps), count)] + rng.normal(0, 0.09, count)
        azimuth = np.where(rng.random(count) < 0.8, gathered, azimuth).astype(np.float32)
    order = np.argsort(-distance, kind="stable")
    distance, azimuth = distance[order], azimuth[order]
    column = azimuth * np.float32(scene.focal) + scene.width / 2
    i = np.clip(np.searchsorted(land.distance, distance), 0, len(land.distance) - 1)
    j = np.clip(column.astype(np.int64), 0, scene.width - 1)
    grows = (land.shore[i, j] > 0.008) & (land.range[i, j] < 0.6)
    if not palms:
        grows &= land.sand[i, j] < 0.4
    mix = {"forest": ("spruce", "fir", "oak", "lime", "pine"), "groves": ("oak", "lime", "spruce", "poplar", "bush")}
    choice = ("palm", "palm", "palm", "bush") if palms else mix.get(style, ("oak", "lime", "poplar", "pine", "bush"))
    weights = rng.dirichlet(np.full(len(choice), 0.7))
    if palms:
        weights = np.array([0.3, 0.3, 0.25, 0.15])
    species = np.array([_SPECIES.index(name) for name in choice])[rng.choice(len(choice), count, p=weights)]
    tall = np.array([0.024, 0.021, 0.017, 0.019, 0.023, 0.022, 0.004, 0.015])[species] * rng.uniform(0.6, 1.2, count)
    if is_small:
        tall *= 1.15
    size = (tall * scene.focal / distance).astype(np.float32)
    conifer = np.isin(species, [0, 1, 5, 7]).astype(np.float32)
    colour = _leaf_colours(scene, count, rng, conifer)
    keep = np.flatnonzero(grows)
    template = species * 4 + rng.integers(0, 4, count)
    return _Trees(column[keep], view.row[i, j][keep], size[keep], distance[keep], template[keep], colour[keep])


def _plant(
    scene: _Scene, land: _Land, view: _View, light: _Light, picture: Rgb, trees: _Trees, rng: np.random.Generator
) -> tuple[Rgb, Array]:
    """The picture with trees, and what they cover: leaves, far trees first, splat on a canvas of twice the size."""
    rows, columns = 2 * scene.height, 2 * scene.width
    canvas = np.zeros((rows * columns, 3), np.float32)
    covered = np.zeros(rows * columns, np.float32)
    picture = picture * _tree_shadows(scene, trees, rng)[..., None]
    depth = np.append(land.distance, np.float32(1e9))[view.index]  # (2 * height, width)
    nominal = 2 * 0.02 * scene.focal / trees.distance
    dab = np.clip(np.round(nominal / 36), 1, 7).astype(np.int64)  # a leaf's side in pixels; grows towards the camera
    for side in np.unique(dab):
        of = np.flatnonzero(dab == side)
        _splat(scene, light, trees, of, int(side), depth, canvas, covered, rng)
    alpha = covered.reshape(scene.height, 2, scene.width, 2).mean((1, 3))
    layer = canvas.reshape(scene.height, 2, scene.width, 2, 3).mean((1, 3))
    return picture * (1 - alpha[..., None]) + layer, alpha


def _tree_shadows(scene: _Scene, trees: _Trees, rng: np.random.Generator) -> Array:
    """(height, width), 1 = open ground; a soft dark pool at each foot that leans away from the sun."""
    n, points = len(trees.size), 40
    angle, out = rng.uniform(0, 2 * np.pi, (n, points)), np.sqrt(rng.random((n, points)))
    lean = -np.sign(scene.sun_azimuth) * (0.28 if scene.sun_elevation > 0.15 else 0.1)
    x = trees.column[:, None] + trees.size[:, None] * (0.26 * np.cos(angle) * out + lean * rng.random((n, points)))
    y = trees.foot[:, None] + trees.size[:, None] * 0.045 * np.sin(angle) * out
    i, j = y.astype(np.int64).ravel(), np.floor(x).astype(np.int64).ravel()
    inside = (i >= 0) & (i < scene.height) & (j >= 0) & (j < scene.width) & (i > scene.horizon)
    pool = np.zeros((scene.height, scene.width), np.uint8)
    pool[i[inside], j[inside]] = 255
    soft = np.asarray(Image.fromarray(pool).filter(ImageFilter.GaussianBlur(2.2)), np.float32) / 255
    return 1 - np.clip(soft * 1.5, 0, 1) * np.float32(0.25 if scene.dusk else 0.5)


def _splat(
    scene: _Scene,
    light: _Light,
    trees: _Trees,
    of: npt.NDArray[np.intp],
    side: int,
    depth: Array,
    canvas: Rgb,
    covered: Array,
    rng: np.random.Generator,
) -> None:
    size = trees.size[of] * 2
    leaves = np.clip(1.2 * size**2 / side**2, 10, _LEAVES).astype(np.int32)
    tree = np.repeat(np.arange(len(of), dtype=np.int32), leaves)
    within = np.arange(len(tree), dtype=np.int32) - np.repeat(np.cumsum(leaves, dtype=np.int32) - leaves, leaves)
    pick = ((within + rng.random(len(tree), np.float32)) * (np.float32(_LEAVES) / leaves.astype(np.float32))[tree]).astype(
        np.int32
    )
    rows = trees.template[of].astype(np.int32)[tree] * _LEAVES + np.minimum(pick, _LEAVES - 1)
    leaf = _tree_templates().reshape(-1, 6).take(rows, axis=0)  # (n, 6)
    left = ((trees.column[of] * 2)[tree] + leaf[:, 0] * size[tree]).astype(np.int32) - side // 2
    top = ((trees.foot[of] * 2)[tree] - leaf[:, 1] * size[tree]).astype(np.int32) - side // 2
    bottom, right = 2 * scene.height, 2 * scene.width
    seen = np.flatnonzero((left > -side) & (left < right) & (top > -side) & (top < bottom))
    tree, leaf, left, top = tree[seen], leaf[seen], left[seen], top[seen]
    colour = _leaf_light(scene, light, trees, of, tree, leaf, rng)
    distance = trees.distance[of][tree] / np.float32(1.03)
    order = np.arange(len(tree), dtype=np.int32)
    owner = np.full(bottom * right, -1, np.int32)  # the nearest leaf on each pixel
    for dy in range(side):
        for dx in range(side):
            if side > 2 and (dy in (0, side - 1)) and (dx in (0, side - 1)):
                continue  # round the leaf
            x, y = left + dx, top + dy
            on = np.flatnonzero((x >= 0) & (x < right) & (y >= 0) & (y < bottom))
            x, y = x[on], y[on]
            at = y * right + x
            nearer = (distance[on] < depth.ravel().take(y * scene.width + x // 2)) & (owner.take(at) < order[on])
            owner[at[nearer]] = order[on[nearer]]  # of equal places the last one stays: the nearest
    painted = np.flatnonzero(owner >= 0)
    canvas[painted] = colour.take(owner[painted], axis=0)
    covered[painted] = 1


def _leaf_light(
    scene: _Scene,
    light: _Light,
    trees: _Trees,
    of: npt.NDArray[np.intp],
    tree: npt.NDArray[np.int32],
    leaf: Array,
    rng: np.random.Generator,
) -> Rgb:
    """(n, 3): the material of each leaf under sun, sky and haze."""
    turn = np.float32(scene.sun_azimuth) - (trees.column[of] - scene.width / 2) / np.float32(scene.focal)
    elevation = max(scene.sun_elevation, 0.05)
    flat, up = math.cos(elevation), math.sin(elevation)
    to_sun = leaf[:, 2] * (np.sin(turn) * flat)[tree] + leaf[:, 3] * up - leaf[:, 4] * (np.cos(turn) * flat)[tree]
    wood = leaf[:, 5] < 0
    reach = np.where(wood, np.float32(0.55), leaf[:, 5]) * (0.82 + 0.36 * rng.random(len(tree), np.float32))
    material = trees.colour[of][tree]
    material[wood] = _rgb("6b5846")
    lit = np.clip(0.12 + 0.85 * to_sun, 0, None) * reach
    sky_light = reach * (0.75 + 0.3 * leaf[:, 3])
    colour: Rgb = material * (light.ambient * sky_light[:, None] + light.sun * lit[:, None])
    column = np.clip(trees.column[of].astype(np.int32), 0, scene.width - 1)
    fade = 1 - np.exp(-trees.distance[of] * np.float32(1.4 / scene.visibility))
    colour += (light.haze[column][tree] - colour) * fade[tree][:, None]
    return colour


# ---- the picture


def _develop(scene: _Scene, light: _Light, picture: Rgb, rng: np.random.Generator) -> Image.Image:
    """Exposure, a soft shoulder, a little contrast, lens and grain."""
    y = np.linspace(-1, 1, scene.height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, scene.width, dtype=np.float32)[None]
    value = picture * np.float32(light.grade) * (1 - 0.09 * (x**2 + y**2))[..., None]
    value = np.where(value > 0.75, 0.75 + 0.25 * np.tanh((value - 0.75) / 0.25), value)
    value = np.sqrt(np.clip(value, 0, 1))
    grey = value.mean(-1, keepdims=True)
    value = grey + (value - grey) * np.float32(rng.uniform(0.98, 1.16))
    value = value + 0.10 * (value - 0.5) * (1 - np.abs(2 * value - 1))
    value = value + rng.standard_normal((scene.height, scene.width, 1), np.float32) * np.float32(0.009)
    return Image.fromarray((np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8), "RGB")


def _coverage(scene: _Scene, land: _Land, view: _View) -> dict[str, npt.NDArray[np.bool_]]:
    """Where the picture shows sea, desert and mountains as far as the ground goes: (height, width) each."""
    n = len(land.distance)
    water = (land.height < 0) | (land.shore < 0)
    index, column = np.minimum(view.index[::2], n - 1), np.arange(scene.width)
    ground = view.index[::2] < n
    masks = {"sea": water, "desert": (land.sand > 0.5) & ~water, "mountains": land.range > 0.3}
    return {label: mask[index, column] & ground for label, mask in masks.items()}


def _visibility(scene: _Scene, masks: dict[str, npt.NDArray[np.bool_]], trees: Array | float) -> float:
    """How well the least visible label can be seen: its share of the picture over the least share it should have.

    `trees` is their coverage: they hide what is behind them, and are a label themselves where they were drawn.
    """
    shares = {label: float((mask * (1 - trees)).mean()) for label, mask in masks.items()}
    if isinstance(trees, np.ndarray):
        shares["trees"] = float(trees.mean())
    least = {label: _LEAST[label][label not in scene.small] for label in shares}
    return min((shares[label] / least[label] for label in shares if scene.has(label)), default=1.0)


_LEAST = {
    "sea": (0.012, 0.06),
    "desert": (0.02, 0.12),
    "mountains": (0.012, 0.035),
    "trees": (0.005, 0.03),
}  # small, else


def draw_scene(
    labels: Collection[str], size: tuple[int, int], rng: np.random.Generator, *, small: Collection[str] = ()
) -> Image.Image:
    """A landscape of `size` (width, height) in which every one of `labels` can be seen and no other.

    Labels in `small` take only a small part of it (a far bay, a few trees, a mild dusk). The same generator state draws
    the same pixels.
    """
    unknown = (set(labels) | set(small)) - set(DEMO_LABELS)
    if unknown or not set(small) <= set(labels):
        wrong = sorted(unknown or set(small) - set(labels))
        raise PanoramaError(
            f"Cannot draw {', '.join(wrong)}: the demo knows {', '.join(DEMO_LABELS)}, "
            "and the small ones must be among the labels."
        )
    if min(size) < 32 or max(size) > 4096:
        raise PanoramaError(f"Cannot draw a picture of {size[0]} x {size[1]} pixels: a side must be between 32 and 4096.")
    best: tuple[float, Image.Image | None] = (-1.0, None)
    for attempt in range(_ATTEMPTS):
        scene = _compose(frozenset(labels), frozenset(small), size, rng)
        land = _relief(scene, rng)
        view = _project(scene, land)
        masks = _coverage(scene, land, view)
        trees = _sow(scene, land, view, rng) if scene.has("trees") else None
        is_last = attempt == _ATTEMPTS - 1
        if not is_last and (_visibility(scene, masks, 0.0) < 1 or (trees is not None and _canopy(scene, trees) < 1)):
            continue  # seen before it is painted
        picture, coverage = _render(scene, land, view, trees, rng)
        worst = _visibility(scene, masks, coverage)
        if worst > best[0]:
            best = (worst, picture)
        if worst >= 1:
            break
    assert best[1] is not None
    return best[1]


def _canopy(scene: _Scene, trees: _Trees) -> float:
    """About the trees' share of the picture over the least they should have, before they are drawn."""
    on_screen = (trees.column > 0) & (trees.column < scene.width)
    area = float((np.minimum(trees.size[on_screen], scene.height) ** 2).sum())
    return 0.14 * area / (scene.width * scene.height) / _LEAST["trees"][not scene.is_small("trees")]


def _render(
    scene: _Scene, land: _Land, view: _View, trees: _Trees | None, rng: np.random.Generator
) -> tuple[Image.Image, Array | float]:
    """The developed picture, and where the trees cover it, (height, width) in 0..1."""
    light = _light(scene, rng)
    sky, disc = _paint_sky(scene, light, rng)
    ground = _paint_land(scene, land, light, rng)
    water = (
        (land.height <= 0)[..., None].astype(np.float32) if scene.has("sea") else np.zeros((*land.height.shape, 1), np.float32)
    )
    seen = _look(view, np.concatenate([ground, water], axis=2))
    picture: Rgb = sky * (1 - seen[..., 4:]) + seen[..., :3]
    if scene.has("sea"):
        picture = _paint_water(scene, light, picture, seen[..., 3], rng)
    picture = _mix(picture, _rgb("fff0c0") * 1.3, disc * (1 - seen[..., 4]))
    coverage: Array | float = 0.0
    if trees is not None:
        picture, coverage = _plant(scene, land, view, light, picture, trees, rng)
    return _develop(scene, light, picture, rng), coverage


# ---- the data set

_COMBINATIONS: tuple[tuple[str, float], ...] = (  # and how often, relative to each other
    ("sea", 8), ("mountains", 7), ("desert", 8), ("trees", 9), ("sunset", 3), ("", 2),
    ("sea sunset", 8), ("mountains trees", 8), ("desert sunset", 6), ("desert mountains", 5), ("mountains sunset", 5),
    ("sunset trees", 6), ("mountains sea", 5), ("sea trees", 5), ("desert trees", 3), ("desert sea", 3),
    ("mountains sea sunset", 3), ("mountains sunset trees", 3), ("mountains sea trees", 3),
    ("desert mountains sunset", 2), ("sea sunset trees", 2),
)  # fmt: skip
_SIZES = ((320, 240), (384, 256), (256, 320), (360, 240), (300, 300))
_WIDE_SIZES = ((768, 240), (720, 180), (800, 200), (900, 180), (720, 240))
_WIDE_SHARE = 0.15


@dataclass(frozen=True)
class _Picture:
    """One row of the demo, before it is drawn."""

    index: int
    name: str
    is_test: bool
    size: tuple[int, int]
    labels: tuple[str, ...]
    small: tuple[str, ...]


@dataclass(frozen=True)
class _Settings:
    """What decides every byte of a demo; `demo.json`."""

    n_images: int
    seed: int
    missing_share: float
    extra_share: float
    drawing_version: int = DRAWING_VERSION


def draw_demo(
    folder: Path,
    *,
    n_images: int = 400,
    seed: int = 0,
    missing_share: float = 0.10,
    extra_share: float = 0.015,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the demo data set into `folder` and return `folder/data`, which has the layout of the scenes.

    `missing_share` of the true positives and `extra_share` of the true negatives are wrong in the CSVs; `truth.csv` and
    `planted.csv` beside `data` tell which. A folder that already holds this very demo is returned as it is. The folder
    appears complete or not at all. `on_progress(drawn, n_images)` is called on the caller's thread.
    """
    settings = _checked(_Settings(n_images, seed, missing_share, extra_share))
    folder = Path(folder).absolute()
    if _holds(folder, settings):
        return folder / "data"
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise PanoramaError(
            f"{folder} is not empty and does not hold this demo ({n_images} images, seed {seed}). "
            "Choose another folder, or delete it."
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _write_demo(temporary, settings, on_progress)
        temporary.replace(folder)
    except OSError as error:
        if _holds(folder, settings):  # somebody else drew the same at the same time
            return folder / "data"
        reason = error.strerror or error
        raise PanoramaError(
            f"The demo could not be written to {folder}: {reason}. Nothing was left there; "
            "free some room or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / "data"


def _checked(settings: _Settings) -> _Settings:
    if settings.n_images < 10:
        raise PanoramaError(f"A demo of {settings.n_images} images is too small to learn from; ask for 10 or more.")
    if settings.seed < 0:
        raise PanoramaError(f"The demo's seed is {settings.seed}; expected 0 or more.")
    for name in ("missing_share", "extra_share"):
        share = getattr(settings, name)
        if not 0 <= share <= 0.5:
            raise PanoramaError(f"{name} is {share}; expected a share between 0 and 0.5.")
    return settings


def _holds(folder: Path, settings: _Settings) -> bool:
    try:
        return json.loads((folder / "demo.json").read_text("utf-8")) == asdict(settings) and (folder / "data").is_dir()
    except (OSError, ValueError):
        return False


def _write_demo(folder: Path, settings: _Settings, on_progress: Callable[[int, int], None] | None) -> None:
    pictures = _plan(settings)
    for part in ("train", "test"):
        (folder / "data" / part).mkdir(parents=True)

    def draw(picture: _Picture) -> None:
        rng = np.random.default_rng((settings.seed, picture.index))  # its own stream: any order, any number of threads
        image = draw_scene(picture.labels, picture.size, rng, small=picture.small)
        image.save(folder / "data" / ("test" if picture.is_test else "train") / picture.name, quality=90)

    pool = ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8))
    try:
        for drawn, _ in enumerate(pool.map(draw, pictures), 1):
            if on_progress is not None:
                on_progress(drawn, len(pictures))
    finally:
        pool.shutdown(cancel_futures=True)
    truth = np.array([[int(label in picture.labels) for label in DEMO_LABELS] for picture in pictures])
    given = _plant_errors(pictures, truth, settings)
    for part in ("train", "test"):
        rows = [i for i, picture in enumerate(pictures) if picture.is_test == (part == "test")]
        _write_csv(folder / "data" / f"{part}_label.csv", "fname", ([pictures[i].name, *given[i]] for i in rows))
    _write_csv(folder / "truth.csv", "image", ([picture.name, *row] for picture, row in zip(pictures, truth, strict=True)))
    with (folder / "planted.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", "given", "truth", "kind"])
        for i, j in np.argwhere(given != truth):
            writer.writerow([pictures[i].name, DEMO_LABELS[j], given[i, j], truth[i, j], "missing" if truth[i, j] else "extra"])
    (folder / "demo.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def _write_csv(path: Path, first: str, rows: Iterable[list[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([first, *DEMO_LABELS])
        writer.writerows(rows)


def _plan(settings: _Settings) -> list[_Picture]:
    """What each picture shows: fixed quotas in random order, so that no label is rare by bad luck."""
    n, rng = settings.n_images, np.random.default_rng((settings.seed, settings.n_images, 1))
    weights = np.cumsum([weight for _, weight in _COMBINATIONS])
    quota = np.searchsorted(weights, (np.arange(n) + 0.5) / n * weights[-1])
    combinations = rng.permutation(quota)
    wide = rng.permutation(n) < round(_WIDE_SHARE * n)
    test = rng.permutation(n) < round(0.2 * n)
    pictures = []
    for i in range(n):
        labels = tuple(_COMBINATIONS[combinations[i]][0].split())
        sizes = _WIDE_SIZES if wide[i] else _SIZES
        odds = 0.0 if not labels else 0.12 if len(labels) == 1 else 0.45
        small = (str(rng.choice(labels)),) if rng.random() < odds else ()
        pictures.append(_Picture(i, f"scene_{i + 1:04d}.jpg", bool(test[i]), sizes[rng.integers(len(sizes))], labels, small))
    return pictures


def _plant_errors(pictures: list[_Picture], truth: npt.NDArray[np.int64], settings: _Settings) -> npt.NDArray[np.int64]:
    """The labels as annotators give them: what is small is forgotten first, the only label of a picture last."""
    rng = np.random.default_rng((settings.seed, settings.n_images, 2))
    given = truth.copy()
    positives, negatives = np.argwhere(truth == 1), np.argwhere(truth == 0)
    odds = np.array([_forgotten(pictures[i], DEMO_LABELS[j]) for i, j in positives])
    for cells, share, weights in (
        (positives, settings.missing_share, odds / odds.sum()),
        (negatives, settings.extra_share, np.full(len(negatives), 1 / len(negatives))),
    ):
        i, j = cells[rng.choice(len(cells), round(share * len(cells)), replace=False, p=weights)].T
        given[i, j] = 1 - given[i, j]
    return given


def _forgotten(picture: _Picture, label: str) -> float:
    if label in picture.small:
        return 8.0
    return 0.25 if len(picture.labels) == 1 else 1.0
