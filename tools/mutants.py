"""Plants known bugs in a copy of the project, one at a time, and asks whether the tests notice.

    python tools/mutants.py                 all of them, some minutes
    python tools/mutants.py --only NAME     those whose name has NAME in it
    python tools/mutants.py --list

Each is a mistake that somebody has made in a program like this one. It counts as caught when a test of the suite fails (not when the
tests cannot be collected); for each only the test files that should know are run. First those files run on the copy as it is: they must
pass, or "caught" would say nothing. Exit status 1 when a bug gets through.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TOO_LONG_SECONDS = 300
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Mutant:
    """A bug: in `file`, each first text of `edits` (which must be there once) becomes the second; `tests` should notice."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, file, ((old, new),), tuple(f"tests/test_{test}{'' if '::' in test else '.py'}" for test in tests))


MUTANTS = (
    _mutant("a decision is acknowledged before it is committed", "panorama/reviews.py",
            'self._db.execute("COMMIT")', '__import__("threading").Timer(0.2, self._db.execute, ("COMMIT",)).start()', "reviews"),
    _mutant("the database does not wait for the disk", "panorama/reviews.py", '"synchronous = FULL"', '"synchronous = OFF"', "reviews"),
    _mutant("an error while saving is swallowed", "panorama/reviews.py",
            'raise PanoramaError(f"The decision was NOT saved in {self.path}: {_reason(error)}") from error', "pass", "reviews"),
    _mutant("an event sent twice counts twice", "panorama/reviews.py",
            'first = self._find("event_id = ?1", event.event_id)',
            'first = None; event = __import__("dataclasses").replace(event, event_id=uuid.uuid4().hex)', "reviews"),
    _mutant("the last write wins", "panorama/decisions.py", "self.conflicts[cell] = tuple(said)", "self.standing[cell] = said[-1]", "decisions"),
    _mutant("an undo takes nothing back", "panorama/decisions.py", "self._of_cell[cell].remove(undone)", "pass", "decisions"),
    _mutant("formulas go into the change log as they are", "panorama/decisions.py",
            """return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\\t", "\\r")) else cell""", "return cell", "reviews"),
    _mutant("a file is written in place", "panorama/files.py",
            "    temporary = path.with_name", "    path.write_bytes(data)\n    return\n    temporary = path.with_name", "files"),
    _mutant("pandas writes the corrected CSV", "panorama/labels.py", "    return replace_cells(sheet.table, _edits(sheet, corrections))",
            "    import io, pandas\n    table = pandas.read_csv(io.BytesIO(replace_cells(sheet.table, _edits(sheet, corrections))), sep=sheet.table.separator)\n"
            "    return table.to_csv(index=False, sep=sheet.table.separator).encode()", "labels"),
    _mutant("line numbers begin at nought", "panorama/labels.py", "(int(table.lines[record]), table.record_text(record)",
            "(int(table.lines[record]) - 1, table.record_text(record)", "labels"),
    _mutant("a picture is not turned upright", "panorama/images.py", "return ImageOps.exif_transpose(image)", "return image", "images"),
    _mutant("16 bits are cut to 8", "panorama/images.py", "return _from_16_bit(image, twelve_bits_possible)", 'return image.convert("RGB")', "images"),
    _mutant("transparency is black", "panorama/images.py", "(255, 255, 255, 255)", "(0, 0, 0, 255)", "images"),
    _mutant("a zip is unpacked by extractall", "panorama/archives.py", "            entries = _checked(archive.infolist(), name)",
            "            archive.extractall(folder)\n            entries = _checked(archive.infolist(), name)", "archives"),
    _mutant("only dots at the front of a path are looked for", "panorama/archives.py", '".." in path.parts', 'raw.startswith("..")', "archives"),
    _mutant("near-duplicates fall on both sides", "panorama/datasets.py",
            "part = stratify(data.targets, (1 - test_share, test_share), seed=seed, groups=data.groups)",
            "part = stratify(data.targets, (1 - test_share, test_share), seed=seed)", "datasets"),
    _mutant("decisions belong to any CSV", "panorama/datasets.py", 'return hashlib.sha256("\\n".join(digests).encode()).hexdigest()',
            'return hashlib.sha256(str(len(digests)).encode()).hexdigest()', "datasets", "reviews"),
    _mutant("a fold learns from what it judges", "panorama/crossval.py", "np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)",
            "np.flatnonzero(fold_of == fold), np.arange(n_images)", "crossval"),
    _mutant("a fold learns from near-duplicates of what it judges", "panorama/crossval.py", "seed=seed * 1000 + repeat, groups=groups)",
            "seed=seed * 1000 + repeat)", "crossval"),
    _mutant("random numbers are those of whoever came before", "panorama/training.py",
            "torch.manual_seed(_seed(config.seed, phase.name, epoch) + team.rank)", "pass",
            "worker.py::test_a_run_killed_in_each_phase_ends_as_if_never_interrupted"),
    _mutant("the early-stop counter is carried into fine tuning", "panorama/training.py",
            'state.phase, state.epoch, state.without_improvement = "fine tuning", 0, 0', 'state.phase, state.epoch = "fine tuning", 0', "training"),
    _mutant("any fine-tuned model is kept", "panorama/training.py", "return bool(apart.mean() <= apart.std(ddof=1) / math.sqrt(len(apart)))",
            "return True", "training"),
    _mutant("every corner is the first", "panorama/features.py", "for rows in (slice(None, height), slice(-height, None))",
            "for rows in (slice(None, height), slice(None, height))", "features"),
    _mutant("a resumed optimizer has forgotten", "panorama/checkpoint.py", "state.optimizer_state = dict(optimizer) or None",
            "state.optimizer_state = None", "checkpoint", "training"),
    _mutant("BatchNorm drifts while the extractor is frozen", "panorama/model.py", "    model.head.train()\n", "    model.train()\n", "model", "training"),
    _mutant("changed weights are loaded", "panorama/checkpoint.py", "if found != card.sha256:", "if False:", "checkpoint"),
    _mutant("a damaged checkpoint is loaded", "panorama/checkpoint.py", "if found != expected:", "if False:", "checkpoint"),
    _mutant("a run goes on from changed weights", "panorama/checkpoint.py", "if expected is not None and found != expected:", "if False:", "checkpoint"),
    _mutant("a worker that dies at once is never told of", "panorama/launch.py", "    if status:\n", "    if False:\n", "launch"),
    _mutant("a refused start ends the run that another worker does", "panorama/runs.py", "not in (run.id, \"\") and", "is not run and", "launch"),
    _mutant("what a killed worker left unfinished stays", "panorama/worker.py", "            forget_unfinished(job.folder)\n", "",
            "worker.py::test_what_a_killed_worker_left_unfinished_is_removed"),
    _mutant("labels come in another order", "panorama/prediction.py", "self.labels, self.threshold, self.sha256 = card.labels,",
            "self.labels, self.threshold, self.sha256 = tuple(sorted(card.labels)),", "prediction"),
    _mutant("names are Markdown", "panorama/ui/__init__.py", '''return "".join("\\\\" + character if character in''',
            '''return "".join(character if character in''', "pages"),
    _mutant("an address that nobody verified signs", "panorama/ui/__init__.py",
            'if email and str(claims.get("email_verified", True)).lower() != "false":', "if email:",
            "pages.py::test_an_address_that_the_provider_has_not_verified_signs_nothing"),
    _mutant("blind shows on a picture what was decided", "panorama/cards.py", '"value": 0 if blind else decided', '"value": decided', "cards"),
    _mutant("blind shows in a conflict what the CSV says", "panorama/ui/review/__init__.py", "if said and not blind:", "if said:",
            "pages.py::test_a_conflict_that_is_looked_at_blind_does_not_say_what_the_csv_says"),
    _mutant("blind shows before the answer what the CSV says", "panorama/ui/review/views.js",
            '${this.blind() ? "" : ` The CSV says ${word(card.given)}.`}', "${` The CSV says ${word(card.given)}.`}",
            "review_keys.py::test_blind_hides_what_would_lead_until_the_answer_is_given"),
    _mutant("what a person settled is in conflict again", "panorama/decisions.py",
            'settled = next((row for row in reversed(rows) if row.way == "settled"), None)', "settled = None", "decisions"),
    _mutant("whoever declares a name settles over those who logged in", "panorama/decisions.py",
            'return row.identity == "login" and settled.identity == "declared"', "return False", "decisions"),
    _mutant("formulas behind a tab go into the change log", "panorama/decisions.py",
            """("=", "+", "-", "@", "\\t", "\\r")""", """("=", "+", "-", "@")""", "reviews"),
    _mutant("pickles in a run's maps are loaded", "panorama/heat.py", "allow_pickle=False", "allow_pickle=True", "architecture", "heat"),
    _mutant("pickles in a run's index are loaded", "panorama/reviewfiles.py", "np.load(run.folder / _INDEX, allow_pickle=False)",
            "np.load(run.folder / _INDEX, allow_pickle=True)", "architecture", "reviewfiles"),
    _mutant("weights may run code", "panorama/model.py", "weights_only=True", "weights_only=False", "model"),
    _mutant("a decoder may take all the memory", "panorama/decoding.py",
            "resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))", "pass", "decoding"),
    _mutant("a decoder may compute without end", "panorama/decoding.py",
            "resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))", "pass", "decoding"),
    _mutant("a decoder may wait without end", "panorama/decoding.py", "        clock.start()\n", "", "decoding"),
    _mutant("a store that met a read-only disk never writes again", "panorama/reviews.py", "if self._is_refused:", "if False:", "reviews"),
    _mutant("any address will do", "panorama/serving.py", "return ipaddress.ip_address(str(address)).is_loopback", "return True", "serving"),
)  # fmt: skip


