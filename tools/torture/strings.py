"""Names and strings: the Big List of Naughty Strings as labels, file names, tags, reviewers and notes; stored, and shown in a browser."""

import glob
import html.parser
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from panorama.csvscan import csv_text
from panorama.errors import PanoramaError
from tools.torture.checks import CORPUS, ROOT, Check, Outcome

sys.path.insert(0, str(ROOT / "tests"))  # the drawn pictures, the server and the browser of the tests
BLNS = CORPUS / "blns" / "blns.txt"
MISSING = "needs ../shared/corpus/blns, which is not here"


def naughty() -> list[str]:
    """The strings of the list: its lines without comments and blank ones."""
    return [line for line in BLNS.read_text(encoding="utf-8").split("\n") if line and not line.startswith("#")]


# -- stored


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.words += "".join(value or "" for name, value in attrs if name == "title")

    def handle_data(self, data: str) -> None:
        self.words += data


def stored(quick: bool, esc: Callable[[object], str] | None = None) -> Outcome:
    """Each string in each place of the data, out and in again."""
    if not BLNS.exists():
        return Outcome(skipped=MISSING)
    from panorama.ui import esc as ours

    wrong: list[str] = []
    tried = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for text in naughty()[:: 12 if quick else 1]:
            for place, attempt in PLACES.items():
                tried += 1
                try:
                    fault = attempt(text, Path(folder))
                except PanoramaError as error:
                    refused, fault = refused + 1, None if str(error).rstrip()[-1:] in ".?" else f"no sentence: {error}"
                except Exception as error:
                    fault = f"{type(error).__name__}: {error}"
                if fault:
                    wrong.append(f"{place} {text!r}: {fault}")
            tried += 1
            page = _Tags()
            page.feed(f'<p title="{(esc or ours)(text)}">{(esc or ours)(text)}</p>')
            page.close()
            if page.tags != ["p"] or (page.words.split() != (text + text).split() and page.words != text + text):
                wrong.append(f"HTML of {text!r}: tags {page.tags}, words {page.words!r}")
    return Outcome(tried, refused, tuple(wrong), measured={"strings": str(len(naughty()))})


def as_label(text: str, _: Path) -> str | None:
    """A column called so, corrected and read again."""
    from panorama.labels import Layout, corrected, parse_csv, read_labels

    if text.strip() in ("", "file", "other"):
        return None
    data = csv_text([("file", text, "other"), ("1.jpg", 0, 1), ("2.jpg", 1, 0)]).encode()
    layout = Layout(0, (1, 2))
    sheet = read_labels(parse_csv(data, "a.csv"), layout)
    if sheet.labels[0] != text.strip():
        return f"read as {sheet.labels[0]!r}"
    after = corrected(sheet, {("1.jpg", text.strip()): 1})
    if after != data.replace(b"1.jpg,0,1", b"1.jpg,1,1") or corrected(sheet, {}) != data:
        return "other bytes moved"
    return None


def as_image(text: str, folder: Path) -> str | None:
    """A picture called so, in a CSV and, where the system takes the name, on the disk."""
    from panorama.finding import PictureIndex
    from panorama.labels import Layout, parse_csv, read_labels

    if not text.strip():
        return None
    data = csv_text([("file", "a"), (text, 0), ("other.jpg", 1)]).encode()
    sheet = read_labels(parse_csv(data, "a.csv"), Layout(0, (1,)))
    if sheet.images[0] != text.strip():
        return f"read as {sheet.images[0]!r}"
    name = f"{text.strip()}.jpg"
    place = folder / "pictures"
    place.mkdir()
    try:
        with (place / name).open("wb") as stream:
            stream.write(b"x")
    except OSError:
        return None if PictureIndex(place).find(name) == [] else "found without being there"
    else:
        if name.startswith(".") or "/" in name:
            return None
        found = PictureIndex(place).find(name)
        return None if found == [name] or "\\" in name else f"found {found}"
    finally:
        shutil.rmtree(place)


