"""Draw a landscape with given labels: a small world (`panorama.terrain`) seen by a camera.

The order of work is `compose` (what is where) -> `relief` (heights) -> `_project` (what is seen) -> `_paint_sky`,
`_paint_land`, `_paint_water` -> `_plant` (trees) -> `_develop` (the picture).
Colours are linear light (sRGB squared) until `_develop`. Distances and heights are in kilometres, angles in radians.
"""

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from panorama.errors import PanoramaError
from panorama.terrain import DEMO_LABELS, Array, Land, Rgb, Scene, compose, mix, noise, relief, rgb, smooth

_LEAVES = 2048  # points in a tree's template
_ATTEMPTS = 12  # compositions tried until every label can be seen

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


def _light(scene: Scene, rng: np.random.Generator) -> _Light:
    zenith_code, horizon_code, direct = _DAYS[rng.integers(4 if scene.has("desert") else len(_DAYS))]
    zenith, away = rgb(zenith_code), rgb(horizon_code)
    middle, under = away * 0.55 + zenith * 0.45, away * 1.05
    sun = np.float32(direct * 1.65) * rgb(str(rng.choice(["fff6e8", "fff0d8", "ffe9c8"])))
    ambient = zenith * 0.35 + away * np.float32(0.36 + 0.42 * (1 - direct))
    if scene.dusk:
        d = np.float32(scene.dusk)
        warm = [rgb(code) for code in _DUSKS[rng.integers(len(_DUSKS))]]
        zenith, middle = zenith * 0.75 * (1 - d) + warm[0] * d, middle * 0.8 * (1 - d) + warm[1] * d
        away, under = away * 0.8 * (1 - d) + warm[2] * d, away * 0.4 * (1 - d) + warm[3] * (0.25 + 0.75 * d)
        sun = sun * (1 - d) * 0.5 + warm[4] * 0.95 * d
        ambient = (zenith * 0.9 + middle * 0.2 + away * 0.12 + 0.05) * np.float32(1.0 - 0.4 * d)
    near_sun = _near_sun(scene, scene.azimuth)
    haze = mix(away, under, near_sun * 0.85) * np.float32(0.97)
    zenith, middle, away, under, sun, ambient, haze = (
        colour.astype(np.float32) for colour in (zenith, middle, away, under, sun, ambient, haze)
    )
    return _Light(zenith, middle, away, under, sun, ambient, haze, rng.uniform(0.94, 1.08))


def _near_sun(scene: Scene, azimuth: Array) -> Array:
    near: Array = np.exp(-(((azimuth - np.float32(scene.sun_azimuth)) / np.float32(0.55)) ** 2))
    return near


def _paint_sky(scene: Scene, light: _Light, rng: np.random.Generator) -> tuple[Rgb, Array]:
    """The sky, (height, width, 3); and the sun's disc behind its clouds, (height, width) in 0..1."""
    rise = np.maximum((scene.horizon - np.arange(scene.height, dtype=np.float32))[:, None] / scene.focal, 0)  # elevation
    azimuth = scene.azimuth[None]
    low, high = np.exp(-rise / 0.13), smooth(0.12, 0.55, rise)
    sky: Rgb = mix(light.middle, light.haze[None], low) + (light.zenith - light.middle) * high[..., None]
    if scene.dusk:
        distance = np.hypot((azimuth - scene.sun_azimuth) * 0.75, rise - scene.sun_elevation)
        glow = np.exp(-distance / 0.16) * 0.75 + np.exp(-distance / 0.04) * 0.6
        sky = sky + light.under * (glow * np.float32(scene.dusk**2))[..., None]
    sky, clouds = _paint_clouds(scene, light, sky.astype(np.float32), rise, rng)
    up = (scene.horizon - np.arange(scene.height, dtype=np.float32))[:, None] / scene.focal
    disc = 1 - smooth(0.026, 0.031, np.hypot(azimuth - scene.sun_azimuth, up - scene.sun_elevation))
    return sky, disc * (1 - 0.85 * clouds) if scene.dusk else np.zeros_like(disc)


