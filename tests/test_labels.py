"""Expectations are written by hand, read by the csv module, or known to the generator that wrote the table."""

import csv
import io
import random
import re
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from written import (
    ENCODINGS,
    LINE_ENDS,
    VOCABULARIES,
    Style,
    Written,
    as_csv_module_reads,
    check_only_decided_cells_differ,
    labels_of,
    layout_of,
    rows_of,
    some_decisions,
    write_table,
)

from panorama.errors import PanoramaError
from panorama.labels import (
    CsvError,
    LabelSheet,
    Layout,
    Problem,
    changed_lines,
    corrected,
    file_columns,
    guess_layout,
    parse_csv,
    read_decisions,
    read_labels,
    replace_cells,
)


def sheet_of(data: bytes | str, name: str = "train_label.csv", layout: Layout | None = None) -> LabelSheet:
    table = parse_csv(data.encode() if isinstance(data, str) else data, name)
    return read_labels(table, layout or guess_layout(table))


def sentences(sheet: LabelSheet, kind: str) -> list[str]:
    return [str(problem) for problem in sheet.problems if problem.kind == kind]


def kinds(sheet: LabelSheet, *severities: str) -> list[str]:
    return [problem.kind for problem in sheet.problems if problem.severity in (severities or ("error",))]


# -- reading


def test_a_plain_csv_is_read():
    sheet = sheet_of("fname,desert,sea\n1.jpg,1,0\n2.jpg,0,1\n3.jpg,1,1\n")
    assert sheet.labels == ("desert", "sea")
    assert sheet.images == ("1.jpg", "2.jpg", "3.jpg")
    assert sheet.targets.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert sheet.targets.dtype == np.int8
    assert sheet.lines.tolist() == [2, 3, 4]
    assert sheet.lines.dtype == np.int32
    assert kinds(sheet) == []
    assert sheet.left_out == ()


@pytest.mark.parametrize(
    ("zero", "one"),
    [
        ("0", "1"),
        ("0.0", "1.0"),
        ("false", "true"),
        ("False", "True"),
        ("FALSE", "TRUE"),
        ("no", "yes"),
        ("No", "Yes"),
        ("n", "y"),
        ("N", "Y"),
        ("f", "t"),
        ("F", "T"),
        ("", "x"),
        ("", "X"),
        ("", "✓"),
        (" 0", "1 "),
    ],
)
def test_every_binary_vocabulary_is_read_and_written_in_kind(zero, one):
    text = f"fname,sea,trees\n1.jpg,{zero},{one}\n2.jpg,{one},{zero}\n"
    sheet = sheet_of(text)
    assert sheet.targets.tolist() == [[0, 1], [1, 0]]
    after = corrected(sheet, {("1.jpg", "sea"): 1, ("1.jpg", "trees"): 0}).decode()
    _, first, second = after.splitlines()
    assert [value.strip() for value in first.split(",")] == ["1.jpg", one.strip(), zero.strip()]
    assert second == text.splitlines()[2]


def test_mixed_but_clear_spellings_in_one_column_are_read():
    sheet = sheet_of("fname,sea\n1.jpg,0\n2.jpg,1\n3.jpg,1.0\n4.jpg,true\n")
    assert sheet.targets[:, 0].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_told_from_the_table(separator):
    text = "fname,note,sea,trees\n1.jpg,a b,1,0\n2.jpg,c d,0,1\n".replace(",", separator)
    table = parse_csv(text.encode(), "a.csv")
    assert table.separator == separator
    assert guess_layout(table) == Layout(0, (2, 3))


def test_a_semicolon_table_with_decimal_commas_is_not_cut_at_the_commas():
    table = parse_csv(b"fname;width;sea\n1.jpg;0,5;1\n2.jpg;1,5;0\n", "a.csv")
    assert (table.separator, table.values(0)) == (";", ["1.jpg", "0,5", "1"])


def test_the_separator_line_of_excel_is_followed_and_kept():
    data = b"sep=;\r\nfname;sea\r\n1.jpg;0\r\n2.jpg;1\r\n"
    sheet = sheet_of(data)
    assert sheet.table.header == ("fname", "sea")
    assert sheet.lines.tolist() == [3, 4]
    assert corrected(sheet, {("1.jpg", "sea"): 1}) == b"sep=;\r\nfname;sea\r\n1.jpg;1\r\n2.jpg;1\r\n"


