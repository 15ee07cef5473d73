"""Try a trained model on your own pictures: probabilities, where in the picture each label is seen, and another model beside it."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from panorama import charts, metrics, runs, ui
from panorama.csvscan import csv_text
from panorama.errors import PanoramaError
from panorama.images import PictureError, open_rgb
from panorama.runs import Run
from panorama.ui.predicting import photo_html, strip_html

if TYPE_CHECKING:
    from panorama.prediction import Predictor

ui.ensure_entrypoint()

run = ui.choose_run(needs="model.json", title="Predict")
AT_RUN = "the run's threshold"
PER_LABEL = "a threshold for each label"
_KEPT_LOOKS = 200


@st.cache_resource(show_spinner="Loading the model", max_entries=3)
def predictor(folder: str, stamp: int) -> "Predictor":
    """The run's model; loaded once for the server, again when the file changes."""
    from panorama.prediction import Predictor

    del stamp  # part of the cache key
    loaded = Predictor.load(Path(folder))
    ui.settle_memory()
    return loaded


@st.cache_data(show_spinner=False, max_entries=20)
def scaling(folder: str, stamp: int) -> metrics.Scaling | None:
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
    return predictor(str(which.folder), (which.folder / "model.safetensors").stat().st_mtime_ns)


left, right = st.columns([3, 2])
with right:
    whole_folder = st.toggle("Pick a whole folder", key="whole-folder")
    pasted = ui.paste_zone("paste")
uploads = left.file_uploader(
    "A folder of pictures" if whole_folder else "Pictures", accept_multiple_files="directory" if whole_folder else True,
    key=f"pictures-{whole_folder}", help="JPEG, PNG, BMP, GIF, WebP, TIFF or AVIF.",
)  # fmt: skip
sources: list[tuple[str, bytes]] = [(upload.name, upload.getvalue()) for upload in uploads]
if pasted is not None:
    sources.append(pasted)
if not sources:
    st.info("Drop pictures above, or copy a picture and paste it. They stay on this machine and are not stored.")
    st.stop()

try:
    model = model_of(run)
    scale = (
        scaling(str(run.folder), (run.folder / "model.safetensors").stat().st_mtime_ns) if run.has("predictions.csv") else None
    )
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
measured = run.metrics()
of_label = {k: v for k, v in (measured or {}).get("thresholds_from_validation", {}).items() if v is not None}
others = {other.id: other for other in runs.list_runs(runs.workspace()) if other.id != run.id and other.has("model.json")}

first, second, third, fourth = st.columns(4, vertical_alignment="bottom")
way = first.selectbox(
    "Predicted when over", [AT_RUN, *([PER_LABEL] if of_label else [])], key="threshold-way",
    help="For each label: the threshold with the highest F1 on the run's validation part.",
)  # fmt: skip
threshold = second.slider("Threshold", 0.01, 0.99, model.threshold, 0.01, key="threshold", disabled=way == PER_LABEL)
nowhere = ui.apart("nothing", model.labels)
show = third.selectbox("Show where it sees", [nowhere, *model.labels], key="show-where")
compared = fourth.selectbox(
    "Compare with",
    ["", *others],
    format_func=lambda name: ui.run_title(others[name]) if name else "no other run",
    key="compare-with",
)
limits = [of_label.get(label, threshold) if way == PER_LABEL else threshold for label in model.labels]
calibrated = scale is not None and st.toggle(
    "Calibrated probabilities", key="calibrated",
    help="Of pictures with a calibrated 0.8, about 80 % carried the label: fitted on the run's validation part, whose pictures are like yours only if yours are like them. "
    "Thresholds stay those of the model's own probabilities.",
)  # fmt: skip


