"""Where a data set is, how it is laid out, and which picture a name in a CSV means."""

import os
from pathlib import Path

import pytest

from panorama.archives import import_zip
from panorama.errors import PanoramaError
from panorama.finding import (
    CsvSource,
    PictureIndex,
    Source,
    file_column_choices,
    find_source,
    with_file_column,
    with_layouts,
)
from panorama.labels import Layout


def write(folder: Path, *names: str, **tables: str) -> Path:
    """Empty files of these names, and CSVs: their names are told by what they end with here (labels_csv -> labels.csv)."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    for name, text in tables.items():
        (folder / name.replace("_csv", ".csv")).write_text(text, encoding="utf-8")
    return folder


# -- the layouts


def test_seed_layout_is_recognised(tmp_path: Path) -> None:
    write(tmp_path, "train/1.jpg", "test/2.jpg", train_label_csv="fname,sea\n1.jpg,1\n", test_label_csv="fname,sea\n2.jpg,0\n")
    source = find_source(tmp_path)
    assert source.root == tmp_path
    assert source.csvs == (CsvSource("train_label.csv", "train", "train"), CsvSource("test_label.csv", "test", "test"))
    assert [csv.layout for csv in with_layouts(source).csvs] == [Layout(0, (1,)), Layout(0, (1,))]


@pytest.mark.parametrize("missing", ["train", "test"])
def test_missing_picture_folder_of_the_seed_layout_is_said(tmp_path: Path, missing: str) -> None:
    there = {"train": "test", "test": "train"}[missing]
    write(tmp_path, f"{there}/1.jpg", train_label_csv="f,a\n1.jpg,1\n", test_label_csv="f,a\n1.jpg,1\n")
    with pytest.raises(PanoramaError, match=rf"{missing}/ is missing\. Put the pictures there"):
        find_source(tmp_path)


def test_one_folder_with_one_csv(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", labels_csv="file,sea\n1.jpg,1\n")
    assert find_source(tmp_path) == Source(tmp_path, (CsvSource("labels.csv"),))


def test_csv_by_itself_means_the_folder_it_lies_in(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", labels_csv="file,sea\n1.jpg,1\n", others_csv="file,sea\n1.jpg,1\n")
    assert find_source(tmp_path / "others.csv") == Source(tmp_path, (CsvSource("others.csv"),))


def test_csv_in_a_folder_inside_is_found(tmp_path: Path) -> None:
    write(tmp_path, "images/1.jpg", "tables/x.txt")
    (tmp_path / "tables" / "labels.tsv").write_text("file\tsea\n1.jpg\t1\n")
    assert find_source(tmp_path).csvs == (CsvSource("tables/labels.tsv"),)


def test_of_several_csvs_the_one_with_pictures_and_labels_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", a_csv="file,sea\n1.jpg,1\n", notes_csv="date,weather\nmonday,rain\n", old_csv="file,sea\n9.jpg,1\n")
    assert find_source(tmp_path).csvs == (CsvSource("a.csv"),)


def test_several_usable_csvs_are_named_and_none_is_guessed(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", a_csv="file,sea\n1.jpg,1\n", b_csv="file,sea\n1.jpg,0\n")
    with pytest.raises(PanoramaError, match=r"2 CSVs and more than one names pictures \(a\.csv, b\.csv\)\. Give the CSV itself"):
        find_source(tmp_path)


def test_several_csvs_without_pictures_are_named(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", a_csv="file,sea\n8.jpg,1\n", b_csv="x,y\n1,2\n")
    with pytest.raises(PanoramaError, match=r"none of them names pictures beside labels \(a\.csv, b\.csv\)"):
        find_source(tmp_path)


def test_zip_of_one_folder_is_found_inside_it(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, data in (("set/1.jpg", b"1"), ("set/labels.csv", b"file,sea\n1.jpg,1\n"), ("__MACOSX/set/._1.jpg", b"")):
            archive.writestr(name, data)
    folder = import_zip(tmp_path / "set.zip", tmp_path / "data", "set.zip")
    assert find_source(folder) == Source(folder / "set", (CsvSource("labels.csv"),))


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "._labels.csv", ".git/x.csv", "__MACOSX/labels.csv", labels_csv="file,sea\n1.jpg,1\n")
    assert find_source(tmp_path).csvs == (CsvSource("labels.csv"),)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "gone", r"gone: there is no such folder or file\. Give a folder with pictures and a CSV"),
        (lambda p: write(p, "1.jpg") / "1.jpg", r"1\.jpg: neither a folder, a CSV nor a zip"),
        (lambda p: write(p, "1.jpg", "2.jpg"), "there is no CSV in it"),
        (lambda p: p, "there is no CSV in it"),
        (lambda p: p / ("x" * 300), r"cannot be read \(File name too long\)|there is no such folder"),
        (lambda p: Path("~nobody-of-that-name/x"), "cannot be read"),
    ],
    ids=["nothing there", "a picture", "only pictures", "empty", "too long", "no such user"],
)
def test_what_is_no_data_set_is_said(make: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(PanoramaError, match=words):
        find_source(make(tmp_path))  # type: ignore[operator]


def test_folder_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PanoramaError, match=r"cannot be read \(Permission denied\)"):
        find_source(tmp_path)


def test_link_that_leads_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(PanoramaError):
        find_source(tmp_path)


def test_source_goes_through_json(tmp_path: Path) -> None:
    source = Source(
        tmp_path, (CsvSource("a.csv", "train", "train", Layout(1, (2, 3))), CsvSource("b.csv", layout=Layout(0, (), 1, ";")))
    )
    assert Source.from_json(source.to_json()) == source
    with pytest.raises(PanoramaError, match="damaged"):
        Source.from_json({"root": "x"})


# -- which column names the pictures


def test_column_of_file_names_is_found_and_can_be_chosen(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg", labels_csv="id,sea,image,also\n7,1,1.jpg,1.jpg\n8,0,2.jpg,none\n")
    source = find_source(tmp_path)
    layout = with_layouts(source).csvs[0].layout
    assert layout is not None
    assert layout.file_column == 2
    assert file_column_choices(source, source.csvs[0]) == [(2, "image", 1.0), (3, "also", 0.5)]
    assert with_file_column(source, "also").csvs[0].layout == Layout(3, (1,))
    with pytest.raises(PanoramaError, match=r"labels\.csv has no column 'picture'; it has id, sea, image, also"):
        with_file_column(source, "picture")


def test_numbers_are_no_file_names_beside_names_with_a_suffix(tmp_path: Path) -> None:
    """pandas writes row numbers first; 0.jpg is not the picture of row 0."""
    write(tmp_path, "0.jpg", "1.jpg", "2.jpg", labels_csv=",sea,file\n0,1,2.jpg\n1,0,0.jpg\n2,1,1.jpg\n")
    layout = with_layouts(find_source(tmp_path)).csvs[0].layout
    assert layout is not None
    assert (layout.file_column, layout.label_columns) == (2, (1,))


def test_row_numbers_before_the_names_are_seen_in_the_seed_layout_too(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path, f"{split}/0.jpg", f"{split}/1.jpg", **{f"{split}_label_csv": ",fname,sea\n0,1.jpg,1\n1,0.jpg,0\n"})
    assert [csv.layout for csv in with_layouts(find_source(tmp_path)).csvs] == [Layout(1, (2,))] * 2


def test_without_any_suffix_the_column_of_many_values_names_the_pictures(tmp_path: Path) -> None:
    write(tmp_path, "0.jpg", "1.jpg", "2.jpg", labels_csv="sea,sky,id\n0,1,2\n1,0,0\n1,1,1\n")
    assert [csv.layout for csv in with_layouts(find_source(tmp_path)).csvs] == [Layout(2, (0, 1))]


# -- names


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("a/1.jpg", ["a/1.jpg"]),
        ("./a/1.jpg", ["a/1.jpg"]),
        (" a/1.jpg ", ["a/1.jpg"]),
        ("a\\1.jpg", ["a/1.jpg"]),
        ("A/1.JPG", ["a/1.jpg"]),
        ("2.PNG", ["b/2.png"]),
        ("2", ["b/2.png"]),
        ("photos/b/2.png", ["b/2.png"]),
        ("D:\\photos\\b\\2.png", ["b/2.png"]),
        ("/home/me/2", ["b/2.png"]),
        ("été.jpg", ["b/e\u0301te\u0301.jpg"]),
        ("v1.2", ["v1.2.jpg"]),
        ("1.jpg", ["a/1.jpg", "b/1.jpg"]),
        ("1", ["a/1.jpg", "b/1.jpg"]),
        ("b/1", ["b/1.jpg"]),
        ("photos/B/1.JPG", ["b/1.jpg"]),
        ("c/1.jpg", ["a/1.jpg", "b/1.jpg"]),
        ("3.jpg", []),
        ("2.jpg", []),
        ("", []),
        ("a", []),
        ("../a/9.jpg", []),
        ("notes.txt", []),
        ("secret.jpg", []),
        (".", []),
        ("/", []),
    ],
)
def test_name_means_the_pictures_that_a_person_would_say(written: str, means: list[str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a/1.jpg", "b/1.jpg", "b/2.png", "b/e\u0301te\u0301.jpg", "v1.2.jpg", "notes.txt", ".cache/9.jpg")
    write(tmp_path, "outside/secret.jpg")
    (root / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "secret.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    index = PictureIndex(root)
    assert index.find(written) == means
    assert (written in index) == bool(means)


def test_pictures_are_listed_in_the_same_order_on_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "b/2.jpg", "a/3.jpg", "a/1.jpg", "c.jpg")
    sound = PictureIndex(tmp_path).files
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            self.entries = iter(sorted(scandir(path), key=lambda entry: entry.name, reverse=True))

        def __enter__(self) -> "Backwards":
            return self

        def __exit__(self, *_: object) -> None: ...
        def __iter__(self) -> "Backwards":
            return self

        def __next__(self) -> os.DirEntry:
            return next(self.entries)

    monkeypatch.setattr(os, "scandir", Backwards)
    assert PictureIndex(tmp_path).files == sound == ["c.jpg", "a/1.jpg", "a/3.jpg", "b/2.jpg"]
