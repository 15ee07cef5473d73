"""Try a trained model on your own pictures: upload, or paste; probabilities as bars, a table, a CSV."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from panorama import charts, ui
from panorama.csvscan import csv_text
from panorama.errors import PanoramaError

if TYPE_CHECKING:
    from panorama.prediction import Predictor

ui.ensure_entrypoint()

st.title("Predict")
run = ui.choose_run(needs="model.json")


@st.cache_resource(show_spinner="Loading the model", max_entries=2)
def predictor(folder: str, stamp: int) -> "Predictor":
    """The run's model; loaded once for the server, again when the file changes."""
    from panorama.prediction import Predictor

    del stamp  # part of the cache key
    loaded = Predictor.load(Path(folder))
    ui.settle_memory()
    return loaded


left, right = st.columns([3, 2])
uploads = left.file_uploader(
    "Pictures", accept_multiple_files=True, key="pictures", help="JPEG, PNG, BMP, GIF, WebP, TIFF or AVIF."
)
with right:
    pasted = ui.paste_zone("paste")
sources: list[tuple[str, bytes]] = [(upload.name, upload.getvalue()) for upload in uploads]
if pasted is not None:
    sources.append(pasted)
if not sources:
    st.info("Drop pictures above, or copy a picture and paste it. They stay on this machine and are not stored.")
    st.stop()

try:
    model = predictor(str(run.folder), (run.folder / "model.safetensors").stat().st_mtime_ns)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
threshold = st.slider("Threshold: a probability above it counts as predicted", 0.01, 0.99, model.threshold, 0.01, key="threshold")

known = st.session_state.setdefault("predictions", {})
keys = [(run.id, hashlib.sha256(data).hexdigest(), name) for name, data in sources]
new = [(key, source) for key, source in zip(keys, sources, strict=True) if key not in known]
if new:
    bar = st.progress(0.0, "Predicting")
    for done, (key, prediction) in enumerate(
        zip([key for key, _ in new], model.predict([source for _, source in new]), strict=True), 1
    ):
        known[key] = prediction
        bar.progress(done / len(new), f"Predicting: {done} of {len(new)}")
    bar.empty()
answers = [(known[key], data) for key, (_, data) in zip(keys, sources, strict=True)]
for answer, _ in answers:
    if answer.problem:
        st.warning(ui.text(f"{answer.problem} It is left out."))
read = [(answer, data) for answer, data in answers if answer.probabilities is not None]
for position, (answer, data) in enumerate(read[ui.pager(len(read), 12, "answers")]):
    with st.container(border=True):
        picture, bars = st.columns([2, 3], vertical_alignment="center")
        picture.html(ui.picture_bytes_html(data, 640, answer.name))
        said = [label for label, p in zip(model.labels, answer.probabilities, strict=True) if p > threshold]
        bars.markdown(f"**{ui.text(answer.name)}**: {ui.text(', '.join(said)) or 'no label'}")
        bars.altair_chart(
            charts.probability_bars(model.labels, [float(p) for p in answer.probabilities], threshold), key=f"bars-{position}"
        )

if read:
    st.subheader("Table")
    first = "image"
    while first in model.labels:  # a label may have any name, and a table takes each only once
        first = f"{first} name"
    table = pd.DataFrame([[answer.name, *answer.probabilities] for answer, _ in read], columns=[first, *model.labels])
    st.dataframe(
        table,
        hide_index=True,
        key="table",
        column_config={label: st.column_config.NumberColumn(format="%.3f") for label in model.labels},
    )
    rows = [[answer.name, *(f"{p:.6g}" for p in answer.probabilities.tolist())] for answer, _ in read]
    st.download_button(
        "Download predictions.csv",
        csv_text([["image", *model.labels], *rows]).encode("utf-8", "surrogateescape"),
        "predictions.csv",
        "text/csv",
        key="download",
        on_click="ignore",
    )
