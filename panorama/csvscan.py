"""Where every record and cell of a CSV lies, so that a cell can be replaced and no other byte moves.

The file is decoded once and scanned as text. Decoding is only accepted when encoding gives the same bytes back, and none of
the encodings keeps state between characters: so patching the text and encoding it is patching the bytes. Per record only
(start, end, line) are kept; cells are found again when somebody asks for them.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from panorama.errors import PanoramaError

Severity = Literal["error", "warning", "note"]

SEPARATORS = ",;\t|"
LISTED_LINES = 5
_SAMPLE_CHARACTERS = 1 << 16
_CHUNK_RECORDS = 8192
_LINE_END = re.compile(r"\r\n|\n|\r")
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?(?:\r\n|\n|\r|\Z)', re.IGNORECASE)  # Excel's own first line
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_NOT_TEXT = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook (.xlsx)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)"),
    (b"BZh", "a bzip2 archive"),
    (b"%PDF", "a PDF"),
)


@dataclass(frozen=True)
class Problem:
    """Something wrong or guessed, told to a person.

    error: something was left out or cannot be used; warning: used, but look at it; note: a guess we show.
    message: what is wrong, found and expected, what to do, without the place; str() puts the place before it.
    """

    severity: Severity
    kind: str
    message: str
    file: str | None = None  # CSV name or picture name
    line: int | None = None  # from 1, the physical line on which the record starts
    image: str | None = None

    def __str__(self) -> str:
        place = self.file or self.image
        if place and self.line is not None:
            place += f", line {self.line}"
        return f"{place}: {self.message}" if place else self.message


class CsvError(PanoramaError):
    """The CSV cannot be used at all: `name, line N: what, found and expected, what to do`."""


@dataclass(frozen=True, eq=False)
class CsvTable:
    """A CSV and where its records lie. Records count from 0 below the header; blank lines are no records (but see parse_csv)."""

    name: str
    data: bytes = field(repr=False)  # as given, never changed
    text: str = field(repr=False)  # decoded, without the byte order mark
    encoding: str
    bom: bytes
    separator: str
    header: tuple[str, ...]  # as the csv module reads it
    header_line: int
    starts: npt.NDArray[np.int64] = field(repr=False)  # (n_records,) offsets into text
    ends: npt.NDArray[np.int64] = field(repr=False)  # (n_records,) offsets into text, before the line end
    lines: npt.NDArray[np.int32] = field(repr=False)  # (n_records,) physical line on which each starts, from 1
    problems: tuple[Problem, ...] = ()

    @property
    def n_records(self) -> int:
        return len(self.starts)

    def record_text(self, record: int) -> str:
        """The record as it is written, without its line end."""
        return self.text[self.starts[record] : self.ends[record]]

    def values(self, record: int) -> list[str]:
        """One value a header name, as the csv module reads them."""
        return _split(self.record_text(record), self.separator)[: len(self.header)]

    def chunks(self, columns: Sequence[int]) -> Iterator[list[tuple[str, ...]]]:
        """The values of some columns, a few thousand records at a time, so that a large table never lies in memory as cells."""
        for first in range(0, self.n_records, _CHUNK_RECORDS):
            spans = zip(
                self.starts[first : first + _CHUNK_RECORDS].tolist(),
                self.ends[first : first + _CHUNK_RECORDS].tolist(),
                strict=True,
            )
            by_column = list(zip(*(_split(self.text[start:end], self.separator) for start, end in spans), strict=False))
            yield [by_column[column] for column in columns]


# -- reading


def parse_csv(data: bytes, name: str) -> CsvTable:
    """The table in `data`; CsvError, with the line, where it has none.

    A blank line is no record, except where there is only one column: there it is an empty cell.
    """
    encoding, bom, text, problems = _decode(data, name)
    if not text:
        raise csv_error(name, 1, "the file is empty; expected a header and one row a picture. Export the CSV again.")
    start, line, separator = _separator(text)
    return _table(data, name, encoding, bom, text, start, line, separator, problems)


def csv_error(name: str, line: int, message: str) -> CsvError:
    """The error with its place in front: "labels.csv, line 14: ..."."""
    return CsvError(f"{name}, line {line}: {message}")


def _decode(data: bytes, name: str) -> tuple[str, bytes, str, list[Problem]]:
    """(encoding, byte order mark, text, what was guessed)."""
    for magic, what in _NOT_TEXT:
        if data.startswith(magic):
            raise csv_error(name, 1, f"this is {what}, not text; expected a CSV. Unpack it, or save it as CSV.")
    for bom, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(bom):
            return encoding, bom, _without_nul(_strictly(data[len(bom) :], encoding, name), name), []
    encoding = _guessed_encoding(data)
    text = _without_nul(data.decode(encoding), name)
    if encoding == "utf-8":
        return encoding, b"", text, []
    message = f"the file is not UTF-8; it is read as {encoding}. Look whether names with special characters are right."
    return encoding, b"", text, [Problem("note", "encoding", message, name)]


def _strictly(body: bytes, encoding: str, name: str) -> str:
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:
        line = _line_at(body[: error.start].decode(encoding, "replace"), error.start)
        message = f"the file begins like {encoding.upper()} but byte {error.start} does not fit. Save it again as UTF-8."
        raise csv_error(name, line, message) from None


def _without_nul(text: str, name: str) -> str:
    if (nul := text.find("\0")) >= 0:
        message = "there is a NUL byte, so this is not text; expected a CSV. Export it again as CSV in UTF-8."
        raise csv_error(name, _line_at(text, nul), message)
    return text


def _line_at(text: str, position: int) -> int:
    return 1 + sum(1 for _ in _LINE_END.finditer(text, 0, position))


def _guessed_encoding(data: bytes) -> str:
    """The first of UTF-8, UTF-16, Shift-JIS, cp1252, Latin-1 that fits; the last fits everything."""
    if wide := _unmarked_utf16(data):
        return wide
    for encoding in ("utf-8", "cp932", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "cp932" or (text.encode("cp932", "replace") == data and _looks_japanese(text)):
            return encoding
    return "latin-1"


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without its mark: separators and digits leave a zero byte on one side of the pairs, never on the other."""
    if b"\0" not in data or len(data) % 2:
        return None
    even, odd = data[::2].count(0), data[1::2].count(0)
    encoding = "utf-16-le" if odd else "utf-16-be"
    if (even and odd) or 4 * (even + odd) < len(data) // 2:
        return None
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return encoding


