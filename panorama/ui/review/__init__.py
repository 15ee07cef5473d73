"""The review in the browser: a component that keeps every key press in order and shows the next picture at once, and what surrounds it."""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import streamlit as st

from panorama import runs, ui
from panorama.cards import View, loads, packet, taken
from panorama.csvscan import counted
from panorama.decisions import Cell, Decision, Fold, Verdict, agreements, control_check
from panorama.errors import PanoramaError
from panorama.reviewing import in_all, too_little
from panorama.runs import Run
from panorama.ui import unsaved
from panorama.workbench import UNSUSPECTED, Contradiction, Desk, Desks, Receipt, Reviewer

KEY = unsaved.BENCH
_MEMORY = "reviewer-memory"
_FOLDER = Path(__file__).parent
_SCRIPTS = ("leaving.js", "press.js", "unsaved.js", "queue.js", "picture.js", "views.js", "name.js", "mount.js")
_CONFLICTS_A_PAGE = 10
_MOST_TOLD = 50
_VERDICTS: tuple[Verdict, ...] = ("change", "keep", "skip")


@st.cache_resource(show_spinner=False)
def _component() -> Any:
    """One registration a server: a second one would be a warning."""
    return st.components.v2.component(
        "panorama_workbench",
        html='<div class="review"></div>',
        css=(_FOLDER / "review.css").read_text(encoding="utf-8"),
        js=unsaved.script(*_SCRIPTS),
    )


@st.cache_resource(show_spinner=False)
def _memory() -> Any:
    """What reads the name that the browser keeps, where there is no bench; one registration a server."""
    mount = "export default ({ data, setStateValue, parentElement }) => { remember(parentElement.querySelector('i'), data, setStateValue); };"
    return st.components.v2.component(
        "panorama_reviewer", html="<i hidden></i>", js="\n".join([unsaved.script("leaving.js", "name.js"), mount])
    )


def reviewer() -> Reviewer:
    """Who decides: the login where one is configured, else the name typed into the field."""
    signed_in = ui.login_name()
    if signed_in:
        return Reviewer(signed_in, "login", _session())
    name = st.session_state.get("reviewer", st.session_state.get("reviewer-kept", ""))
    return Reviewer(" ".join(name.split()), "declared", _session())


def _session() -> str:
    found: str = st.session_state.setdefault("review-session", uuid.uuid4().hex)
    return found


def name_field() -> None:
    """Where somebody says who they are; it stays through the other pages, which Streamlit alone would forget."""
    if "reviewer" not in st.session_state:
        st.session_state["reviewer"] = st.session_state.get("reviewer-kept", "")
    st.text_input(
        "Your name", key="reviewer", max_chars=200, placeholder="Your name", label_visibility="collapsed",
        on_change=lambda: st.session_state.update({"reviewer-typed": True}),
        help="Declared, not verified. With a name, nobody with another name gets the same cells at the same time, but by a link to a picture.",
    )  # fmt: skip
    st.session_state["reviewer-kept"] = st.session_state["reviewer"]


def remember_name() -> None:
    """The bench asks the browser for the name of an earlier visit, at once with its first picture; where there is none, this does."""
    if not ui.login_name():
        data = {
            "page": ui.address.page(),
            "reviewer": reviewer().name,
            "login": False,
            "nameTyped": bool(st.session_state.get("reviewer-typed")),
        }
        with st.container(key="unseen-name"):
            _memory()(
                key=_MEMORY,
                data=data,
                default={"name": None},
                on_name_change=_name_was_kept,
            )


def _name_was_kept() -> None:
    """The browser knows the name of an earlier visit; whoever has typed one meanwhile, or emptied it, is not talked over."""
    kept = next((name for key in (_MEMORY, KEY) if (name := (st.session_state.get(key) or {}).get("name"))), None)
    if isinstance(kept, str) and not st.session_state.get("reviewer") and not st.session_state.get("reviewer-typed"):
        st.session_state["reviewer"] = kept[:200]
        st.session_state["review-again"] = True


