"""What pages share: navigation, choosing a run, pictures as HTML, empty states. The only part of the library that imports streamlit."""

import base64
import functools
import gc
import html
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import streamlit as st

from panorama import charts, demo_job, runs, serving
from panorama.countdown import Countdown, left_in_words
from panorama.datasets import DataSet, load
from panorama.decisions import Fold
from panorama.effect import Comparison, compare
from panorama.errors import PanoramaError
from panorama.events import duration as duration
from panorama.export import Pieces
from panorama.finding import Source, file_column_choices
from panorama.images import PictureError, thumbnail_jpeg
from panorama.report import Correction, Data, read
from panorama.reviewfiles import open_queue
from panorama.reviewing import ReviewQueue, Standing
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.ui import address, unsaved
from panorama.workspace import current_source

logger = logging.getLogger(__name__)
_KEPT_DATA_SETS = 4
_BAR_SECONDS = 0.1
_GRID_SECONDS = 0.4
_LONGEST_SAME = 90  # characters
SMALL_UPLOAD = 200  # MB: a picture, a table. What the server takes at most is for a zip of a data set
CELL = "A cell is one value of the CSV: one label of one picture."  # said where a page first speaks of them
_PROJECT = Path(__file__).resolve().parent.parent.parent


def enter() -> None:
    """What the entry point does: login where one is configured, navigation, style, the chosen page."""
    st.session_state["entered"] = True
    page = _navigation()
    title = "panorama" if page.url_path == "" else f"{page.title} · panorama"
    st.set_page_config(page_title=title, page_icon="🏞️", layout="wide")
    address.arrive(page.url_path)
    _gate()
    st.html(Path(__file__).with_name("style.css"))
    _sidebar()
    if page.url_path != "review":
        _take_what_review_left()
        unsaved.tell()
    if page.url_path == "" and (asked := _no_page(st.context.url)):
        st.warning(f"There is no page {text(asked)} here. This is the first page; the menu on the left has all of them.")
    page.run()


def _take_what_review_left() -> None:
    """Stores answers that came without the bench: with the step to another page in one message, or from a page like this one."""
    if any(key in st.session_state for key in (unsaved.BENCH, unsaved.KEY)):
        from panorama.ui import review

        review.take_what_is_left()


def _navigation() -> Any:
    return st.navigation(
        [
            st.Page(_PROJECT / "pages" / f"{name}.py", title=title, url_path=name, default=name == address.FIRST)
            for name, title in address.PAGES
        ]
    )


def _no_page(url: str | None) -> str:
    """Of an address for which Streamlit shows the first page: the name that is none of a page's; "" for the first page's own.

    Behind a proxy the first page's path may be any folder's: those end in a slash.
    """
    path = unquote(urlsplit(url or "").path)
    name = path.rpartition("/")[2]
    folder = str(_setting("server.baseUrlPath") or "").strip("/")
    return "" if name == address.FIRST or path.strip("/") == folder else name


def ensure_entrypoint() -> None:
    """First line of every page: a fresh server answers a deep link with the page alone; this sends it through the entry point."""
    if not st.session_state.get("entered"):
        _navigation()
        st.rerun()
    _gate()


def _setting(name: str) -> Any:
    """An option of Streamlit's; None where this version does not have it."""
    try:
        return st.get_option(name)
    except RuntimeError:
        return None


def _gate() -> None:
    """Ends the page where the server is set up so that others could come in, or nobody has logged in that should have."""
    found = [*serving.weaknesses(_setting, os.environ, login=login_is_configured()), *serving.too_old()]
    if found:
        st.title("panorama does not run like this")
        st.write(
            "It keeps your pictures to this machine, and this server is set up differently. Stop it, mend what is said here, and start again."
        )
        for one in found:
            st.error(text(one))
        st.stop()
    _require_login()


def login_is_configured() -> bool:
    """Whether `.streamlit/secrets.toml` has an [auth] section (OIDC)."""
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False


def login_name() -> str:
    """Who is logged in, as `signature` has it; "" where no login is configured, or nobody is."""
    if not login_is_configured() or not _is_logged_in():
        return ""
    return signature(st.user.to_dict())


