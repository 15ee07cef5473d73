"""Decide on the labels that are probably wrong: one by one, many at once or a picture as a whole, alone or with others."""

from dataclasses import replace

import streamlit as st

from panorama import ui
from panorama.cards import Mode, View
from panorama.errors import PanoramaError
from panorama.ui import review
from panorama.ui.review.address import Choice, doubts, keep, marked, one_of, restore, share_of_100
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
    run = ui.pick_run(needs="suspects.csv", title="Review", own_labels=True)  # the address is written with the filters
try:
    desk = review.desk_of(run)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
queue = desk.queue

every_label = ui.apart("all labels", queue.labels)
names = desk.reviewers()
anybody = ui.apart("anybody", names)
splits = ["all", *sorted(set(queue.splits))]
choices = {
    "mode": one_of(MODES, "cell"),
    "label": one_of(queue.labels, every_label),
    "kind": one_of(KINDS, "all"),
    "state": one_of(STATES, "waiting"),
    "by": one_of(names, anybody),
    "order": one_of(ORDERS, "doubt"),
    "split": one_of(splits, "all"),
    "doubt": Choice((0.0, 1.0), doubts, lambda value: f"{value[0]:g}-{value[1]:g}"),
    "search": Choice("", str),
    "blind": Choice(False, lambda text: text == "1" or None, lambda value: "1" if value else ""),
    "controls": Choice(0, share_of_100),
}
if "mode" not in st.session_state:  # from another page
    review.leave_people()
restore(choices)

left, right = head.columns([3, 1], vertical_alignment="bottom")
mode = left.segmented_control(
    "How to go through them", list(MODES), format_func=MODES.__getitem__, default=None if "mode" in st.session_state else "cell",
    key="mode", label_visibility="collapsed", required=True, on_change=review.change_mode, args=(queue.labels,),
)  # fmt: skip
with right:
    if ui.login_name():
        st.caption(f"Signed as {ui.text(ui.login_name())}")
    else:
        review.name_field()
first, second, third, fourth = head.columns([5, 7, 5, 6])
of_people = mode == "people"  # which all cells are for: no filter applies
blind = bool(st.session_state.get("blind", False))
label_choices, kind_choices = [every_label, *queue.labels], list(KINDS)
if blind:  # the kind of a cell is what the CSV says of it
    st.session_state["kind"] = "all"
elif mode == "grid":  # a grid is of one label and kind: those with the most errors to find, until another is chosen
    label_choices, kind_choices = queue.labels, ["missing", "extra"]
    if st.session_state.get("label") not in label_choices:
        st.session_state["label"], st.session_state["kind"] = desk.worst_kind()
    if st.session_state.get("kind") not in kind_choices:
        st.session_state["kind"] = "missing"
st.session_state["label-choices"] = label_choices
if st.session_state.get("label") not in label_choices:
    st.session_state["label"] = label_choices[0]
label = first.selectbox("Label", label_choices, key="label", label_visibility="collapsed", disabled=of_people)
kind_names = KINDS | {"all": "both kinds (blind)"} if blind else KINDS
kind = second.selectbox(
    "Kind",
    kind_choices,
    format_func=kind_names.__getitem__,
    key="kind",
    label_visibility="collapsed",
    disabled=of_people or blind,
)
with third.popover(
    marked("More filters", choices, "state", "by", "order", "split", "doubt", "search"), width="stretch", disabled=of_people
):
    state = st.selectbox("Show cells that are", list(STATES), format_func=STATES.__getitem__, key="state", help=ui.CELL)
    by = None
    if state in ("decided", "skipped"):
        chosen = st.selectbox("By", [anybody, *names], format_func=lambda name: name or "no name", key="by")
        by = None if chosen == anybody else chosen
    order = st.selectbox("Order", list(ORDERS), format_func=ORDERS.__getitem__, key="order")
    split = st.selectbox("Split", splits, key="split")
    st.session_state.setdefault("doubt", (0.0, 1.0))  # not as the widget's own: the address may have said another
    st.slider("Doubt", 0.0, 1.0, step=0.05, key="doubt", help="How likely it is that the CSV's value is wrong.")
    low, high = st.session_state["doubt"]
    search = st.text_input("File name contains", key="search")
with fourth.popover(marked("Blind, controls", choices, "blind", "controls"), width="stretch", disabled=of_people):
    st.toggle(
        "Blind",
        key="blind",
        help="What the CSV says and what the model thinks is hidden until you have answered: nothing leads you.",
    )
    st.session_state.setdefault("controls", 0)
    share = st.slider(
        "Controls", 0, 50, step=5, format="%d %%", key="controls",
        help="So many of the cells are ones that nobody suspects, at random. They tell how many errors are left, and how often you disagree with sound labels. Best together with blind.",
    )  # fmt: skip

keep(choices, run.id)
st.session_state["mode-shown"] = mode

image = st.query_params.get("image")
if image is not None and image not in queue.position:
    st.warning(f"The picture {ui.text(image)} is not in this run. Showing all.")
    image = None
if image is not None and not of_people:
    left, right = head.columns([4, 1], vertical_alignment="center")
    left.caption(f"Only the picture {ui.text(image)}, as the link says.")
    right.button("Show all", key="all-pictures", on_click=review.show_all, args=(every_label,))

who = review.reviewer()
if not of_people:
    review.leave_people()
if of_people:
    review.remember_name()
    review.people(desk, run, who, blind=blind)
elif blind and mode == "grid":
    review.remember_name()
    st.info("Many at once shows what the CSV says of each picture. Blind works one by one and on whole pictures.")
    st.button("Go on one by one, blind", key="blind-cell", on_click=review.change_mode, args=(queue.labels, "cell"))
else:
    shown: Mode = "grid" if mode == "grid" else "image" if mode == "image" else "cell"
    filters = Filters(
        None if label == every_label else label, None if kind == "all" else kind, None if split == "all" else split,
        low, high, state, by, order, search.strip(), image,
    )  # fmt: skip
    if image is not None and state == "waiting" and not desk.waiting(filters, who.name):
        filters = replace(filters, state="decided")
        st.caption(
            "Decided already. A new answer of yours replaces your earlier one; where it differs from somebody else's, it is a conflict, which a person settles."
        )
    elif image is not None and (held := desk.with_others(filters, who)):
        st.caption(
            f"Cells of this picture are with {review.held_by(held)} too. Answers that differ are a conflict, which a person settles."
        )
    review.bench(desk, run, View(shown, filters, who, blind, share / 100, review.seed()))
    if not queue.has_evidence:
        st.caption("This run was made by an older version: its doubts order cells, but count no errors. Train again to see more.")
st.divider()
ui.page_link("export", "Next: take the corrected CSV home →")
