"""CSVs: the corpus, and thousands of tables drawn from seeds, before and after decisions."""

import io
import random
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from unittest import mock

import pandas as pd
import pytest

from panorama.errors import PanoramaError
from panorama.labels import LabelSheet, corrected, parse_csv, read_labels
from tools.torture.checks import CORPUS, ROOT, Check, Outcome

sys.path.insert(0, str(ROOT / "tests"))  # the generator and the checks of the tests, and their reading of the corpus
import test_labels_corpus
from written import (
    ENCODINGS,
    LINE_ENDS,
    VOCABULARIES,
    Cell,
    Style,
    Written,
    check_only_decided_cells_differ,
    labels_of,
    layout_of,
    some_decisions,
    write_table,
)

Export = Callable[[LabelSheet, Mapping[Cell, int]], bytes]


# -- the corpus


def through_pandas(sheet: LabelSheet, corrections: Mapping[Cell, int]) -> bytes:
    """What panorama must not do: the control."""
    del corrections
    return again(sheet.table.data, sheet.table.separator)


def again(data: bytes, separator: str) -> bytes:
    """Read and written by pandas."""
    return (
        pd.read_csv(io.BytesIO(data), sep=separator, encoding_errors="replace", on_bad_lines="skip").to_csv(index=False).encode()
    )


def corpus(quick: bool, export: Export = corrected) -> Outcome:
    """Each table (quick: every fourth) through each test of tests/test_labels_corpus.py."""
    if not CORPUS.exists():
        return Outcome(skipped="needs ../shared/corpus, which is not here")
    tests = {
        test_labels_corpus.test_a_good_table_is_accepted_with_the_values_beside_it: ("accept",),
        test_labels_corpus.test_a_bad_table_is_refused_with_the_line: ("reject",),
        test_labels_corpus.test_a_table_without_decisions_comes_back_byte_for_byte: ("accept", "either"),
        test_labels_corpus.test_a_changed_cell_changes_no_other_byte: ("accept", "either"),
        test_labels_corpus.test_values_are_what_the_csv_module_reads: ("accept", "either"),
    }
    rows = test_labels_corpus.manifest("accept", "reject", "either")[:: 4 if quick else 1]
    wrong, refused = [], sum(not test_labels_corpus.is_accepted(row) for row in rows)
    with mock.patch.object(test_labels_corpus, "corrected", export):
        for row in rows:
            for test, expected in tests.items():
                if row["expected"] not in expected:
                    continue
                try:
                    test(row)
                except pytest.skip.Exception:
                    continue
                except Exception as error:
                    wrong.append(f"{row['file']}: {test.__name__}: {type(error).__name__}: {str(error)[:200]}")
    return Outcome(len(rows), refused, tuple(wrong))


# -- generated

NAUGHTY = (
    "=1+1", "+cmd|' /C calc'!A0", "-1", "@SUM(A1)", "<script>alert(1)</script>", "![x](http://127.0.0.1:9/x.png)", "**bold**", "a\nb", "a\r\nb", 'a "b" c', "a,b;c|d\te",
    "'", '"', "NA", "NaN", "null", "None", "True", "007", "1e5", "ß", "İ", "ﬀ", "e\u0301", "é", "\u202etxt", "\u200b", "👩‍👩‍👧", "𝒳", "%s", "{0}", "$x$", "../../x", "C:\\x",
    "sep=;", "image", "split", "path", "label", "0", "1", " inner  spaces ", "#", "\\", "\x7f", "ﷺ", "田中さん", "Ω≈ç√∫˜µ≤≥÷", "x" * 300,
)  # fmt: skip


@cache
def naughty() -> tuple[str, ...]:
    """Strings that something somewhere trips over; those of the corpus too."""
    file = CORPUS / "blns" / "blns.txt"
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    # A CSV cannot hold NUL; a U+FEFF in front is a byte order mark.
    return tuple(s for s in (*NAUGHTY, *lines) if s.strip() and "\0" not in s and not s.startswith("\ufeff"))


