"""The world that a drawn picture shows: noise, what is where, and the height of the ground.

A world is a height field in polar coordinates (distance x azimuth), so that ranges hide ranges, dunes cast shadows and the
sea reaches the horizon by geometry and not by art. `compose` says what is where, `relief` gives the heights;
`panorama.scenery` draws them. Colours are linear light (sRGB squared). Distances and heights are in kilometres, angles
in radians.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

DEMO_LABELS: tuple[str, ...] = ("desert", "mountains", "sea", "sunset", "trees")

Array = npt.NDArray[np.floating[Any]]
Rgb = npt.NDArray[np.floating[Any]]  # (3,) or (..., 3), linear light

_TILE = 512  # side of the periodic noise tiles


def rgb(code: str) -> Rgb:
    """A colour from its hex code, three channels of 0 to 1."""
    return (np.frombuffer(bytes.fromhex(code), np.uint8).astype(np.float32) / 255) ** 2


def smooth(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, and a smooth step between (smoothstep)."""
    t: Array = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array, b: Array, t: Array) -> Array:
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


def noise(kind: str, u: Array, v: Array) -> Array:
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
class Part:
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
        wander = noise("soft", away * 0.16 + np.float32(origin), azimuth * 0.16 + np.float32(origin) + 0 * away)
        lean = np.float32(0.35 * np.sin(40 * origin)) * (away + 0.9)
        offset = np.abs(azimuth - np.float32(self.centre) + self.half_width * (0.22 * wander + lean))
        return 1 - smooth(self.half_width * 0.55, self.half_width * 1.45, offset)


@dataclass(frozen=True)
class Scene:
    """Everything that was chosen before anything is drawn."""

    labels: frozenset[str]
    small: frozenset[str]
    width: int
    height: int
    horizon: float  # row
    focal: float  # pixels a radian
    eye: float  # camera over the ground, km
    parts: dict[str, Part]
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