def apply(mutant: Mutant, root: Path) -> str:
    """Plants the bug under `root` and returns the file's text as it was. Raises SystemExit when the text is not there exactly once."""
    path = root / mutant.file
    before = after = path.read_text("utf-8")
    for old, new in mutant.edits:
        if after.count(old) != 1:
            raise SystemExit(
                f"{mutant.name}: {mutant.file} has {after.count(old)} places like {old!r}; expected one. Mend tools/mutants.py."
            )
        after = after.replace(old, new)
    if mutant.file.endswith(".py"):
        compile(after, mutant.file, "exec")
    path.write_text(after, "utf-8")
    return before


def run_tests(root: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit status; 1 when a test failed, or ran for too long."""
    slow = (
        ["-m", "slow or not slow"] if any("::" in test for test in tests) else []
    )  # a test that is named is wanted, however slow
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *slow, *tests]
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(root / ".hypothesis"),
    }
    try:
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, timeout=_TOO_LONG_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


@dataclass(frozen=True)
class Found:
    """What became of a bug. status: caught, MISSED, or "skipped" where this machine lacks what its test needs."""

    mutant: Mutant
    status: str
    seconds: float


class UnsoundTestsError(Exception):
    """The tests fail without any bug."""


def hunt(mutants: Sequence[Mutant]) -> Iterator[Found]:
    """Plants each bug in a copy of the project. Raises UnsoundTestsError when the tests of these bugs fail on the copy as it is."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "copy"
        copy_project(root)
        able = [mutant for mutant in mutants if not _lacks_browser(mutant)]
        files = sorted({test for mutant in able for test in mutant.tests})
        for part in ([test for test in files if "::" not in test], [test for test in files if "::" in test]):
            if part and run_tests(root, tuple(part)) != 0:
                raise UnsoundTestsError(f"The tests fail without any bug: {', '.join(part)}. Mend that first.")
        for mutant in mutants:
            if mutant not in able:
                yield Found(mutant, "skipped", 0.0)
                continue
            started = time.perf_counter()
            before = apply(mutant, root)
            status = run_tests(root, mutant.tests)
            (root / mutant.file).write_text(before, "utf-8")
            yield Found(mutant, "caught" if status == 1 else "MISSED", time.perf_counter() - started)


def copy_project(root: Path) -> None:
    """What git has, and would have, of the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)


def _lacks_browser(mutant: Mutant) -> bool:
    return any("review_keys" in test for test in mutant.tests) and not any(map(shutil.which, _BROWSERS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    if options.list or not chosen:
        print("\n".join(mutant.name for mutant in MUTANTS))
        return 0 if options.list else 2
    counts = {"caught": 0, "MISSED": 0, "skipped": 0}
    try:
        for found in hunt(chosen):
            counts[found.status] += 1
            print(f"{found.status:8}{found.seconds:5.0f} s  {found.mutant.name}", flush=True)
    except UnsoundTestsError as error:
        print(error)
        return 1
    print(
        f"{len(chosen)} tried, {counts['caught']} caught, {counts['MISSED']} missed, {counts['skipped']} skipped for want of a browser"
    )
    return 1 if counts["MISSED"] else 0


if __name__ == "__main__":
    sys.exit(main())