@pytest.mark.parametrize(
    ("encoding", "bom", "guess"),
    [
        ("utf-8", b"", None),
        ("utf-8", b"\xef\xbb\xbf", None),
        ("utf-16-le", b"\xff\xfe", None),
        ("utf-16-be", b"\xfe\xff", None),
        ("utf-16-le", b"", "utf-16-le"),
        ("utf-16-be", b"", "utf-16-be"),
    ],
)
def test_unicode_encodings_are_told_and_kept(encoding, bom, guess):
    text = "fname,plage,海\r\n1.jpg,1,0\r\n2.jpg,0,1\r\n"
    sheet = sheet_of(bom + text.encode(encoding))
    assert sheet.labels == ("plage", "海")
    assert sheet.table.encoding == encoding
    notes = sentences(sheet, "encoding")
    assert (f"is read as {guess}" in notes[0]) if guess else not notes
    after = corrected(sheet, {("2.jpg", "海"): 0})
    assert after == bom + text.replace("0,1", "0,0").encode(encoding)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("cp1252", ["Forêt", "été", "Müller", "plage", "it’s", "“mer”"]),
        ("cp1252", ["coração", "não", "avião", "praia", "ção", "maçã"]),
        ("cp1252", ["année", "hôtel", "bière", "déjà vu", "crème brûlée", "sea"]),
        ("cp1252", ["it’s", "don’t", "Ann’s", "sea", "sun", "sky"]),
        ("cp932", ["海", "山", "夕日", "森林", "ネコ", "さくら"]),
        ("cp932", ["画像", "ネコ", "イヌ", "トリ", "ソ連", "表"]),
    ],
)
def test_older_encodings_are_told_and_the_guess_is_shown(encoding, words):
    text = f"fname,who,sea,{','.join(words[:3])}\n1.jpg,{words[3]},0,1,0,1\n2.jpg,{words[4]},1,0,1,0\n3.jpg,{words[5]},1,0,0,1\n"
    sheet = sheet_of(text.encode(encoding))
    assert sheet.table.encoding == encoding
    assert sheet.labels == ("sea", *words[:3])
    assert f"it is read as {encoding}" in sentences(sheet, "encoding")[0]
    assert corrected(sheet, {("1.jpg", "sea"): 1}) == text.replace(",0,1,0,1", ",1,1,0,1").encode(encoding)


def test_bytes_that_cp1252_does_not_know_are_kept_as_latin_1():
    data = b"fname,who,sea\n1.jpg,\x81 x,0\n2.jpg,\xe9,1\n"
    sheet = sheet_of(data)
    assert sheet.table.encoding == "latin-1"
    assert corrected(sheet, {("1.jpg", "sea"): 1}) == data.replace(b",0", b",1")


def test_images_and_labels_are_named_without_surrounding_spaces():
    sheet = sheet_of("fname, sea, trees\n1.jpg, 1, 0\n 2.jpg, 0, 1\n")
    assert (sheet.images, sheet.labels) == (("1.jpg", "2.jpg"), ("sea", "trees"))
    assert corrected(sheet, {("2.jpg", "sea"): 1}) == b"fname, sea, trees\n1.jpg, 1, 0\n 2.jpg, 1, 1\n"


def test_the_line_of_a_record_is_a_physical_line():
    sheet = sheet_of('fname,note,sea\n\n1.jpg,"a\nb\r\nc",1\r\n\r2.jpg,d,0\r3.jpg,e,1')
    # 1 header, 2 blank, 3-5 the first, 6 blank, 7, 8
    assert sheet.lines.tolist() == [3, 7, 8]


# -- which columns


def test_the_file_column_is_the_one_with_most_names_of_pictures():
    table = parse_csv(b"id,twin,fname,sea\n1,2.jpg,1.jpg,0\n2,,2.jpg,1\n3,9.jpg,3.jpg,1\n", "a.csv")
    there = {"1.jpg", "2.jpg", "3.jpg"}.__contains__
    assert file_columns(table, there) == [(2, 1.0), (1, 0.5)]
    assert guess_layout(table, there) == Layout(2, (3,))
    assert guess_layout(table, file_column=1) == Layout(1, (3,))


def test_without_a_column_that_names_pictures_the_sentence_says_what_was_found():
    table = parse_csv(b"fname,sea\n1.jpg,0\n2.jpg,1\n", "train_label.csv")
    with pytest.raises(CsvError, match=r"^train_label.csv, line 1: no column names a picture: 'fname' has '1.jpg'"):
        guess_layout(table, lambda name: False)
    with pytest.raises(CsvError, match="do not look like names of pictures"):
        guess_layout(parse_csv(b"a,b\nc,0\nd,1\n", "a.csv"))


def test_without_a_label_the_sentence_says_what_was_found():
    with pytest.raises(CsvError, match=r"^a.csv, line 1: no column is a label: 'who' has 'Ann'. Expected a column of 0 and 1"):
        guess_layout(parse_csv(b"fname,who\n1.jpg,Ann\n2.jpg,Bob\n3.jpg,Cid\n", "a.csv"))


