"""The demo is drawn in a process of its own: it outlives the page, says how far it is, stops when asked, and says why when it cannot."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from streamlit.testing.v1 import AppTest

from panorama import demo, demo_job, launch, runs
from panorama.demo import draw_demo
from panorama.demo_job import Drawing
from panorama.finding import find_source, with_layouts
from panorama.runs import Run
from panorama.workspace import current, remember

SMALL, LARGE = 12, 5000


def until(home: Path, fits: Callable[[Drawing], bool]) -> Drawing:
    """The first standing that fits; a minute is a failure, not a measure."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = demo_job.standing(home)
        if now is not None and fits(now):
            return now
        time.sleep(0.05)
    raise AssertionError(demo_job.standing(home))


def leftovers(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if "demo" in path.name)


def test_it_is_drawn_without_a_page_and_is_then_the_data_set(home: Path) -> None:
    assert demo_job.standing(home) is None
    demo_job.start(home, train=False, n_images=SMALL)
    now = until(home, lambda one: one.state != "working")
    assert (now.state, now.message, now.run) == ("drawn", "", "")
    found = current(home)
    assert found is not None
    assert found.is_demo
    assert found.source.root == home / "demo" / "data"
    assert len(list((home / "demo" / "data").glob("*/*.jpg"))) == SMALL


def test_a_stop_leaves_nothing_and_a_second_start_meanwhile_changes_nothing(home: Path) -> None:
    demo_job.start(home, train=False, n_images=LARGE)
    first = until(home, lambda one: one.done > 0)
    assert (first.state, first.total, first.doing) == ("working", LARGE, "Drawing pictures")
    demo_job.start(home, train=False, n_images=SMALL)
    assert until(home, lambda one: one.done > first.done).began_at == first.began_at
    demo_job.ask_to_stop(home)
    assert until(home, lambda one: one.state != "working").state == "stopped"
    assert leftovers(home) == []
    assert current(home) is None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_drawing_whose_process_was_ended_is_said_and_can_be_drawn_again(home: Path, how: signal.Signals) -> None:
    demo_job.start(home, train=False, n_images=LARGE)
    os.kill(until(home, lambda one: one.done > 0).pid, how)
    now = until(home, lambda one: one.state != "working")
    if how == signal.SIGTERM:
        assert now.state == "stopped"
        assert leftovers(home) == []
    else:
        assert now.state == "failed"
        assert "its process is gone" in now.message
    demo_job.start(home, train=False, n_images=SMALL)
    assert until(home, lambda one: one.state != "working").state == "drawn"
    assert leftovers(home) == ["demo"], "nor is anything left of the first"


def test_a_drawing_that_goes_wrong_says_why(home: Path) -> None:
    (home / "demo").mkdir()
    (home / "demo" / "mine.txt").write_text("kept")
    demo_job.start(home, train=False, n_images=SMALL)
    now = until(home, lambda one: one.state != "working")
    assert now.state == "failed"
    assert "is not empty and does not hold this demo" in now.message
    assert (home / "demo" / "mine.txt").read_text() == "kept"


def test_it_goes_on_to_a_training_with_nobody_looking(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Run] = []
    monkeypatch.setattr(launch, "start", lambda run: started.append(run) or 0)
    (home / "drawing").mkdir()
    told = demo_job.work(home, train=True, n_images=SMALL)
    (run,) = started
    assert (told.state, told.run) == ("drawn", run.id)
    assert demo_job.standing(home) == told
    assert run.config.weights == "starter"
    assert len(list((home / "demo" / "data").glob("*/*.jpg"))) == SMALL


def test_where_a_training_runs_or_is_about_to_nothing_is_drawn_first(home: Path, trained: Callable[..., Run]) -> None:
    run = trained()
    (run.folder / "launched").touch()  # anew, and its worker still imports torch
    assert start_page().get("page_link")[1].proto.label.startswith("Go on: watch the training")
    with pytest.raises(runs.BusyError, match="already running"):
        demo_job.start(home, train=True)
    assert demo_job.standing(home) is None


def test_a_process_that_dies_at_once_is_told_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    demo_job.start(home, train=False)
    now = until(home, lambda one: one.state != "working")
    assert now.state == "failed"
    assert "before it began (status 1)" in now.message


def test_of_two_that_are_started_at_the_same_moment_one_goes_on_to_a_training(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Run] = []
    monkeypatch.setattr(launch, "start", lambda run: started.append(run) or 0)
    (home / "drawing").mkdir()
    first = demo_job.work(home, train=True, n_images=SMALL)
    assert demo_job.work(home, train=True, n_images=SMALL) == first
    assert len(started) == 1


def test_who_chooses_another_data_set_meanwhile_keeps_it(
    home: Path, seed_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = with_layouts(find_source(seed_folder(12, 6)))

    def draw_and_choose(folder: Path, **settings: Any) -> Path:
        remember(home, mine)
        return draw_demo(folder, **settings)

    monkeypatch.setattr(demo, "draw_demo", draw_and_choose)
    (home / "drawing").mkdir()
    assert demo_job.work(home, train=False, n_images=SMALL).state == "drawn"
    found = current(home)
    assert found is not None
    assert found.source == mine


def start_page() -> AppTest:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60).run()
    assert not app.exception
    return app


def test_another_tab_shows_the_same_drawing_with_one_stop_and_no_second_button(home: Path) -> None:
    demo_job.start(home, train=False, n_images=LARGE)
    until(home, lambda one: one.done > 0)
    tabs = [start_page(), start_page()]
    for app in tabs:
        assert app.button(key="demo").disabled
        assert [one.label for one in app.button].count("Stop") == 1
        assert "The demo is being drawn" in "\n".join(caption.value for caption in app.caption)
    tabs[0].button(key="stop-drawing").click().run()
    until(home, lambda one: one.state == "stopped")
    tabs[1].run()
    assert not tabs[1].button(key="demo").disabled
    assert "nothing is left of it" in tabs[1].info[0].value


def test_a_failed_drawing_is_said_on_the_page(home: Path) -> None:
    (home / "demo").mkdir()
    (home / "demo" / "mine.txt").write_text("kept")
    app = start_page()
    app.button(key="demo").click().run()
    until(home, lambda one: one.state == "failed")
    app = start_page()
    assert "The demo could not be drawn" in app.error[0].value
    assert "not empty" in app.error[0].value
    assert not app.button(key="demo").disabled


def test_who_sees_it_end_is_taken_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [Drawing("working", 1.0, 1, "Drawing pictures", 3, 12)]
    monkeypatch.setattr(demo_job, "standing", lambda home: now[0])
    app = start_page()
    now[0] = Drawing("drawn", 1.0, 1, run="20260101-000000-abcd")
    app.run()
    assert app.title[0].value == "Train"
    assert start_page().title[0].value == "panorama", "who did not see it is left where they are"


def test_the_dataset_page_shows_the_pictures_once_they_are_drawn(home: Path) -> None:
    demo_job.start(home, train=False, n_images=SMALL)
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60).run()
    app.switch_page("pages/dataset.py").run()
    until(home, lambda one: one.state == "drawn")
    app.run()
    assert not app.exception
    assert f">{SMALL}<" in "".join(element.proto.body for element in app.get("html"))
    assert not app.button(key="draw-demo").disabled