def compose(labels: frozenset[str], small: frozenset[str], size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """What the picture is made of, drawn at random so that its labels can be seen; `small` ones only in a small part."""
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
    is_high = dry or "sea" in small or ("trees" in labels - small and bool({"sea", "mountains"} & labels))  # look over the trees
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
        parts["mountains"] = Part(float(side * half_view * rng.uniform(0.5, 0.9)), half_view * reach)
    if "desert" in small:
        parts["desert"] = replace(parts["desert"], centre=float(rng.choice([-1, 1]) * rng.uniform(0.7, 1.0) * half_view))
    return Scene(
        labels=labels,
        small=small,
        width=width,
        height=height,
        horizon=height * rng.uniform(low, high),
        focal=focal,
        eye=rng.uniform(*((0.02, 0.035) if dry and "trees" in labels else (0.03, 0.06) if is_high else (0.012, 0.035))),
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


def _part(is_small: bool, aspect: float, half_view: float, rng: np.random.Generator) -> Part:
    if is_small:
        half_width = half_view * rng.uniform(0.22, 0.34) * (0.75 if aspect > 2 else 1)
    elif aspect > 2 and rng.random() < 0.6:  # in a panorama a label may sit in one part only
        half_width = half_view * rng.uniform(0.35, 0.6)
    else:
        return Part(0.0, 100.0)
    return Part(float(rng.choice([-1, 1]) * rng.uniform(0.15, 0.95) * (half_view - half_width * 0.6)), half_width)


# ---- heights


@dataclass(frozen=True)
class Land:
    """The ground on the polar grid; arrays are (n_distances, width), near first."""

    distance: Array  # (n_distances,)
    x: Array
    z: Array
    height: Array  # over the sea, which is 0
    shore: Array  # > 0 land, < 0 sea, about km to the shore line
    sand: Array  # 0..1
    range: Array  # 0..1, belongs to the mountains
    forest: Array  # 0..1, canopy too far to draw trees


def _distances(scene: Scene) -> Array:
    """Sampled evenly on the screen where the ground is flat, and evenly in log distance for what stands up behind."""
    below = scene.height - scene.horizon + 8
    rows = np.arange(below, 1.5, -1.5)
    near = scene.focal * scene.eye / below
    flat = scene.focal * scene.eye / rows
    behind = np.geomspace(max(near, 0.3), 42, 110)
    ranges = np.geomspace(2.5, 24, 210) if scene.has("mountains") else behind[:0]  # slices coarser than a crag draw curtains
    return np.sort(np.concatenate([flat, behind, ranges])).astype(np.float32)


def relief(scene: Scene, rng: np.random.Generator) -> Land:
    """The land of a scene: heights seen by its camera, and what covers them."""
    distance, azimuth, o = _distances(scene), scene.azimuth, scene.origin
    r = distance[:, None]
    x, z = r * np.sin(azimuth), r * np.cos(azimuth)
    zero = np.zeros_like(x)
    roll = rng.uniform(0.006, 0.02)
    ground = noise("soft", x / 9 + o[0], z / 9 + o[1]) * (roll * np.minimum(r, 4)) * smooth(0.05, 0.6, r)
    ground += noise("soft", x / 45 + o[2], z / 45 + o[3]) * (roll * np.minimum(r, 12)) * smooth(1, 6, r)
    ground += noise("fractal", x / 0.9 + o[1], z / 0.9 + o[2]) * (0.004 * np.minimum(r, 0.6))
    sand = _sand(scene, x, z, r) if scene.has("desert") else zero
    if scene.has("desert"):
        ground = ground * (1 - 0.8 * sand) + _dunes(scene, x, z, r, rng) * sand
    shore = _shore(scene, x, z, r, rng) if scene.has("sea") else zero + 1
    if scene.has("sea"):
        beach = np.clip(shore / (0.08 + 0.35 * r), 0, 1)
        ground = (np.maximum(ground, -0.3 * scene.eye) + 0.0035 * np.minimum(r, 4)) * beach + np.minimum(shore, 0) * 0.1
        ground = np.where(shore > 0, np.maximum(ground, 0.0004), np.minimum(ground, -0.0004))
    else:
        ground = np.maximum(ground, -0.6 * scene.eye * smooth(0, 0.5, r))
    mountain = zero
    if scene.has("mountains"):
        peaks = _peaks(scene, x, z, r, rng)
        mountain = smooth(0.08, 0.3, peaks)
        ground = np.where(peaks > 0.01, np.maximum(ground, 0) + peaks, ground)
        sand = sand * (1 - mountain)
        shore = np.where(peaks > 0.05, np.maximum(shore, 0.5), shore)
    forest = zero
    if scene.has("trees"):
        patches = noise("soft", x / 2.2 + o[3], z / 2.2 + o[4]) + 0.5 * noise("fractal", x + o[4], z + o[5])
        forest = smooth(-0.5, 0.1, patches) * smooth(0.25, 0.55, r) * scene.parts["trees"].window(azimuth, r, o[3])
        forest = forest * (shore > 0.05) * (1 - sand) * (1 - smooth(0.35, 0.9, ground))
        if scene.is_small("trees"):
            forest = forest * (1 - smooth(1.2, 2.0, r))
        canopy = noise("cells", x / 0.9 + o[5], z / 0.9 + o[6])
        ground = ground + forest * (0.012 + 0.006 * canopy)
    return Land(distance, x, z, ground.astype(np.float32), shore, sand, mountain, forest)


def _sand(scene: Scene, x: Array, z: Array, r: Array) -> Array:
    o = scene.origin
    window = scene.parts["desert"].window(scene.azimuth, r, o[6])
    edge = 0.35 * noise("fractal", x / 1.5 + o[6], z / 1.5 + o[7])
    if scene.is_small("desert"):
        reach = smooth(0.09, 0.16, r)
        return smooth(0.3, 0.6, window * reach + 0.25 * edge * window)
    return smooth(0.3, 0.7, window + 0.35 * edge) if not scene.parts["desert"].is_whole else np.ones_like(x)


def _dunes(scene: Scene, x: Array, z: Array, r: Array, rng: np.random.Generator) -> Array:
    """Long windward slopes, short steep lee sides, sharp winding crests, at two scales."""
    o, wind = scene.origin, rng.uniform(-0.9, 0.9)
    lee = np.float32(-np.sign(scene.sun_azimuth))  # the steep sides lie in the shade: that is what makes a dune readable
    across = lee * (x * np.float32(np.cos(wind)) + z * np.float32(np.sin(wind)))
    total = np.zeros_like(x)
    crest = 0.68
    for scale, steep, far in ((rng.uniform(0.16, 0.3), 0.17, 3.0), (rng.uniform(0.7, 1.3), 0.10, 12.0)):
        bend = noise("soft", x / (scale * 30) + o[7], z / (scale * 30) + o[8])
        phase = across / scale + 0.7 * bend
        s = phase - np.floor(phase)
        profile = np.where(s < crest, (s / crest) ** 1.5, ((1 - s) / (1 - crest)) ** 1.15)
        swell = 0.65 + 0.45 * np.clip(noise("soft", x / (scale * 18) + o[9], z / (scale * 18) + o[7]), -1.2, 1.5)
        reach = smooth(scale * 0.15, scale * 1.1, r) * (1 - smooth(far * 0.5, far, r))
        total += profile * swell * reach * np.float32(steep * scale)
    return total


def _shore(scene: Scene, x: Array, z: Array, r: Array, rng: np.random.Generator) -> Array:
    """Signed: > 0 on land, < 0 at sea, in kilometres near the line."""
    o = scene.origin
    shore: Array
    wiggle = noise("fractal", x / 2.5 + o[8], z / 2.5 + o[9])
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


def _peaks(scene: Scene, x: Array, z: Array, r: Array, rng: np.random.Generator) -> Array:
    o, is_small = scene.origin, scene.is_small("mountains")
    start = rng.uniform(7, 12) if is_small else rng.uniform(3.2, 7)
    angle = rng.uniform(0.1, 0.15) if is_small else rng.uniform(0.16, 0.36)
    period = rng.uniform(22, 34)
    warp = noise("soft", x / 20 + o[10], z / 20 + o[11])
    crests = noise("ridged", x / period + o[9] + 0.04 * warp, z / period + o[10])
    bulk = noise("soft", x / 24 + o[11], z / 24 + o[0])
    crags = noise("ridged", x / (period / 7) + o[2], z / (period / 7) + o[3])
    shape = np.clip(0.5 + 0.34 * crests + 0.22 * bulk, 0, None)
    shape = shape * (0.97 + 0.06 * crags)
    reach = smooth(start * 0.65, start * 1.35, r) * (1 - smooth(26, 38, r))
    peaks: Array = shape * reach * scene.parts["mountains"].window(scene.azimuth, r, o[9]) * np.float32(angle * start)
    return peaks
