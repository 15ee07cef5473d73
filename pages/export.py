"""Take the corrected CSV home: exactly which lines change, what conflicts, the change log, decisions in and out."""

from pathlib import Path

import streamlit as st

from panorama import runs, ui
from panorama.csvscan import counted
from panorama.datasets import SheetPart, corrected_csvs
from panorama.decisions import Cell, change_log, corrections, decisions_csv, read_answers
from panorama.errors import PanoramaError
from panorama.export import ChangedLine, bundle, drift, pieces, preview
from panorama.runs import Run
from panorama.ui import review

ui.ensure_entrypoint()

run = ui.choose_run(needs="suspects.csv", title="Export", own_labels=True)
home = runs.workspace()


@st.cache_resource(show_spinner="Reading the CSV", max_entries=3)
def sheets(folder: str) -> tuple[SheetPart, ...]:
    """The run's own copies of the CSVs, which nothing changes; read once for the server."""
    return Run(Path(folder)).sheets()


@st.cache_resource(show_spinner="Writing the corrections", max_entries=2)
def corrected(folder: str, last_decision: int, _wanted: dict[Cell, int]) -> tuple[dict[str, bytes], list[ChangedLine]]:
    """The corrected CSVs and the lines that change, as of the last decision."""
    del last_decision  # part of the cache key, as what it stands for is too large for one
    return corrected_csvs(sheets(folder), _wanted), preview(sheets(folder), _wanted)


try:
    desk = review.desk_of(run)
    store, fold = desk.store, desk.snapshot()
    changes = sorted((d for d in fold.standing.values() if d.verdict == "change"), key=lambda d: -d.id)
    contents, lines = corrected(str(run.folder), fold.last_id, corrections(changes))
    # A retraining's labels are corrected ones: those beside the pictures differ from them as they should.
    moved = None if run.corrects is not None else drift(run.source, sheets(str(run.folder)), changes)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()

kept = sum(d.verdict == "keep" for d in fold.standing.values())
ui.facts(
    ("Cells that change", f"{len(changes):,}", f"in {len(lines):,} {'line' if len(lines) == 1 else 'lines'}"),
    ("Looked at and kept", f"{kept:,}"),
    ("In conflict", f"{len(fold.conflicts):,}", "stay as given until settled"),
)
st.write(f"{ui.CELL} Every other byte of the CSV stays as it is. Your original file is not touched.")
if run.corrects is not None:
    st.info(
        f"This run was trained on your CSV with {run.corrects.cells:,} corrections already in it. What was decided on the original labels is with the run "
        f"{ui.text(run.corrects.run)}: choose it above to export that."
    )
elif not changes:
    st.info("Nothing changes yet: the files below are your CSV, byte for byte.")
    ui.page_link("review", "Review the suspects →")
if moved is not None:
    names = ", ".join(ui.text(name) for name in moved.files)
    st.warning(
        f"{names} beside the pictures is no longer the file that was reviewed. What you download is the reviewed file with its corrections; "
        f"nothing is merged. {moved.same:,} of {len(changes):,} changes still fit the new file."
    )
    if moved.conflicts:
        with st.expander(f"{len(moved.conflicts):,} that do not fit", expanded=True):
            shown = moved.conflicts[ui.pager(len(moved.conflicts), 50, "drift")]
            st.html("".join(f'<p class="pn-error">{ui.esc(sentence)}</p>' for sentence in shown))


def backed_up(data: bytes) -> None:
    """Before a file goes out, the decisions are copied; what cannot be copied is said, and the export goes on."""
    del data
    try:
        store.backup(home / "backups")
    except PanoramaError as error:
        st.session_state["told"] = str(error)


log, all_decisions = change_log(changes, fold), decisions_csv(fold)
downloads = [
    *((f"{file}, corrected", data, file.rpartition("/")[2], "text/csv") for file, data in contents.items()),
    ("Change log", log, "changes.csv", "text/csv"),
    ("All decisions", all_decisions, "decisions.csv", "text/csv"),
    ("All as one zip", bundle(contents, log, all_decisions), "corrected.zip", "application/zip"),
]
with st.container(horizontal=True):  # each as wide as its words, in as many lines as it takes
    for number, (name, data, file, kind) in enumerate(downloads):
        st.download_button(
            ui.text(name), data, file, kind, key=f"download-{number}", on_click=backed_up, args=(data,),
            type="primary" if number < len(contents) else "secondary",
        )  # fmt: skip
if told := st.session_state.pop("told", ""):
    st.warning(ui.text(told))
st.caption(
    "The decisions are backed up before each download, in the workspace's folder backups. In the change log, and only there, cells that a spreadsheet would run as a formula get a ' in front."
)

st.subheader("What changes, line by line")
if not lines:
    st.write("No line.")
else:
    rows = "".join(
        f"<tr><td>{ui.esc(one.file)}, line {one.line:,}</td>"
        + "".join(f"<td>{ui.pieces_html(side)}</td>" for side in pieces(one.before, one.after))
        + "</tr>"
        for one in lines[ui.pager(len(lines), 50, "lines")]
    )
    st.html(f'<table class="pn-table pn-lines"><tr><th>where</th><th>before</th><th>after</th></tr>{rows}</table>')
    with st.expander("Who decided it"):
        rows = "".join(
            f"<tr><td>{ui.esc(d.image)}</td><td>{ui.esc(d.label)}</td><td>{d.given} → {1 - d.given}</td><td>{ui.esc(d.reviewer or 'no name')}</td>"
            f"<td>{ui.esc(d.at[:16].replace('T', ' '))}</td><td>{ui.esc(d.note)}</td></tr>"
            for d in changes[ui.pager(len(changes), 50, "changes")]
        )
        st.html(
            f'<table class="pn-table"><tr><th>image</th><th>label</th><th>from → to</th><th>who</th><th>when (UTC)</th><th>note</th></tr>{rows}</table>'
        )

st.subheader("Decisions from elsewhere")
st.write(
    "A decisions.csv of a colleague, or any CSV with the columns image, label and value (0 or 1). The same file twice counts once."
)
upload = st.file_uploader("decisions.csv", type=["csv"], key="decisions-upload", max_upload_size=ui.SMALL_UPLOAD)
if upload is not None:
    queue = desk.queue
    try:
        answers, problems = read_answers(
            upload.getvalue(), upload.name, csv=queue.fingerprint, given=queue.value, reviewer=review.reviewer().name
        )
    except PanoramaError as error:
        ui.show_error(error)
        st.stop()
    fit = "fits" if len(answers) == 1 else "fit"
    st.write(f"{counted(len(answers), 'decision')} {fit} this data set, {counted(len(problems), 'row')} not.")
    if problems:
        with st.expander("Rows that do not fit"):
            st.html(
                "".join(
                    f'<p class="pn-error">{ui.esc(problem)}</p>' for problem in problems[ui.pager(len(problems), 50, "misfits")]
                )
            )
    if answers and st.button(f"Take in {counted(len(answers), 'decision')}", type="primary", key="take-in"):
        try:
            store.backup(home / "backups")
            stored = store.apply(queue.fingerprint, answers)
        except PanoramaError as error:
            ui.show_error(error)
        else:
            new = sum(row.id > fold.last_id for row in stored)
            st.session_state["taken-in"] = (
                f"{counted(new, 'decision')} taken in. {len(stored) - new:,} were here already, and are not taken in again even if they were undone since."
            )
            st.rerun()  # what changes is shown above
    if taken_in := st.session_state.pop("taken-in", ""):
        st.success(ui.text(taken_in))
st.divider()
ui.page_link("effect", "Next: see what the corrections change →")