def change_mode(labels: Sequence[str], to: str | None = None) -> None:
    """Another way was chosen (to: by a button). The grid is of one label and kind, which are its own: whoever leaves it finds the filters that were there
    before, and whoever comes back to it with none of them on finds the grid's."""
    state = st.session_state
    if to is not None:
        state["mode"] = to
    was, now = state.get("mode-shown"), state["mode"]
    if (was == "grid") == (now == "grid"):
        return
    state[f"filters-{'grid' if was == 'grid' else 'others'}"] = {name: state[name] for name in ("label", "kind") if name in state}
    found = state.get(f"filters-{'grid' if now == 'grid' else 'others'}", {})
    if now != "grid":
        for name in ("label", "kind"):
            state.pop(name, None)
        state.update(found)
    elif state.get("label") not in labels:
        state.update(found)


def seed() -> int:
    """This session's, for where controls stand."""
    found: int = st.session_state.setdefault("review-seed", uuid.uuid4().int % 2**31)
    return found


# --- the bench -----------------------------------------------------------------------------------------------------------


def _next_label() -> None:
    if (st.session_state.get(KEY) or {}).get("command") == "next-label":
        choices = st.session_state.get("label-choices", [])
        at = choices.index(st.session_state["label"]) if st.session_state.get("label") in choices else -1
        if choices:
            st.session_state["label"] = choices[(at + 1) % len(choices)]
            st.session_state["review-again"] = True


@st.fragment
def bench(desk: Desk, run: Run, view: View) -> None:
    """Figures, the component, and what was done in this session; runs again with every batch of answers."""
    if st.session_state.pop("review-again", False):
        st.rerun()  # the whole page: a filter or the name has changed
    batch = _batch()
    receipt, client = _take(desk, batch, view.who)
    answered = batch.get("answered")
    view = replace(view, n_answered=answered if isinstance(answered, int) else 0)
    try:
        data = packet(desk, run, view, batch, receipt, client, album())
        data |= {"page": ui.address.page(), "nameTyped": bool(st.session_state.get("reviewer-typed"))}
        _figures(desk, view)
    except PanoramaError as error:
        ui.show_error(error)
        return
    _component()(
        key=KEY, data=data, default={"batch": None, "name": None},
        on_batch_change=lambda: None, on_name_change=_name_was_kept, on_command_change=_next_label,
    )  # fmt: skip
    said = desk.answers(loads(batch))
    _summary(said, blind=view.blind)
    if not view.blind:
        _against(desk, said)
    _besides(desk, view)


def _batch() -> dict[str, Any]:
    """What the tab has sent last."""
    batch = (st.session_state.get(KEY) or {}).get("batch")
    return batch if isinstance(batch, dict) else {}


def _is_news(batch: Mapping[str, Any]) -> bool:
    """Whether a batch has events that are not stored yet, by their numbers; the session keeps the last batch, and every run sees it again."""
    events, client = batch.get("events"), batch.get("client")
    if not isinstance(events, list) or not isinstance(client, str):
        return False
    known = st.session_state.get(unsaved.ACKED, {}).get(client, -1)
    return any(isinstance(e, dict) and isinstance(e.get("n"), int) and e["n"] > known for e in events)


def take_what_is_left() -> None:
    """On another page: stores what the tab sent as it left the bench, or has sent since."""
    for batch in (_batch(), unsaved.batch()):
        if not _is_news(batch):
            continue
        try:
            found = (run for run in runs.list_runs(runs.workspace()) if run.has("suspects.csv"))
            run = next((run for run in found if run.fingerprint == batch.get("csv")), None)
            if run is not None:
                _take(desk_of(run), batch, reviewer())
        except PanoramaError as error:
            ui.show_error(error)
        except OSError as error:  # of a run whose files are damaged; the browser sends the answers again
            ui.show_error(PanoramaError(f"Answers could not be saved yet: {error}"))


