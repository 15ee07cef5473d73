"""What a colleague should know: the data's health, the model's figures and curves, what people decided; and all of it as one file."""

from functools import partial

import streamlit as st

from panorama import charts, report, runs, ui
from panorama.csvscan import counted
from panorama.errors import PanoramaError
from panorama.report_html import render
from panorama.ui import reporting

ui.ensure_entrypoint()

st.title("Report")
run = ui.choose_run(needs="metrics.json")
try:
    queue = ui.review_queue(run) if run.has("suspects.csv") else None
    fold = ui.review_store(runs.workspace()).fold(run.fingerprint)
    data = ui.report_data(run)
    found = report.gather(run, data, queue, fold)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
health = found.health

left, right = st.columns([3, 1], vertical_alignment="bottom")
left.markdown("  \n".join(f"{ui.text(name)}: **{ui.text(value)}**" for name, value in found.facts))
right.download_button(
    "Download the report (HTML)", partial(render, found, run), f"report-{run.id}.html", "text/html", key="download-report", type="primary",
    on_click="ignore", help="One file for a colleague: charts and pictures inside, no request to anywhere.",
)  # fmt: skip

st.subheader("On the test split")
reporting.quality(found)
with st.expander("How it learned"):
    st.altair_chart(charts.loss_curves(run.history()), key="loss-curves")

st.subheader("Each label")
reporting.each_label(found.test, found.out_of_fold)
if found.test.calibration is not None:
    st.write(
        f"Over all labels, probabilities are off by **{found.test.calibration.error:.3f}** on average (expected calibration error, ten bins, test split)."
    )

st.subheader("How many errors are there?")
reporting.errors(health)

st.subheader("What was corrected")
if fold.standing or fold.conflicts:
    reporting.people(found.people)
    if found.people.corrected:
        ui.page_link("effect", "See what the corrections changed →")
    if found.corrections:
        st.caption("The most instructive ones: the surest errors, label by label, then what the run had hardly suspected.")
        ui.grid(ui.correction_card(run, c) for c in found.corrections[ui.pager(len(found.corrections), 12, "corrections")])
else:
    st.write("Nothing is decided yet on these CSVs.")
    if run.has("suspects.csv"):
        ui.page_link("review", "Review the suspects →")

st.subheader("The data")
st.write(
    f"{sum(health.images):,} images: {health.images[0]:,} for training, {health.images[1]:,} for validation, {health.images[2]:,} for test. "
    f"{counted(health.left_out, 'image')} left out; {counted(len(health.remarks), 'remark')} on the data. {health.duplicates}"
)
ui.label_charts(data.labels, data.targets, ["test" if s == "test" else "train" for s in data.splits.tolist()])
if health.remarks:
    with st.expander("Remarks"):
        st.html("".join(f'<p class="pn-error">{ui.esc(problem)}</p>' for problem in health.remarks))
st.divider()
st.write("This is the last page of the way.")
ui.page_link("predict", "Try the model on your own pictures →")
ui.page_link("dataset", "Begin with another data set →")
