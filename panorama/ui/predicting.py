"""What the predict page asks of a model, kept for as long as it is of use; and what it draws of a picture: where in it a label is seen, where
along a panorama, and what that means in words.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from panorama import charts, metrics
from panorama.csvscan import counted, csv_text
from panorama.heat import overlay_png
from panorama.images import PictureError, open_rgb, thumbnail_jpeg
from panorama.runs import Run
from panorama.ui import esc, progress_bar, settle_memory, stopped, text, was_stopped

if TYPE_CHECKING:
    from panorama.prediction import Prediction, Predictor, Strip

Look = tuple["npt.NDArray[np.float32] | None", "Strip | None"]  # where labels are seen in a picture, and along a wide one
_OVERLAY_SIDE = 112
_KEPT_LOOKS = 200
_FEW_LABELS = 8  # that are all shown
_LEFT_HERE, _ARE_OF_BEFORE = "predict-left-here", "predict-are-of-before"  # in the session
KEPT_MB = 200


@st.cache_resource(show_spinner="Loading the model", max_entries=3)
def _predictor(folder: str, stamp: int) -> "Predictor":
    """The run's model; loaded once for the server, again when the file changes."""
    from panorama.prediction import Predictor

    del stamp  # part of the cache key
    loaded = Predictor.load(Path(folder))
    settle_memory()
    return loaded


@st.cache_data(show_spinner=False, max_entries=20)
def _scaling(folder: str, stamp: int) -> metrics.Scaling | None:
    """What makes the run's probabilities calibrated, from its validation part; None where there is nothing to learn it from."""
    del stamp  # part of the cache key
    answered = Run(Path(folder)).probabilities("predictions.csv")
    if answered is None:
        return None
    labels, probabilities = answered
    chosen = np.array(Run(Path(folder)).images()[1]) == "validation"
    return metrics.platt_scaling(Run(Path(folder)).targets(labels)[chosen], probabilities[chosen])


def model_of(which: Run) -> "Predictor":
    """Raises PanoramaError when the run has no sound model."""
    return _predictor(str(which.folder), (which.folder / "model.safetensors").stat().st_mtime_ns)


def scaling_of(which: Run) -> metrics.Scaling | None:
    """What makes the run's probabilities calibrated; None where there is nothing to learn it from. Raises PanoramaError."""
    if not which.has("predictions.csv"):
        return None
    return _scaling(str(which.folder), (which.folder / "model.safetensors").stat().st_mtime_ns)


def enter() -> None:
    """Somebody came to the page: what was left here is there again."""
    st.session_state[_ARE_OF_BEFORE] = True


def sources(given: list[tuple[str, bytes]]) -> tuple[list[tuple[str, bytes]], bool]:
    """The pictures (name, bytes) to answer, and whether they were left here: the uploader forgets its own when somebody leaves the page.

    Those that `are_too_many` are not kept, and none once somebody took the last one out of the uploader.
    """
    state = st.session_state
    if given:
        state[_LEFT_HERE] = [] if are_too_many(given) else given
        state[_ARE_OF_BEFORE] = False
    elif not state.get(_ARE_OF_BEFORE):
        put_away()
    found: list[tuple[str, bytes]] = given or state.get(_LEFT_HERE, [])
    return found, bool(found and not given)


def are_too_many(pictures: Sequence[tuple[str, bytes]]) -> bool:
    """Whether they take more memory than the server keeps for somebody who is elsewhere."""
    return sum(len(data) for _, data in pictures) > KEPT_MB * 2**20


def put_away() -> None:
    """Forgets the pictures that were left here."""
    st.session_state[_LEFT_HERE] = []


def answers(model: "Predictor", run: str, sources: Sequence[tuple[str, bytes]]) -> "list[Prediction]":
    """The model's answer for each source (name, bytes), in order; those of earlier runs of the page are kept in the session."""
    known = st.session_state.setdefault("predictions", {})
    keys = [(run, hashlib.sha256(data).hexdigest(), source) for source, data in sources]
    new = [(key, source) for key, source in zip(keys, sources, strict=True) if key not in known]
    if new:
        was_stopped("predicting", f"Predicting was stopped: {len(new):,} of {len(sources):,} pictures have no answer yet.")
        with progress_bar("Predicting", on_stop=lambda: stopped("predicting")) as advanced:
            for done, (key, made) in enumerate(zip([key for key, _ in new], model.predict([s for _, s in new]), strict=True), 1):
                known[key] = made
                advanced(done, len(new))
    return [known[key] for key in keys]


def look(model: "Predictor", run: str, name: str, data: bytes) -> "Look":
    """Where the labels are seen in a picture, and along it when it is wide; kept in the session for the latest pictures."""
    known = st.session_state.setdefault("looks", {})
    key = (run, hashlib.sha256(data).hexdigest())
    if key not in known:
        try:
            image = open_rgb(data, name)
            known[key] = model.heat(image), model.strip(image)
        except PictureError:
            known[key] = None, None
        for old in list(known)[:-_KEPT_LOOKS]:
            del known[old]
    found: Look = known[key]
    return found


# --- drawing -----------------------------------------------------------------------------------------------------------


