"""What the browser is told on every run of the review page: which cells or images come next, what there is to say of each, what was saved."""

import base64
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlencode

from panorama.csvscan import counted
from panorama.decisions import Decision
from panorama.errors import PanoramaError
from panorama.heat import heat_of, overlay_png
from panorama.reviewing import Neighbour
from panorama.runs import Run
from panorama.thumbnails import Thumbnail, Thumbnails
from panorama.workbench import Contradiction, Desk, Filters, Receipt, Reviewer, Slot

Mode = Literal["cell", "grid", "image"]
Json = dict[str, Any]

GRID_SIZE = 24
_AHEAD: dict[Mode, int] = {"cell": 40, "grid": 2 * GRID_SIZE, "image": 20}
_PICTURE_SIDE, _TILE_SIDE, _NEIGHBOUR_SIDE, _LARGE_SIDE = 1100, 300, 160, 4000
_SUSPECT = 0.1  # doubt from which a label is marked on a whole image
_MOST_EVENTS, _MOST_LOADS = 2000, 500


@dataclass(frozen=True)
class View:
    """What a reviewer has chosen. seed: decides where controls stand; n_answered: how many were answered in this session."""

    mode: Mode
    filters: Filters
    who: Reviewer
    blind: bool = False
    control_share: float = 0.0
    seed: int = 0
    n_answered: int = 0

    @property
    def epoch(self) -> str:
        """Changes whenever what is on screen no longer belongs to what is asked for."""
        return repr((self.mode, self.filters, self.who, self.blind, self.control_share))


def taken(desk: Desk, batch: object, who: Reviewer) -> tuple[Receipt, str]:
    """Stores what a tab sent, and returns what became of it and the tab's id. What does not look like a batch for this CSV is passed over."""
    if not isinstance(batch, Mapping) or batch.get("csv") != desk.queue.fingerprint:
        return Receipt(), ""
    client, events = batch.get("client"), batch.get("events")
    if not isinstance(client, str) or not client.isalnum() or len(client) > 64 or not isinstance(events, list):
        return Receipt(), ""
    return desk.take(
        [event for event in events[:_MOST_EVENTS] if isinstance(event, Mapping)], who, client, loads=loads(batch)
    ), client


def packet(
    desk: Desk, run: Run, view: View, batch: object, receipt: Receipt, client: str, album: Thumbnails, *,
    budget_seconds: float = 0.12, now: Callable[[], float] = time.monotonic,
) -> Json:  # fmt: skip
    """The component's data, as JSON: `order` of ids, `cards` of those the tab does not have yet, and what was saved.

    Cards are made for at least one and until the budget is spent: a tab asks again for what is missing.
    """
    sent = batch if isinstance(batch, Mapping) else {}
    epoch = f"{run.id} {desk.made} {view.epoch}"
    is_of_this = sent.get("epoch") == epoch  # the tab forgets its cards when what is asked for changes
    listed = sent.get("have") if is_of_this else None
    have = {one for one in listed if isinstance(one, str)} if isinstance(listed, list) else set()
    has_heat = run.has("heat.npy")
    makers = _next_makers(
        desk, run, view, album, [cell for _, cell in receipt.restored], heat=has_heat and sent.get("heat") is True
    )
    return {
        "serial": time.time_ns(), "csv": desk.queue.fingerprint, "mode": view.mode, "epoch": epoch, "reviewer": view.who.name,
        "login": view.who.identity == "login", "blind": view.blind, "pageSize": GRID_SIZE if view.mode == "grid" else 1,
        "order": list(makers), "cards": _made(makers, desk.fold.last_id, have, budget_seconds, now),
        "acked": {"client": client, "n": receipt.acked} if client and not receipt.error else None,
        "contradictions": [_contradiction(one) for one in receipt.contradictions], "tally": _tally(desk, sent), "refused": receipt.refused, "restored": [[n, _id(desk, view, cell)] for n, cell in receipt.restored], "error": receipt.error,
        "full": _full(desk, run, view, sent.get("full"), album), "empty": _empty(view.filters, desk.with_others(view.filters, view.who) if not makers else {}), "hasHeat": has_heat,
        "latest": _latest(desk, view.who) if sent.get("latest") is True else None,
    }  # fmt: skip


def _contradiction(one: Contradiction) -> Json:
    return {
        "client": one.client, "n": one.number, "image": one.now.image, "label": one.now.label, "who": one.now.reviewer,
        "before": _said(one.before), "now": _said(one.now), "at": one.before.at[:16].replace("T", " "),
    }  # fmt: skip


def _said(row: Decision) -> str:
    return "skipped" if row.value is None else "yes" if row.value else "no"