def signature(claims: Mapping[str, Any]) -> str:
    """What decisions are signed with, of the claims of a provider: the e-mail address, or the account's id (`sub`), which nobody can choose,
    where there is none or the provider says that it is not verified. "" where there is neither: a name is not one person's alone."""
    email, account = str(claims.get("email") or ""), str(claims.get("sub") or "")
    if email and str(claims.get("email_verified", True)).lower() != "false":
        return email
    if email:
        _unverified(account)
    return account


@functools.cache
def _unverified(account: str) -> None:
    """Says once of each account, in the server's log, why it signs as it does; the address itself could be anybody's."""
    logger.warning(
        "The provider has not verified the e-mail address of the account %r: its decisions are signed with the account's id.",
        account,
    )


def _is_logged_in() -> bool:
    return bool(getattr(st.user, "is_logged_in", False))


def _require_login() -> None:
    """Where a login is configured, ends the page of somebody who is not logged in."""
    if login_is_configured() and not _is_logged_in():
        st.title("panorama")
        st.write("Log in to go on. Decisions are signed with the name you log in with.")
        st.button("Log in", type="primary", key="log-in", on_click=st.login)
        st.stop()
    if login_is_configured() and not login_name():
        st.title("panorama")
        st.error(
            "Your provider gives neither a verified e-mail address nor an account id (`sub`), so nothing here could be signed. Ask for the scopes openid and email."
        )
        st.button("Log out", key="log-out", on_click=st.logout)
        st.stop()


def _sidebar() -> None:
    with st.sidebar:
        source = current_source(runs.workspace())
        st.caption(f"Data set: {text(source.name)}" if source else "No data set chosen yet")
        if runs.running(runs.workspace()) is not None:
            st.fragment(_training, run_every=3.0)()
        drawing = demo_job.standing(runs.workspace())
        if drawing is not None and drawing.state == "working":
            st.caption("The demo is being drawn ...")
        if signed_in := login_name():
            st.caption(f"Logged in as {text(signed_in)}")
            if st.user.get("email") and signed_in != st.user.get("email"):
                st.caption("Your provider has not verified your e-mail address: decisions are signed with your account's id.")
            st.button("Log out", key="log-out", on_click=st.logout)


def _training() -> None:
    """In the side bar, until it ends."""
    if runs.running(runs.workspace()) is not None:
        st.caption("A training is running ...")


def page_link(name: str, label: str) -> None:
    """A link to another page of the app."""
    st.page_link(_PROJECT / "pages" / f"{name}.py", label=label)


def go(name: str) -> None:
    """Shows another page now."""
    st.switch_page(_PROJECT / "pages" / f"{name}.py")


def empty_state(what: str, then: str, page: str, label: str) -> None:
    """Says why there is nothing here and what to do next, and ends the page."""
    with st.container(border=True):
        st.markdown(f"**{what}**")
        st.write(then)
        page_link(page, label)
    st.stop()


def no_data_set() -> None:
    """Ends a page that needs one."""
    empty_state(
        "There is no data set yet.", "Choose a folder, upload a zip, or draw the demo first.", "dataset", "Choose a data set"
    )


def text(value: object) -> str:
    """A user's string for a Markdown place (widget labels, captions, messages): shown literally."""
    clean = "".join(character if character.isprintable() else " " for character in str(value))
    return "".join("\\" + character if character in r"\`*_{}[]()#+-.!|<>~$:@&" else character for character in clean)


def show_error(error: PanoramaError) -> None:
    """A PanoramaError in a box, literally."""
    st.error(text(error))


@st.cache_resource(show_spinner=False)
def settle_memory() -> None:
    """Once, after torch is imported: Streamlit collects garbage after every run, and torch's objects make that slow."""
    gc.collect()
    gc.freeze()


# --- the data set and the run ------------------------------------------------------------------------------------------


@st.cache_resource(show_spinner=False)
def _data_sets() -> dict[str, DataSet]:
    """What this server has read, newest last; a plain dict, because a cached function may not move a progress bar."""
    return {}


def data_set(source: Source) -> DataSet:
    """The data set of a source as read; read again when a CSV or the folder changes. Raises PanoramaError. Ends the page where reading was stopped."""
    known, key = _data_sets(), f"{source.to_json()}{_source_stamps(source)}"
    if key not in known:
        was_stopped("reading", "Reading the pictures was stopped. What was read so far is kept.")
        with progress_bar("Reading pictures", on_stop=lambda: stopped("reading")) as advanced:
            known[key] = load(source, runs.workspace(), on_progress=advanced)
        for old in list(known)[:-_KEPT_DATA_SETS]:
            known.pop(old, None)
    return known[key]