def _take(desk: Desk, batch: dict[str, Any], who: Reviewer) -> tuple[Receipt, str]:
    """Stores what is new in the batch: the session keeps the last one, and every run of the page sees it again."""
    acked: dict[str, int] = st.session_state.setdefault(
        unsaved.ACKED, {}
    )  # for each tab, up to which of its events all is stored
    client, events = batch.get("client"), batch.get("events")
    known = acked.get(client, -1) if isinstance(client, str) else -1
    if isinstance(events, list):
        batch = batch | {
            "events": [e for e in events if not (isinstance(e, dict) and isinstance(e.get("n"), int) and e["n"] <= known)]
        }
    receipt, client = taken(desk, batch, who)
    # Told with every run: the browser draws only the last of several, and knows which it has told already.
    told: list[Contradiction] = st.session_state.setdefault("review-contradictions", [])
    told += receipt.contradictions
    receipt.contradictions = told[-_MOST_TOLD:]
    if client and not receipt.error:
        receipt.acked = acked[client] = max(known, receipt.acked)
        if receipt.refused:
            st.session_state.setdefault(unsaved.REFUSED, {}).setdefault(client, []).extend(receipt.refused)
    return receipt, client


@st.cache_resource(show_spinner=False)
def album() -> Any:
    """Pictures that were shown, for all sessions: at most 200 MB."""
    from panorama.thumbnails import Thumbnails

    return Thumbnails(200 * 2**20)


def _figures(desk: Desk, view: View) -> None:
    """How the cells stand by what everybody said, and what is expected. What the tab has answered stands beside the answers."""
    fold = desk.fold
    verdicts = desk.verdicts()
    entries: list[tuple[str, object] | tuple[str, object, str]] = [
        ("To decide", f"{desk.waiting(view.filters, view.who.name):,}", "with these filters"),
        (
            "Decided",
            f"{verdicts['keep'] + verdicts['change']:,}",
            "by everybody" if view.blind else f"by everybody: {verdicts['change']:,} changed, {verdicts['keep']:,} kept",
        ),
    ]
    if fold.conflicts:
        entries.append(("In conflict", f"{len(fold.conflicts):,}", "until settled"))
    if verdicts["skip"]:
        entries.append(("Skipped", f"{verdicts['skip']:,}", "by everybody"))
    knows_none = len(desk.queue.unlearned) == len(desk.queue.labels)
    n, wrong = desk.expected_wrong(view.filters, view.who, 20)
    if n and not view.blind and not knows_none:
        about = f"about {wrong:.0f}" if wrong >= 0.5 else "hardly any"
        entries.append((f"Of the next {n}", about, "is wrong" if round(wrong) == 1 else "are wrong"))
    if desk.queue.has_evidence and not view.blind and knows_none:
        entries.append(("Errors in all", "unknown", "too little was learned to count them"))
    elif desk.queue.has_evidence and not view.blind:
        expected, low, high = in_all(desk.errors())
        entries.append(("Errors in all", f"about {expected:,.0f}", f"{low:,.0f} to {high:,.0f}"))
    ui.facts(*entries, small=True)


def _besides(desk: Desk, view: View) -> None:
    """What to know of the figures, below the answers: it must not push them off the screen."""
    if view.filters.image is None and (held := desk.with_others(view.filters, view.who)):
        st.caption(
            f"Not among the next: {counted(held.total(), 'cell')} that others have been given ({held_by(held, with_counts=True)})."
        )
    if desk.queue.unlearned and not view.blind:
        st.caption(too_little(desk.queue.unlearned, ui.text))


def held_by(held: Counter[str], *, with_counts: bool = False) -> str:
    """Who has cells, at most three of them by name."""
    some = [f"{n:,} with {ui.text(name)}" if with_counts else ui.text(name) for name, n in held.most_common(3)]
    return (", " if with_counts else " and ").join(some) + (", …" if len(held) > 3 else "")


