"""Decide on the labels that are probably wrong, one cell at a time; download the corrected CSV and the change log."""

import streamlit as st

from panorama import datasets, runs, ui
from panorama.decisions import Verdict, change_log
from panorama.errors import PanoramaError
from panorama.reviewing import bundle, in_all

ui.ensure_entrypoint()

st.title("Review")
run = ui.choose_run(needs="suspects.csv")
home = runs.workspace()


try:
    store = ui.review_store(home)
    queue = ui.review_queue(run)
    standing = store.current(queue.fingerprint)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()

st.caption(
    "Cells in order of doubt: how likely the CSV is wrong, judged by models that never saw that picture. "
    "The doubts learn from each decision. Look before you change."
)
every_label = ui.apart("all labels", queue.labels)
kinds = {"all": "missing and extra", "missing": "missing: CSV says no", "extra": "extra: CSV says yes"}
first, second, third, fourth, fifth = st.columns(5)
label = first.selectbox("Label", [every_label, *queue.labels], key="label")
kind = second.selectbox("Kind", list(kinds), format_func=kinds.__getitem__, key="kind")
split = third.selectbox("Split", ["all", *sorted(set(queue.splits))], key="split")
order = fourth.selectbox("Order", ["by cell", "by image"], key="order", help="By image: all cells of a picture together.")
reviewer = fifth.text_input("Your name (goes into the log)", key="reviewer")

doubts = queue.learned(standing)
waiting = queue.waiting(
    standing,
    doubts,
    label=None if label == every_label else label,
    kind=None if kind == "all" else kind,
    split=None if split == "all" else split,
    by_image=order == "by image",
)
changes = {cell: 1 - d.given for cell, d in standing.items() if d.verdict == "change"}
kept = sum(d.verdict == "keep" for d in standing.values())
skipped = sum(d.verdict == "skip" for d in standing.values())
figures: list[tuple[str, object] | tuple[str, object, str]] = [
    ("Decided", f"{len(changes) + kept:,}", f"{len(changes):,} to change, {kept:,} kept"),
    ("Skipped", f"{skipped:,}"),
    ("Waiting", f"{len(waiting):,}", f"cells, {int((doubts[waiting] >= 0.1).sum()):,} of doubt over 0.1"),
]
if len(waiting):
    wrong = round(float(doubts[waiting[:20]].sum()))
    note = f"{'is' if wrong == 1 else 'are'} wrong, by their doubts"
    figures.append((f"Of the next {len(waiting[:20])}", f"about {wrong}" if wrong else "hardly any", note))
if queue.has_evidence:
    expected, low, high = in_all(queue.errors(standing, doubts))
    figures.append(("Errors in all", f"about {expected:,.0f}", f"{low:,.0f} to {high:,.0f} in the CSV; see the report"))
ui.facts(*figures)


def decide(verdict: Verdict, cell: int) -> None:
    """Stores one decision on the cell that was on screen; what is shown next is what is committed."""
    try:
        store.record(
            csv=queue.fingerprint, image=queue.images[queue.image_of[cell]], label=queue.labels[queue.label_of[cell]],
            given=int(queue.given[cell]), verdict=verdict, reviewer=reviewer, probability=float(queue.probabilities[cell]),
            doubt=float(doubts[cell]), run=run.id,
        )  # fmt: skip
        st.session_state["told"] = ""
    except PanoramaError as error:
        st.session_state["told"] = str(error)


def undo() -> None:
    """Takes back the latest decision on this CSV and shows its picture again."""
    try:
        taken = store.undo(csv=queue.fingerprint)
        st.session_state["told"] = "" if taken else "There is no decision to take back."
    except PanoramaError as error:
        st.session_state["told"] = str(error)


if st.session_state.get("told"):
    st.error(ui.text(st.session_state["told"]))