def _source_stamps(source: Source) -> tuple[int, ...]:
    """When its CSVs and folders were changed. Raises PanoramaError."""
    stamps = []
    for csv_source in source.csvs:
        for path in (source.root / csv_source.file, source.root / csv_source.folder):
            try:
                stamps.append(path.stat().st_mtime_ns)
            except OSError as error:
                raise PanoramaError(f"{path}: cannot be read ({error.strerror}). Is the data set still there?") from error
    return tuple(stamps)


@st.cache_resource(show_spinner=False, max_entries=_KEPT_DATA_SETS)
def _file_columns_of(source: str, stamps: tuple[int, ...]) -> list[tuple[int, str, float]]:
    del stamps  # part of the cache key
    read = Source.from_json(json.loads(source))
    return file_column_choices(read, read.csvs[0])


def file_columns(source: Source) -> list[tuple[int, str, float]]:
    """As `file_column_choices` of its first CSV, looked at once for the server: it takes a second of 10,000 files. Raises PanoramaError."""
    return _file_columns_of(json.dumps(source.to_json()), _source_stamps(source))


def choose_run(*, needs: str | None = None, title: str = "", own_labels: bool = False) -> Run:
    """As `pick_run`, and says in the address which one it is."""
    run = pick_run(needs=needs, title=title, own_labels=own_labels)
    address.say({"run": run.id}, {"run"})
    return run


def pick_run(*, needs: str | None = None, title: str = "", own_labels: bool = False) -> Run:
    """The run that the page shows: from `?run=`, else the one chosen on any page, else the newest of the current data set that has the file `needs`;
    where no data set is chosen, the newest of any. Ends the page when there is none; runs of other data sets are offered, not shown unasked.

    title: the page's, where it stands beside the menu rather than above it. own_labels: for decisions, which are on the labels as they came: where
    a retraining was chosen on another page, the run that it repeats.
    """
    menu = st.container()
    if title:
        left, menu = st.columns([1, 3], vertical_alignment="bottom")
        left.title(title, width="content")
    home = runs.workspace()
    found = [run for run in runs.list_runs(home) if needs is None or run.has(needs)]
    root = _current_root()
    is_of_this = not root or any(str(run.source.root) == root for run in found)
    if not found or not (is_of_this or {st.query_params.get("run"), kept_run()} & {run.id for run in found}):
        _no_run(home, found, needs)
    # Where people decide, what was trained on corrected labels comes after the runs whose labels they decide on.
    found = sorted(found, key=lambda run: (str(run.source.root) != root, own_labels and run.corrects is not None))
    ids = [run.id for run in found]
    asked = st.query_params.get("run")
    names = {run.id: run_title(run) for run in found}
    key = f"run-{needs}"
    known = f"{key}-known"  # the addresses that say nothing new
    is_new = asked is not None and asked not in st.session_state.get(known, ())
    if st.session_state.get(key) not in ids or is_new:
        if asked in ids:  # a new address decides; after that the menu does
            keep_run(asked)
            st.session_state[key] = asked
        else:
            st.session_state[key] = _follow(kept_run(), found, own_labels=own_labels)
        st.session_state[known] = (asked, st.session_state[key])
        st.session_state["run-missing"] = (address.page(), asked) if asked is not None and asked not in ids else None
    elif st.session_state.pop(f"{key}-menu", False):
        st.session_state[known] = (st.session_state[key],)
    st.session_state[key] = st.session_state[key]  # the menu of another page has the same key, and would begin anew

    def choose() -> None:
        keep_run(st.session_state[key])
        st.session_state[f"{key}-menu"] = True
        st.session_state["run-missing"] = None

    chosen: str = menu.selectbox(
        "Run", ids, format_func=names.__getitem__, key=key, on_change=choose, label_visibility="collapsed" if title else "visible"
    )  # fmt: skip
    if (missing := st.session_state.get("run-missing")) and missing[0] == address.page():
        rest = "It is the only one." if len(found) == 1 else f"The menu above has all {len(found):,}."
        st.warning(f"{_why_not(missing[1])} What you see is of another one: {text(names[chosen])}. {rest}")
    wanted, run = kept_run(), found[ids.index(chosen)]
    if wanted is not None and wanted != chosen:
        st.caption(_why_another(wanted, own_labels=own_labels))
    source = current_source(home)
    if source is not None and str(run.source.root) != root:
        st.caption(f"This run is of {text(run.source.name)}, not of {text(source.name)}, which is the data set now.")
    return run