def _looks_japanese(text: str) -> bool:
    """Whether the wide characters are common ones that stand by themselves.

    French read as Shift-JIS also decodes: é and the letter behind it become one rare kanji between Latin letters. Kana and
    common kanji have a first byte up to 0x97, where cp1252 has quotation marks and the like.
    """
    foreign = list(islice(re.finditer(r"[^\x00-\x7f]+", text), 2000))
    common = 0
    for run in foreign:
        around = text[max(run.start() - 1, 0) : run.start()] + text[run.end() : run.end() + 1]
        if not re.search("[A-Za-z]", around):
            common += sum(1 for c in run.group() if 0x81 <= c.encode("cp932")[0] <= 0x97)
    return 2 * common >= sum(len(run.group()) for run in foreign)


def _separator(text: str) -> tuple[int, int, str]:
    """(where the table starts, on which line, the separator): from Excel's `sep=` line, or what cuts the rows like the header."""
    if told := _SEPARATOR_LINE.match(text):
        return told.end(), 2, told.group(1)
    best = max(SEPARATORS, key=lambda separator: _regularity(text, separator))  # max keeps the first of equals
    return 0, 1, best


def _regularity(text: str, separator: str) -> tuple[bool, float, int]:
    """How well a separator explains the beginning: (cuts the header, share of rows cut like it, cells)."""
    counts = []
    try:
        for start, end, _, n_cells in _records(text[:_SAMPLE_CHARACTERS], 0, 1, separator, ""):
            if end > start:
                counts.append(n_cells)
    except CsvError:
        counts.append(0)
    else:
        if len(text) > _SAMPLE_CHARACTERS and len(counts) > 1:
            counts.pop()  # the sample ends in the middle of it
    if not counts:
        return False, 0.0, 0
    header, rows = counts[0], counts[1:]
    if header < 2:  # a comment line on top? the separator that the rows have makes the best message
        return False, 0.0, sum(counts)
    return True, (sum(n == header for n in rows) / len(rows) if rows else 1.0), header


