"""CSVs written from pieces, so that whoever wrote them knows which bytes are which cell; and the checks that follow from it.

`test_labels.py` lets hypothesis choose what a table is like; `tools/torture/csvs.py` draws thousands from seeds.
"""

import csv
import io
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from panorama.labels import LabelSheet, Layout

Cell = tuple[str, str]
VOCABULARIES = [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("no", "yes"), ("N", "Y"), ("", "x")]
ENCODINGS = [("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff"), ("cp1252", b""), ("cp932", b"")]  # fmt: skip
EXTRAS = {"cp1252": "Zoë, été; Müller", "cp932": "海の写真；テスト"}
LINE_ENDS = [["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r", "\n\n", "\r\n\r\n"]]


def as_csv_module_reads(text: str, separator: str = ",") -> list[list[str]]:
    """The rows, blank lines left away."""
    return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if row]


@dataclass(frozen=True)
class Written:
    """A table as pieces of text: (piece, None), or (raw cell, (image, label))."""

    pieces: list[tuple[str, Cell | None]]
    separator: str
    encoding: str
    bom: bytes
    uniform: bool  # every cell of the table is spelled and quoted in one way
    targets: dict[Cell, int]

    @property
    def text(self) -> str:
        return "".join(piece for piece, _ in self.pieces)

    @property
    def data(self) -> bytes:
        return self.bom + self.text.encode(self.encoding)


@dataclass(frozen=True)
class Style:
    """What a table is like. columns: fname, who and the labels in any order; images: a name a row, the first two with both values everywhere."""

    separator: str
    encoding: str
    bom: bytes
    words: tuple[str, str]  # for 0 and for 1
    uniform: bool
    columns: Sequence[str]
    line_ends: Sequence[str]
    images: Sequence[str]
    separator_line: bool
    who: Callable[[], str]  # a value for the column nobody reads
    rng: random.Random = field(repr=False)


def write_table(style: Style) -> Written:
    """The table, cell by cell."""
    rng = style.rng
    zero, one = style.words

    def quoted(value: str) -> str:
        must = any(c in value for c in f'"\r\n{style.separator}')
        return '"' + value.replace('"', '""') + '"' if must or (not style.uniform and rng.random() < 0.4) else value

    def cell(target: int) -> str:
        word = one if target else zero
        if not style.uniform and word:
            word = rng.choice([word, word.lower(), word.upper()])
            word = rng.choice(["", " ", "  "]) + word + rng.choice(["", " "])
        return quoted(word)

    pieces: list[tuple[str, Cell | None]] = []
    if style.separator_line:
        pieces.append((f"sep={style.separator}\r\n", None))
    pieces.append((style.separator.join(map(quoted, style.columns)) + rng.choice(style.line_ends), None))
    targets = {}
    for row, image in enumerate(style.images):
        for number, column in enumerate(style.columns):
            if number:
                pieces.append((style.separator, None))
            if column == "fname":
                pieces.append((quoted(image), None))
            elif column == "who":
                pieces.append((quoted(style.who() if row else EXTRAS.get(style.encoding, "Ann")), None))
            else:
                target = row % 2 if row < 2 else rng.randrange(2)
                targets[image, column] = target
                pieces.append((cell(target), (image, column)))
        last = row == len(style.images) - 1
        pieces.append((rng.choice(["", style.line_ends[0]]) if last else rng.choice(style.line_ends), None))
    return Written(pieces, style.separator, style.encoding, style.bom, style.uniform, targets)


def labels_of(sheet: LabelSheet) -> dict[Cell, int]:
    """Every cell's value."""
    return {
        (image, label): int(sheet.targets[i, j]) for i, image in enumerate(sheet.images) for j, label in enumerate(sheet.labels)
    }


def layout_of(written: Written) -> Layout:
    """From the csv module's reading of the header, not from our guess."""
    header = rows_of(written, written.data)[0]
    return Layout(header.index("fname"), tuple(n for n, name in enumerate(header) if name not in ("fname", "who")))


def rows_of(written: Written, data: bytes) -> list[list[str]]:
    """As the csv module reads it, told separator and encoding."""
    assert data.startswith(written.bom)
    text = data[len(written.bom) :].decode(written.encoding)
    rows = as_csv_module_reads(text, written.separator)
    return rows[1:] if text.startswith("sep=") else rows


def meaning(value: str) -> int:
    """What a cell says."""
    return int(value.strip().lower() in {"1", "1.0", "true", "yes", "y", "x"})


def check_only_decided_cells_differ(written: Written, after: bytes, decided: dict[Cell, int]) -> None:
    """The property, told without the library: walk along the pieces; only a decided cell may be written otherwise."""
    text = after[len(written.bom) :].decode(written.encoding)
    assert after.startswith(written.bom)
    position = 0
    for piece, cell in written.pieces:
        if cell in decided and decided[cell] != written.targets[cell]:
            quote, lead, trail = re.fullmatch(r'("?)(\s*)[^"\s]*(\s*)"?', piece).groups()  # type: ignore[union-attr]
            found = re.compile(rf"{quote}{lead}([^\"\s{re.escape(written.separator)}]*){trail}{quote}").match(text, position)
            assert found, f"{cell}: {piece!r} became {text[position : position + 12]!r}"
            assert meaning(found.group(1)) == decided[cell]
            position = found.end()
        else:
            assert text.startswith(piece, position), f"{piece!r} became {text[position : position + len(piece)]!r}"
            position += len(piece)
    assert position == len(text)
    before_rows, after_rows = rows_of(written, written.data), rows_of(written, after)
    header = before_rows[0]
    assert after_rows[0] == header
    assert len(after_rows) == len(before_rows)
    for old, new in zip(before_rows[1:], after_rows[1:], strict=True):
        image = old[header.index("fname")]
        for name, old_value, new_value in zip(header, old, new, strict=True):
            target = decided.get((image, name))
            if target is None or target == written.targets[image, name]:
                assert new_value == old_value
            else:
                assert meaning(new_value) == target


def some_decisions(draw_from: random.Random, written: Written) -> dict[Cell, int]:
    """Values for some of the cells."""
    cells = sorted(written.targets)
    return {cell: draw_from.randrange(2) for cell in draw_from.sample(cells, draw_from.randint(1, len(cells)))}