def test_columns_that_are_no_labels_are_named_in_a_note_and_kept():
    sheet = sheet_of("id,fname,photographer,sea,year\n7,1.jpg,Ann,1,2019\n8,2.jpg,Bob,0,2020\n")
    assert sheet.labels == ("sea",)
    notes = sentences(sheet, "not-a-label")
    assert len(notes) == 3
    assert "column 'photographer' is not read as a label" in notes[1]
    assert corrected(sheet, {("2.jpg", "sea"): 1}).endswith(b"\n8,2.jpg,Bob,1,2020\n")


def test_a_pandas_index_is_no_label():
    for first in (0, 1):
        sheet = sheet_of(f",fname,sea\n{first},1.jpg,1\n{first + 1},2.jpg,0\n")
        assert sheet.labels == ("sea",)
        assert kinds(sheet, "note") == ["index-column"]


def test_an_empty_column_is_a_warning_and_no_label():
    sheet = sheet_of("fname,sea,trees\n1.jpg,1,\n2.jpg,0,\n")
    assert sheet.labels == ("sea",)
    assert "column 'trees' is empty" in sentences(sheet, "empty-column")[0]


def test_an_empty_column_among_crosses_is_a_label_without_positives():
    sheet = sheet_of("fname,sea,trees\n1.jpg,x,\n2.jpg,,\n")
    assert sheet.labels == ("sea", "trees")
    assert sheet.targets.tolist() == [[1, 0], [0, 0]]
    assert sentences(sheet, "no-positives") == [
        "train_label.csv: trees is 0 in every row (2); it cannot be learned. Add images that have it."
    ]
    assert corrected(sheet, {("2.jpg", "trees"): 1}) == b"fname,sea,trees\n1.jpg,x,\n2.jpg,,x\n"


def test_a_column_of_ones_and_blanks_is_read_with_a_note():
    sheet = sheet_of("fname,sea\n1.jpg,1\n2.jpg,\n3.jpg,\n")
    assert sheet.targets[:, 0].tolist() == [1, 0, 0]
    assert "sea has only 1 and empty cells; an empty cell is read as 0 (2 cells)" in sentences(sheet, "blank-as-zero")[0]
    assert corrected(sheet, {("1.jpg", "sea"): 0, ("3.jpg", "sea"): 1}) == b"fname,sea\n1.jpg,\n2.jpg,\n3.jpg,1\n"


def test_a_label_whose_last_cross_is_taken_away_is_still_read_with_the_same_layout():
    sheet = sheet_of("fname,sea,trees\n1.jpg,x,1\n2.jpg,,0\n")
    after = sheet_of(corrected(sheet, {("1.jpg", "sea"): 0}), layout=sheet.layout)
    assert after.targets.tolist() == [[0, 1], [0, 0]]
    assert "sea has only empty cells; an empty cell is read as 0 (2 cells)" in sentences(after, "blank-as-zero")[0]


def test_constant_and_rare_labels_are_warnings():
    rows = "".join(f"{n}.jpg,1,0,{int(n < 3)},{n % 2}\n" for n in range(12))
    sheet = sheet_of("fname,all,none,rare,half\n" + rows)
    assert kinds(sheet, "warning") == ["all-positive", "no-positives", "few-positives"]
    assert "rare is 1 in only 3 of 12 rows; expected at least 5" in sentences(sheet, "few-positives")[0]


# -- what is wrong with a row


def test_a_bad_cell_is_told_with_its_line_and_the_image_is_left_out():
    sheet = sheet_of("fname,sea\n1.jpg,1\n2.jpg,maybe\n3.jpg,\n4.jpg,0\n")
    assert sheet.images == ("1.jpg", "4.jpg")
    assert sheet.left_out == ("2.jpg", "3.jpg")
    assert sentences(sheet, "not-binary") == [
        "train_label.csv, line 3: sea is 'maybe'; expected 0 or 1. Correct the cell; the image is left out until then.",
        "train_label.csv, line 4: sea is empty; expected 0 or 1. Correct the cell; the image is left out until then.",
    ]
    with pytest.raises(PanoramaError, match=r"'2\.jpg' is left out because of its row"):
        corrected(sheet, {("2.jpg", "sea"): 1})


def test_many_bad_cells_are_listed_up_to_twenty():
    rows = "".join(f"{n}.jpg,{'?' if n % 3 == 0 else n % 2}\n" for n in range(90))
    told = sentences(sheet_of("fname,sea\n" + rows), "not-binary")
    assert len(told) == 21
    assert told[-1].startswith("train_label.csv: 10 more cells like the 20 before.")


def test_repeated_rows_are_one_image_and_a_correction_changes_them_all():
    sheet = sheet_of("fname,sea\n1.jpg,0\n2.jpg,1\n1.jpg,0\n")
    assert sheet.images == ("1.jpg", "2.jpg")
    assert sentences(sheet, "duplicate-row")[0].startswith(
        "train_label.csv, line 4: 1.jpg is also on line 2, with the same labels"
    )
    assert corrected(sheet, {("1.jpg", "sea"): 1}) == b"fname,sea\n1.jpg,1\n2.jpg,1\n1.jpg,1\n"


