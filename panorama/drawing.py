"""Small charts as inline SVG, for files that must work without a network. Colours are CSS classes, so that they follow the reader's theme.

Series differ by dash and marker as well as by colour. Every string is escaped here.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 40


@dataclass(frozen=True)
class Series:
    """x, y: as many of each. kind: "a" to "c", which choose colour, dash and marker. sizes: a marker on each point, by its area; none: a line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "a"
    sizes: Sequence[float] | None = None
    steps: bool = False


def esc(value: object) -> str:
    """A user's string for HTML; characters that are no text are shown as a replacement."""
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def plot(
    series: Sequence[Series], *, title: str, x: str, y: str, x_range: tuple[float, float] = (0, 1), y_range: tuple[float, float] = (0, 1),
    diagonal: bool = False, size: tuple[int, int] = (300, 240),
) -> str:  # fmt: skip
    """An svg element with axes, grid, ticks and a legend where there are several series. title: what a screen reader says."""
    width, height = size
    at_x = _scale(x_range, _LEFT, width - _RIGHT)
    at_y = _scale(y_range, height - _BOTTOM, _TOP)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{esc(title)}"><title>{esc(title)}</title>']
    for value in _ticks(*y_range):
        parts.append(f'<path class="grid" d="M{_LEFT} {at_y(value):.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at_y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in _ticks(*x_range):
        parts.append(
            f'<text class="tick" x="{at_x(value):.1f}" y="{height - _BOTTOM + 15}" text-anchor="middle">{value:.4g}</text>'
        )
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{height - 8}" text-anchor="middle">{esc(x)}</text>')
    down = (_TOP + height - _BOTTOM) / 2
    parts.append(f'<text class="axis" transform="translate(12 {down:.0f}) rotate(-90)" text-anchor="middle">{esc(y)}</text>')
    if diagonal:
        parts.append(f'<path class="diagonal" d="M{at_x(0):.1f} {at_y(0):.1f}L{at_x(1):.1f} {at_y(1):.1f}"/>')
    parts += [_drawn(s, [at_x(v) for v in s.x], [at_y(v) for v in s.y]) for s in series]
    return "".join(parts) + "</svg>" + (_legend(series) if len(series) > 1 else "")


def _drawn(series: Series, xs: Sequence[float], ys: Sequence[float]) -> str:
    if series.sizes is None:
        moves = []
        for n, (px, py) in enumerate(zip(xs, ys, strict=True)):
            moves.append(f"H{px:.1f}V{py:.1f}" if series.steps and n else f"{'L' if n else 'M'}{px:.1f} {py:.1f}")
        return f'<path class="line {series.kind}" d="{"".join(moves)}"/>'
    return "".join(
        f'<circle class="dot {series.kind}" cx="{px:.1f}" cy="{py:.1f}" r="{size**0.5:.1f}"/>'
        for px, py, size in zip(xs, ys, series.sizes, strict=True)
    )


def _legend(series: Sequence[Series]) -> str:
    keys = []
    for s in series:
        mark = (
            f'<path class="line {s.kind}" d="M1 6H25"/>'
            if s.sizes is None
            else f'<circle class="dot {s.kind}" cx="13" cy="6" r="4.5"/>'
        )
        keys.append(f'<span><svg class="key" viewBox="0 0 26 12" aria-hidden="true">{mark}</svg>{esc(s.name)}</span>')
    return f'<div class="legend">{"".join(keys)}</div>'


def _scale(of: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    """From a value to a pixel."""
    low, span = of[0], (of[1] - of[0]) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from low to high."""
    if high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 6.01)
    first = -(-low // step)
    return [round((first + n) * step, 10) for n in range(8) if (first + n) * step <= high * (1 + 1e-9)]