def _no_run(home: Path, others: Sequence[Run], needs: str | None) -> None:
    """What a page says while the current data set has no run that got far enough. others: of other data sets. Ends the page."""
    busy, asked, source = runs.running(home), st.query_params.get("run"), current_source(home)
    under_way = runs.find_run(home, busy) if busy else None
    if under_way is not None and not (str(under_way.source.root) == _current_root() or under_way.id in (asked, kept_run())):
        busy = None  # another data set's says nothing of when this page has something to show
    if not busy and source is None:
        no_data_set()
    if asked is not None and asked != busy:
        st.warning(_why_not(asked))
    if busy:
        st.fragment(_wait_for, run_every=2.0)(needs, busy)
    if others:
        run_of_another(others)
    what = (
        "The run has not got that far yet."
        if busy
        else f"There is no finished training{f' of {text(source.name)}' if source else ''} yet."
    )
    then = "This page shows it as soon as it has." if busy else "Train a model first; the demo takes about two minutes."
    empty_state(what, then, "train", "See how far it is" if busy else "Go to training")


def run_of_another(listed: Sequence[Run]) -> None:
    """A menu of other data sets' runs, none of them chosen."""
    titles = {run.id: run_title(run) for run in listed}
    st.selectbox(
        "Runs of other data sets", list(titles), index=None, format_func=titles.__getitem__, placeholder="Show one of them",
        key="run-of-others", on_change=lambda: keep_run(st.session_state["run-of-others"]),
    )  # fmt: skip


def _wait_for(needs: str | None, busy: str) -> None:
    """Has the page run again once this run has the file, or is not under way any more."""
    home = runs.workspace()
    run = runs.find_run(home, busy)
    if runs.running(home) != busy or (run is not None and needs is not None and run.has(needs)):
        st.rerun()


def keep_run(run_id: str) -> None:
    """Makes it the run that every page shows, until another is chosen or another data set is taken."""
    st.session_state["run"], st.session_state["run-chosen-on"] = run_id, _current_root()


def kept_run() -> str | None:
    """The run that was chosen on some page since the data set is the one it is now; None: each page shows the newest."""
    if st.session_state.get("run-chosen-on") != _current_root():
        return None
    kept: str | None = st.session_state.get("run")
    return kept


def _current_root() -> str:
    source = current_source(runs.workspace())
    return str(source.root) if source is not None else ""


def _follow(wanted: str | None, found: Sequence[Run], *, own_labels: bool) -> str:
    """The run a page shows when `wanted` was chosen on another one; the first of `found` where nothing was, or it is not among them."""
    run = runs.find_run(runs.workspace(), wanted) if wanted else None
    if run is not None and own_labels and run.corrects is not None:
        wanted = run.corrects.run
    ids = [run.id for run in found]
    return wanted if wanted in ids else ids[0]


def _why_not(asked: str) -> str:
    """What the address asked for, and why it is not shown."""
    why = "has not got that far" if runs.find_run(runs.workspace(), asked) is not None else "is not here"
    return f"The address asks for the training {text(asked)}, which {why}."


def _why_another(wanted: str, *, own_labels: bool) -> str:
    """Why the page shows another run than the one that was chosen."""
    run = runs.find_run(runs.workspace(), wanted)
    if run is None:
        return f"The run that was chosen, {text(wanted)}, is not there any more. This is another."
    if own_labels and run.corrects is not None:
        return "The run that was chosen was trained on corrected labels. Decisions are made on the labels as they came, so this is the run that it repeats."
    return f"The run that was chosen, of {run.created.astimezone():%d %b %Y, %H:%M:%S}, has not got that far. This is another."


def run_title(run: Run) -> str:
    """A run in one line, for menus: when, on what, with what; and whether on corrected labels."""
    again = f" · again, with {run.corrects.cells:,} corrections" if run.corrects is not None else ""
    return f"{run.created.astimezone():%d %b %Y, %H:%M:%S} · {run.source.name} · {run.config.backbone}{again}"


@st.cache_resource(show_spinner=False)
def review_store(home: Path) -> ReviewStore:
    """The workspace's decisions; one connection for the server."""
    return ReviewStore(home / "reviews.sqlite")