def test_conflicting_rows_are_an_error_and_the_image_is_left_out():
    sheet = sheet_of("fname,sea\n1.jpg,0\n2.jpg,1\n1.jpg,1\n")
    assert (sheet.images, sheet.left_out) == (("2.jpg",), ("1.jpg",))
    (problem,) = [problem for problem in sheet.problems if problem.severity == "error"]
    assert (problem.kind, problem.line, problem.image) == ("conflicting-rows", 4, "1.jpg")
    assert "also on line 2, with other labels: sea is 1 here and 0 there" in problem.message


def test_a_row_without_a_name_is_an_error_and_an_empty_row_a_warning():
    sheet = sheet_of("fname,sea\n1.jpg,0\n,1\n2.jpg,1\n,\n")
    assert sheet.images == ("1.jpg", "2.jpg")
    assert [(p.kind, p.severity, p.line) for p in sheet.problems if p.line] == [
        ("no-name", "error", 3),
        ("blank-row", "warning", 5),
    ]


def test_an_empty_row_does_not_change_how_a_column_is_written():
    sheet = sheet_of("fname,sea,trees\n1.jpg,1,1\n2.jpg,1,0\n,,\n")
    assert corrected(sheet, {("1.jpg", "sea"): 0}) == b"fname,sea,trees\n1.jpg,0,1\n2.jpg,1,0\n,,\n"


def test_a_header_alone_is_a_table_of_no_images_and_an_error():
    sheet = sheet_of("fname,sea\n")
    assert (sheet.images, sheet.targets.shape) == ((), (0, 1))
    assert sentences(sheet, "no-rows")[0].startswith("train_label.csv, line 1: there is a header and no row below it")
    assert corrected(sheet, {}) == b"fname,sea\n"


