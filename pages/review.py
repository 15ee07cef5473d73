"""Decide on the labels that are probably wrong: one by one, many at once or a picture as a whole, alone or with others."""

from dataclasses import replace

import streamlit as st

from panorama import ui
from panorama.cards import Mode, View
from panorama.errors import PanoramaError
from panorama.ui import review
from panorama.workbench import Filters, Order, State

ui.ensure_entrypoint()

MODES: dict[str, str] = {
    "cell": "One by one",
    "grid": "Many at once",
    "image": "Whole pictures",
    "people": "People and conflicts",
}
KINDS = {"all": "missing and extra", "missing": "missing: CSV says no", "extra": "extra: CSV says yes"}
STATES: dict[State, str] = {
    "waiting": "decided by nobody",
    "mine": "not decided by me (second opinions)",
    "decided": "decided",
    "skipped": "skipped",
}
ORDERS: dict[Order, str] = {"doubt": "most doubtful first", "image": "picture by picture", "random": "random"}

head = st.container(key="review-head", gap="small")
with head:
    run = ui.choose_run(needs="suspects.csv", title="Review", own_labels=True)
try:
    desk = review.desk_of(run)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
queue = desk.queue

for name, choices in (("mode", MODES), ("kind", KINDS)):  # a deep link chooses once; after that the widgets do
    asked = st.query_params.get(name)
    if asked in choices and f"linked-{name}" not in st.session_state:
        st.session_state[name] = st.session_state[f"linked-{name}"] = asked
every_label = ui.apart("all labels", queue.labels)
linked_label = st.query_params.get("label")
if linked_label in queue.labels and st.session_state.get("linked-label") != linked_label:
    st.session_state["label"] = st.session_state["linked-label"] = linked_label

left, right = head.columns([3, 1], vertical_alignment="bottom")
mode = left.segmented_control(
    "How to go through them", list(MODES), format_func=MODES.__getitem__, default=None if "mode" in st.session_state else "cell",
    key="mode", label_visibility="collapsed", required=True,
)  # fmt: skip
with right:
    if ui.login_name():
        st.caption(f"Signed as {ui.text(ui.login_name())}")
    else:
        st.text_input("Your name", key="reviewer", max_chars=200, placeholder="Your name", label_visibility="collapsed",
                      help="Declared, not verified. With a name, nobody with another name gets the same cells at the same time.")  # fmt: skip
first, second, third, fourth = head.columns([3, 3, 2, 2])
of_people = mode == "people"  # which all cells are for: no filter applies
label_choices = [every_label, *queue.labels]
if mode == "grid":  # a grid is of one label and kind: those with the most errors to find, until another is chosen
    label_choices = queue.labels
    if st.session_state.get("label") not in label_choices:
        st.session_state["label"], st.session_state["kind"] = desk.worst_kind()
    if st.session_state.get("kind") not in ("missing", "extra"):
        st.session_state["kind"] = "missing"
st.session_state["label-choices"] = label_choices
if st.session_state.get("label") not in label_choices:
    st.session_state["label"] = label_choices[0]
label = first.selectbox("Label", label_choices, key="label", label_visibility="collapsed", disabled=of_people)
kind_choices = [name for name in KINDS if mode != "grid" or name != "all"]
kind = second.selectbox(
    "Kind", kind_choices, format_func=KINDS.__getitem__, key="kind", label_visibility="collapsed", disabled=of_people
)
with third.popover("More filters", width="stretch", disabled=of_people):
    state = st.selectbox("Show cells that are", list(STATES), format_func=STATES.__getitem__, key="state")
    by = None
    if state in ("decided", "skipped"):
        names = desk.snapshot().reviewers()
        anybody = ui.apart("anybody", names)
        chosen = st.selectbox("By", [anybody, *names], format_func=lambda name: name or "no name", key="by")
        by = None if chosen == anybody else chosen
    order = st.selectbox("Order", list(ORDERS), format_func=ORDERS.__getitem__, key="order")
    split = st.selectbox("Split", ["all", *sorted(set(queue.splits))], key="split")
    low, high = st.slider("Doubt", 0.0, 1.0, (0.0, 1.0), 0.05, key="doubt")
    search = st.text_input("File name contains", key="search")
with fourth.popover("Blind, controls", width="stretch", disabled=of_people):
    blind = st.toggle(
        "Blind",
        key="blind",
        help="What the CSV says and what the model thinks is hidden until you have answered: nothing leads you.",
    )
    share = st.slider(
        "Controls", 0, 50, 0, 5, format="%d %%", key="controls",
        help="So many of the cells are ones that nobody suspects, at random. They tell how many errors are left, and how often you disagree with sound labels. Best together with blind.",
    )  # fmt: skip

image = st.query_params.get("image")
if image is not None and image not in queue.position:
    st.warning(f"The picture {ui.text(image)} is not in this run. Showing all.")
    image = None
if image is not None:
    left, right = head.columns([4, 1], vertical_alignment="center")
    left.caption(f"Only the picture {ui.text(image)}, as the link says.")
    if right.button("Show all", key="all-pictures"):
        del st.query_params["image"]
        st.rerun()

who = review.reviewer()
if of_people:
    review.people(desk, run, who)
else:
    shown: Mode = "grid" if mode == "grid" else "image" if mode == "image" else "cell"
    filters = Filters(
        None if label == every_label else label, None if kind == "all" else kind, None if split == "all" else split,
        low, high, state, by, order, search.strip(), image,
    )  # fmt: skip
    if image is not None and state == "waiting" and not desk.waiting(filters, who.name):
        filters = replace(filters, state="decided")
        st.caption("Decided already. An answer of yours counts instead of your earlier one.")
    if blind and shown == "grid":
        st.caption("Many at once shows what the CSV says: blind works one by one and on whole pictures.")
        blind = False
    elif blind and kind != "all":
        st.caption("The filter by kind tells what the CSV says: choose “missing and extra” to be blind.")
    review.bench(desk, run, View(shown, filters, who, bool(blind), share / 100, review.seed()))
    if not queue.has_evidence:
        st.caption("This run was made by an older version: its doubts order cells, but count no errors. Train again to see more.")
st.divider()
ui.page_link("export", "Next: take the corrected CSV home →")
