"""Import a data set, see its problems, its labels and its pictures."""

from pathlib import Path

import numpy as np
import streamlit as st

from panorama import runs, ui
from panorama.csvscan import counted
from panorama.errors import PanoramaError
from panorama.finding import Source, find_source, with_file_column, with_layouts
from panorama.ui import running
from panorama.workspace import current, remember

ui.ensure_entrypoint()

st.title("Dataset")
home = runs.workspace()
found = current(home)


def take(source: Source, *, is_demo: bool = False) -> None:
    """Makes the source the current data set, its guesses decided, and shows it."""
    remember(home, with_layouts(source), is_demo=is_demo)
    st.rerun()


with st.expander("Choose a data set" if found is None else "Choose another data set", expanded=found is None):
    folder_tab, zip_tab, demo_tab = st.tabs(["Folder on this machine", "Upload a zip", "Demo"])
    with folder_tab, st.form("folder-form", border=False):
        path = st.text_input(
            "Folder with pictures and CSV, or the CSV itself", placeholder="/home/me/pictures", key="folder",
            help="Either train/, test/, train_label.csv and test_label.csv, or pictures in or below one folder with one CSV.",
        )  # fmt: skip
        if st.form_submit_button("Use this folder", type="primary", key="use-folder") and path.strip():
            try:
                take(find_source(Path(path.strip())))
            except PanoramaError as error:
                ui.show_error(error)
    with zip_tab:
        upload = st.file_uploader("A zip of such a folder", type=["zip"], key="zip")
        st.caption("It is kept in memory while it is unpacked. A large data set is better chosen as a folder on this machine.")
        if upload is not None and st.button("Use this zip", type="primary", key="use-zip"):
            from panorama.archives import import_zip

            try:
                with ui.progress_bar("Unpacking") as advanced:
                    target = import_zip(upload, home / "data", upload.name, advanced)
                take(find_source(target))
            except PanoramaError as error:
                ui.show_error(error)
    with demo_tab:
        st.write("Landscapes drawn by panorama, with planted label errors; nothing is downloaded.")
        running.draw_demo("Draw the demo", key="draw-demo", train=False)

if found is None:
    st.info("No data set yet. Choose a folder, upload a zip, or draw the demo above.")
    st.stop()

source = found.source
try:
    data = ui.data_set(source)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()

st.subheader(ui.text(source.name))
st.caption(ui.text(source.root))
ui.facts(
    ("Images", f"{len(data.images):,}"),
    ("Train / test", f"{len(data.indices('train')):,} / {len(data.indices('test')):,}"),
    ("Labels", f"{len(data.labels):,}"),
    ("Left out", f"{data.n_left_out:,}"),
)

for part in data.parts:
    layout, header = part.source.layout, part.sheet.table.header
    assert layout is not None
    how = "one column a label" if layout.tag_column is None else f"tags in column {header[layout.tag_column]}"
    st.write(f"{ui.text(part.source.file)}: file names in column {ui.text(header[layout.file_column])}; {ui.text(how)}.")
if source.csvs[0].split is None:
    st.caption("The split is made by panorama: stratified by label combination, near-duplicates on one side, repeatable.")
    choices = ui.file_columns(source)
    layout = source.csvs[0].layout
    assert layout is not None
    shares = {column: share for column, _, share in choices}
    if len(choices) > 1:
        columns = list(shares)
        headers = {column: header for column, header, _ in choices}
        chosen = st.selectbox(
            "File names are in this column", columns, index=columns.index(layout.file_column) if layout.file_column in columns else 0,
            format_func=lambda column: f"{headers[column]} ({shares[column]:.0%} of its values name a picture)", key="file-column",
        )  # fmt: skip
        if chosen != layout.file_column:
            take(with_file_column(source, headers[chosen]), is_demo=found.is_demo)
    elif choices:
        st.caption(f"Found by matching names with files: {choices[0][2]:.0%} of that column's values name a picture.")

errors = [p for p in data.problems if p.severity == "error"]
warnings = [p for p in data.problems if p.severity == "warning"]
notes = [p for p in data.problems if p.severity == "note"]
if data.n_left_out:
    st.warning(f"{counted(data.n_left_out, 'image')} left out for the reasons below; the other {len(data.images):,} are used.")
if not errors and not warnings:
    st.success("No problems found: every row has a picture that can be read, and every value is clear.")
for noun, title, listed, opened in (
    ("problem", ": left out or unusable", errors, True),
    ("remark", " worth a look", warnings, False),
    ("note", " on how it was read", notes, False),
):
    if listed:
        with st.expander(f"{counted(len(listed), noun)}{title}", expanded=opened):
            st.html("".join(f'<p class="pn-error">{ui.esc(problem)}</p>' for problem in listed))

st.subheader("Labels")
ui.label_charts(data.labels, data.targets, data.splits)

st.subheader("Pictures")
left, middle, right = st.columns([2, 1, 2])
wanted = left.multiselect(
    "Carrying all of these labels",
    list(range(len(data.labels))),
    format_func=lambda k: data.labels[k],
    key="browse-labels",
)
split = middle.selectbox("Split", ["all", "train", "test"], key="browse-split")
name = right.text_input("File name contains", key="browse-name")
shown = np.ones(len(data.images), bool)
if wanted:
    shown &= data.targets[:, wanted].all(1)
if split != "all":
    shown &= np.array(data.splits) == split
indices = [int(i) for i in np.flatnonzero(shown) if name.lower() in data.images[i].lower()]
if not indices:
    st.info("No picture fits this filter.")


def card(i: int) -> str:
    """An image: its picture, name, size and labels."""
    labels = [data.labels[k] for k in np.flatnonzero(data.targets[i])]
    picture = data.pictures[i]
    wide = " pn-wide" if picture.width >= 2.4 * picture.height else ""
    badges = (
        "".join(f'<span class="pn-badge">{ui.esc(label)}</span>' for label in labels) or '<span class="pn-quiet">no label</span>'
    )
    return (
        f'<div class="pn-card{wide}">{ui.picture_html(data.paths[i], 480, data.images[i])}<div class="pn-body">'
        f'<div class="pn-name">{ui.esc(data.images[i])}</div><div class="pn-quiet">{data.splits[i]} · {picture.width} × {picture.height}</div>{badges}</div></div>'
    )


ui.grid(card(i) for i in indices[ui.pager(len(indices), 24, "browse")])
st.divider()
ui.page_link("train", "Next: train a model on it →")
