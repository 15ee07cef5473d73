"""The way in: what this is, the demo in one click, your own data in two."""

import streamlit as st

from panorama import runs, ui
from panorama.ui import running
from panorama.workspace import current

ui.ensure_entrypoint()

st.title("panorama")
st.html(
    '<p class="pn-hero">Train a classifier on your labelled pictures, see what it gets wrong, find the labels that are wrong '
    "in your CSV, and take home a corrected CSV in which nothing else changed.</p>"
)
home = runs.workspace()
found = current(home)

left, right = st.columns(2)
with left.container(border=True, height="stretch"):
    st.subheader("Try it on the demo")
    st.write(
        "400 landscapes that panorama draws, with label errors planted on purpose. One click draws them and trains both phases, in about "
        "two minutes, and nothing is downloaded."
    )
    running.draw_demo("Draw the demo and train", key="demo", train=True)
with right.container(border=True, height="stretch"):
    st.subheader("Use your own pictures")
    st.write(
        "A folder with pictures and a CSV that says which labels each one carries, or a zip of it. It is only read, never changed."
    )
    ui.page_link("dataset", "Choose a folder or upload a zip →")

st.subheader("The way through")
finished = [
    run for run in runs.list_runs(home) if run.has("metrics.json") and (found is None or run.source.root == found.source.root)
]
if runs.is_busy(home):
    ui.page_link("train", "Go on: watch the training →")
elif finished:
    ui.page_link("review", "Go on: review the labels that are probably wrong →")
elif found is not None:
    ui.page_link("train", f"Go on: train on {ui.text(found.source.name)} →")
steps = (
    ("dataset", "Dataset", "Import pictures and labels, and see what is wrong with them.", found is not None),
    (
        "train",
        "Train",
        "Two phases, live curves; stop, resume and compare runs.",
        any(not runs.is_running(run) for run in finished),
    ),
    ("sanity_check", "Sanity check", "What the model says beside what the CSV says, before and after training.", False),
    ("review", "Review", "Decide on the labels that are probably wrong, alone or with others.", False),
    ("export", "Export", "Take home the corrected CSV, and see each line that changes.", False),
    ("effect", "Effect", "Train again on the corrected labels, and see what it brought.", False),
    ("report", "Report", "What was measured, and what was corrected.", False),
    ("predict", "Predict", "Try the model on your own pictures.", False),
)
listed = st.container(key="steps", gap="small")
for name, title, what, done in steps:
    first, second = listed.columns([1, 4], vertical_alignment="center")
    with first:
        ui.page_link(name, f"{title}{' ✓' if done else ''}")
    second.write(what)