def any_table(seed: int) -> Written:
    """A table: the same for the same seed (and corpus)."""
    rng = random.Random(seed)
    encoding, bom = rng.choice(ENCODINGS)
    odd = encoding not in ("cp1252", "cp932")  # there the characters tell the encoding, and any others would mislead
    count = rng.choice((1, 2, 3, 5, 8, 20, 60, 200))
    labels: dict[str, None] = {}
    while len(labels) < count:
        name = rng.choice(naughty()).strip() if odd and rng.random() < 0.3 else f"label {len(labels)}"
        if name not in ("fname", "who"):
            labels.setdefault(name)
    columns = ["fname", "who", *labels]
    rng.shuffle(columns)
    images = [
        f"{row}{rng.choice(naughty()).strip() if odd and rng.random() < 0.3 else ''}.jpg" for row in range(rng.randint(2, 9))
    ]

    def who() -> str:
        if odd and rng.random() < 0.3:
            return rng.choice(naughty())
        return "".join(rng.choice('ab ,;|\t\n\r"0x.') for _ in range(rng.randrange(9)))

    return write_table(
        Style(
            rng.choice(",;\t|"), encoding, bom, rng.choice(VOCABULARIES), rng.random() < 0.5, columns, rng.choice(LINE_ENDS), images,
            rng.random() < 0.2, who, rng,
        )
    )  # fmt: skip


def broken_promises(written: Written, seed: int, export: Export) -> str | None:
    """Which promise about the table does not hold, or None. AssertionError tells of another byte that moved."""
    layout = layout_of(written)

    def read(data: bytes) -> LabelSheet:
        return read_labels(parse_csv(data, "a.csv"), layout)

    sheet = read(written.data)
    if labels_of(sheet) != written.targets:
        return "read other values than were written"
    if export(sheet, {}) != written.data or export(sheet, written.targets) != written.data:
        return "without a decision that changes something, other bytes"
    decided = some_decisions(random.Random(seed), written)
    check_only_decided_cells_differ(written, export(sheet, decided), decided)
    if export(sheet, {}) != written.data:
        return "with every decision taken back, other bytes"
    # One cell of each value is left alone in every column: a column that loses a value forgets how it was spelled.
    first_two = {image for image, _ in list(written.targets)[:: max(1, len(sheet.labels))][:2]}
    decided = {cell: value for cell, value in decided.items() if cell[0] not in first_two}
    imported = read(export(sheet, decided))
    if labels_of(imported) != written.targets | decided:
        return "imported again, other values than were decided"
    undone = export(imported, {cell: written.targets[cell] for cell in decided})
    if labels_of(read(undone)) != written.targets:
        return "undone in the exported file, other values than at first"
    if written.uniform and undone != written.data:
        return "undone in the exported file, other bytes than at first"
    return None


def generated(quick: bool, export: Export = corrected, count: int = 0) -> Outcome:
    """5,000 tables (quick: 150)."""
    count = count or (150 if quick else 5000)
    wrong, refused, most = [], 0, 0
    for seed in range(count):
        written = any_table(seed)
        most = max(most, len(written.data))
        try:
            sentence = broken_promises(written, seed, export)
        except PanoramaError as error:
            refused, sentence = refused + 1, f"refused: {error}"
        except AssertionError as error:
            sentence = str(error)[:300]
        except Exception:
            sentence = traceback.format_exc()
        if sentence:
            wrong.append(f"table {seed} ({written.encoding}, {written.separator!r}): {sentence}")
    return Outcome(count, refused, tuple(wrong), measured={"largest": f"{most / 1e3:,.0f} kB"})


CHECKS = (
    Check(
        "csvs-corpus", "97 CSVs of public test suites: accepted and lossless, or refused with the line",
        corpus, lambda quick: corpus(quick, through_pandas), "an export through pandas", 60, 30,
    ),
    Check(
        "csvs-generated", "tables from seeds: nothing decided, some decided, imported again, undone",
        generated, lambda quick: generated(quick, through_pandas, 12), "an export through pandas", 600, 30,
    ),
)  # fmt: skip