def _paint_clouds(scene: Scene, light: _Light, sky: Rgb, rise: Array, rng: np.random.Generator) -> tuple[Rgb, Array]:
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
    body = noise("fractal", u, v)
    towards = np.sign(scene.sun_azimuth) * 0.010
    lit_side = body - noise("fractal", u + np.float32(towards), v - np.float32(0.006))
    edge = 1.3 - 2.2 * cover
    alpha = smooth(edge, edge + (0.9 if style == "heaps" else 1.6), body) * smooth(0.0, 0.05, rise[:top]) * 0.92
    thick = smooth(edge + 0.5, edge + 2.0, body)
    if scene.dusk:
        near = _near_sun(scene, scene.azimuth)[None] * 0.7 + 0.3
        bright = mix(light.away, light.under * 1.15, near) * np.float32(1.0)
        dark = light.zenith * 0.6 + light.middle * 0.35
        tone = np.clip(0.75 - 0.75 * thick + 0.5 * lit_side - 0.55 * rise[:top], 0, 1)
    else:
        bright, dark = light.sun * 0.55 + 0.42 + 0.0 * light.haze[None], light.away * 0.55 + light.zenith * 0.18
        tone = np.clip(0.85 - 0.55 * thick + 0.9 * lit_side, 0, 1)
    sky[:top] = mix(sky[:top], mix(dark, bright, tone), alpha)
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


def _paint_land(scene: Scene, land: Land, light: _Light, rng: np.random.Generator) -> Rgb:
    """(n_distances, width, 3): material, sun, shadow, sky light and haze."""
    o, r, x, z = scene.origin, land.distance[:, None], land.x, land.z
    mottle = noise("fractal", x / 0.7 + o[4], z / 0.7 + o[3])
    fine = noise("fractal", x / 0.06 + o[5], z / 0.06 + o[1]) * np.exp(-r / 0.5)
    slope_x, slope_z = _slopes(scene, land)
    one, two, three = (rgb(code) for code in _MEADOWS[scene.season])
    colour = mix(mix(one, two, smooth(-1, 1, mottle)), three, smooth(0.2, 1.6, fine))
    if scene.has("mountains"):
        colour = mix(colour, _rock(scene, land, mottle, slope_x, slope_z, rng), smooth(0.05, 0.5, land.range))
    if scene.has("sea"):
        strand = rgb(str(rng.choice(["8a8070", "b8a684", "77756e", "a39a84"])))
        beach = (1 - smooth(0.012, 0.05, land.shore + 0.01 * mottle)) * (1 - land.range)
        colour = mix(colour, strand, beach * (1 - land.sand))
    if scene.has("desert"):
        sand = rgb(str(rng.choice(_SANDS)))
        ripples = np.sin((x * 0.8 + z * 0.6) * np.float32(900) + 2.5 * mottle + 3 * fine) * np.exp(-r / 0.09)
        slope_x = slope_x + np.float32(0.12) * ripples * land.sand
        sand_colour = sand * (1 + np.float32(0.025) * np.clip(mottle + fine, -2, 2))[..., None]
        colour = mix(colour, sand_colour, land.sand)
    if scene.has("trees"):
        leaf = _leaf_colours(scene, 1, rng)[0] * 0.75
        tint = 1 + 0.22 * np.clip(noise("cells", x / 0.5 + o[7], z / 0.5 + o[2]), -2, 2)
        colour = mix(colour, leaf * tint[..., None], land.forest)
    blades = noise("cells", x / 0.06 + o[2], z / 0.06 + o[6]) * np.exp(-r / 0.08)
    tufts = noise("cells", x / 0.5 + o[8], z / 0.5 + o[0]) * np.exp(-r / 0.6)
    bare = 1 - 0.8 * np.maximum(land.sand, land.range)
    colour = colour * np.clip(1 + (0.10 * fine * bare + (0.13 * blades + 0.12 * tufts) * bare), 0.4, 1.7)[..., None]
    if scene.season in ("spring", "summer") and rng.random() < 0.35:
        flower = rgb(str(rng.choice(["e8c83a", "d8502e", "b48ad0", "f2eee0"])))
        colour = mix(
            colour,
            flower,
            smooth(1.1, 1.7, blades * 1.6 + 0.6 * mottle) * (1 - np.maximum(land.sand, land.range)) * 0.8,
        )
    lit = _sunlight(scene, land, slope_x, slope_z)
    sky_light = 0.75 + 0.25 / np.sqrt(1 + slope_x**2 + slope_z**2)
    colour = colour * (light.ambient * sky_light[..., None] + light.sun * lit[..., None])
    mist = np.float32(1 / scene.visibility) * (0.55 + 0.9 * np.exp(-np.maximum(land.height, 0) / np.float32(0.25)))
    return mix(colour, light.haze[None], 1 - np.exp(-r * mist)).astype(np.float32)


