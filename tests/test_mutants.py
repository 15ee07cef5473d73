"""The seeded bugs of tools/mutants.py still fit the code: a change of the code must not leave one behind that nobody can plant.

In a file of its own, which no seeded bug names as its test: it fails on every one that is planted.
"""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from tools.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_seeded_bug_can_be_planted_in_one_place_and_names_tests_that_are_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    for old, new in mutant.edits:
        assert text.count(old) == 1
        assert old != new
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file()
        assert name in (ROOT / file).read_text("utf-8")
