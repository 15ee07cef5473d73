"""The quick part of every attempt to break panorama (`tools/torture`), and that each check sees its broken control."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))
from tools.torture import checks
from tools.torture.checks import Check, Outcome, Result, all_checks, examine, examine_bounded, table

CHECKS = {check.name: check for check in all_checks()}


def hold(check: Check, quick: bool) -> None:
    """Fails with what is wrong; skips, saying so, where the check cannot be made."""
    result = examine(check, quick)
    if result.outcome.skipped:
        pytest.skip(result.outcome.skipped)
    assert result.verdicts == ()
    assert result.outcome.tried > 0
    assert result.control_wrong > 0


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_wrong_and_the_control_is_caught(name: str) -> None:
    hold(CHECKS[name], quick=True)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_every_page_shows_naughty_labels_as_they_are() -> None:
    hold(CHECKS["strings-shown"], quick=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pictures-corpus", "pictures-mutated"])
@pytest.mark.filterwarnings("ignore")
def test_every_picture_of_the_corpus_and_five_thousand_mutations(name: str) -> None:
    hold(CHECKS[name], quick=False)


def test_each_check_has_a_name_of_its_own_and_says_what_it_and_its_control_are() -> None:
    assert len(CHECKS) == len(all_checks()) >= 13
    assert all(check.about and check.control_is for check in CHECKS.values())


def made(run: Outcome, control: Outcome) -> Check:
    return Check("made", "made here", lambda _: run, lambda _: control, "a stand-in", 5, 1)


@pytest.mark.parametrize(("run", "control", "failed"), [
    (Outcome(3, 1), Outcome(1, 0, ("seen",)), False),
    (Outcome(3, 1), Outcome(1, 0), True),
    (Outcome(3, 1, ("lost a byte",)), Outcome(1, 0, ("seen",)), True),
    (Outcome(skipped="no corpus"), Outcome(), False),
])  # fmt: skip
def test_a_check_fails_when_something_is_wrong_or_its_control_is_not_caught(run: Outcome, control: Outcome, failed: bool) -> None:
    assert examine(made(run, control), quick=True).failed is failed


def broken(_: bool) -> Outcome:
    raise KeyError("a check with a mistake")


@pytest.mark.parametrize(("run", "control"), [(broken, lambda _: Outcome(1, 0, ("seen",))), (lambda _: Outcome(1), broken)])
def test_a_check_or_control_that_breaks_down_is_a_failure(run, control) -> None:
    result = examine(Check("made", "", run, control, ""), quick=True)
    assert result.failed
    assert "a check with a mistake" in result.verdicts[0]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked with what is patched here")
def test_a_check_that_hangs_or_dies_is_ended_and_counts_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import time

    def hangs(_: bool) -> Outcome:
        time.sleep(60)
        return Outcome(1)

    def dies(_: bool) -> Outcome:
        os._exit(7)

    for run, words in ((hangs, "not done within 1 s"), (dies, "its process ended with 7")):
        check = Check("made", "", run, run, "", 5, 1)
        monkeypatch.setattr(checks, "all_checks", lambda check=check: [check])
        result = examine_bounded(check, quick=True)
        assert (result.failed, result.outcome.wrong) == (True, (words,))


def test_the_table_has_a_line_a_check() -> None:
    outcome = Outcome(1200, 3, measured={"slowest": "1.2 s"})
    lines = table([Result(made(outcome, outcome), outcome, 2, 1.25)]).splitlines()
    assert lines[1].split() == ["made", "1,200", "3", "0", "caught", "(2)", "1.2", "slowest", "1.2", "s"]
