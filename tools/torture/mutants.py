"""Seeded bugs: each is planted in a copy of the project, and a test of the suite must fail (tools/mutants.py)."""

from collections.abc import Sequence

from tools.mutants import MUTANTS, Mutant, UnsoundTestsError, hunt
from tools.torture.checks import Check, Outcome

_HARMLESS = Mutant("a comment", "panorama/files.py", (("import os\n", "import os  # a comment\n"),), ("tests/test_files.py",))


def planted(quick: bool, mutants: Sequence[Mutant] = MUTANTS) -> Outcome:
    """wrong: the bugs that no test noticed."""
    if quick:
        return Outcome(skipped="takes many minutes: run it without --quick")
    try:
        found = list(hunt(mutants))
    except UnsoundTestsError as error:
        return Outcome(tried=1, wrong=(str(error),), broken=True)
    missed = tuple(f"no test notices: {one.mutant.name}" for one in found if one.status == "MISSED")
    skipped = sum(one.status == "skipped" for one in found)
    return Outcome(len(found) - skipped, 0, missed, measured={"not tried for want of a browser": str(skipped)} if skipped else {})


CHECKS = (
    Check(
        "mutants", "known bugs in a copy of the project: the tests notice each", planted, lambda quick: planted(quick, (_HARMLESS,)),
        "a bug that is none, which no test notices", 5400,
    ),
)  # fmt: skip