@st.cache_resource(show_spinner="Reading suspects", max_entries=3)
def queue_of(folder: str, stamps: tuple[int, ...]) -> ReviewQueue:
    """The suspects of the run in `folder`; read again when `stamps` change."""
    del stamps  # part of the cache key
    return open_queue(Run(Path(folder)))


def queue_stamps(run: Run) -> tuple[int, ...]:
    """When the files that a queue is read from were written."""
    return _stamps(run, "suspects.csv", "neighbours.csv")


def _stamps(run: Run, *names: str) -> tuple[int, ...]:
    """When these files of the run were written; 0 for one that is not there."""
    files = [run.folder / name for name in names]
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


def review_queue(run: Run) -> ReviewQueue:
    """The run's suspects with everything the pages show of them; read once for the server. Raises PanoramaError."""
    return queue_of(str(run.folder), queue_stamps(run))


@st.cache_resource(show_spinner="Comparing the two runs", max_entries=3)
def _comparison_of(old: str, new: str, last_decision: int, _standing: Standing) -> Comparison:
    del last_decision  # part of the cache key, as what it stands for is too large for one
    return compare(Run(Path(old)), Run(Path(new)), _standing)


def comparison(old: Run, new: Run, fold: Fold) -> Comparison:
    """Two complete runs held against each other, computed once for the server. Raises PanoramaError."""
    return _comparison_of(str(old.folder), str(new.folder), fold.last_id, fold.standing)


@st.cache_resource(show_spinner="Reading the run", max_entries=3)
def _report_data_of(folder: str, stamp: int) -> Data:
    del stamp  # part of the cache key
    return read(Run(Path(folder)))


def report_data(run: Run) -> Data:
    """The run's images, labels and answers, read once for the server. Raises PanoramaError."""
    try:
        stamp = (run.folder / "metrics.json").stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _report_data_of(str(run.folder), stamp)


@dataclass(frozen=True)
class Answers:
    """What a run answers before and after training beside what its CSV says, an image a row; after: None until it is complete."""

    images: list[str]
    splits: list[str]
    paths: list[str]
    labels: list[str]
    targets: npt.NDArray[np.int8]
    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32] | None


@st.cache_resource(show_spinner="Reading the answers", max_entries=3)
def _answers_of(folder: str, stamps: tuple[int, ...]) -> Answers:
    del stamps  # part of the cache key
    run = Run(Path(folder))
    before, after = run.probabilities("before.csv"), run.probabilities("predictions.csv")
    if before is None:
        raise PanoramaError(f"{run.id} has no before.csv. Let it get that far first.")
    return Answers(*run.images(), before[0], run.targets(before[0]), before[1], after[1] if after else None)


def answers(run: Run) -> Answers:
    """The run's answers, read once for the server, and again when it has written more. Raises PanoramaError."""
    return _answers_of(str(run.folder), _stamps(run, "before.csv", "predictions.csv"))


def apart(word: str, names: Sequence[str]) -> str:
    """The word, in brackets where one of the names is the same: menus tell their entries by what is written there."""
    while word in names:
        word = f"({word})"
    return word


# --- pictures ----------------------------------------------------------------------------------------------------------


@st.cache_data(show_spinner=False, max_entries=6000)
def _thumbnail(path: str, stamp: int, side: int) -> str | None:
    del stamp  # part of the cache key
    try:
        return base64.b64encode(thumbnail_jpeg(Path(path), side)).decode()
    except PictureError:
        return None


def picture_url(path: Path, side: int) -> str | None:
    """A data URL of the picture at most `side` pixels a side, or None when it cannot be read any more."""
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return None
    data = _thumbnail(str(path), stamp, side)
    return f"data:image/jpeg;base64,{data}" if data else None


def picture_html(path: Path, side: int, alt: str, css_class: str = "pn-picture") -> str:
    """An img element, or words in its place."""
    url = picture_url(path, side)
    if url is None:
        return f'<div class="pn-body pn-quiet">{esc(alt)}: the picture cannot be read any more.</div>'
    return f'<img class="{css_class}" src="{url}" alt="{esc(alt)}">'


def run_picture_html(run: Run, relative: str, side: int, alt: str, css_class: str = "pn-picture") -> str:
    """As `picture_html`, for a path of the run's data set; one that leads outside is said in words, not opened."""
    try:
        return picture_html(run.picture_path(relative), side, alt, css_class)
    except PanoramaError as error:
        return f'<div class="pn-body pn-quiet">{esc(error)}</div>'


