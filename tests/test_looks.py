"""Every page in every state, looked at: pictures in tests/screenshots for people, axe-core for who reads with other senses, and the room there is.

The names of the pictures are page-state-theme-width.png. Each is as high as its page, so that one glance shows all of it.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import browser, no_traceback, server, settled
from conftest import COLOURS, QUICK, ROOT, patch_picture
from keys import ROOT_SCRIPT
from playwright.sync_api import Locator, Page, expect

from panorama import runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.decisions import Answer, Verdict
from panorama.finding import find_source, with_layouts
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.worker import run as work
from panorama.workspace import remember

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOLDER = ROOT / "tests" / "screenshots"
PAGES = ["start", "dataset", "train", "sanity_check", "review", "export", "effect", "predict", "report"]
LONG_LABEL = (
    "a label that somebody wrote as a whole sentence, with everything one should know of it, e.g. boats (sail or motor) at sea"
)
LONG_NAME = "_".join(["holiday", "from", "the", "lighthouse"] * 5)[:116] + ".jpg"
LABELS = [*COLOURS, LONG_LABEL, *(f"label {n:02}" for n in range(5, 21))]
UNREADABLE = "train_009.jpg"


@dataclass(frozen=True)
class World:
    """A finished run in a workspace, the app on it, and one page of a browser: what it has loaded once it need not load again."""

    run: Run
    home: Path
    address: str
    page: Page

    @property
    def store(self) -> ReviewStore:
        return ReviewStore(self.home / "reviews.sqlite")


def draw_pictures(root: Path) -> Path:
    """Twenty labels, one of 120 characters; a file name as long, a picture six times as wide as high, a tiny one."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 16)):
        (root / split).mkdir(parents=True)
        lines = ["file," + ",".join(f'"{label}"' for label in LABELS)]
        for i in range(count):
            bits = (rng.random(len(LABELS)) < 0.4).astype(int)
            name, size = f"{split}_{i:03}.jpg", (720, 540)
            if split == "train" and i < 3:
                name, size = [(LONG_NAME, size), ("wide.jpg", (1800, 300)), ("tiny.png", (32, 24))][i]
            picture = patch_picture([c for c, bit in zip(COLOURS, bits, strict=False) if bit], i + 500 * count)
            picture.resize(size, 0).save(root / split / name)
            lines.append(",".join([name, *map(str, bits)]))
        (root / f"{split}_label.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def world(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("looks")
    source = with_layouts(find_source(draw_pictures(home / "pictures")))
    remember(home, source)
    config = TrainConfig(**{**QUICK, "image_size": 64, "fold_models": "heads", "epochs_finetuning": 1})
    run = runs.create(load(source, home), config, home)
    assert work(run.folder) == "complete"
    assert run.has("heat.npy")
    (source.root / "train" / UNREADABLE).write_bytes(b"not a picture any more")
    FOLDER.mkdir(exist_ok=True)
    with server(home) as (address, _), browser(chromium) as opened:
        page = opened.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
        yield World(run, home, address, page)


def decide(world: World) -> None:
    """Two people: they agree, they disagree, a control, a note, and some corrections."""
    queue = open_queue(world.run)
    names = [(*queue.name(cell), int(queue.given[cell])) for cell in range(14)]

    def answer(n: int, verdict: Verdict, who: str, note: str = "", control: bool = False) -> Answer:
        return Answer(*names[n], verdict, who, 0.4, 0.5, world.run.id, note, control=control)

    world.store.apply(
        world.run.fingerprint,
        [
            *(answer(n, "change" if n % 2 else "keep", who) for n in range(6) for who in ("Ada", "Bob")),
            *(answer(n, "change" if n % 3 else "keep", "Ada", "hard to see; " * (n - 6)) for n in range(6, 10)),
            answer(10, "keep", "Ada", control=True), answer(11, "change", "Bob", control=True), answer(12, "skip", "Bob"),
            answer(13, "keep", "Ada", "I see none"), answer(13, "change", "Bob", "behind the rocks, on the left"),
        ],
    )  # fmt: skip


# --- what is looked at ---------------------------------------------------------------------------------------------------


def drawn(page: Page) -> None:
    """The script has ended, and pictures and charts stand."""
    settled(page)
    page.wait_for_function(
        # Elements of the last run of the script are faded until the next one has drawn them again: no colours to measure.
        '() => !document.querySelector(\'[data-testid="stSkeleton"], [data-testid="stSpinner"], [data-stale="true"]\') && [...document.images].every((one) => one.complete)',
        timeout=30_000,
    )


def review_drawn(page: Page) -> None:
    page.wait_for_function(
        f"() => {{ const r = {ROOT_SCRIPT}; return r && r.querySelector('h2') && [...r.querySelectorAll('img')].every((i) => i.complete); }}",
        timeout=30_000,
    )
    drawn(page)


def as_high_as_the_page(page: Page, width: int) -> None:
    """Makes the window so high that the picture shows all of the page."""
    page.set_viewport_size({"width": width, "height": 900})
    drawn(page)
    height = page.evaluate("document.querySelector('[data-testid=\"stMainBlockContainer\"]').getBoundingClientRect().height")
    page.set_viewport_size({"width": width, "height": min(4000, max(900, int(height) + 40))})
    drawn(page)


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core holds against the page by these rules, or else by all, of impact serious or critical: rule, selector, text."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(Axe().axe_script)
    # Targets of 24 pixels are WCAG 2.2, which axe-core leaves out unless asked.
    asked_for = {"runOnly": {"type": "rule", "values": rules}} if rules else {"rules": {"target-size": {"enabled": True}}}
    response = page.evaluate("(options) => axe.run(options)", {"resultTypes": ["violations"], "preload": False, **asked_for})
    found = []
    for violation in response["violations"]:
        if violation["impact"] not in ("serious", "critical"):
            continue
        for node in violation["nodes"]:
            selector = " >>> ".join(part if isinstance(part, str) else " ".join(part) for part in node["target"])
            found.append(
                f"{violation['id']} ({violation['impact']}): {selector}\n    {node['html'][:300]}\n    {node['failureSummary'][:300]}"
            )
    return found


def sideways(page: Page) -> list[str]:
    """Elements that make the page scroll sideways."""
    found: list[str] = page.evaluate("""() => {
        const main = document.querySelector('[data-testid="stMain"]');
        if (main.scrollWidth <= main.clientWidth && document.documentElement.scrollWidth <= innerWidth) return [];
        const wide = [...main.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1);
        return ['the page', ...wide.slice(-3).map((e) => e.outerHTML.slice(0, 200))];
    }""")
    return found


def look(
    page: Page, name: str, *, themes: tuple[str, ...] = ("light", "dark"), widths: tuple[int, ...] = (1440, 800)
) -> list[str]:
    """Takes the pictures of a state; what is wrong with it, in words."""
    # A picture or a measure taken while colours pass from one theme to the other is of neither, and Streamlit fades what it is about to draw again.
    page.add_style_tag(
        content='*, *::before, *::after { transition: none !important; } [data-stale="true"] { opacity: 1 !important; }'
    )
    wrong = []
    for width in widths:
        as_high_as_the_page(page, width)
        if width < 1440:
            wrong += [f"{name}-{width} scrolls sideways: {one}" for one in sideways(page)]
        for theme in themes:
            shown = f"{name}-{theme}-{width}"
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            drawn(page)
            no_traceback(page)
            page.screenshot(path=FOLDER / f"{shown}.png")
            if theme == "light":
                wrong += [f"{shown}: {one}" for one in violations(page)]
            elif width == 1440:  # the other theme has the same elements, in other colours
                wrong += [f"{shown}: {one}" for one in violations(page, "color-contrast", "link-in-text-block")]
        page.emulate_media(color_scheme="light")
    return wrong


def visit(world: World, path: str) -> Page:
    page = world.page
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{world.address}/{path}")
    (review_drawn if path.startswith("review") and "people" not in path and "grid&blind" not in path else drawn)(page)
    return page


def look_at(world: World, path: str, name: str, act: Callable[[Page], None] | None = None) -> list[str]:
    """One state of one page: by its address, and what somebody does there."""
    page = visit(world, path)
    if act is not None:
        act(page)
        drawn(page)
    return look(page, name)


def none(wrong: list[str]) -> None:
    assert not wrong, "\n".join(wrong)


def blind(page: Page) -> None:
    page.get_by_role("button", name="Blind, controls").click()
    page.get_by_text("Blind", exact=True).click()
    page.keyboard.press("Escape")
    page.wait_for_function(f"() => {ROOT_SCRIPT}?.querySelector('.review')?.textContent.includes('Blind:')", timeout=20_000)


def filtered_out(page: Page) -> None:
    page.get_by_role("button", name="More filters").click()
    field = page.get_by_role("textbox", name="File name contains")
    field.fill("no such picture")
    field.press("Enter")
    page.wait_for_function(f"() => {ROOT_SCRIPT}?.querySelector('.empty h2')", timeout=20_000)
    page.keyboard.press("Escape")


def heat(page: Page) -> None:
    page.keyboard.press("h")
    page.wait_for_function(f"() => {ROOT_SCRIPT}?.querySelector('.heat')?.complete", timeout=20_000)


def answered(page: Page) -> None:
    """A note, an answer, and the line that tells of it; then the next one."""
    page.keyboard.press("t")
    page.keyboard.type("behind the rocks")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.wait_for_function(f"() => {ROOT_SCRIPT}?.querySelector('.status')?.textContent.includes('all saved')", timeout=20_000)


def noting(page: Page) -> None:
    """A note being written, and an undo that asks."""
    page.evaluate("() => { for (const desk of __panoramaReview.desks.values()) desk.history = []; }")
    page.keyboard.press("u")
    expect(page.locator(".offer")).to_contain_text("This tab has no answer left to take back", timeout=20_000)
    page.locator(".offer").get_by_role("button").last.focus()
    page.keyboard.press("t")
    page.keyboard.type("behind the rocks")
    expect(page.locator("textarea")).to_have_value("behind the rocks")


def sign(page: Page, who: str) -> None:
    name = page.get_by_role("textbox", name="Your name")
    name.fill(who)
    name.press("Enter")
    settled(page)


def settled_and_listed(page: Page) -> None:
    sign(page, "Eve")
    page.get_by_role("button", name="Settle: yes").click()
    expect(page.get_by_text("✓ Settled: yes")).to_be_visible(timeout=20_000)
    page.get_by_text("Settled conflicts: 1").click()


def chosen(page: Page) -> None:
    page.locator(".tile").nth(1).click()
    page.locator(".tile").nth(2).click()


def flipped(page: Page) -> None:
    page.keyboard.press("2")


def uploaded(root: Path) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(
            [root / "train" / LONG_NAME, root / "train" / "wide.jpg"]
        )
        expect(page.get_by_role("button", name="Download predictions.csv")).to_be_visible(timeout=60_000)

    return act


def test_before_anybody_has_decided(world: World) -> None:
    none([
        *look_at(world, "", "start"),
        *look_at(world, "dataset", "dataset"),
        *look_at(world, "train", "train"),
        *look_at(world, "sanity_check", "sanity_check"),
        *look_at(world, "export", "export-without"),
        *look_at(world, "effect", "effect-without"),
        *look_at(world, "predict", "predict"),
        *look_at(world, "predict", "predict-answers", uploaded(world.run.source.root)),
    ])  # fmt: skip


_CHART_TEXTS = """() => [...document.querySelectorAll('[data-testid="stVegaLiteChart"] svg text')].filter((e) => e.textContent).map((e) => getComputedStyle(e).fill)"""


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_charts_say_can_be_read(world: World, theme: str) -> None:
    """axe-core does not look into SVG: a contrast of 4.5 between text and page."""
    page = visit(world, "dataset")
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.reload()
    drawn(page)
    page.wait_for_selector('[data-testid="stVegaLiteChart"] svg text')
    ground = luminance(page.evaluate("getComputedStyle(document.querySelector('[data-testid=\"stApp\"]')).backgroundColor"))
    fills = set(page.evaluate(_CHART_TEXTS))
    assert fills
    for fill in fills:
        light, dark = sorted((luminance(fill), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, fill


def test_the_review_in_its_modes(world: World) -> None:
    wide = "review?image=wide.jpg"
    none([
        *look_at(world, "review", "review-cell"),
        *look_at(world, f"review?image={LONG_NAME}", "review-long_name"),
        *look_at(world, wide, "review-heat", heat),
        *look_at(world, "review?image=tiny.png", "review-tiny"),
        *look_at(world, "review?mode=grid", "review-grid", chosen),
        *look_at(world, f"review?mode=image&image={LONG_NAME}", "review-image", flipped),
        *look_at(world, "review", "review-blind", blind),
        *look_at(world, "review?mode=grid&blind=1", "review-blind-grid"),
        *look_at(world, "review?split=test&doubt=0-0.95&controls=20", "review-note", noting),
        *look_at(world, "review", "review-empty", filtered_out),
        *look_at(world, f"review?image={UNREADABLE}", "review-unreadable"),
        *look_at(world, "review?mode=people", "review-people-none"),
    ])  # fmt: skip


def test_what_people_decided(world: World) -> None:
    decide(world)
    sheet = world.run.source.root / "train_label.csv"
    before = sheet.read_bytes()
    wrong = [
        *look_at(world, "review", "review-answered", answered),
        *look_at(world, "review?mode=people", "review-people"),
        *look_at(world, "review?mode=people", "review-people-settled", settled_and_listed),
        *look_at(world, "export", "export-changes"),
        *look_at(world, "effect", "effect"),
        *look_at(world, "report", "report"),
    ]
    lines = before.decode().splitlines(keepends=True)
    sheet.write_text("".join(lines[:8]))
    try:
        wrong += look_at(world, "export", "export-moved")
    finally:
        sheet.write_bytes(before)
    none(wrong)


def test_others_at_work(world: World) -> None:
    """Cells that somebody else has on screen, and two tabs of one person that contradict each other."""
    page = visit(world, "review")
    sign(page, "Ann")
    other = page.context.new_page()
    try:
        other.goto(f"{world.address}/review")
        expect(other.get_by_role("textbox", name="Your name")).to_have_value("Ann", timeout=20_000)
        for one in (page, other):
            review_drawn(one)
            one.wait_for_timeout(1000)  # what a name brings has come
        cell = asked(page)
        assert asked(other) == cell
        page.locator("h1").click()  # out of the field of the name
        other.keyboard.press("y")
        saved(other)
        page.keyboard.press("n")
        expect(page.locator(".notice")).to_contain_text("said “yes” in another tab", timeout=20_000)
        wrong = look(page, "review-contradiction")
        page.keyboard.press("u")
        saved(page)
        other.keyboard.press("u")
        saved(other)
        held = asked(other)[0]
    finally:
        other.close()
    visitor = page.context.browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()  # type: ignore[union-attr]
    try:
        for path, name in (
            ("review", "review-held"),
            (f"review?image={held}", "review-held_picture"),
            (f"review?search={held}", "review-held_all"),
        ):
            visitor.goto(f"{world.address}/{path}")
            review_drawn(visitor)
            wrong += look(visitor, name)
        expect(visitor.get_by_text("with Ann")).to_be_visible()
    finally:
        visitor.context.close()
        sign(page, "")
    none(wrong)


def test_an_answer_that_cannot_be_saved(world: World) -> None:
    def refused(page: Page) -> None:
        page.keyboard.press("y")
        expect(page.locator(".notice")).to_contain_text("NOT saved", timeout=20_000)

    world.store.apply(world.run.fingerprint, [Answer("train_005.jpg", "blue", 0, "skip")])  # so that there is a file
    with closing(sqlite3.connect(world.home / "reviews.sqlite")) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON decisions BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        db.commit()
        try:
            none(look_at(world, "review", "review-not_saved", refused))
            page = visit(world, "review?image=train_004.jpg&label=green")
            page.keyboard.press("y")
            expect(page.locator(".empty h2")).to_be_visible(timeout=20_000)
            expect(page.locator(".notice")).to_contain_text("NOT saved", timeout=20_000)
            expect(page.locator(".notice")).to_be_visible()
        finally:
            db.execute("DROP TRIGGER full")
            db.commit()


def test_an_empty_workspace(world: World, home: Path) -> None:
    wrong = []
    with server(home) as (address, _):
        for name in PAGES:
            world.page.goto(f"{address}/{'' if name == 'start' else name}")
            drawn(world.page)
            wrong += look(world.page, f"{name}-empty_workspace", themes=("light",), widths=(1440,))
    none(wrong)


# --- by keyboard, and for who listens ------------------------------------------------------------------------------------

FOCUSED = """() => {
    let one = document.activeElement;
    while (one?.shadowRoot?.activeElement) one = one.shadowRoot.activeElement;
    return one;
}"""


def focused(page: Page) -> str:
    """What has the focus: its text, in the review."""
    found: str = page.evaluate(
        f"() => {{ const one = ({FOCUSED})(); return one.getRootNode() === document ? '' : one.ariaLabel || one.innerText.replace(/\\s+/g, ' ').trim(); }}"
    )
    return found


def is_marked(page: Page) -> bool:
    """Whether the focus can be seen."""
    found: bool = page.evaluate(
        f"() => {{ const style = getComputedStyle(({FOCUSED})()); return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2; }}"
    )
    return found


def tab_until(page: Page, start: str, most: int = 40) -> None:
    for _ in range(most):
        page.keyboard.press("Tab")
        if focused(page).startswith(start):
            return
    raise AssertionError(f"Tab does not lead to {start!r}")


def saved(page: Page) -> None:
    page.wait_for_function(f"() => !{ROOT_SCRIPT}.querySelector('.status').textContent.includes('Saving')", timeout=20_000)


def log_of(world: World) -> list[tuple[str, str, str]]:
    return [(row.image, row.label, row.verdict) for row in world.store.log(world.run.fingerprint)]


def asked(page: Page) -> tuple[str, str]:
    image, label = page.locator(".where .name").inner_text(), page.locator("h2 em").inner_text()
    return image, label


def test_one_by_one_with_tab_and_enter_alone(world: World) -> None:
    page = visit(world, "review")
    names = []
    tab_until(page, "Zoom")
    for _ in range(12):
        assert is_marked(page), f"the focus on {focused(page)} cannot be seen"
        names.append(focused(page))
        page.keyboard.press("Tab")
    order = [
        "Zoom",
        "Zoom out",
        "Zoom in",
        "link to this picture, opens a new tab",
        "Yes",
        "No",
        "Skip",
        "Undo",
        "Next label",
        "Note",
        "Heat map",
        "All 20",
    ]
    assert [name[: len(wanted)] for name, wanted in zip(names, order, strict=True)] == order
    page.keyboard.press("Shift+Tab")
    while not focused(page).startswith("Yes"):
        page.keyboard.press("Shift+Tab")
    first = asked(page)
    page.keyboard.press("Enter")
    assert asked(page) != first
    assert focused(page).startswith("Yes"), "the focus stays where it was for the next question"
    second = asked(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    saved(page)
    # The last two: a page that another test has left may save its own answer meanwhile.
    assert [row[:2] for row in log_of(world)[-2:]] == [first, second]
    tab_until(page, "Undo")
    page.keyboard.press("Enter")
    assert asked(page) == second
    saved(page)


def test_what_a_screen_reader_is_told(world: World) -> None:
    page = visit(world, "review?image=train_003.jpg&label=blue")
    told = page.locator(".review").aria_snapshot()
    for line in ('heading "Is blue in this picture?"', 'group "Is blue in this picture?"', 'button "Yes ', 'button "No ', 'button "Skip"', 'button "Undo"',
                 'img "train_003.jpg"', 'status "Saved or not"', 'region "Why it is suspect"', 'rowheader "doubt in the CSV"'):  # fmt: skip
        assert line in told, f"{line} is not in\n{told}"
    assert page.locator("[aria-live=polite]").filter(has_text="train_003.jpg: is blue in this picture?").count() == 1
    assert page.locator("[role=alert]").get_attribute("aria-label") == "Problems with saving"
    page = visit(world, "review?mode=grid")
    told = page.locator(".review").aria_snapshot()
    assert re.search(r'group "Pictures whose .+ may be wrong"', told), told
    assert re.search(r'button "\w+\.(jpg|png) model 0\.\d\d"', told), told
    page = visit(world, "review?mode=image&image=train_003.jpg")
    page.keyboard.press("2")
    flipped = page.get_by_role("switch", name="green", exact=True)
    assert flipped.evaluate(
        "one => one.getRootNode().getElementById(one.getAttribute('aria-describedby')).textContent"
    ).startswith("Changed. The model says 0.")
    assert page.get_by_role("switch").count() == len(LABELS)
    assert page.get_by_role("switch", name=LONG_LABEL, exact=True).count() == 1


def test_the_grid_and_the_switches_by_keyboard_alone(world: World) -> None:
    page = visit(world, "review?mode=grid&label=blue&kind=missing")
    there = f"() => {{ const all = [...{ROOT_SCRIPT}.querySelectorAll('.tile')]; return all.length === 24 && !all.some((one) => one.textContent.includes('on its way')); }}"
    page.wait_for_function(there, timeout=20_000)  # one of them may be the picture that cannot be read
    shown = page.locator(".tile .name").all_inner_texts()
    before = log_of(world)
    tab_until(page, shown[0])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    below = focused(page)
    assert is_marked(page)
    page.keyboard.press("Space")
    pressed = page.locator(".tile[aria-pressed=true] .name").all_inner_texts()
    assert pressed[0] == shown[1]
    assert below.startswith(pressed[1])
    page.keyboard.press("Control+Enter")
    saved(page)
    new = log_of(world)[len(before) :]
    assert [row[0] for row in new] == shown
    assert [row[0] for row in new if row[2] == "change"] == pressed
    page.keyboard.press("u")
    saved(page)
    assert page.locator(".tile[aria-pressed=true] .name").all_inner_texts() == pressed, "an undo gives the clicks back too"

    before = log_of(world)
    decided = {row[0] for row in before}  # whose switches may not stand as the CSV says
    image = next(name for name in world.run.images()[0] if name not in decided and name.startswith("train"))
    page = visit(world, f"review?mode=image&image={image}")
    assert page.locator(".where .name").inner_text() == image
    values = page.get_by_role("switch").evaluate_all("all => all.map((one) => one.ariaChecked)")
    tab_until(page, "red")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert focused(page) == "green"
    tab_until(page, "Confirm, 1 changed")
    page.keyboard.press("Enter")
    saved(page)
    new = log_of(world)[len(before) :]
    assert {row[0] for row in new} == {image}
    assert [(row[1], row[2]) for row in new if row[2] == "change"] == [("green", "change")]
    assert len(new) == len(LABELS) == len(values)


def test_letters_typed_elsewhere_decide_nothing(world: World) -> None:
    page = visit(world, "review")
    before, first = log_of(world), asked(page)

    page.get_by_role("combobox", name="Label").click()
    page.keyboard.type("ynsu")
    page.keyboard.press("Escape")
    page.get_by_role("textbox", name="Your name").click()
    page.keyboard.type("synny")
    for _ in range(5):
        page.keyboard.press("Backspace")
    page.get_by_role("button", name="More filters").click()
    page.get_by_role("slider").first.focus()
    page.keyboard.type("yns")
    page.get_by_role("textbox", name="File name contains").focus()
    page.keyboard.type("yn")
    for _ in range(2):
        page.keyboard.press("Backspace")
    page.get_by_test_id("stPopoverBody").click(position={"x": 4, "y": 4})
    page.keyboard.type("yns")
    page.keyboard.press("Escape")
    settled(page)
    page.get_by_role("button", name="Blind, controls").click()
    page.get_by_test_id("stPopoverBody").get_by_role("switch").focus()
    page.keyboard.type("yns")
    page.keyboard.press("Escape")
    settled(page)
    assert asked(page) == first
    assert log_of(world) == before
    page.get_by_role("radio", name="One by one").focus()
    page.keyboard.press("s")
    assert asked(page) != first, "on a button a letter is a key of the review"
    saved(page)


@pytest.mark.parametrize("width", [1440, 800])
def test_picture_question_and_answers_are_on_the_first_screen(world: World, width: int) -> None:
    page = visit(world, "review?label=blue&kind=missing")  # the first suspect of all may be the picture that cannot be read
    page.set_viewport_size({"width": width, "height": 900})
    drawn(page)
    for selector in (".photo", "h2", ".answers"):
        box = page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["y"] >= 60, f"{selector} lies under the header"
        assert box["y"] + box["height"] <= 900, f"{selector} ends below the first screen: {box}"


def test_a_panorama_fits_then_fills_the_height_and_a_tiny_picture_stays_small_and_sharp(world: World) -> None:
    page = visit(world, "review?image=wide.jpg")
    photo, stage = page.locator(".photo"), page.locator(".stage")

    def box(one: Locator) -> tuple[float, float, float, float]:
        found = one.bounding_box()
        assert found is not None
        return found["x"], found["y"], found["width"], found["height"]

    whole, room = box(photo), box(stage)
    assert whole[2] == pytest.approx(room[2], abs=1), "all of it is to be seen at first"
    assert whole[2] / whole[3] == pytest.approx(6, rel=0.01)
    expect(page.locator(".hint")).to_have_text("Z fills the frame")
    page.keyboard.press("z")
    assert box(photo)[3] == pytest.approx(room[3], abs=1)
    before = box(photo)[0]
    page.keyboard.press("ArrowRight")
    assert box(photo)[0] == pytest.approx(before - 80, abs=1)
    page.mouse.move(room[0] + 200, room[1] + 100)
    page.mouse.down()
    page.mouse.move(room[0] + 260, room[1] + 100)
    page.mouse.up()
    assert box(photo)[0] == pytest.approx(before - 20, abs=1)
    page.mouse.wheel(0, -200)
    expect(page.locator(".percent")).not_to_have_text("")
    page.keyboard.press("0")
    assert box(photo) == pytest.approx(whole, abs=1)

    page = visit(world, "review?image=tiny.png")
    assert box(page.locator(".photo"))[2:] == (128, 96)
    assert page.locator(".photo").evaluate("one => getComputedStyle(one).imageRendering") == "pixelated"