def _against(desk: Desk, rows: list[Decision]) -> None:
    """Which of a tab's answers go against somebody else's, as soon as they do."""
    conflicts = desk.fold.conflicts  # others change it meanwhile
    against = ((row, conflicts.get((row.image, row.label), ())) for row in rows if row.value is not None)
    found = [(row, said) for row, said in against if row.id in {one.id for one in said}]
    others = [one for row, said in found[-1:] for one in said if one.value != row.value]
    if not others:
        return
    last, other = found[-1][0], others[-1]
    st.caption(
        f"**⚠ {counted(len(found), 'answer')} of this tab {'is' if len(found) == 1 else 'are'} in conflict.** The last: {ui.text(last.label)} in "
        f"{ui.text(last.image)}, where {ui.text(other.reviewer) or 'somebody without a name'} said {'yes' if other.value else 'no'}. "
        "The CSV keeps its value until somebody settles it under People and conflicts."
    )


def show_all(every_label: str) -> None:
    """From the one picture of a link back to all of them, and all labels."""
    st.query_params.pop("image", None)
    st.session_state["label"] = every_label


def _summary(rows: list[Decision], *, blind: bool) -> None:
    """What this tab says, of each cell its latest answer. blind: how many were changed would tell what to expect of the next."""
    if not rows:
        return
    counts = Counter(row.verdict for row in rows)
    moments = sorted(datetime.fromisoformat(row.at) for row in rows)
    ways = "" if blind else f": {counts['change']:,} to change, {counts['keep']:,} to keep"
    within = f", within {ui.duration((moments[-1] - moments[0]).total_seconds())}" if len(set(moments)) > 1 else ""
    st.caption(
        f"In this tab {counted(counts['change'] + counts['keep'], 'cell')} answered{ways}; {counts['skip']:,} skipped{within}. "
        "What was taken back does not count. Decided, above, are the cells on which everybody's answers agree."
    )
    if blind:
        return
    with st.expander("By label, in this tab"):
        by_label = Counter((row.label, row.verdict) for row in rows)
        body = "".join(
            f"<tr><td>{ui.esc(label)}</td>" + "".join(f"<td>{by_label[label, verdict]:,}</td>" for verdict in _VERDICTS) + "</tr>"
            for label in sorted({row.label for row in rows})
        )
        st.html(
            f'<table class="pn-table"><tr><th>label</th><th>to change</th><th>to keep</th><th>skipped</th></tr>{body}</table>'
        )


# --- people --------------------------------------------------------------------------------------------------------------


def people(desk: Desk, run: Run, who: Reviewer, *, blind: bool = False) -> None:
    """Conflicts to settle, who decided how much, how far they agree, and what the controls say."""
    fold = desk.snapshot()
    _conflicts(desk, fold, run, who, blind=blind)
    rows = fold.rows()
    st.subheader("Who decided")
    if not rows:
        st.write("Nobody has decided anything yet.")
        return
    own = fold.own_of_all()
    settled = Counter((row.reviewer, row.identity) for row in _settlements(fold))
    counts = Counter((row.reviewer, row.identity, row.verdict) for row in own)
    named = sorted({(row.reviewer, row.identity) for row in own} | set(settled))
    body = "".join(
        f"<tr><td>{ui.esc(name or 'no name')}</td><td>{'a login' if identity == 'login' else 'a name typed in, not verified' if name else 'nothing'}</td>"
        + "".join(f"<td>{counts[name, identity, verdict]:,}</td>" for verdict in _VERDICTS)
        + f"<td>{settled[name, identity]:,}</td></tr>"
        for name, identity in named
    )
    st.html(
        f'<table class="pn-table"><tr><th>who</th><th>signed by</th><th>to change</th><th>to keep</th><th>skipped</th><th>conflicts settled</th></tr>{body}</table>'
    )
    st.caption(
        "Cells, by each person's own latest answer, whatever others say of the same ones. A settlement is no answer of one's own, and is counted apart."
    )
    _agreement(fold)
    _controls(fold, desk.unsuspected_left())