def loads(batch: Mapping[str, Any]) -> list[str]:
    """The ids that a tab has had, one a load."""
    clients = batch.get("clients")
    return [one for one in clients if isinstance(one, str)][:_MOST_LOADS] if isinstance(clients, list) else []


def _tally(desk: Desk, sent: Mapping[str, Any]) -> Json | None:
    """How many cells the tab has answered and skipped, by the log; None where it does not ask."""
    clients = loads(sent)
    rows = desk.answers(clients)
    skipped = sum(row.verdict == "skip" for row in rows)
    return {"answered": len(rows) - skipped, "skipped": skipped} if clients else None


def _latest(desk: Desk, who: Reviewer) -> Json:
    """What an undo that names no answer would take back: the latest one of this name, and how many were confirmed together with it."""
    rows = desk.latest(who.name)
    if not rows:
        return {"who": who.name}
    first = rows[0]
    return {
        "who": who.name, "event": first.event_id, "image": first.image, "label": first.label, "said": _said(first), "at": first.at[:16].replace("T", " "), "n": len(rows),
    }  # fmt: skip


def _id(desk: Desk, view: View, cell: int) -> str:
    return f"i{int(desk.queue.image_of[cell])}" if view.mode == "image" else str(cell)


def _next_makers(
    desk: Desk, run: Run, view: View, album: Thumbnails, restored: Sequence[int], *, heat: bool
) -> dict[str, Callable[[], Json]]:
    """id -> what makes its card, in the order in which they come; what an undo gave back is among them."""
    n = _AHEAD[view.mode]
    makers: dict[str, Callable[[], Json]] = {}
    if view.mode == "image":
        rows = [int(desk.queue.image_of[cell]) for cell in restored] + desk.next_images(view.filters, view.who, n)
        for row in rows:
            makers[f"i{row}"] = partial(image_card, desk, run, row, album, blind=view.blind)
        return makers
    slots = [Slot(cell) for cell in restored] + desk.next(
        view.filters, view.who, n, n_answered=view.n_answered, control_share=view.control_share if view.mode == "cell" else 0.0, seed=view.seed
    )  # fmt: skip
    make = partial(cell_card, heat=heat, blind=view.blind) if view.mode == "cell" else tile_card
    for slot in slots:
        makers.setdefault(str(slot.cell), partial(make, desk, run, slot, album))
    return makers


def _made(
    makers: Mapping[str, Callable[[], Json]], seen: int, have: Collection[str], budget_seconds: float, now: Callable[[], float]
) -> dict[str, Json]:
    """seen: the last row of the log that the cards know of."""
    made: dict[str, Json] = {}
    until = now() + budget_seconds
    for name, make in makers.items():
        if name not in have:
            made[name] = {"id": name, "seen": seen, **make()}
            if now() > until:
                break
    return made


# --- cards ---------------------------------------------------------------------------------------------------------------


def cell_card(desk: Desk, run: Run, slot: Slot, album: Thumbnails, *, heat: bool = False, blind: bool = False) -> Json:
    """Everything about one cell: the picture, the question, and why it is asked. heat: with a map of where the model sees the label. blind: so is the link."""
    queue, cell = desk.queue, slot.cell
    image, label = queue.name(cell)
    row, doubt, first, spread = int(queue.image_of[cell]), desk.doubt(cell), float(queue.doubts[cell]), float(queue.spread[cell])
    return {
        **_picture(run, queue.paths[row], image, _PICTURE_SIDE, album),
        "image": image, "label": label, "split": queue.splits[row], "given": int(queue.given[cell]), "control": slot.control,
        "p": float(queue.probabilities[cell]), "context": float(queue.in_context[cell]) if queue.has_evidence else None,
        "spread": "" if spread <= 0 else f"± {spread:.2f} over repeats" if spread >= 0.005 else "± <0.01 over repeats",
        "doubt": doubt, "before": f"(at first {first:.2f})" if abs(doubt - first) >= 0.01 else "", "why": queue.why(cell),
        "labels": _labels(desk, row), "near": [_near(desk, run, cell, one, album) for one in queue.neighbours(row)],
        **({"heat": _heat(run, row, int(queue.label_of[cell]))} if heat else {}),
        "link": _link({"run": run.id, "image": image, "label": label}, blind),
    }  # fmt: skip


def tile_card(desk: Desk, run: Run, slot: Slot, album: Thumbnails) -> Json:
    """A cell in a grid."""
    queue, cell = desk.queue, slot.cell
    image, label = queue.name(cell)
    picture = _picture(run, queue.paths[queue.image_of[cell]], image, _TILE_SIDE, album)
    return {**picture, "image": image, "label": label, "given": int(queue.given[cell]), "p": float(queue.probabilities[cell])}