def esc(value: object) -> str:
    """A user's string for HTML."""
    return html.escape(str(value), quote=True)


def grid(cards: Iterable[str], *, card_width: int = 210) -> None:
    """Cards (HTML) side by side, as many as fit. Those that are made while others still take their time, as large pictures do, are shown already."""
    place, made, shown_at = None, list[str](), time.monotonic()
    for card in cards:
        made.append(card)
        if time.monotonic() - shown_at > _GRID_SECONDS:
            place = place or st.empty()  # not before: an empty place would make the page jump where all cards are ready
            place.html(_grid_html(made, card_width))
            shown_at = time.monotonic()
    (place or st).html(_grid_html(made, card_width))


def _grid_html(cards: Sequence[str], card_width: int) -> str:
    return f'<div class="pn-grid" style="--pn-card:{card_width}px">{"".join(cards)}</div>'


def correction_card(run: Run, c: Correction) -> str:
    """A corrected cell: its picture, from what to what, who and why."""
    note = f'<div class="pn-quiet">“{esc(c.note)}”</div>' if c.note else ""
    unsuspected = '<div class="pn-verdict">hardly suspected by the run</div>' if c.surprise else ""
    said = "" if c.probability is None else f'<div class="pn-quiet">the run said {c.probability:.2f} out of fold</div>'
    return (
        f'<div class="pn-card">{run_picture_html(run, c.path, 480, c.image)}<div class="pn-body"><div class="pn-name">{esc(c.image)}</div>'
        f'<div>{esc(c.words)}</div>{said}{unsuspected}<div class="pn-quiet">{esc(c.reviewer or "no name")}, {esc(c.at)}</div>{note}</div></div>'
    )


def label_charts(labels: Sequence[str], targets: npt.NDArray[np.int8], splits: Sequence[str]) -> None:
    """How many images carry each label, and which labels are on the same images; the latter also as a table, with every name in full.

    splits: train or test for each image.
    """
    many = len(labels) > charts.FEW_LABELS or not charts.are_short(labels)
    place = st.container(key="charts-labels")
    left, right = (place.container(), place.container()) if many else place.columns([3, 2])
    left.altair_chart(charts.label_counts(labels, targets, splits), key="label-counts")
    if len(labels) < 2:
        return
    if len(labels) <= charts.MOST_TOGETHER:
        right.altair_chart(charts.cooccurrence(labels, targets), key="cooccurrence")
    with right.expander("Labels together, as a table"):
        table = charts.together(labels, targets).sort_values("images", ascending=False, kind="stable")
        share = st.column_config.NumberColumn("share of the label's images", format="percent")
        st.dataframe(table, hide_index=True, key="together", column_config={"share": share})


def to_the_right(*columns: str) -> dict[str, Any]:
    """A data frame's column_config for figures that are written as words ("0.930", "not measurable"): under each other."""
    return {name: st.column_config.Column(alignment="right") for name in columns}


def facts(*entries: tuple[str, object] | tuple[str, object, str], small: bool = False) -> None:
    """Figures side by side, wrapping where there is no room: (label, value) or (label, value, a line below). small: a line each."""
    parts = [
        f'<div class="pn-fact"><div class="pn-label">{esc(label)}</div><div class="pn-value">{esc(value)}</div>'
        f'<div class="pn-note">{esc(note[0]) if note else ""}</div></div>'
        for label, value, *note in entries
    ]
    st.html(f'<div class="pn-facts{" pn-line" if small else ""}">{"".join(parts)}</div>')


def kept(widget: Callable[..., Any], label: str, options: Sequence[str], key: str, *, first: str = "", **settings: Any) -> Any:
    """A choice that is still there when somebody comes back to the page. first: chosen where nothing was, or it is no option any more; "": the first."""
    memory = f"{key}-kept"
    if st.session_state.get(key) not in options:
        left = st.session_state.get(memory)
        st.session_state[key] = left if left in options else first or options[0]
    st.session_state[memory] = chosen = widget(label, options, key=key, **settings)
    return chosen