def as_tag(text: str, _: Path) -> str | None:
    """One of the tags of a cell."""
    from panorama.labels import Layout, corrected, parse_csv, read_labels

    separator = next((s for s in "|;," if s not in text), None)
    tag = text.strip()
    if separator is None or tag in ("", "sea"):
        return None
    data = csv_text([("file", "tags"), ("1.jpg", f"sea{separator}{text}"), ("2.jpg", "sea"), ("3.jpg", text)]).encode()
    layout = Layout(0, (), 1, separator)
    sheet = read_labels(parse_csv(data, "a.csv"), layout)
    if set(sheet.labels) != {"sea", tag}:
        return f"read as {sheet.labels}"
    there = read_labels(parse_csv(corrected(sheet, {("2.jpg", tag): 1}), "a.csv"), layout)
    return None if there.targets[:, there.labels.index(tag)].tolist() == [1, 1, 1] else "not there after it was added"


def as_words(text: str, folder: Path) -> str | None:
    """Label, image, reviewer and note of a decision: stored, exported, imported."""
    from panorama.decisions import Answer, decisions_csv, read_answers
    from panorama.reviews import ReviewStore

    file = folder / "reviews.sqlite"
    file.unlink(missing_ok=True)
    store = ReviewStore(file)
    try:
        store.apply("csv", [Answer(text, text, 0, "change", text, note=text)])
        (row,) = store.log("csv")
        if (row.image, row.label, row.reviewer, row.note) != (text, text, text, text):
            return f"stored as {(row.image, row.label, row.reviewer, row.note)!r}"
        (again,), problems = read_answers(decisions_csv(store.fold("csv")), "d.csv", csv="csv", given=lambda _: 0, reviewer="ada")
        if problems or [s.strip() for s in (again.image, again.label, again.reviewer, again.note)] != [text.strip()] * 4:
            return f"imported as {(again.image, again.label, again.reviewer, again.note)!r} {problems}"
    finally:
        store.close()
    return None


PLACES: dict[str, Callable[[str, Path], str | None]] = {"label": as_label, "image": as_image, "tag": as_tag, "decision": as_words}


# -- shown


DECIDED, DISPUTED = 45, 15  # cells: few enough for the first page of each list