def _agreement(fold: Fold) -> None:
    found = agreements(fold)
    st.subheader("Agreement on cells that two have decided")
    if not found:
        st.write(
            "No cell was decided by two people yet. Choose “not decided by me” under “More filters” to give second opinions."
        )
        return
    body = "".join(
        f"<tr><td>{ui.esc(a.first or 'no name')}</td><td>{ui.esc(a.second or 'no name')}</td><td>{a.cells:,}</td><td>{a.agreed:,}</td>"
        f"<td>{'not measurable' if a.kappa is None else f'{a.kappa:.2f}'}</td></tr>"
        for a in found
    )
    st.html(
        f'<table class="pn-table"><tr><th>one</th><th>other</th><th>cells both decided</th><th>agreed</th><th>Cohen\'s kappa</th></tr>{body}</table>'
    )
    st.caption(
        "Kappa is agreement beyond chance: 1 is complete, 0 what chance gives. It cannot be measured where both always gave the same answer."
    )


def _controls(fold: Fold, left: int) -> None:
    found = control_check(fold.rows(), left)
    st.subheader("Controls")
    if found is None:
        st.write(
            f"None decided yet. Under “Blind, controls”, mix in cells of doubt below {UNSUSPECTED:g}, chosen at random: they tell how many errors are left where nobody looks."
        )
        return
    st.write(
        f"{found.changed:,} of {found.n:,} unsuspected cells were changed: {found.share:.1%} ({found.share_low:.1%} to {found.share_high:.1%}). "
        f"If that holds for the {left:,} unsuspected cells that nobody has decided, about {found.left:,.0f} of them are wrong "
        f"({found.low:,.0f} to {found.high:,.0f}) — or reviewers disagree with labels that are right that often. Controls of one label or kind speak for that alone."
    )


def leave_people() -> None:
    """Whoever comes back to the conflicts finds those that are left."""
    st.session_state.pop("conflicts-shown", None)


def _conflicts(desk: Desk, fold: Fold, run: Run, who: Reviewer, *, blind: bool) -> None:
    """Those to settle. Each stays in its place when it is settled, or the next one would slide under the pointer."""
    conflicts = fold.conflicts
    st.subheader("Conflicts")
    if told := st.session_state.pop("told", ""):
        st.error(ui.text(told))
    shown: list[Cell] = st.session_state.setdefault("conflicts-shown", [])
    known = set(shown)
    shown += sorted((name for name in conflicts if name not in known), key=lambda name: conflicts[name][0].id)
    if not conflicts:
        st.write("None. Where reviewers disagree, the cell stands here until somebody settles it, and the CSV keeps its value.")
    else:
        st.write(
            f"{len(conflicts):,} {'cell' if len(conflicts) == 1 else 'cells'} on which reviewers disagree. Until one is settled, the corrected CSV keeps the given value."
        )
        if not who.name:
            st.info("A settlement is signed: type your name above, then settle.")
    if shown:
        for number, name in enumerate(shown[ui.pager(len(shown), _CONFLICTS_A_PAGE, "conflicts")]):
            with st.container(border=True):
                _conflict(desk, fold, run, who, name, number, blind=blind)
    _settled(desk, fold, who)