def image_card(desk: Desk, run: Run, row: int, album: Thumbnails, *, blind: bool) -> Json:
    """A picture with all its labels; each with the value its switch starts from."""
    queue = desk.queue
    image = queue.images[row]
    labels = []
    for k, known in enumerate(_labels(desk, row)):
        cell = int(queue.cell_at[row, k])
        doubt = desk.doubt(cell) if cell >= 0 else 0.0
        decided = {"keep": known["given"], "change": 1 - known["given"]}.get(known["decided"], known["given"])
        suspect = doubt >= _SUSPECT and not known["decided"]
        labels.append(known | {"doubt": doubt, "suspect": suspect, "value": 0 if blind else decided})
    link = _link({"run": run.id, "image": image, "mode": "image"}, blind)
    return {
        **_picture(run, queue.paths[row], image, _PICTURE_SIDE, album),
        "image": image,
        "split": queue.splits[row],
        "labels": labels,
        "link": link,
    }


def _link(query: Mapping[str, str], blind: bool) -> str:
    return "review?" + urlencode({**query, **({"blind": "1"} if blind else {})})


def _labels(desk: Desk, row: int) -> list[Json]:
    queue, fold = desk.queue, desk.fold
    image = queue.images[row]
    return [
        {
            "label": label, "given": int(queue.targets[row, k]), "p": float(queue.by_image[row, k]),
            "decided": "in conflict" if (image, label) in fold.conflicts else queue.verdict(fold.standing, row, k),
        }
        for k, label in enumerate(queue.labels)
    ]  # fmt: skip


def _near(desk: Desk, run: Run, cell: int, near: Neighbour, album: Thumbnails) -> Json:
    queue = desk.queue
    small = _picture(run, queue.paths[near.row], near.name, _NEIGHBOUR_SIDE, album)
    return {
        "url": small["url"], "name": near.name, "similarity": near.similarity, "twin": near.near_duplicate, "other": queue.disagrees(cell, near),
        "says": int(queue.targets[near.row, queue.label_of[cell]]), "labels": ", ".join(near.labels),
    }  # fmt: skip


def _picture(run: Run, relative: str, name: str, side: int, album: Thumbnails) -> Json:
    """url: a data URL or None, and then why it is missing. larger: whether the file may have more pixels."""
    try:
        found = album.get(run.picture_path(relative), side, name)
    except PanoramaError as error:
        found = Thumbnail(None, str(error))
    return {
        "url": None if found.data is None else data_url(found.data),
        "missing": found.problem or None,
        "larger": found.limited,
    }


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    """A picture as an address that needs no request."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _heat(run: Run, row: int, label: int) -> str | None:
    try:
        heat = heat_of(run, row, label)
    except PanoramaError:
        return None
    return None if heat is None else data_url(overlay_png(heat, 112), "image/png")


def _full(desk: Desk, run: Run, view: View, wanted: object, album: Thumbnails) -> Json | None:
    """The picture of an id with all the pixels that are of use; None when nobody asks for it."""
    if not isinstance(wanted, str) or view.mode == "grid":
        return None
    number = wanted.removeprefix("i")
    if not number.isdecimal():
        return None
    row = int(number)
    if view.mode == "cell":
        if row >= len(desk.queue.doubts):
            return None
        row = int(desk.queue.image_of[row])
    if row >= len(desk.queue.images):
        return None
    return {"id": wanted, "url": _picture(run, desk.queue.paths[row], desk.queue.images[row], _LARGE_SIDE, album)["url"]}


def _empty(filters: Filters, with_others: Mapping[str, int]) -> Json:
    """What stands in the place of the next card. with_others: how many fitting cells others have on screen, by their names."""
    if with_others:
        n = sum(with_others.values())
        who = " and ".join(sorted(with_others)) if len(with_others) < 3 else f"{len(with_others)} others"
        return {
            "title": f"What is left here is with {who}: {counted(n, 'cell')}.",
            "then": "Nobody else gets what somebody has on screen, but by a link to the picture. What they have not answered three minutes after their latest answer comes back: refresh the page then, or go on with other filters.",
        }
    if filters == Filters():
        return {
            "title": "Every suspect is decided.",
            "then": "Take the corrected CSV home, or look at what the corrections change.",
        }
    if filters.image is not None:
        return {
            "title": "Nothing is left to decide of this picture with these filters.",
            "then": "“Show all”, above, leads back to the others.",
        }
    if filters.state in ("decided", "skipped"):
        return {"title": f"Nothing is {filters.state} with these filters.", "then": "Choose other filters above."}
    return {
        "title": "Nothing is left to decide with these filters.",
        "then": "Choose another label, or take a filter away, above.",
    }
