"""The quick part of the attempts to break the server, decisions and training, each with its negative control (tools/torture)."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from tools.torture.checks import all_checks, examine

QUICK = ("decisions-killed", "decisions-synced", "decisions-refused")


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_wrong_and_the_control_is_caught(name: str) -> None:
    (check,) = (check for check in all_checks() if check.name == name)
    result = examine(check, quick=True)
    if result.outcome.skipped:
        pytest.skip(result.outcome.skipped)
    assert result.verdicts == ()
