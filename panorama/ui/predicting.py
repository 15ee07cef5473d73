"""What the predict page draws of a picture: where in it a label is seen, where along a panorama, and what that means in words."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from panorama.heat import overlay_png
from panorama.images import PictureError, thumbnail_jpeg
from panorama.ui import esc

if TYPE_CHECKING:
    from panorama.prediction import Strip

_OVERLAY_SIDE = 112
_SEEN = 0.5  # probability from which a label is said to be seen at a place


def photo_html(data: bytes, side: int, name: str, heat: npt.NDArray[np.float32] | None = None) -> str:
    """The picture, with a map (height, width) of 0 to 1 laid over it, or words in its place."""
    try:
        photo = base64.b64encode(thumbnail_jpeg(data, side, name)).decode()
    except PictureError as error:
        return f'<div class="pn-quiet">{esc(error)}</div>'
    over = ""
    if heat is not None:
        png = base64.b64encode(overlay_png((heat * 255).round().astype(np.uint8), _OVERLAY_SIDE)).decode()
        over = f'<img class="pn-heat" src="data:image/png;base64,{png}" alt="">'
    return f'<div class="pn-over"><img src="data:image/jpeg;base64,{photo}" alt="{esc(name)}">{over}</div>'


def strip_html(labels: Sequence[str], strip: "Strip") -> str:
    """A row a label under a wide picture, as wide as the picture: darker where the label is likelier, and in words where it is likeliest."""
    centres = (strip.lefts + strip.rights) / 2
    rows = []
    for label, values in zip(labels, strip.probabilities.T, strict=True):
        stops = ", ".join(
            f"color-mix(in srgb, var(--pn-blue) {value:.0%}, transparent) {centre:.1%}"
            for centre, value in zip(centres, values, strict=True)
        )
        rows.append(
            f'<div class="pn-strip"><div class="pn-scale" style="background: linear-gradient(90deg, {stops})"></div>'
            f'<div class="pn-said"><b>{esc(label)}</b> {esc(where_in_words(strip, values))}</div></div>'
        )
    return f'<div class="pn-strips">{"".join(rows)}</div>'


def where_in_words(strip: "Strip", values: npt.NDArray[np.float32]) -> str:
    """Where a label is seen along the picture: its windows over 0.5 that hang together, or else that there are none."""
    seen = np.flatnonzero(values > _SEEN)
    best = float(values.max())
    if not len(seen):
        return f"nowhere over {_SEEN:g}; at most {best:.2f}"
    if len(seen) == len(values):
        return f"all along, at most {best:.2f}"
    groups = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
    places = [f"{strip.lefts[group[0]]:.0%} to {strip.rights[group[-1]]:.0%} of the width" for group in groups]
    return f"{', '.join(places)}; at most {best:.2f}"