@cache
def _patterns(separator: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """(a cell, a cell and the separator behind it, a whole record)."""
    s = re.escape(separator)
    cell = rf'(?:"[^"]*(?:""[^"]*)*"|[^"\r\n{s}]*)'
    return re.compile(cell), re.compile(rf"({cell}){s}"), re.compile(rf"(?:{cell}{s})*{cell}(?=[\r\n]|\Z)")


_QUOTED = re.compile(r'"[^"]*"')


def _records(text: str, start: int, line: int, separator: str, name: str) -> Iterator[tuple[int, int, int, int]]:
    """(start, end, line, number of cells) of every record, blank lines too."""
    whole = _patterns(separator)[2]
    quote = text.find('"', start)
    size = len(text)
    while start < size:
        line_end = _LINE_END.search(text, start)
        end, behind = line_end.span() if line_end else (size, size)
        if not 0 <= quote < end:
            yield start, end, line, text.count(separator, start, end) + 1
            line += 1
        else:
            record = whole.match(text, start)
            if record is None:
                raise _quote_error(text, start, line, separator, name)
            end = record.end()
            line_end = _LINE_END.match(text, end)
            behind = line_end.end() if line_end else size
            yield start, end, line, _QUOTED.sub("", record.group()).count(separator) + 1
            line += 1 + sum(1 for _ in _LINE_END.finditer(text, start, end))
            quote = text.find('"', end)
        start = behind


def _quote_error(text: str, start: int, line: int, separator: str, name: str) -> CsvError:
    """Which cell of the record at `start` is badly quoted, and how."""
    cell = _patterns(separator)[0]
    position, number = start, 1
    while (match := cell.match(text, position)) and text.startswith(separator, match.end()):
        position, number = match.end() + 1, number + 1
    line += sum(1 for _ in _LINE_END.finditer(text, start, position))
    end = match.end() if match else position
    if text[position : position + 1] != '"':
        what = f"has a quote inside: {shown(text[position : end + 12])}; expected the cell in quotes"
    elif end > position:
        what = f"goes on behind its closing quote: {shown(text[max(end - 8, position) : end + 12])}; expected the cell to end"
    else:
        return csv_error(name, line, f"cell {number} begins with a quote that is never closed. Add the closing quote.")
    return csv_error(name, line, f"cell {number} {what}. Write a quote that belongs to the value twice, in a quoted cell.")


def shown(value: str) -> str:
    """A value for a message: quoted, on one line, not too long."""
    return repr(value if len(value) <= 40 else value[:39] + "…")


def _table(
    data: bytes, name: str, encoding: str, bom: bytes, text: str, start: int, line: int, separator: str, problems: list[Problem]
) -> CsvTable:
    numbers = chain.from_iterable(_records(text, start, line, separator, name))
    records = np.fromiter(numbers, np.int64).reshape(-1, 4)
    if not len(records):
        raise csv_error(name, line, "there is no header; expected one line with the column names. Add it.")
    filled = np.flatnonzero(records[:, 1] > records[:, 0])
    top = int(filled[0]) if len(filled) else 0  # only blank lines: one column without a name, and nothing in it
    head_start, head_end, head_line, n_columns = records[top].tolist()
    rows = records[top + 1 :]
    if n_columns > 1:
        rows = rows[rows[:, 1] > rows[:, 0]]
    header = tuple(_split(text[head_start:head_end], separator))
    starts, ends, lines = rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2].astype(np.int32)
    problems = problems + _check_widths(text, separator, rows, n_columns, name)
    table = CsvTable(name, data, text, encoding, bom, separator, header, head_line, starts, ends, lines)
    problems += _check_header(table) if len(filled) else []
    return CsvTable(name, data, text, encoding, bom, separator, header, head_line, starts, ends, lines, tuple(problems))


def _check_widths(text: str, separator: str, rows: npt.NDArray[np.int64], n_columns: int, name: str) -> list[Problem]:
    """Refuses rows with too few or too many cells: which cell is missing cannot be known, and a guess would shift labels."""
    ragged: list[tuple[int, int]] = []
    longer: list[tuple[int, int]] = []
    for start, end, line, n_cells in rows[rows[:, 3] != n_columns].tolist():
        extra = _split(text[start:end], separator)[n_columns:]
        (longer if extra and not "".join(extra).strip() else ragged).append((line, n_cells))
    if ragged:
        line, n_cells = ragged[0]
        more = f" The same on {line_list([line for line, _ in ragged[1:]])}." if len(ragged) > 1 else ""
        what = f"{counted(n_cells, 'cell')}; expected {n_columns}, as in the header."
        what += f" {counted(len(ragged), 'row')} of {len(rows)} {'is' if len(ragged) == 1 else 'are'} like this.{more}"
        raise csv_error(name, line, f"{what} Add or remove the cell there: which one is meant cannot be guessed.")
    if not longer:
        return []
    lines = [line for line, _ in longer]
    message = (
        f"{counted(len(lines), 'row')} with empty cells behind the last column ({line_list(lines)}); they are ignored and kept."
    )
    return [Problem("warning", "ragged-row", message, name, lines[0])]


def line_list(lines: Sequence[int]) -> str:
    """Line numbers in words, the first few of many."""
    listed = ", ".join(map(str, lines[:LISTED_LINES])) + (
        f" and {len(lines) - LISTED_LINES} more" if len(lines) > LISTED_LINES else ""
    )
    return f"{'line' if len(lines) == 1 else 'lines'} {listed}"


