"""What is taken home: the lines that change, what a CSV that has changed since makes of it, and the zip."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from panorama.datasets import corrected_csvs, sheet_parts
from panorama.decisions import Decision
from panorama.export import ChangedLine, bundle, drift, pieces, preview
from panorama.finding import find_source, with_layouts


def change(image: str, label: str, given: int, id: int = 1) -> Decision:
    return Decision(
        id, f"e{id}", "csv", image, label, given, "change", None, "ada", 0.5, 0.5, None, "", "2026-11-01T10:00:00.000+00:00"
    )


@pytest.fixture
def folder(seed_folder: Callable[..., Path]) -> Path:
    root = seed_folder(3, 1)
    (root / "train_label.csv").write_bytes(
        b'file,red,green,blue\r\n"train_000.jpg",0, 1 ,0\r\ntrain_001.jpg,1,0,0\r\ntrain_002.jpg,0,0,1\r\n'
    )
    return root


def test_the_preview_is_each_line_that_differs_as_a_text_tool_would_show_it(folder: Path) -> None:
    source = with_layouts(find_source(folder))
    wanted = {("train_000.jpg", "green"): 0, ("train_000.jpg", "blue"): 1, ("train_002.jpg", "red"): 1}
    parts = sheet_parts(source, decided={image for image, _ in wanted})
    lines = preview(parts, wanted)
    assert lines == [
        ChangedLine("train_label.csv", 2, '"train_000.jpg",0, 1 ,0', '"train_000.jpg",0, 0 ,1'),
        ChangedLine("train_label.csv", 4, "train_002.jpg,0,0,1", "train_002.jpg,1,0,1"),
    ]
    before = (folder / "train_label.csv").read_bytes().decode().split("\r\n")
    after = corrected_csvs(parts, wanted)["train_label.csv"].decode().split("\r\n")
    differ = [(n, a, b) for n, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b]
    assert [(one.line, one.before, one.after) for one in lines] == differ
    assert preview(parts, {}) == []


@pytest.mark.parametrize(("before", "after", "expected"), [
    ("a.jpg,0,1", "a.jpg,1,1", ([("a.jpg,", False), ("0", True), (",1", False)], [("a.jpg,", False), ("1", True), (",1", False)])),
    ("0,0,0", "1,0,1", ([("0", True), (",0,", False), ("0", True)], [("1", True), (",0,", False), ("1", True)])),
    ("a,no,yes", "a,yes,yes", ([("a,", False), ("no", True), (",yes", False)], [("a,", False), ("yes", True), (",yes", False)])),
    ("a;sea", "a;", ([("a;", False), ("sea", True)], [("a;", False)])),
    ("a;sea sea", "a;sea", ([("a;sea", False), (" sea", True)], [("a;sea", False)])),
    ("", "", ([], [])),
])  # fmt: skip
def test_a_changed_line_is_shown_with_what_differs_in_it(before: str, after: str, expected: object) -> None:
    found = pieces(before, after)
    assert found == expected
    assert tuple("".join(text for text, _ in side) for side in found) == (before, after)


def test_a_csv_that_has_changed_since_is_listed_cell_by_cell(folder: Path) -> None:
    source = with_layouts(find_source(folder))
    changes = [change("train_000.jpg", "red", 0), change("train_001.jpg", "red", 1), change("train_002.jpg", "blue", 1)]
    parts = sheet_parts(source, decided={d.image for d in changes})
    assert drift(source, parts, changes) is None, "the same bytes"
    (folder / "train_label.csv").write_bytes(b"file,red,green,blue\ntrain_000.jpg,0,1,0\ntrain_001.jpg,0,0,0\n")
    found = drift(source, parts, changes)
    assert found is not None
    assert (found.files, found.same) == (("train_label.csv",), 1)
    assert found.conflicts == (
        "train_001.jpg, red: was 1 when reviewed and is 0 now.", "train_002.jpg, blue: no longer in the CSV; decided to be 0.",
    )  # fmt: skip
    (folder / "train_label.csv").write_bytes(b"\x00\x01")
    found = drift(source, parts, changes)
    assert found is not None
    assert (len(found.conflicts), found.same) == (3, 0), "nothing can be told of a file that cannot be read"


@pytest.mark.parametrize("name", ["changes.csv", "Changes.csv", "decisions.csv"])
def test_a_csv_called_like_one_of_ours_is_not_lost_in_the_zip(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle({name: b"corrected"}, b"changes", b"decisions"))) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    assert files[name] == b"corrected"
    assert b"decisions" in files.values()
    assert b"changes" in files.values()
    assert len({entry.casefold() for entry in files}) == 3, "many systems take names that differ in case for one"


def test_the_same_corrections_give_the_same_zip() -> None:
    assert bundle({"labels.csv": b"a"}, b"log", b"d") == bundle({"labels.csv": b"a"}, b"log", b"d")