def card(
    labels: Sequence[str], answer: "Prediction", seen: Look, data: bytes, limits: Sequence[float], scale: metrics.Scaling | None, *,
    beside: Mapping[str, float], shows: int | None, key: str,
) -> None:  # fmt: skip
    """A picture beside what the model says of it; a wide one above, with where along it each label is seen.

    limits: the threshold of each label. scale: makes the probabilities shown calibrated. beside: another model's answers. shows: the label whose
    place is laid over the picture. key: of the chart.
    """
    assert answer.probabilities is not None
    heat, strip = seen
    over = heat[shows] if heat is not None and shows is not None else None
    said = [label for label, p, limit in zip(labels, answer.probabilities, limits, strict=True) if p > limit]
    whole = text(", ".join(said)) or "no label"
    if strip is None:
        picture, bars = st.columns([2, 3], vertical_alignment="top")
        picture.html(photo_html(data, 640, answer.name, over))
    else:
        bars = st.container()
        bars.html(photo_html(data, 1400, answer.name, over) + strip_html(labels, strip, limits))
        along = [label for label, p, limit in zip(labels, strip.probabilities.max(0), limits, strict=True) if p > limit]
        whole = f"{text(', '.join(along)) or 'no label'} along it; squeezed into one look: {whole}"
    bars.markdown(f"**{text(answer.name)}**: {whole}")
    shown = answer.probabilities if scale is None else scale(answer.probabilities)
    marks = limits if scale is None else None
    chart = charts.probability_bars(labels, [float(p) for p in shown], marks, predicted=said, beside=beside)
    bars.altair_chart(chart, key=key)


def table(labels: Sequence[str], answered: "Sequence[Prediction]") -> None:
    """All answers as a table, and as a CSV to take home."""
    st.subheader("Table")
    header = "image"
    while header in labels:  # a label may have any name, and a table takes each only once
        header = f"{header} name"
    rows = [[one.name, *one.probabilities.tolist()] for one in answered if one.probabilities is not None]
    number = st.column_config.NumberColumn(format="%.3f")
    shown = pd.DataFrame(rows, columns=[header, *labels])
    st.dataframe(shown, hide_index=True, key="table", column_config=dict.fromkeys(labels, number))
    written = csv_text([["image", *labels], *([name, *(f"{p:.6g}" for p in values)] for name, *values in rows)])
    st.download_button(
        "Download predictions.csv",
        written.encode("utf-8", "surrogateescape"),
        "predictions.csv",
        "text/csv",
        key="download",
        on_click="ignore",
    )


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


def strip_html(labels: Sequence[str], strip: "Strip", limits: Sequence[float]) -> str:
    """A row a label under a wide picture, as wide as the picture: darker where the label is likelier, and in words where it is likeliest.

    limits: the threshold of each label. Of many labels those that are seen nowhere are folded away.
    """
    seen = strip.probabilities.max(0) > np.array(limits, np.float32)
    few = len(labels) <= _FEW_LABELS
    rows = [_strip_row(label, strip, j, limits[j]) for j, label in enumerate(labels) if few or seen[j]]
    others = [_strip_row(label, strip, j, limits[j]) for j, label in enumerate(labels) if not (few or seen[j])]
    folded = ""
    if others:
        over = _limit(limits[0]) if len(set(limits)) == 1 else "their thresholds"
        told = f"{counted(len(others), 'label')} nowhere over {over}"
        folded = f'<details><summary>{told}</summary><div class="pn-strips">{"".join(others)}</div></details>'
    return f'<div class="pn-strips">{"".join(rows)}{folded}</div>'


def _strip_row(label: str, strip: "Strip", j: int, limit: float) -> str:
    values = strip.probabilities[:, j]
    stops = ", ".join(
        f"color-mix(in srgb, var(--pn-blue) {value:.0%}, transparent) {centre:.1%}"
        for centre, value in zip(_centres(strip), values, strict=True)
    )
    return (
        f'<div class="pn-strip"><div class="pn-scale" style="background: linear-gradient(90deg, {stops})"></div>'
        f'<div class="pn-said"><b>{esc(label)}</b> {esc(where_in_words(strip, values, limit))}</div></div>'
    )


def _limit(limit: float) -> str:
    return f"{limit:.2g}" if limit < 0.99 else f"{limit:.4g}"


def _centres(strip: "Strip") -> npt.NDArray[np.float64]:
    return (strip.lefts + strip.rights) / 2


def where_in_words(strip: "Strip", values: npt.NDArray[np.float32], limit: float) -> str:
    """Where a label is seen along the picture: its windows over `limit`, neighbours as one; or else that there are none.

    A window speaks for what is nearer to its centre than to another's, as the strip is drawn.
    """
    seen = np.flatnonzero(values > np.float32(limit))
    best = float(values.max())
    if not len(seen):
        return f"nowhere over {_limit(limit)}; at most {best:.2f}"
    if len(seen) == len(values):
        return f"all along, at most {best:.2f}"
    centres = _centres(strip)
    edges = [0.0, *((centres[1:] + centres[:-1]) / 2), 1.0]
    groups = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
    places = [f"{edges[group[0]]:.0%} to {edges[group[-1] + 1]:.0%} of the width" for group in groups]
    return f"{', '.join(places)}; at most {best:.2f}"
