"""Every CSV of the shared corpus (eleven public test suites): accepted and lossless, or refused with the line."""

import csv
import json
from pathlib import Path

import pytest

from panorama.errors import PanoramaError
from panorama.labels import (
    CsvError,
    CsvTable,
    Layout,
    corrected,
    guess_layout,
    parse_csv,
    read_labels,
    replace_cells,
)

CORPUS = Path(__file__).parents[1].parent / "shared" / "corpus"
pytestmark = pytest.mark.skipif(not (CORPUS / "MANIFEST.csv").exists(), reason=f"the corpus is not there: {CORPUS}")

# Refused upstream for names that differ from a schema; by itself it is a header without rows, like header-no-rows.csv.
ONLY_A_HEADER = "csv-test-data/csv/bad-header-wrong-header.csv"
# Nothing but line ends: writing anything would make a header of it.
ONLY_BLANK_LINES = "csv-test-data/csv/all-empty.csv"


def manifest(*expected: str) -> list[dict[str, str]]:
    if not (CORPUS / "MANIFEST.csv").exists():
        return []
    with (CORPUS / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "csv" and row["expected"] in expected]


def cases(*expected: str) -> pytest.MarkDecorator:
    rows = manifest(*expected)
    return pytest.mark.parametrize("row", rows, ids=[row["file"] for row in rows])


def parsed(row: dict[str, str]) -> CsvTable:
    path = CORPUS / row["file"]
    return parse_csv(path.read_bytes(), path.name)


def is_accepted(row: dict[str, str]) -> bool:
    try:
        parsed(row)
    except CsvError:
        return False
    return True


def records(table: CsvTable) -> list[list[str]]:
    return [list(table.header), *(table.values(record) for record in range(table.n_records))]


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not there")
def test_the_manifest_lists_the_tables_that_these_tests_are_about():
    assert len(manifest("accept")) >= 18
    assert len(manifest("reject")) >= 6
    assert len(manifest("either")) >= 72


@cases("accept")
def test_a_good_table_is_accepted_with_the_values_beside_it(row):
    table = parsed(row)
    if row["ref_file"]:
        expected = json.loads((CORPUS / row["ref_file"]).read_text(encoding="utf-8"))
        if expected and isinstance(expected[0], dict):
            expected = [list(expected[0]), *(list(values.values()) for values in expected)]
        assert records(table) == (expected or [list(table.header)])


@cases("reject")
def test_a_bad_table_is_refused_with_the_line(row):
    if row["file"] == ONLY_A_HEADER:
        problems = read_labels(parsed(row), Layout(0, (1, 2))).problems
        assert [(problem.severity, problem.line) for problem in problems if problem.severity == "error"] == [("error", 1)]
        return
    with pytest.raises(CsvError, match=r", line \d+: "):
        parsed(row)


@cases("accept", "either")
def test_a_table_without_decisions_comes_back_byte_for_byte(row):
    if row["expected"] == "either" and not is_accepted(row):
        with pytest.raises(CsvError, match=r", line \d+: "):
            parsed(row)
        return
    table = parsed(row)
    data = (CORPUS / row["file"]).read_bytes()
    assert replace_cells(table, {}) == data
    assert table.bom + table.text.encode(table.encoding) == data
    try:
        layout = guess_layout(table, file_column=0)
    except CsvError:
        layout = Layout(0, tuple(range(1, len(table.header))))
    assert corrected(read_labels(table, layout), {}) == data


@cases("accept", "either")
def test_a_changed_cell_changes_no_other_byte(row):
    if not is_accepted(row):
        pytest.skip("refused, see the tests above")
    table = parsed(row)
    data = (CORPUS / row["file"]).read_bytes()
    if row["file"] == ONLY_BLANK_LINES:
        with pytest.raises(PanoramaError, match="nothing was written"):
            replace_cells(table, {(0, 0): "x"})
        return
    before = records(table)
    middle, last = table.n_records // 2, table.n_records - 1
    for record in sorted({0, middle, last}) if table.n_records else ():
        for column in sorted({0, len(table.header) // 2, len(table.header) - 1}):
            after = replace_cells(table, {(record, column): "<new>"})
            marker = "<new>".encode(table.encoding)
            place = after.index(marker)
            assert after[:place] == data[:place]
            behind = len(after) - place - len(marker)
            assert after[place + len(marker) :] == data[len(data) - behind :]
            expected = [list(values) for values in before]
            expected[record + 1][column] = "<new>"
            assert records(parse_csv(after, table.name)) == expected


@cases("accept", "either")
def test_values_are_what_the_csv_module_reads(row):
    if not is_accepted(row):
        pytest.skip("refused, see the tests above")
    table = parsed(row)
    lines = table.text.splitlines(keepends=True)
    oracle = list(csv.reader(lines, delimiter=table.separator))
    several_columns = len(table.header) > 1
    oracle = [values or [""] for values in oracle if values or not several_columns]
    assert records(table) == [values[: len(table.header)] for values in oracle]
