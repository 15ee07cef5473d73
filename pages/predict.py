"""Try a trained model on your own pictures: probabilities, where in the picture each label is seen, and another model beside it."""

from typing import Any

import streamlit as st

from panorama import runs, ui
from panorama.csvscan import counted
from panorama.errors import PanoramaError
from panorama.ui import predicting

ui.ensure_entrypoint()

run = ui.choose_run(needs="model.json", title="Predict")
AT_RUN = "the run's threshold"
PER_LABEL = "a threshold for each label"

left, right = st.columns([3, 2])
with right:
    whole_folder = st.toggle("Pick a whole folder", key="whole-folder")
    pasted = ui.paste_zone("paste")
chooser = f"pictures-{whole_folder}"
if chooser not in st.session_state:
    predicting.enter()
uploads = left.file_uploader(
    "A folder of pictures" if whole_folder else "Pictures", accept_multiple_files="directory" if whole_folder else True,
    key=chooser, help="JPEG, PNG, BMP, GIF, WebP, TIFF or AVIF.", max_upload_size=ui.SMALL_UPLOAD,
)  # fmt: skip
given: list[tuple[str, bytes]] = [(upload.name, upload.getvalue()) for upload in uploads]
if pasted is not None:
    given.append(pasted)
sources, are_of_before = predicting.sources(given)
if are_of_before:
    what = f"Put away the {counted(len(sources), 'picture')} from before"
    left.button(
        what, icon=":material/close:", type="tertiary", on_click=predicting.put_away, help="New pictures take their place."
    )
elif predicting.are_too_many(sources):
    left.caption(f"More than {predicting.KEPT_MB} MB of pictures: they are gone when you leave this page.")
if not sources:
    st.info("Drop pictures above, or copy a picture and paste it. They stay on this machine and are not stored.")
    ui.page_link("review", "Back to the way: review the labels that are probably wrong →")
    st.stop()

try:
    model = predicting.model_of(run)
    scale = predicting.scaling_of(run)
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

found = predicting.answers(model, run.id, sources)
beside: list[Any] = [None] * len(found)
other_labels: tuple[str, ...] = ()
if compared:
    try:
        other = predicting.model_of(others[compared])
        beside, other_labels = predicting.answers(other, compared, sources), other.labels
    except PanoramaError as error:
        ui.show_error(error)
for answer in found:
    if answer.problem:
        st.warning(ui.text(f"{answer.problem} It is left out."))
read = [(a, b, data) for a, b, (_, data) in zip(found, beside, sources, strict=True) if a.probabilities is not None]
shows = None if show == nowhere else model.labels.index(show)
for position, (answer, another, data) in enumerate(read[ui.pager(len(read), 12, "answers")]):
    known = another is not None and another.probabilities is not None
    told = dict(zip(other_labels, another.probabilities.tolist(), strict=True)) if known else {}
    seen = predicting.look(model, run.id, answer.name, data)
    with st.container(border=True):
        predicting.card(
            model.labels,
            answer,
            seen,
            data,
            limits,
            scale if calibrated else None,
            beside=told,
            shows=shows,
            key=f"bars-{position}",
        )
if show != nowhere and read and predicting.look(model, run.id, read[0][0].name, read[0][2])[0] is None:
    st.caption("This backbone does more than average its last map, so there is no telling where it sees a label.")
if compared and other_labels:
    st.caption(f"Hollow marks: {ui.text(ui.run_title(others[compared]))}, where it knows the label.")
if read:
    predicting.table(model.labels, [answer for answer, _, _ in read])
ui.page_link("review", "Back to the way: review the labels that are probably wrong →")