def counted(n: int, noun: str) -> str:
    """A number with its noun, in the singular or plural."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _check_header(table: CsvTable) -> list[Problem]:
    """Refuses names that are missing or given twice; a pandas index is allowed."""
    first_with: dict[str, int] = {}
    problems = []
    for column, name in enumerate(header_name.strip() for header_name in table.header):
        if name in first_with and name:
            message = f"the column name {shown(name)} is given twice, for columns {first_with[name] + 1} and {column + 1}"
            raise csv_error(table.name, table.header_line, f"{message}; expected different names. Rename one.")
        first_with.setdefault(name, column)
        if name:
            continue
        if column == 0 and len(table.header) > 1 and _counts_rows(table):
            message = "the first column has no name and counts the rows; it is read as an index and is no label."
            problems.append(Problem("note", "index-column", message, table.name, table.header_line))
        else:
            message = f"column {column + 1} has no name; expected a name for every column. Write one into the header."
            raise csv_error(table.name, table.header_line, message)
    return problems


def _counts_rows(table: CsvTable) -> bool:
    values = [value.strip() for (chunk,) in table.chunks([0]) for value in chunk]
    return any(all(value == str(row) for row, value in enumerate(values, base)) for base in (0, 1))


# -- writing a CSV of our own


class _Lines(list[str]):
    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as a CSV with LF line ends, from which every reader takes the same cells.

    The csv module of Python 3.11 quotes a CR only where it stands in its line end, and readers take a bare CR for one:
    so it is told to end lines with CR LF, and the CR is taken away again.
    """
    lines = _Lines()
    csv.writer(lines, lineterminator="\r\n").writerows(rows)
    return "".join(lines)


# -- cells


def _split(record: str, separator: str) -> list[str]:
    if '"' not in record:
        return record.split(separator)
    cells = _patterns(separator)[1].findall(record + separator)
    return [cell[1:-1].replace('""', '"') if cell[:1] == '"' else cell for cell in cells]


def cell_spans(table: CsvTable, record: int) -> list[tuple[int, int]]:
    """Where each cell of a record is written in `table.text`, quotes included."""
    position, end = int(table.starts[record]), int(table.ends[record])
    cell = _patterns(table.separator)[0]
    spans = []
    while match := cell.match(table.text, position, end):
        spans.append(match.span())
        if match.end() == end:
            break
        position = match.end() + 1
    return spans


def rewritten(table: CsvTable, record: int, values: Mapping[int, str]) -> str:
    """The text of a record with some columns' values replaced; a quoted cell stays quoted, another is quoted if it must be."""
    spans = cell_spans(table, record)
    pieces, position = [], int(table.starts[record])
    for column in sorted(values):
        start, end = spans[column]
        value = values[column]
        if table.text[start : start + 1] == '"' or any(c in value for c in f'"\r\n{table.separator}'):
            value = '"' + value.replace('"', '""') + '"'
        pieces += [table.text[position:start], value]
        position = end
    return "".join([*pieces, table.text[position : table.ends[record]]])


def replace_cells(table: CsvTable, values: Mapping[tuple[int, int], str]) -> bytes:
    """The CSV's bytes with the values of some (record, column) replaced and no other byte changed.

    The result is read again and compared cell by cell; PanoramaError if anything else would change.
    """
    by_record: dict[int, dict[int, str]] = {}
    for (record, column), value in values.items():
        if not (0 <= record < table.n_records and 0 <= column < len(table.header)):
            raise PanoramaError(f"{table.name} has no cell in row {record + 1}, column {column + 1}; nothing was changed.")
        by_record.setdefault(record, {})[column] = value
    if not by_record:
        return table.data
    pieces, position = [], 0
    for record in sorted(by_record):
        pieces += [table.text[position : table.starts[record]], rewritten(table, record, by_record[record])]
        position = int(table.ends[record])
    text = "".join([*pieces, table.text[position:]])
    try:
        data = table.bom + text.encode(table.encoding)
    except UnicodeEncodeError as error:
        character = shown(text[error.start : error.end])
        raise PanoramaError(
            f"{table.name}: {character} cannot be written in {table.encoding}. Save the CSV as UTF-8 first."
        ) from None
    _check_replaced(table, data, by_record)
    return data


def _check_replaced(table: CsvTable, data: bytes, by_record: Mapping[int, Mapping[int, str]]) -> None:
    text = data[len(table.bom) :].decode(table.encoding)
    told = _SEPARATOR_LINE.match(text)
    start, line = (told.end(), 2) if told else (0, 1)
    after = _table(data, table.name, table.encoding, table.bom, text, start, line, table.separator, [])
    same = (after.header, after.n_records) == (table.header, table.n_records)
    for record in range(table.n_records) if same else ():
        wanted = by_record.get(record)
        if wanted is None:
            same = after.record_text(record) == table.record_text(record)
        else:
            before = table.values(record)
            same = after.values(record) == [wanted.get(column, value) for column, value in enumerate(before)]
        if not same:
            break
    if not same:
        raise PanoramaError(
            f"{table.name}: writing the cells would have changed others too, so nothing was written. Please report this CSV."
        )