if len(waiting):
    cell = int(waiting[0])
    i, k = int(queue.image_of[cell]), int(queue.label_of[cell])
    image, name = queue.images[i], queue.labels[k]
    workbench = st.container(key="workbench")
    picture, panel = workbench.columns([3, 2])
    with picture:
        st.html(ui.run_picture_html(run, queue.paths[i], 1400, image, "pn-photo"))
        st.caption(ui.text(f"{image} · {queue.splits[i]}"))
    with panel:
        st.subheader(f"Is “{ui.text(name)}” in this picture?")
        given = bool(queue.given[cell])
        st.write(f"The CSV says **{'yes' if given else 'no'}**, so the label may be {'extra' if given else 'missing'}.")
        change = f"Change to {'no' if given else 'yes'}"
        # The keys name the cell: a late click on a button that is gone is dropped, never given to the next picture.
        buttons = st.container(horizontal=True)
        buttons.button(change, type="primary", key=f"change-{cell}", on_click=decide, args=("change", cell))
        buttons.button(f"Keep {'yes' if given else 'no'}", key=f"keep-{cell}", on_click=decide, args=("keep", cell))
        buttons.button("Skip", key=f"skip-{cell}", on_click=decide, args=("skip", cell))
        st.button("Undo the last decision", key="undo", on_click=undo, disabled=not standing)
        st.html(ui.why_html(queue, cell, float(doubts[cell])))
    near, others = workbench.columns([3, 2])
    with near:
        st.markdown("**The pictures most like it, and what the CSV says of them**")
        cards = [ui.neighbour_card(run, queue, cell, neighbour) for neighbour in queue.neighbours(i)]
        st.html(f'<div class="pn-grid pn-near">{"".join(cards)}</div>' if cards else "The run kept none for this picture.")
    with others:
        st.markdown("**All its labels**")
        rows = "".join(
            f'<tr class="{"pn-asked" if other == k else ""}"><td>{ui.esc(queue.labels[other])}</td><td>{"yes" if queue.targets[i, other] else "no"}</td>'
            f"<td>{ui.bar_html(float(queue.by_image[i, other]))}</td><td>{ui.esc(queue.verdict(standing, i, other))}</td></tr>"
            for other in range(len(queue.labels))
        )
        st.html(
            f'<table class="pn-table"><tr><th>label</th><th>CSV</th><th>model (out of fold)</th><th>decided</th></tr>{rows}</table>'
        )
else:
    st.success("Every suspect with this filter is decided." if len(queue.doubts) else "There are no cells to review.")
    st.button("Undo the last decision", key="undo", on_click=undo, disabled=not standing)

st.divider()
st.subheader("Take it home")
st.write(
    f"{len(changes):,} {'cell changes' if len(changes) == 1 else 'cells change'}; every other byte of the CSV stays as it is, and your original file is not touched."
)
try:
    contents = datasets.corrected_csvs(queue.parts, changes)
    log = change_log([d for d in standing.values() if d.verdict == "change"])
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
downloads = st.columns(len(contents) + 2)
for column, (file, data) in zip(downloads, contents.items(), strict=False):
    column.download_button(
        f"{ui.text(file)}, corrected",
        data,
        file.rpartition("/")[2],
        "text/csv",
        key=f"download-{file}",
        on_click="ignore",
        width="stretch",
    )
downloads[-2].download_button(
    "Change log", log, "changes.csv", "text/csv", key="download-log", on_click="ignore", width="stretch"
)
downloads[-1].download_button(
    "All as one zip",
    bundle(contents, log),
    "corrected.zip",
    "application/zip",
    key="download-zip",
    on_click="ignore",
    width="stretch",
)
if changes:
    with st.expander("What changes"):
        latest = sorted((d for d in standing.values() if d.verdict == "change"), key=lambda d: -d.id)
        rows = "".join(
            f"<tr><td>{ui.esc(d.image)}</td><td>{ui.esc(d.label)}</td><td>{d.given} → {1 - d.given}</td><td>{ui.esc(d.reviewer or '—')}</td><td>{ui.esc(d.at[:19])}</td></tr>"
            for d in latest[ui.pager(len(latest), 50, "changes")]
        )
        st.html(
            f'<table class="pn-table"><tr><th>image</th><th>label</th><th>from → to</th><th>who</th><th>when (UTC)</th></tr>{rows}</table>'
        )
ui.page_link("report", "Next: read the report →")