def _slopes(scene: Scene, land: Land) -> tuple[Array, Array]:
    r, ground = land.distance, np.maximum(land.height, 0)
    across = np.gradient(ground, axis=1) * (scene.focal / r)[:, None]
    gaps = np.maximum(np.diff(r), 1e-5)[:, None]
    away = np.concatenate([np.diff(ground, axis=0) / gaps, np.zeros_like(ground[:1])])
    away[1:] = (away[1:] + away[:-1]) / 2
    return np.clip(across, -4, 4).astype(np.float32), np.clip(away, -4, 4).astype(np.float32)


def _sunlight(scene: Scene, land: Land, slope_x: Array, slope_z: Array) -> Array:
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


def _rock(scene: Scene, land: Land, mottle: Array, slope_x: Array, slope_z: Array, rng: np.random.Generator) -> Rgb:
    dry = scene.has("desert") or (scene.season == "summer" and rng.random() < 0.3)
    rock = rgb(str(rng.choice(_DRY_ROCKS if dry else _ROCKS)))
    steep = np.hypot(slope_x, slope_z)
    top = max(float(land.height.max()), 0.1)
    level = land.height / np.float32(top) + 0.06 * mottle
    bands = 1 + 0.12 * np.sin(land.height * np.float32(22) + 2 * mottle)
    colour: Rgb = rock * bands[..., None]
    if not dry:
        grass = rgb(_MEADOWS[scene.season][0]) * 0.8
        colour = mix(grass, colour, smooth(0.12, 0.4, level + 0.18 * steep))
    line = rng.uniform(0.75, 1.2) if dry else {"winter": 0.1}.get(scene.season, rng.uniform(0.2, 0.6))
    snow = smooth(line, line + 0.16, level - 0.14 * steep + 0.1)
    return mix(colour, rgb("f4f7fb"), snow)


# ---- from the world to the screen


@dataclass(frozen=True)
class _View:
    """What the camera sees, at twice the height so that ridge lines are smooth."""

    row: Array  # (n_distances, width) the screen row of each ground point, in full-size pixels
    index: npt.NDArray[np.int32]  # (2 * height, width) the first ground sample at or above the pixel; n_distances = sky
    share: Array  # (2 * height, width) how far from the sample before to it


def _project(scene: Scene, land: Land) -> _View:
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


def _paint_water(scene: Scene, light: _Light, picture: Rgb, water: Array, rng: np.random.Generator) -> Rgb:
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
    swell = noise("fractal", u.astype(np.float32), v.astype(np.float32))
    chop = noise("cells", (u * 1.3).astype(np.float32), (v * 1.0).astype(np.float32))
    wave = swell * 0.6 + chop * 0.6
    seen = np.zeros((*wave.shape, 3), np.float32)
    for tap in (0.1, 0.6, 1.3, 2.2):  # waves tilt the mirror up: it draws what stands on the shore out towards us
        mirror = scene.horizon - drop - tap * (1 + 0.8 * wave) * rough * (3 + 0.10 * drop)
        mirror = np.clip(mirror, 0, max(scene.horizon - 1, 0)).astype(np.int64)
        seen += picture.reshape(-1, 3).take((mirror * scene.width + columns).ravel(), axis=0).reshape(seen.shape) / 4
    look_down = np.clip(drop / scene.focal, 0, 1)
    fresnel = np.clip(0.12 + 0.8 * (1 - look_down) ** 7 - 0.16 * rough * wave, 0.05, 0.92)
    deep = rgb(str(rng.choice(["1d5a78", "17506a", "2a7d8a", "23607f", "2f6f7a", "1f4a63"])))
    body = deep * (light.ambient * 1.3 + light.sun * 0.45)
    sea = mix(body * (1 + 0.25 * wave)[..., None], seen * np.float32(0.94), fresnel)
    azimuth = scene.azimuth[None]
    if scene.dusk:
        spread = 0.05 + 0.10 * look_down
        path = np.exp(-(((azimuth - np.float32(scene.sun_azimuth)) / spread) ** 2))
        sea = sea + light.under * (path * smooth(-0.3, 1.4, wave) * 1.1)[..., None]
    else:
        sea = sea + light.sun * (smooth(1.5, 3.0, wave) * 0.16 * smooth(0, 25, drop))[..., None]
    caps = smooth(1.7, 2.6, chop + 0.35 * swell) * smooth(3, 30, drop) * np.float32(max(rough - 0.7, 0))
    sea = mix(sea, (light.ambient + light.sun * 0.8) * 0.9, np.clip(caps, 0, 0.6))
    out = picture.copy()
    out[top:] = mix(picture[top:], sea.astype(np.float32), water[top:])
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