def pager(n_items: int, page_size: int, key: str) -> slice:
    """Which items to show; a page number above them when there is more than one page."""
    n_pages = max(1, -(-n_items // page_size))
    if n_pages == 1:
        return slice(0, n_items)
    left, right = st.columns([1, 4], vertical_alignment="bottom")
    field, kept = f"{key}-page-{n_pages}", f"{key}-page"
    if field not in st.session_state:  # there are more of them meanwhile: the page stays
        st.session_state[field] = min(n_pages, st.session_state.get(kept, 1))
    page = int(left.number_input(f"Page (of {n_pages:,})", 1, n_pages, key=field))
    st.session_state[kept] = page
    first = (page - 1) * page_size
    right.caption(f"{first + 1:,} to {min(first + page_size, n_items):,} of {n_items:,}")
    return slice(first, first + page_size)


def pieces_html(pieces: Pieces) -> str:
    """A line of a file with what differs in it marked. Of what is the same only some is shown where that is long; pointing at it shows all."""

    def same(text: str) -> str:
        return text if len(text) <= _LONGEST_SAME else f"{text[: _LONGEST_SAME // 2]} … {text[-_LONGEST_SAME // 2 :]}"

    whole = "".join(text for text, _ in pieces)
    return (
        f'<code title="{esc(whole)}">'
        + "".join(f"<mark>{esc(text)}</mark>" if differs else esc(same(text)) for text, differs in pieces)
        + "</code>"
    )


@contextmanager
def progress_bar(what: str, *, on_stop: Callable[[], None] = lambda: None) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left and a stop button while the block runs: gives the function that moves it, (done, total).

    A press of the button runs the page anew, which ends the block where it next moves the bar; on_stop is called first.
    """
    place = st.empty()
    with place.container(horizontal=True, vertical_alignment="bottom"):
        bar = st.progress(0.0, what)
        st.button("Stop", key=f"stop {what}", on_click=on_stop)
    countdown, moved = Countdown(), 0.0

    def advanced(done: int, total: int) -> None:
        nonlocal moved
        now = time.monotonic()
        if done < total and now - moved < _BAR_SECONDS:
            return  # telling the browser of each of many small steps takes longer than the steps
        moved = now
        left = countdown.left(done, total, now)
        told = "" if left is None or done == total else f" · {left_in_words(left)}"
        bar.progress(done / max(total, 1), f"{what}: {done:,} of {total:,}{told}")

    try:
        yield advanced
    except Exception:  # a stop is none
        place.empty()
        raise
    place.empty()


def was_stopped(what: str, then: str) -> None:
    """Where somebody stopped that work, says so and how to go on, and ends the page."""
    if st.session_state.get(f"stopped {what}"):
        st.info(then)
        st.button("Go on", type="primary", key=f"go on {what}", on_click=lambda: st.session_state.pop(f"stopped {what}"))
        st.stop()


def stopped(what: str) -> None:
    """Notes that somebody stopped that work, for `was_stopped`."""
    st.session_state[f"stopped {what}"] = True


_PASTE_HTML = '<div class="zone" tabindex="0" role="button">Click here, then paste a picture (Ctrl+V)</div>'
_PASTE_CSS = """
.zone { border: 1px dashed var(--st-border-color, gray); border-radius: 8px; padding: 26px 12px; text-align: center;
        color: var(--st-text-color); font-family: var(--st-font); font-size: 0.9rem; cursor: pointer; }
.zone:focus { outline: 2px solid var(--st-primary-color); }
"""
_PASTE_JS = """
export default function ({ parentElement, setStateValue }) {
  const zone = parentElement.querySelector(".zone");
  zone.onpaste = (event) => {
    const item = [...event.clipboardData.items].find((item) => item.type.startsWith("image/"));
    if (!item) { zone.textContent = "The clipboard holds no picture. Copy one, then paste it here."; return; }
    const reader = new FileReader();
    reader.onload = () => {
      zone.textContent = "Pasted. Paste again to replace it.";
      setStateValue("picture", reader.result.slice(reader.result.indexOf(",") + 1));
    };
    reader.readAsDataURL(item.getAsFile());
  };
}
"""


def paste_zone(key: str) -> tuple[str, bytes] | None:
    """A place to paste a picture from the clipboard; (name, bytes) of the last one pasted."""
    component = st.components.v2.component("panorama_paste", html=_PASTE_HTML, css=_PASTE_CSS, js=_PASTE_JS)
    value = component(key=key, on_picture_change=lambda: None).get("picture")
    if not isinstance(value, str):
        return None
    try:
        return "pasted picture", base64.b64decode(value, validate=True)
    except ValueError:
        return None
