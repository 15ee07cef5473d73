"""What a check is, how one is run with a limit of time, and the table at the end."""

import importlib
import multiprocessing
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
CORPUS = SHARED / "corpus"
MODULES = (
    "pictures",
    "csvs",
    "archives",
    "models",
    "degenerate",
    "strings",
    "decisions",
    "training",
    "server",
    "mutants",
    "soak",
)


@dataclass(frozen=True)
class Outcome:
    """tried: attempts; refused: those that panorama refused in words; wrong: a sentence for each that went wrong; skipped: why nothing was tried."""

    tried: int = 0
    refused: int = 0
    wrong: tuple[str, ...] = ()
    skipped: str = ""
    measured: dict[str, str] = field(default_factory=dict)  # what else is worth a number, in words
    broken: bool = False  # the check itself broke down


@dataclass(frozen=True)
class Check:
    """run, control: called with whether to be quick. control: the same check on a variant that is broken as `control_is` says."""

    name: str
    about: str
    run: Callable[[bool], Outcome]
    control: Callable[[bool], Outcome]
    control_is: str
    limit_seconds: float = 600.0
    quick_limit_seconds: float = 60.0


@dataclass(frozen=True)
class Result:
    """One check with its control. control_wrong: how many of the control's attempts the check called wrong."""

    check: Check
    outcome: Outcome
    control_wrong: int
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether something is wrong, or the check is blind to its control."""
        return bool(self.outcome.wrong) or (not self.outcome.skipped and self.control_wrong == 0)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        blind = not self.outcome.skipped and self.control_wrong == 0
        return (*self.outcome.wrong, *([f"the control was not caught: {self.check.control_is}"] if blind else []))


def all_checks() -> list[Check]:
    """Every check of every module that is there, in order."""
    return [
        check for module in MODULES if (Path(__file__).parent / f"{module}.py").exists()
        for check in importlib.import_module(f"tools.torture.{module}").CHECKS
    ]  # fmt: skip


def examine(check: Check, quick: bool) -> Result:
    """The check and its control, in this process and without a limit."""
    start_seconds = time.perf_counter()
    outcome = _guarded(check.run, quick)
    if outcome.skipped:
        return Result(check, outcome, 0, time.perf_counter() - start_seconds)
    control = _guarded(check.control, quick)
    if control.broken:  # a control that breaks down is not one that was caught
        outcome = replace(outcome, wrong=(*outcome.wrong, *control.wrong))
    return Result(check, outcome, 0 if control.broken else len(control.wrong), time.perf_counter() - start_seconds)


def _guarded(run: Callable[[bool], Outcome], quick: bool) -> Outcome:
    try:
        return run(quick)
    except Exception:
        return Outcome(tried=1, wrong=(traceback.format_exc(),), broken=True)


def examine_bounded(check: Check, quick: bool) -> Result:
    """As `examine`, in a process that is killed with its children when the check's time is up."""
    limit = check.quick_limit_seconds if quick else check.limit_seconds
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_examine_and_tell, args=(check.name, quick, there))
    process.start()
    there.close()
    start_seconds = time.perf_counter()
    try:
        if here.poll(limit):
            result: Result = here.recv()
            return replace(result, check=check)
        said = f"not done within {limit:.0f} s"
    except EOFError:
        process.join()
        said = f"its process ended with {process.exitcode}"
    finally:
        if process.is_alive() and process.pid is not None:
            process.join(2)
            _kill_group(process.pid)
        process.join()
    return Result(check, Outcome(tried=1, wrong=(said,)), 1, time.perf_counter() - start_seconds)


def _examine_and_tell(name: str, quick: bool, there: Connection) -> None:
    if hasattr(os, "setsid"):
        os.setsid()
    check = next(check for check in all_checks() if check.name == name)
    result = examine(check, quick)
    # Only the figures travel: a check holds functions.
    there.send(replace(result, check=replace(check, run=_nothing, control=_nothing)))
    there.close()


def _nothing(_: bool) -> Outcome:
    return Outcome()


def _kill_group(pid: int) -> None:
    with suppress(OSError, AttributeError):
        os.killpg(pid, signal.SIGKILL)


def peak_mb() -> float:
    """The most memory that this process has had since its program began."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the parent had when it forked
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 1e3  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def table(results: Sequence[Result]) -> str:
    """One line a check: tried, refused, wrong, whether its control was caught, time."""
    rows = [("check", "tried", "refused", "wrong", "control", "seconds", "")]
    for result in results:
        o = result.outcome
        more = (o.skipped and f"skipped: {o.skipped}") or "; ".join(f"{name} {value}" for name, value in o.measured.items())
        caught = "-" if o.skipped else f"caught ({result.control_wrong})" if result.control_wrong else "NOT CAUGHT"
        rows.append(
            (result.check.name, f"{o.tried:,}", f"{o.refused:,}", f"{len(o.wrong):,}", caught, f"{result.seconds:.1f}", more)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    left = (0, 4, 6)
    return "\n".join(
        "  ".join(cell if c in left and c == 6 else cell.ljust(widths[c]) if c in left else cell.rjust(widths[c]) for c, cell in enumerate(row)).rstrip()
        for row in rows
    )  # fmt: skip