def naughty_world(home: Path, root: Path, labels: list[str]) -> Any:
    """A data set whose labels and file names are the strings, a run on it, and decisions with them as reviewers and notes."""
    from conftest import QUICK, patch_picture

    from panorama import runs
    from panorama.config import TrainConfig
    from panorama.datasets import load
    from panorama.decisions import Answer
    from panorama.finding import find_source, with_layouts
    from panorama.reviews import ReviewStore
    from panorama.worker import run as work
    from panorama.workspace import remember

    root.mkdir(parents=True)
    legal = [s.strip() for s in labels if "/" not in s and "\0" not in s and not s.startswith(".") and len(s.encode()) < 200]
    rows: list[list[object]] = [["file", *labels]]
    for i, name in enumerate([legal[n * len(legal) // 14] for n in range(14)]):
        file = f"{i}{name}.png"
        patch_picture(["red"] if i % 2 else [], i).save(root / file)
        rows.append([file, *((i + k) % 2 for k in range(len(labels)))])
    (root / "labels.csv").write_bytes(csv_text(rows).encode())
    source = with_layouts(find_source(root))
    remember(home, source)
    settings = {**QUICK, "fold_models": "heads", "epochs_adaptation": 1, "epochs_finetuning": 1}
    run = runs.create(load(source, home), TrainConfig(**settings), home)
    assert work(run.folder) == "complete", run.history().message
    store = ReviewStore(home / "reviews.sqlite")
    images, targets = run.images()[0], run.targets(labels)
    for n, text in enumerate(labels[: DECIDED + DISPUTED]):
        image, given = images[n % len(images)], int(targets[n % len(images), n])
        store.apply(run.fingerprint, [Answer(image, text, given, "change", text[:100], note=text)])
        if n >= DECIDED:
            store.apply(run.fingerprint, [Answer(image, text, given, "keep", f"not {text}"[:100])])
    store.close()
    return run


WATCH = """() => {
  const found = [];
  const inside = (root) => [...root.querySelectorAll('*')].flatMap((e) => [e, ...(e.shadowRoot ? inside(e.shadowRoot) : [])]);
  const outside = [...document.querySelectorAll('body > *:not(#root)')];
  for (const e of [...outside, ...[...document.querySelectorAll('[data-testid="stMain"]')].flatMap(inside)]) {
    for (const a of e.attributes) {
      if (a.name.startsWith('on')) found.push(e.tagName + ' ' + a.name + '=' + a.value.slice(0, 60));
      if (!/^(aria-|data-|title$|alt$|value$)/.test(a.name) && /^(javascript|data:text|vbscript):/i.test(a.value.trim())) found.push(e.tagName + ' ' + a.name + '=' + a.value.slice(0, 60));
    }
    if (['MARQUEE', 'IFRAME', 'OBJECT', 'EMBED', 'BASE', 'FRAMESET', 'XSS', 'META', 'LINK', 'APPLET', 'BGSOUND'].includes(e.tagName)) found.push(e.tagName);
    if (e.tagName === 'SCRIPT' && !e.src) found.push('SCRIPT ' + e.textContent.slice(0, 60));
  }
  return found;
}"""


WORDS = """() => {
  const within = (root) => [...root.querySelectorAll('*')].filter((e) => e.shadowRoot)
    .flatMap((e) => [...e.shadowRoot.children].map((child) => child.innerText ?? '').concat(within(e.shadowRoot)));
  return [document.body.innerText, ...within(document)].join('\\n');
}"""  # what a person can read, the review's component included


def watching(page: Any, seen: list[str], own: str) -> None:
    """Notes dialogs, requests to other hosts, and downloads nobody asked for."""

    def dialog(box: Any) -> None:
        seen.append(f"dialog: {box.message[:80]}")
        box.dismiss()

    def request(asked: Any) -> None:
        parts = urlsplit(asked.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != own:
            seen.append(f"request to {asked.url[:100]}")

    page.on("dialog", dialog)
    page.on("request", request)


def shown(quick: bool) -> Outcome:
    """A visit with 515 naughty labels (quick: none)."""
    if not BLNS.exists():
        return Outcome(skipped=MISSING)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return Outcome(skipped="needs Chromium on the PATH")
    if quick:
        return Outcome(skipped="a browser visit takes a minute: only without --quick")
    from browser import browser, server, settled

    labels = list(dict.fromkeys(s.strip() for s in naughty() if s.strip() and s.strip() != "file"))
    wrong: list[str] = []
    visited = 0
    before = os.environ.get("PANORAMA_HOME")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        os.environ["PANORAMA_HOME"] = str(home)
        run = naughty_world(home, Path(folder) / "<b>set", labels)
        with server(home) as (address, _), browser(chromium) as opened:
            page = opened.new_page()
            seen: list[str] = []
            watching(page, seen, urlsplit(address).netloc)
            for name, (prepare, expected) in _visits(labels, run.images()[0], Path(folder) / "elsewhere").items():
                page.goto(f"{address}/{name}")
                settled(page)
                prepare(page)
                page.wait_for_timeout(1500)
                for _ in range(30 if expected else 0):  # charts and cards come when they are ready
                    if next(_not_literal(page.evaluate(WORDS), expected), None) is None:
                        break
                    page.wait_for_timeout(1000)
                visited += 1
                wrong += [f"{name}: {what}" for what in [*seen, *page.evaluate(WATCH)]]
                seen.clear()
                if page.locator('[data-testid="stException"]').count():
                    wrong.append(f"{name}: an exception is shown")
                wrong += [f"{name}: {text!r} is not shown as it is" for text in _not_literal(page.evaluate(WORDS), expected)]
            report = write_report(run, home)
            page.goto(report.as_uri())
            page.wait_for_timeout(500)
            visited += 1
            wrong += [f"report.html: {what}" for what in [*(s for s in seen if "report.html" not in s), *page.evaluate(WATCH)]]
            wrong += [f"report.html: {text!r} is not shown as it is" for text in _not_literal(page.evaluate(WORDS), labels)]
    os.environ.pop("PANORAMA_HOME", None)
    if before is not None:
        os.environ["PANORAMA_HOME"] = before
    return Outcome(visited, 0, tuple(wrong), measured={"labels": str(len(labels))})


def _visits(labels: list[str], images: list[str], elsewhere: Path) -> dict[str, tuple[Callable[[Any], None], list[str]]]:
    """Each page: what to do on it, and the strings that must then stand there as they are."""
    decided, disputed = labels[:DECIDED], labels[DECIDED : DECIDED + DISPUTED]
    elsewhere.mkdir()
    files = []
    for n, image in enumerate(images):  # under their naughty names
        shutil.copy(next(elsewhere.parent.glob(f"*/{glob.escape(image)}")), elsewhere / f"{n}{Path(image).name}")
        files.append(elsewhere / f"{n}{Path(image).name}")

    def nothing(_: Any) -> None:
        pass

    def upload(page: Any) -> None:
        page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files([str(file) for file in files])
        page.get_by_text(files[-1].name, exact=False).last.wait_for()

    def who(page: Any) -> None:
        page.get_by_text("Who decided it").click()

    visits: dict[str, tuple[Callable[[Any], None], list[str]]] = {
        "dataset": (nothing, labels), "train": (nothing, []), "sanity_check": (nothing, []),
        "predict": (upload, [file.name for file in files]), "review": (nothing, []), "review?mode=grid": (nothing, []),
        "review?mode=people": (nothing, [*disputed, *(f"not {text}"[:100] for text in disputed)]),
        "export": (who, decided), "effect": (nothing, []), "report": (nothing, []),
    }  # fmt: skip
    for image in images[:5]:
        visits[f"review?mode=image&image={quote(image, safe='')}"] = (nothing, [image, *labels])
    return visits


def write_report(run: Any, home: Path) -> Path:
    """The report as a file."""
    from panorama import report, report_html
    from panorama.reviewfiles import open_queue
    from panorama.reviews import ReviewStore

    store = ReviewStore(home / "reviews.sqlite")
    found = report.gather(run, report.read(run), open_queue(run), store.fold(run.fingerprint))
    store.close()
    (home / "report.html").write_bytes(report_html.render(found, run))
    return home / "report.html"


def _not_literal(words: str, labels: list[str]) -> Iterator[str]:
    """Labels that do not stand on the page; how white space is laid out is the browser's."""
    flat = "".join(words.split())
    for text in labels:
        plain = "".join(text.split())
        if plain and plain not in flat:
            yield text


def unwatched(_: bool) -> Outcome:
    """The control: the strings as HTML of a page, looked at in the same way."""
    from browser import browser

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    seen: list[str] = []
    with browser(chromium or "") as opened:
        page = opened.new_page()
        watching(page, seen, "127.0.0.1")
        page.route("http://**/*", lambda route: route.abort())
        page.route("https://**/*", lambda route: route.abort())
        for text in naughty()[::5]:
            page.set_content(f'<div data-testid="stMain"><p>{text}</p></div>', wait_until="commit")
            page.wait_for_timeout(20)
            seen += page.evaluate(WATCH)
    return Outcome(1, 0, tuple(seen))


CHECKS = (
    Check(
        "strings-stored", "515 naughty strings as label, image, tag, reviewer and note: out and in again, and escaped",
        stored, lambda quick: stored(True, str), "HTML that is not escaped", 200, 60,
    ),
    Check(
        "strings-shown", "a visit to every page and the report with 515 naughty labels: dialogs, requests to others, injected elements",
        shown, unwatched, "the strings put into a page as they are", 400, 60,
    ),
)  # fmt: skip