def _leaf_colours(scene: Scene, count: int, rng: np.random.Generator, conifer: Array | None = None) -> Rgb:
    leaves = np.stack([rgb(code) for code in _LEAF_COLOURS[scene.season]])
    needles = np.stack([rgb(code) for code in _NEEDLES])
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


def _sow(scene: Scene, land: Land, view: _View, rng: np.random.Generator) -> _Trees:
    part, is_small = scene.parts["trees"], scene.is_small("trees")
    half = scene.width / scene.focal / 2
    wide = min(part.half_width / half, 1.0)
    style = str(rng.choice(["forest", "groves", "park"], p=[0.45, 0.35, 0.2]))
    palms = (scene.has("desert") and not scene.is_small("desert")) or (
        scene.has("sea") and scene.season == "summer" and rng.random() < 0.4
    )
    count = int({"forest": 260, "groves": 200, "park": 110}[style] * wide * float(np.clip(half / 0.6, 0.8, 1.6)))
    if is_small or palms:
        count = (
            int(rng.integers(9, 16))
            if is_small
            else int(rng.integers(26, 46) * max(wide, 0.6) * float(np.clip(half / 0.5, 1, 3)))
        )
    near = land.distance[0] * (1.9 if is_small else 1.25)
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
    kinds = {"forest": ("spruce", "fir", "oak", "lime", "pine"), "groves": ("oak", "lime", "spruce", "poplar", "bush")}
    choice = ("palm", "palm", "palm", "bush") if palms else kinds.get(style, ("oak", "lime", "poplar", "pine", "bush"))
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
    scene: Scene, land: Land, view: _View, light: _Light, picture: Rgb, trees: _Trees, rng: np.random.Generator
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


def _tree_shadows(scene: Scene, trees: _Trees, rng: np.random.Generator) -> Array:
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
    scene: Scene,
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
    scene: Scene,
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
    material[wood] = rgb("6b5846")
    lit = np.clip(0.12 + 0.85 * to_sun, 0, None) * reach
    sky_light = reach * (0.75 + 0.3 * leaf[:, 3])
    colour: Rgb = material * (light.ambient * sky_light[:, None] + light.sun * lit[:, None])
    column = np.clip(trees.column[of].astype(np.int32), 0, scene.width - 1)
    fade = 1 - np.exp(-trees.distance[of] * np.float32(1.4 / scene.visibility))
    colour += (light.haze[column][tree] - colour) * fade[tree][:, None]
    return colour


# ---- the picture


def _develop(scene: Scene, light: _Light, picture: Rgb, rng: np.random.Generator) -> Image.Image:
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


def _coverage(scene: Scene, land: Land, view: _View) -> dict[str, npt.NDArray[np.bool_]]:
    """Where the picture shows sea, desert and mountains as far as the ground goes: (height, width) each."""
    n = len(land.distance)
    water = (land.height < 0) | (land.shore < 0)
    index, column = np.minimum(view.index[::2], n - 1), np.arange(scene.width)
    ground = view.index[::2] < n
    masks = {"sea": water, "desert": (land.sand > 0.5) & ~water, "mountains": land.range > 0.3}
    return {label: mask[index, column] & ground for label, mask in masks.items()}


def _visibility(scene: Scene, masks: dict[str, npt.NDArray[np.bool_]], trees: Array | float) -> float:
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
        scene = compose(frozenset(labels), frozenset(small), size, rng)
        land = relief(scene, rng)
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


def _canopy(scene: Scene, trees: _Trees) -> float:
    """About the trees' share of the picture over the least they should have, before they are drawn."""
    on_screen = (trees.column > 0) & (trees.column < scene.width)
    area = float((np.minimum(trees.size[on_screen], scene.height) ** 2).sum())
    return 0.14 * area / (scene.width * scene.height) / _LEAST["trees"][not scene.is_small("trees")]


def _render(
    scene: Scene, land: Land, view: _View, trees: _Trees | None, rng: np.random.Generator
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
    picture = mix(picture, rgb("fff0c0") * 1.3, disc * (1 - seen[..., 4]))
    coverage: Array | float = 0.0
    if trees is not None:
        picture, coverage = _plant(scene, land, view, light, picture, trees, rng)
    return _develop(scene, light, picture, rng), coverage