def answers(which: "Predictor", name: str) -> list[Any]:
    """The model's answer for each source, in order; those of earlier runs of the page are kept in the session."""
    known = st.session_state.setdefault("predictions", {})
    keys = [(name, hashlib.sha256(data).hexdigest(), source) for source, data in sources]
    new = [(key, source) for key, source in zip(keys, sources, strict=True) if key not in known]
    if new:
        bar = st.progress(0.0, "Predicting")
        for done, (key, made) in enumerate(zip([key for key, _ in new], which.predict([s for _, s in new]), strict=True), 1):
            known[key] = made
            bar.progress(done / len(new), f"Predicting: {done} of {len(new)}")
        bar.empty()
    return [known[key] for key in keys]


def look(name: str, data: bytes) -> tuple[Any, Any]:
    """Where the labels are seen in a picture, and along it when it is wide; kept in the session for the latest pictures."""
    known = st.session_state.setdefault("looks", {})
    key = (run.id, hashlib.sha256(data).hexdigest())
    if key not in known:
        try:
            image = open_rgb(data, name)
            known[key] = model.heat(image), model.strip(image)
        except PictureError:
            known[key] = None, None
        for old in list(known)[:-_KEPT_LOOKS]:
            del known[old]
    found: tuple[Any, Any] = known[key]
    return found


found = answers(model, run.id)
beside: list[Any] = [None] * len(found)
other_labels: tuple[str, ...] = ()
if compared:
    try:
        other = model_of(others[compared])
        beside, other_labels = answers(other, compared), other.labels
    except PanoramaError as error:
        ui.show_error(error)
for answer in found:
    if answer.problem:
        st.warning(ui.text(f"{answer.problem} It is left out."))
read = [(a, b, data) for a, b, (_, data) in zip(found, beside, sources, strict=True) if a.probabilities is not None]
for position, (answer, another, data) in enumerate(read[ui.pager(len(read), 12, "answers")]):
    with st.container(border=True):
        heat, strip = look(answer.name, data)
        over = heat[model.labels.index(show)] if heat is not None and show != nowhere else None
        picture, bars = (st, st) if strip is not None else st.columns([2, 3], vertical_alignment="center")
        picture.html(photo_html(data, 1400 if strip is not None else 640, answer.name, over))
        if strip is not None:
            st.html(strip_html(model.labels, strip))
        said = [label for label, p, limit in zip(model.labels, answer.probabilities, limits, strict=True) if p > limit]
        whole = ui.text(", ".join(said)) or "no label"
        if strip is not None:
            along = [label for label, p, limit in zip(model.labels, strip.probabilities.max(0), limits, strict=True) if p > limit]
            whole = f"{ui.text(', '.join(along)) or 'no label'} along it; squeezed into one look: {whole}"
        bars.markdown(f"**{ui.text(answer.name)}**: {whole}")
        shown = scale(answer.probabilities) if calibrated and scale is not None else answer.probabilities
        marks = None if calibrated else limits
        told = {}
        if another is not None and another.probabilities is not None:
            told = dict(zip(other_labels, another.probabilities.tolist(), strict=True))
        bars.altair_chart(
            charts.probability_bars(model.labels, [float(p) for p in shown], marks, predicted=said, beside=told),
            key=f"bars-{position}",
        )
if show != nowhere and read and look(read[0][0].name, read[0][2])[0] is None:
    st.caption("This backbone does more than average its last map, so there is no telling where it sees a label.")
if compared and other_labels:
    st.caption(f"Hollow marks: {ui.text(ui.run_title(others[compared]))}, where it knows the label.")

if read:
    st.subheader("Table")
    header = "image"
    while header in model.labels:  # a label may have any name, and a table takes each only once
        header = f"{header} name"
    table = pd.DataFrame([[answer.name, *answer.probabilities] for answer, _, _ in read], columns=[header, *model.labels])
    number = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(table, hide_index=True, key="table", column_config=dict.fromkeys(model.labels, number))
    rows = [[answer.name, *(f"{p:.6g}" for p in answer.probabilities.tolist())] for answer, _, _ in read]
    st.download_button(
        "Download predictions.csv", csv_text([["image", *model.labels], *rows]).encode("utf-8", "surrogateescape"), "predictions.csv",
        "text/csv", key="download", on_click="ignore",
    )  # fmt: skip