def test_empty_cells_behind_the_last_column_are_a_warning():
    data = b"fname,sea\n1.jpg,0,,\n2.jpg,1\n3.jpg,1,\n"
    sheet = sheet_of(data)
    assert sheet.targets[:, 0].tolist() == [0, 1, 1]
    assert "2 rows with empty cells behind the last column (lines 2, 4)" in sentences(sheet, "ragged-row")[0]
    assert corrected(sheet, {("1.jpg", "sea"): 1}) == data.replace(b"0,,", b"1,,")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "line 1: the file is empty"),
        (b"\xef\xbb\xbf", "line 1: the file is empty"),
        (b"sep=;\n", "line 2: there is no header"),
        (b"\x1f\x8b\x08\x00abc", "line 1: this is a gzip archive"),
        (b"PK\x03\x04abc", r"line 1: this is a zip archive or an Excel workbook \(.xlsx\)"),
        (b"fname,sea\n1.jpg,\x001\n", "line 2: there is a NUL byte"),
        (b"\xef\xbb\xbffname,sea\n1.jpg,\xff\n", "line 2: the file begins like UTF-8 but byte 16 does not fit"),
        (b"\xff\xfef\x00n", "line 1: the file begins like UTF-16-LE"),
        (b"fname,sea,trees,sea\n1.jpg,1,0,1\n", "line 1: the column name 'sea' is given twice, for columns 2 and 4"),
        (b"fname,,sea\n1.jpg,1,0\n", "line 1: column 2 has no name"),
        (b",fname,sea\n5,1.jpg,0\n6,2.jpg,1\n", "line 1: column 1 has no name"),
        (b"\n\nfname,\n1.jpg,1\n", "line 3: column 2 has no name"),
        (b"fname,sea\n1.jpg,1\n2.jpg\n", "line 3: 1 cell; expected 2, as in the header. 1 row of 2"),
        (b"fname,sea\n1.jpg,1,0\n2.jpg,1,1\n", "line 2: 3 cells; expected 2.* 2 rows of 2 .*line 3"),
        (b"a,b\n" + b"1\n" * 9, "line 2: .* 9 rows of 9 .* lines 3, 4, 5, 6, 7 and 3 more"),
        (b'fname,sea\n1.jpg,1\n2.jpg,"1\n3.jpg,0\n', "line 3: cell 2 begins with a quote that is never closed"),
        (b'fname,sea\n1.jpg,a "b"\n', "line 2: cell 2 has a quote inside"),
        (b'fname,sea\n"1.jpg"x,1\n', "line 2: cell 1 goes on behind its closing quote"),
        (b'fname,note,sea\n1.jpg,"a\nb",1\n2.jpg,"c\nd",""x\n', "line 5: cell 3 goes on behind its closing quote"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_line(data, sentence):
    with pytest.raises(CsvError, match=f"^bad.csv, {sentence}"):
        parse_csv(data, "bad.csv")


def test_a_layout_that_does_not_fit_is_refused():
    table = parse_csv(b"fname,sea\n1.jpg,1\n", "a.csv")
    for layout in (Layout(0, (2,)), Layout(0, (0,)), Layout(-1, (1,)), Layout(0, (), 1, None), Layout(0, (1,), 1, " ")):
        with pytest.raises(PanoramaError, match="does not fit this CSV"):
            read_labels(table, layout)


def test_a_layout_survives_json():
    for layout in (Layout(0, (1, 2)), Layout(3, (), 1, "|")):
        assert Layout.from_json(layout.to_json()) == layout
    assert Layout.from_json({"file_column": 0, "label_columns": [1, 2]}) == Layout(0, (1, 2))
    for bad in ({}, {"file_column": "a", "label_columns": []}, {"file_column": 0, "label_columns": 1}, [1]):
        with pytest.raises(PanoramaError, match="cannot be read"):
            Layout.from_json(bad)


def test_a_problem_says_its_place_first():
    assert str(Problem("error", "k", "wrong.", "a.csv", 3)) == "a.csv, line 3: wrong."
    assert str(Problem("error", "k", "wrong.", "a.csv")) == "a.csv: wrong."
    assert str(Problem("error", "k", "wrong.", image="1.jpg")) == "1.jpg: wrong."
    assert str(Problem("error", "k", "wrong.")) == "wrong."


# -- correcting


def test_export_without_decisions_returns_the_same_bytes():
    data = b'\xef\xbb\xbffname;"sea";trees\r\n"1.jpg"; 1 ;007\n\n2.jpg;0;NA'
    sheet = sheet_of(data)
    assert corrected(sheet, {}) is sheet.table.data
    assert corrected(sheet, {("1.jpg", "sea"): 1}) is sheet.table.data
    assert changed_lines(sheet, {("1.jpg", "sea"): 1}) == []


def test_quotes_spaces_and_line_ends_around_a_changed_cell_stay():
    data = b'fname,sea,trees\r\n1.jpg," 0 ","1"\n"2.jpg",1\t, 0\r3.jpg,"1",0'
    after = corrected(sheet_of(data), {("1.jpg", "sea"): 1, ("2.jpg", "sea"): 0, ("3.jpg", "trees"): 1})
    assert after == b'fname,sea,trees\r\n1.jpg," 1 ","1"\n"2.jpg",0\t, 0\r3.jpg,"1",1'


def test_a_label_is_spelled_as_its_column_mostly_does():
    sheet = sheet_of("fname,sea\n1.jpg,1.0\n2.jpg,1\n3.jpg,1\n4.jpg,0\n")
    assert corrected(sheet, {("4.jpg", "sea"): 1}).endswith(b"4.jpg,1\n")


def test_a_label_without_that_value_is_spelled_as_its_like_do():
    sheet = sheet_of("fname,sea,trees,sky\n1.jpg,False,TRUE,1\n2.jpg,False,FALSE,0\n3.jpg,False,TRUE,1\n")
    assert corrected(sheet, {("1.jpg", "sea"): 1}).splitlines()[1] == b"1.jpg,TRUE,TRUE,1"


@pytest.mark.parametrize(
    ("given_word", "target", "expected"),
    [
        ("False", 1, "True"), ("FALSE", 1, "TRUE"), ("false", 1, "true"), ("yes", 0, "no"), ("Yes", 0, "No"),
        ("0.0", 1, "1.0"), ("1.0", 0, "0.0"), ("0", 1, "1"), ("N", 1, "Y"), ("t", 0, "f"), ("T", 0, "F"),
    ],
)  # fmt: skip
def test_a_value_that_stands_nowhere_is_spelled_like_its_counterpart(given_word, target, expected):
    sheet = sheet_of(f"fname,sea\n1.jpg,{given_word}\n2.jpg,{given_word}\n")
    assert corrected(sheet, {("2.jpg", "sea"): target}) == f"fname,sea\n1.jpg,{given_word}\n2.jpg,{expected}\n".encode()


def test_changed_lines_show_the_record_before_and_after():
    sheet = sheet_of('fname,note,sea,trees\n1.jpg,"a\nb",0,1\n2.jpg,c,1,1\n')
    assert changed_lines(sheet, {("2.jpg", "sea"): 0, ("1.jpg", "sea"): 1, ("1.jpg", "trees"): 0}) == [
        (2, '1.jpg,"a\nb",0,1', '1.jpg,"a\nb",1,0'),
        (4, "2.jpg,c,1,1", "2.jpg,c,0,1"),
    ]


@pytest.mark.parametrize(
    ("corrections", "sentence"),
    [
        ({("9.jpg", "sea"): 1}, "the image '9.jpg' is not there"),
        ({("1.jpg", "moon"): 1}, "no label 'moon'; expected one of sea"),
        ({("1.jpg", "sea"): 2}, "the correction of sea for 1.jpg is 2; expected 0 or 1"),
    ],
)
def test_a_correction_of_something_unknown_is_refused(corrections, sentence):
    with pytest.raises(PanoramaError, match=sentence):
        corrected(sheet_of("fname,sea\n1.jpg,1\n2.jpg,0\n"), corrections)


def test_a_value_that_the_encoding_does_not_know_is_refused():
    table = parse_csv("fname,who,sea\n1.jpg,été,0\n".encode("cp1252"), "a.csv")
    with pytest.raises(PanoramaError, match="'海' cannot be written in cp1252"):
        replace_cells(table, {(0, 1): "海"})


def test_a_replaced_value_is_quoted_where_it_must_be():
    table = parse_csv(b'a,b\n1,2\n"3",4\n', "a.csv")
    assert replace_cells(table, {(0, 1): 'x, "y"', (1, 0): "z"}) == b'a,b\n1,"x, ""y"""\n"z",4\n'


# -- tags


@pytest.mark.parametrize(
    ("separator", "first", "second"), [(" ", "haze sea", "clear sea"), (",", '"haze,sea"', '"clear,sea"'),
                                       (";", "haze;sea", "clear; sea"), ("|", "haze|sea", "clear | sea")],
)  # fmt: skip
def test_one_column_of_tags_is_read(separator, first, second):
    sheet = sheet_of(f"image_name,tags\n1.jpg,{first}\n2.jpg,{second}\n3.jpg,clear\n4.jpg,\n")
    assert sheet.layout == Layout(0, (), 1, separator)
    assert sheet.labels == ("clear", "haze", "sea")
    assert sheet.targets.tolist() == [[0, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert kinds(sheet, "note") == ["tags"]


def test_tags_of_several_words_are_not_cut_at_spaces():
    sheet = sheet_of('fname,who,tags\n1.jpg,Ann Lee,"blue sky, sea"\n2.jpg,Ann Lee,blue sky\n3.jpg,Bob Ray,sea\n')
    assert sheet.labels == ("blue sky", "sea")


def test_one_class_an_image_is_read_as_tags():
    sheet = sheet_of("fname,class\n1.jpg,blue sky\n2.jpg,sea\n3.jpg,blue sky\n4.jpg,sea\n")
    assert sheet.labels == ("blue sky", "sea")


def test_names_numbers_and_prose_are_not_tags():
    for values in (["Ann", "Bob", "Cid"], ["1.5", "2.5", "1.5"], ["a dog on a beach", "a cat in a tree", "a man on a bus"]):
        rows = "".join(f'{n}.jpg,"{value}"\n' for n, value in enumerate(values))
        with pytest.raises(CsvError, match="no column is a label"):
            guess_layout(parse_csv(f"fname,what\n{rows}".encode(), "a.csv"))


@pytest.mark.parametrize(
    ("cell", "corrections", "expected"),
    [
        ('"sea, sky"', {"trees": 1}, '"sea, sky, trees"'),
        ('"sea,sky"', {"trees": 1}, '"sea,sky,trees"'),
        ("sea", {"trees": 1}, '"sea, trees"'),  # as the column mostly glues
        ("", {"trees": 1}, "trees"),
        ('""', {"trees": 1}, '"trees"'),
        ('"sea, sky, trees"', {"sea": 0}, '"sky, trees"'),
        ('"sea, sky, trees"', {"sky": 0}, '"sea, trees"'),
        ('"sea,  sky, trees"', {"trees": 0}, '"sea,  sky"'),
        (" sea ", {"sea": 0}, ""),
        ('"sea, sea"', {"sea": 0}, '""'),
        ('"sea, sky"', {"sea": 0, "trees": 1}, '"sky, trees"'),
        ('"sky"', {"trees": 1, "sea": 1}, '"sky, sea, trees"'),
    ],
)
def test_a_tag_is_added_and_removed_and_the_others_stay(cell, corrections, expected):
    text = 'fname,tags\n1.jpg,"sea, sky"\n2.jpg,"sky, trees"\n9.jpg,CELL\n3.jpg,"trees, sea"\n'
    sheet = sheet_of(text.replace("CELL", cell), layout=Layout(0, (), 1, ","))
    after = corrected(sheet, {("9.jpg", tag): target for tag, target in corrections.items()})
    assert after.decode() == text.replace("CELL", expected)


# -- decisions


def test_decisions_are_read_whatever_the_order_of_columns():
    data = b"when;Value;IMAGE;label\n2024;1;1.jpg;sea\n2025;no;2.jpg;sea\n;;;\n2026;1.0;1.jpg;sea\n"
    assert read_decisions(data, "decisions.csv") == {("1.jpg", "sea"): 1, ("2.jpg", "sea"): 0}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("image,label\n1.jpg,sea\n", "line 1: there is no column value; expected image, label and value"),
        ("image,label,value\n1.jpg,sea,2\n", "line 2: the value of sea for 1.jpg is '2'; expected 0 or 1"),
        ("image,label,value\n1.jpg,sea,1\n1.jpg,sea,0\n", "line 3: sea for 1.jpg is 0 here and 1 on line 2"),
        ("image,label,value\n,sea,1\n", "line 2: there is no image"),
        ("image,label,value\n1.jpg,,1\n", "line 2: there is no label"),
    ],
)
def test_a_decision_that_cannot_be_used_is_refused_with_the_line(rows, sentence):
    with pytest.raises(CsvError, match=f"^d.csv, {sentence}"):
        read_decisions(rows.encode(), "d.csv")


# -- properties: the generator writes the table from pieces, so it knows which bytes are which cell


@st.composite
def tables(draw) -> Written:
    encoding, bom = draw(st.sampled_from(ENCODINGS))
    labels = draw(st.sampled_from([("sea",), ("sea", "trees"), ("desert", "sea", "trees", "sky")]))
    extra = st.text(st.sampled_from('ab ,;|\t\n\r"0x.'), max_size=8)
    style = Style(
        draw(st.sampled_from(",;\t|")), encoding, bom, draw(st.sampled_from(VOCABULARIES)), draw(st.booleans()),
        draw(st.permutations(["fname", "who", *labels])), draw(st.sampled_from(LINE_ENDS)),
        [f"{row}.jpg" for row in range(draw(st.integers(2, 7)))], draw(st.booleans()), lambda: draw(extra),
        random.Random(draw(st.integers(0, 2**32))),
    )  # fmt: skip
    return write_table(style)


property_test = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@property_test
@given(tables())
def test_any_table_is_read_as_the_csv_module_reads_it_and_comes_back_byte_for_byte(written):
    table = parse_csv(written.data, "a.csv")
    assert (table.separator, table.encoding) == (written.separator, written.encoding)
    assert [list(table.header), *map(table.values, range(table.n_records))] == rows_of(written, written.data)
    sheet = read_labels(table, layout_of(written))
    assert labels_of(sheet) == written.targets
    assert corrected(sheet, {}) == written.data
    assert corrected(sheet, written.targets) == written.data


@property_test
@given(tables(), st.randoms(use_true_random=False))
def test_only_the_decided_cells_change_in_any_table(written, rng):
    decided = some_decisions(rng, written)
    sheet = sheet_of(written.data, layout=layout_of(written))
    check_only_decided_cells_differ(written, corrected(sheet, decided), decided)


@property_test
@given(tables(), st.randoms(use_true_random=False))
def test_undoing_every_correction_gives_the_values_back(written, rng):
    # One cell of each value is left alone in every column: a column that loses a value forgets how it was spelled.
    decided = {cell: value for cell, value in some_decisions(rng, written).items() if cell[0] not in ("0.jpg", "1.jpg")}
    assume(decided)
    layout = layout_of(written)
    after = sheet_of(corrected(sheet_of(written.data, layout=layout), decided), layout=layout)
    assert labels_of(after) == written.targets | decided
    undone = corrected(after, {cell: written.targets[cell] for cell in decided})
    assert labels_of(sheet_of(undone, layout=layout)) == written.targets
    if written.uniform:
        assert undone == written.data


def test_an_export_through_pandas_fails_the_same_check():
    """The negative control: the check notices a table that was read and written again."""
    pieces = [("fname;who;sea\r\n", None), ("1.jpg;007;", None), ("1", ("1.jpg", "sea")), ("\r\n2.jpg;NA;", None), ("0", ("2.jpg", "sea")), ("\r\n", None)]  # fmt: skip
    written = Written(pieces, ";", "utf-8", b"", True, {("1.jpg", "sea"): 1, ("2.jpg", "sea"): 0})
    decided = {("2.jpg", "sea"): 1}
    check_only_decided_cells_differ(written, corrected(sheet_of(written.data), decided), decided)

    frame = pd.read_csv(io.BytesIO(written.data), sep=";")
    frame.loc[frame.fname == "2.jpg", "sea"] = 1
    with pytest.raises(AssertionError, match="became"):
        check_only_decided_cells_differ(written, frame.to_csv(index=False, sep=";").encode(), decided)
    flipped = written.data.replace(b"1.jpg;007;1", b"1.jpg;007;0").replace(b"NA;0", b"NA;1")
    with pytest.raises(AssertionError, match="became"):
        check_only_decided_cells_differ(written, flipped, decided)


@property_test
@given(st.lists(st.lists(st.sampled_from(["sea", "blue sky", "trees", "sand"]), unique=True), min_size=2, max_size=6), st.data())
def test_any_edit_of_tags_changes_those_tags_only(rows, data):
    glue = data.draw(st.sampled_from([", ", ",", "; ", "|"]))
    text = "fname\ttags\n" + "".join(f"{n}.jpg\t{glue.join(tags)}\n" for n, tags in enumerate(rows))
    sheet = sheet_of(text, layout=Layout(0, (), 1, glue.strip()))
    cells = [(image, label) for image in sheet.images for label in sheet.labels]
    decided = data.draw(st.dictionaries(st.sampled_from(cells), st.integers(0, 1))) if cells else {}
    after = as_csv_module_reads(corrected(sheet, decided).decode(), "\t")
    for number, tags in enumerate(rows):
        found = [tag.strip() for tag in after[number + 1][1].split(glue.strip()) if tag.strip()]
        wanted = {tag for tag in sheet.labels if decided.get((f"{number}.jpg", tag), int(tag in tags))}
        assert set(found) == wanted
        kept = [tag for tag in tags if tag in wanted]
        assert found[: len(kept)] == kept
        if any(len(row) > 1 for row in rows):  # else nothing shows how this table glues
            assert after[number + 1][1] == glue.join(found)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60) | st.text(st.sampled_from('ab01x ,;|\t\n\r"é海\ufeff'), max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_in_words(data):
    if (refusal := refusal_of(data)) is not None:
        assert re.match(r"a\.csv, line \d+: ", str(refusal)) or not isinstance(refusal, CsvError)
        assert str(refusal).startswith("a.csv")


def refusal_of(data: bytes) -> PanoramaError | None:
    """Reads, corrects and writes; anything but a PanoramaError is a bug."""
    try:
        table = parse_csv(data, "a.csv")
        assert replace_cells(table, {}) is data
        sheet = read_labels(table, guess_layout(table, file_column=0))
        assert all(str(problem).startswith("a.csv") for problem in sheet.problems)
        corrected(sheet, {(image, label): 1 for image in sheet.images for label in sheet.labels})
    except PanoramaError as error:
        return error
    return None


@property_test
@given(
    st.lists(st.lists(st.text(st.sampled_from('a ,;\t|"\r\n0')), min_size=3, max_size=3), min_size=1, max_size=5), st.booleans()
)
def test_values_are_read_as_the_csv_module_wrote_them(rows, quote_all):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerows([["x", "y", "z"], *rows])
    table = parse_csv(out.getvalue().encode(), "a.csv")
    assert [table.values(record) for record in range(table.n_records)] == rows


def test_two_hundred_thousand_rows_are_read_in_seconds():
    rng = random.Random(0)
    head = "fname," + ",".join(f"label{n}" for n in range(20)) + "\n"
    tails = [",".join(rng.choice("01") for _ in range(20)) for _ in range(50)]
    data = (head + "".join(f"{n}.jpg,{tails[n % 50]}\n" for n in range(200_000))).encode()
    start_seconds = time.perf_counter()
    table = parse_csv(data, "big.csv")
    assert time.perf_counter() - start_seconds < 5
    assert (table.n_records, table.lines[-1]) == (200_000, 200_001)


def test_a_thousand_corrections_of_hundreds_of_labels_are_written_in_seconds():
    """How a column spells its values was counted again for every corrected cell: 800 cells of 200 labels took seconds."""
    names = [f"label{n}" for n in range(400)]
    rows = [f"{n}.jpg," + ",".join(str((n + k) % 2) for k in range(400)) for n in range(10)]
    sheet = sheet_of("fname," + ",".join(names) + "\n" + "\n".join(rows) + "\n")
    decided = {(f"{n}.jpg", name): int((n + k) % 2 == 0) for n in range(10) for k, name in enumerate(names)}
    start_seconds = time.process_time()
    after = corrected(sheet, decided)
    assert time.process_time() - start_seconds < 5
    assert labels_of(sheet_of(after)) == decided


@pytest.mark.parametrize("data", [b"\r" * 100_000, b"\n" * 70_000 + b"a;b\n1;2\n"])
def test_a_long_run_of_blank_lines_is_no_trouble(data):
    assert replace_cells(parse_csv(data, "a.csv"), {}) is data


def test_the_separator_is_told_from_a_header_longer_than_the_sample():
    names = [f"label{n}" for n in range(10_000)]
    table = parse_csv(f"fname;{';'.join(names)}\n1.jpg;{';'.join('0' * 10_000)}\n".encode(), "a.csv")
    assert table.header == ("fname", *names)


def test_the_apps_own_decisions_are_read_with_skips_and_settlements() -> None:
    head = b"image,label,given,verdict,value,reviewer,way\n"
    rows = b"a,sea,0,change,1,ada,cell\na,sea,0,keep,0,bob,cell\na,sea,0,keep,0,eve,settled\nb,sea,0,skip,,ada,cell\nc,sea,1,change,0,ada,grid\n"
    assert read_decisions(head + rows, "decisions.csv") == {("a", "sea"): 0, ("c", "sea"): 0}
    with pytest.raises(CsvError, match="sea for a is 0 here and 1 on line 2"):
        read_decisions(head + rows.replace(b"settled", b"cell"), "decisions.csv")