def _conflict(desk: Desk, fold: Fold, run: Run, who: Reviewer, name: Cell, number: int, *, blind: bool) -> None:
    image, label = name
    left, right = st.columns([1, 2])
    if image in desk.queue.position:
        with left:
            path = desk.queue.paths[desk.queue.position[image]]
            st.html(ui.run_picture_html(run, path, 480, image, "pn-photo pn-small"))
    with right:
        st.markdown(f"**{ui.text(label)}** in {ui.text(image)}")
        settlement = fold.settlement(name)
        said = [*fold.own(name), *([settlement] if settlement is not None else [])]
        opinions = "".join(
            f"<tr><td>{ui.esc(d.reviewer or 'no name')}</td><td>{'settled: ' if d is settlement else ''}<b>{_says(d)}</b></td><td>{_when(d)}</td><td>{ui.esc(d.note)}</td></tr>"
            for d in said
        )
        st.html(f'<table class="pn-table"><tr><th>who</th><th>says</th><th>when (UTC)</th><th>note</th></tr>{opinions}</table>')
        if said and not blind:
            st.caption(f"The CSV says {'yes' if said[0].given else 'no'}.")
        buttons = st.container(horizontal=True, vertical_alignment="center")
        if name in fold.conflicts:
            for value in (1, 0):
                buttons.button(
                    f"Settle: {'yes' if value else 'no'}", key=f"settle-{value}-{max(d.id for d in said)}-{number}",
                    on_click=_settle, args=(desk, who, name, value), disabled=not who.name,
                )  # fmt: skip
            return
        stands = fold.standing.get(name)
        if stands is None:
            buttons.markdown("Nobody says anything of it any more.")
        elif stands.way == "settled":
            buttons.markdown(f"**✓ Settled: {_says(stands)}**, by {ui.text(stands.reviewer or 'no name')}", width="content")
            buttons.button("Undo", key=f"unsettle-{stands.id}-{number}", on_click=_unsettle, args=(desk, who, stands))
        else:
            buttons.markdown(f"**No conflict any more: {_says(stands)}**")


def _settled(desk: Desk, fold: Fold, who: Reviewer) -> None:
    """Every conflict that a person has settled, the latest first, each to be taken back."""
    rows = _settlements(fold)
    if not rows:
        return
    with st.expander(f"Settled conflicts: {len(rows):,}", key="settled-list"):
        for row in rows[ui.pager(len(rows), _CONFLICTS_A_PAGE, "settled")]:
            line = st.container(horizontal=True, vertical_alignment="center")
            line.button("Undo", key=f"unsettle-{row.id}-list", on_click=_unsettle, args=(desk, who, row))
            note = f" “{ui.text(row.note)}”" if row.note else ""
            line.markdown(
                f"**{ui.text(row.label)}** in {ui.text(row.image)}: **{_says(row)}**, by {ui.text(row.reviewer or 'no name')}, {_when(row)}{note}"
            )


def _settlements(fold: Fold) -> list[Decision]:
    """Those that hold, the latest first."""
    return sorted((row for row in fold.standing.values() if row.way == "settled"), key=lambda row: -row.id)


def _says(row: Decision) -> str:
    return "skipped" if row.value is None else "yes" if row.value else "no"


def _when(row: Decision) -> str:
    return ui.esc(row.at[:16].replace("T", " "))


def _settle(desk: Desk, who: Reviewer, name: Cell, value: int) -> None:
    """A click on a conflict that was settled or has changed meanwhile settles nothing: its key is gone."""
    image, label = name
    event = {"n": 0, "image": image, "label": label, "value": value, "way": "settled"}
    receipt = desk.take([event], who, uuid.uuid4().hex)
    st.session_state["told"] = receipt.error or " ".join(why for _, why in receipt.refused)


def _unsettle(desk: Desk, who: Reviewer, row: Decision) -> None:
    """Anybody may take a settlement back; the log says who did."""
    try:
        desk.unsettle(row, who)
    except PanoramaError as error:
        st.session_state["told"] = str(error)


@st.cache_resource(show_spinner=False)
def _desks() -> Desks:
    """One registry a server; not a cache of desks, which would drop one that is in use."""
    return Desks()


def desk_of(run: Run) -> Desk:
    """The desk of a run, shared by all sessions, with what was decided up to now. Raises PanoramaError."""
    home, stamps = runs.workspace(), ui.queue_stamps(run)

    def make() -> Desk:
        made = Desk(ui.queue_of(str(run.folder), stamps), ui.review_store(home), run.id)
        ui.settle_memory()
        return made

    found = _desks().get((run.folder, stamps, home), make)
    st.session_state["desk"] = found  # held for as long as the session lives
    found.refresh()
    return found
