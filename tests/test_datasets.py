"""A data set as read: the right targets for the right pictures, everything wrong said in words, and the split."""

import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, patch_picture
from PIL import Image, ImageEnhance

from panorama.archives import import_zip
from panorama.datasets import (
    DataSet,
    corrected_csvs,
    csv_fingerprint,
    load,
    sheet_parts,
    validation_part,
    write_corrected,
    write_unchanged,
)
from panorama.errors import PanoramaError
from panorama.finding import find_source
from panorama.labels import Problem


def draw(folder: Path, *names: str, seed: int = 0) -> Path:
    """Small pictures, no two alike."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        patch_picture(list(COLOURS)[number % 3 : number % 3 + 1], seed + number).save(folder / name)
    return folder


def read(folder: Path, home: Path, csv: str | bytes | None = None, **options: object) -> DataSet:
    """The data set of a folder, after writing its CSV."""
    if csv is not None:
        (folder / "labels.csv").write_bytes(csv if isinstance(csv, bytes) else csv.encode())
    return load(find_source(folder), home, **options)


def cells(data: DataSet) -> dict[str, list[int]]:
    return dict(zip(data.images, data.targets.tolist(), strict=True))


def told(data: DataSet, kind: str) -> list[str]:
    """The problems of a kind as a person reads them."""
    return [str(problem) for problem in data.problems if problem.kind == kind]


def many(labels: Sequence[str], n: int, folder: Path, *, seed: int = 0) -> str:
    """n pictures and their CSV with random labels."""
    rng = np.random.default_rng(seed)
    draw(folder, *(f"{i:03}.jpg" for i in range(n)), seed=1000 * seed)
    rows = [f"{i:03}.jpg," + ",".join(map(str, rng.integers(0, 2, len(labels)))) for i in range(n)]
    return "\n".join([",".join(["file", *labels]), *rows]) + "\n"


# -- layouts and label styles


def test_seed_layout_brings_its_split(seed_folder: Callable[..., Path], home: Path) -> None:
    folder = seed_folder(12, 5)
    data = load(find_source(folder), home)
    assert data.labels == ("red", "green", "blue")
    assert (data.splits.count("train"), data.splits.count("test"), data.n_left_out) == (12, 5, 0)
    for split in ("train", "test"):
        rows = [line.split(",") for line in (folder / f"{split}_label.csv").read_text().splitlines()[1:]]
        assert {name: list(map(int, values)) for name, *values in rows}.items() <= cells(data).items()
    assert all(path == folder / split / image for image, path, split in zip(data.images, data.paths, data.splits, strict=True))
    assert [problem for problem in data.problems if problem.severity == "error"] == []
    assert not (home / "splits").exists()


STYLES = {
    "0 and 1": ("0", "1"), "0.0 and 1.0": ("0.0", "1.0"), "true and false": ("false", "true"), "True and False": ("False", "True"),
    "yes and no": ("no", "yes"), "crosses": ("", "x"),
}  # fmt: skip
TRUTH = {"1.png": [1, 0], "2.png": [0, 1], "3.png": [1, 1], "4.png": [0, 0], "5.png": [1, 0], "6.png": [0, 1]}


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_label_columns_is_read(style: str, tmp_path: Path, home: Path) -> None:
    rows = [",".join([name, *(STYLES[style][value] for value in values)]) for name, values in TRUTH.items()]
    data = read(draw(tmp_path, *TRUTH), home, "\n".join(["picture,sea,sky", *rows]))
    assert data.labels == ("sea", "sky")
    assert cells(data) == TRUTH


@pytest.mark.parametrize("separator", [" ", ",", ";", "|", ", "])
def test_one_column_of_tags_is_read(separator: str, tmp_path: Path, home: Path) -> None:
    tags = {
        name: separator.join(label for label, value in zip(("sea", "sky"), values, strict=True) if value)
        for name, values in TRUTH.items()
    }
    data = read(draw(tmp_path, *TRUTH), home, "\n".join(["picture,tags", *(f'{name},"{text}"' for name, text in tags.items())]))
    assert data.labels == ("sea", "sky")
    assert cells(data) == TRUTH
    assert told(data, "tags")


WAYS = {
    "in folders inside": (["a/1.png", "b/2.png"], ["1.png", "2.png"]),
    "with the folder": (["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
    "without suffix": (["1.png", "2.jpg"], ["1", "2"]),
    "in other case": (["Beach.JPG", "2.png"], ["beach.jpg", "2.PNG"]),
    "with folders that are not there": (["1.png", "2.png"], ["/home/me/pics/1.png", "pics/2.png"]),
    "with backslashes": (["a/1.png", "b/1.png"], ["a\\1.png", "C:\\pics\\b\\1.png"]),
    "with spaces around": (["1.png", "2 3.png"], [" 1.png", "2 3.png "]),
}


@pytest.mark.parametrize("way", WAYS)
def test_pictures_are_found_by_names_as_people_write_them(way: str, tmp_path: Path, home: Path) -> None:
    files, names = WAYS[way]
    data = read(draw(tmp_path, *files), home, f"file,sea\n{names[0]},1\n{names[1]},0\n")
    assert [path.relative_to(tmp_path).as_posix() for path in data.paths] == files
    assert data.images == tuple(name.strip() for name in names)
    assert data.targets.tolist() == [[1], [0]]
    assert data.n_left_out == 0


def test_exact_path_comes_before_a_name_that_only_ends_alike(tmp_path: Path, home: Path) -> None:
    csv = "file,sea\nold/1.png,0\nnew/1.png,1\n"  # old/ is gone: its row must not take the picture of the next
    data = read(draw(tmp_path, "new/1.png"), home, csv)
    assert cells(data) == {"new/1.png": [1]}
    (text,) = told(data, "duplicate-file")
    assert text.startswith("labels.csv, line 2: 'old/1.png' means the same picture as 'new/1.png'")


def test_name_as_written_comes_before_one_in_another_case(tmp_path: Path, home: Path) -> None:
    csv = "file,sea\nA.PNG,0\na.png,1\n"  # A.PNG is gone
    assert cells(read(draw(tmp_path, "a.png"), home, csv)) == {"a.png": [1]}


def test_link_among_the_pictures_is_called_a_link(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "set/1.png", "elsewhere/2.png")
    (tmp_path / "set" / "2.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (text,) = told(read(tmp_path / "set", home, "file,sea\n1.png,1\n2.png,0\n"), "missing-file")
    assert text.startswith("labels.csv, line 3: '2.png' is a link, and links are not followed.")


def test_zip_with_one_folder_inside_is_read(tmp_path: Path, home: Path) -> None:
    draw(tmp_path / "set", "1.png", "2.png")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("1.png", "2.png"):
            archive.write(tmp_path / "set" / name, f"set/{name}")
        archive.writestr("set/labels.csv", "file,sea\n1.png,1\n2.png,0\n")
    data = load(find_source(import_zip(tmp_path / "set.zip", home / "data", "set.zip")), home)
    assert cells(data) == {"1.png": [1], "2.png": [0]}


def test_same_name_in_train_and_test_gets_its_folder(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "train/1.png", "train/2.png", "test/1.png", "test/3.png")
    (tmp_path / "train_label.csv").write_text("f,sea\n1.png,1\n2.png,0\n")
    (tmp_path / "test_label.csv").write_text("f,sea\n1.png,0\n3.png,1\n")
    data = load(find_source(tmp_path), home)
    assert cells(data) == {"train/1.png": [1], "2.png": [0], "test/1.png": [0], "3.png": [1]}
    assert data.splits == ("train", "train", "test", "test")
    contents = corrected_csvs(data.parts, {("test/1.png", "sea"): 1})
    assert contents == {"train_label.csv": b"f,sea\n1.png,1\n2.png,0\n", "test_label.csv": b"f,sea\n1.png,1\n3.png,1\n"}


def test_image_keeps_its_name_when_its_twin_cannot_be_read(tmp_path: Path, home: Path) -> None:
    """Or a decision made on it could not be exported once the pictures are away."""
    draw(tmp_path, "train/1.png", "test/2.png")
    (tmp_path / "test" / "1.png").write_bytes(b"broken")
    (tmp_path / "train_label.csv").write_text("f,sea\n1.png,1\n")
    (tmp_path / "test_label.csv").write_text("f,sea\n1.png,0\n2.png,1\n")
    data = load(find_source(tmp_path), home)
    assert data.images == ("train/1.png", "2.png")
    names = {image for part in sheet_parts(find_source(tmp_path), decided=set()) for image in part.image_of_name.values()}
    assert set(data.images) <= names


def test_columns_of_the_two_csvs_may_stand_in_another_order(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "train/1.png", "test/2.png")
    (tmp_path / "train_label.csv").write_text("f,sea,sky\n1.png,1,0\n")
    (tmp_path / "test_label.csv").write_text("f,sky,sea\n2.png,1,0\n")
    data = load(find_source(tmp_path), home)
    assert data.labels == ("sea", "sky")
    assert cells(data) == {"1.png": [1, 0], "2.png": [0, 1]}


def test_csvs_are_read_from_the_copies_of_a_run(tmp_path: Path, home: Path) -> None:
    draw(tmp_path / "set", "1.png", "2.png")
    read(tmp_path / "set", home, "file,sea\n1.png,1\n2.png,0\n")
    (tmp_path / "labels.csv").write_text("file,sea\n1.png,0\n2.png,0\n")
    assert cells(read(tmp_path / "set", home, csv_folder=tmp_path)) == {"1.png": [0], "2.png": [0]}


# -- what is wrong, in words

SIX = "".join(f"{i}.png,{i % 2},1\n" for i in range(1, 7))  # lines 2 to 7
WRONG = {  # kind: (CSV, severity, what is said, what is left out)
    "missing-file": (f"f,a,b\n{SIX}9.png,1,0\n", "error", "labels.csv, line 8: the picture '9.png' is not in the folder 'set' or below it. Add it or remove the row", 1),
    "no-row": ("f,a,b\n" + SIX.replace("6.png,0,1\n", ""), "warning", "6.png: has no row in labels.csv; it is not used", 0),
    "duplicate-row": (f"f,a,b\n{SIX}2.png,0,1\n", "warning", "labels.csv, line 8: 2.png is also on line 3, with the same labels", 0),
    "conflicting-rows": (f"f,a,b\n{SIX}2.png,1,1\n", "error", "labels.csv, line 8: 2.png is also on line 3, with other labels: a is 1 here and 0 there", 1),
    "duplicate-file": (f"f,a,b\n{SIX}2,1,1\n", "error", "labels.csv, line 8: '2' means the same picture as '2.png' (2.png). Keep one row", 1),
    "not-binary": ("f,a,b\n" + SIX.replace("3.png,1", "3.png,2"), "error", "labels.csv, line 4: a is '2'; expected 0 or 1", 1),
    "empty-column": ("f,a,b,c\n" + SIX.replace(",1\n", ",1,\n"), "warning", "labels.csv: column 'c' is empty; expected 0 or 1", 0),
    "no-positives": ("f,a,b\n" + SIX.replace(",1\n", ",0\n"), "warning", "labels.csv: b is 0 in every row (6); it cannot be learned", 0),
    "few-positives": (f"f,a,b\n{SIX}", "warning", "labels.csv: a is 1 in only 3 of 6 rows; expected at least 5", 0),
    "ambiguous-file": (f"f,a,b\n{SIX}7.png,1,0\n", "error", "labels.csv, line 8: '7.png' may mean x/7.png or y/7.png. Write the folder into the CSV", 1),
    "unreadable": (f"f,a,b\n{SIX}bad.png,1,0\n", "error", "bad.png: not a picture that can be read", 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_said_with_its_line_or_file(kind: str, tmp_path: Path, home: Path) -> None:
    csv, severity, words, n_left_out = WRONG[kind]
    folder = draw(tmp_path / "set", *(f"{i}.png" for i in range(1, 7)))
    if kind == "ambiguous-file":
        draw(folder, "x/7.png", "y/7.png", seed=50)
    if kind == "unreadable":
        (folder / "bad.png").write_bytes(b"no picture")
    data = read(folder, home, csv)
    problems = [problem for problem in data.problems if problem.kind == kind]
    assert [problem.severity for problem in problems[:1]] == [severity]
    assert words in str(problems[0]).replace('"', "'")
    assert data.n_left_out == n_left_out
    assert len(data.images) + len(data.parts[0].sheet.left_out) >= 5


def test_ragged_row_is_said_with_its_line(tmp_path: Path, home: Path) -> None:
    folder = draw(tmp_path / "set", "1.png", "2.png", "3.png")
    csv = "f,a,b\n1.png,1,0\n2.png,1\n3.png,0,1\n"
    try:
        texts = [str(problem) for problem in read(folder, home, csv).problems]
    except PanoramaError as error:
        texts = [str(error)]
    assert any(text.startswith("labels.csv, line 3: ") for text in texts), texts


def test_problems_of_one_kind_are_counted_after_twenty(tmp_path: Path, home: Path) -> None:
    folder = draw(tmp_path / "set", "1.png", "2.png")
    data = read(folder, home, "f,a\n1.png,1\n2.png,0\n" + "".join(f"gone{i}.png,1\n" for i in range(50)))
    texts = told(data, "missing-file")
    assert len(texts) == 21
    assert texts[-1] == "labels.csv: 30 more rows have no picture of their own and are left out."
    assert data.n_left_out == 50


def test_labels_that_differ_between_the_csvs_are_named(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "train/1.png", "test/2.png")
    (tmp_path / "train_label.csv").write_text("f,sea,sky\n1.png,1,0\n")
    (tmp_path / "test_label.csv").write_text("f,sea,trees\n2.png,1,0\n")
    with pytest.raises(PanoramaError, match=r"train_label\.csv and test_label\.csv do not have the same labels: sky, trees"):
        load(find_source(tmp_path), home)


def test_no_image_left_says_why(tmp_path: Path, home: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes(b"x")
    with pytest.raises(PanoramaError, match=r"no image is left to work with\. 1\.png: the file is empty.*2\.png: not a picture"):
        read(tmp_path, home, "f,sea,note\n1.png,1,wide\n2.png,0,high\n")


def test_file_name_that_is_not_utf8_can_be_shown(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "1.png", "2.png", "old.png")
    try:
        (tmp_path / "old.png").rename(tmp_path / "stra\udcdfe.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (text,) = told(read(tmp_path, home, "f,sea\n1.png,1\n2.png,0\n"), "no-row")
    assert text.encode("utf-8")


def test_folder_whose_name_is_not_utf8_is_read_and_can_be_shown(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "old/1.png", "old/2.png", "new/2.png")
    try:
        (tmp_path / "old").rename(tmp_path / "stra\udcdfe")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for _ in range(2):  # the second time from what was remembered
        data = read(tmp_path, home, "f,sea\n1.png,1\n2.png,0\n")
        assert cells(data) == {"1.png": [1]}
        for problem in data.problems:
            assert str(problem).encode("utf-8")
        assert len(told(data, "ambiguous-file")) == 1


def test_picture_that_was_repaired_is_looked_at_again(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "1.png", "2.png")
    sound = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(sound[:100])
    csv = "f,sea\n1.png,1\n2.png,0\n"
    assert told(read(tmp_path, home, csv), "unreadable")
    (tmp_path / "2.png").write_bytes(sound)
    assert not told(read(tmp_path, home), "unreadable")
    (tmp_path / "1.png").write_bytes(b"broken by now")
    assert told(read(tmp_path, home), "unreadable")


def test_scanned_pictures_are_remembered_and_a_broken_memory_does_no_harm(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "1.png", "2.png")
    first = read(tmp_path, home, "f,sea\n1.png,1\n2.png,0\n").pictures
    assert read(tmp_path, home).pictures == first
    (home / "cache" / "pictures.sqlite").write_bytes(b"not a database" * 100)
    assert read(tmp_path, home).pictures == first


def test_progress_ends_with_every_picture(tmp_path: Path, home: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = draw(tmp_path, "1.png", "2.png", "3.png")
    read(folder, home, "f,sea\n1.png,1\n2.png,0\n3.png,0\n", on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)


# -- near-duplicates


def with_copies(folder: Path, n: int, n_copies: int) -> str:
    """n pictures, of the first of them brighter and smaller copies, and the CSV."""
    csv = many(["a", "b"], n, folder)
    lines = csv.splitlines()
    for i in range(n_copies):
        with Image.open(folder / f"{i:03}.jpg") as image:
            ImageEnhance.Brightness(image.resize((60, 46))).enhance(1.1).save(folder / f"copy_{i:03}.jpg", quality=80)
        lines.append(f"copy_{i:03}.jpg," + lines[i + 1].split(",", 1)[1])
    return "\n".join(lines) + "\n"


def test_near_duplicates_are_on_one_side_of_the_split_and_of_validation(tmp_path: Path, home: Path) -> None:
    data = read(tmp_path, home, with_copies(tmp_path, 40, 12))
    at = {image: i for i, image in enumerate(data.images)}
    pairs = [(at[f"{i:03}.jpg"], at[f"copy_{i:03}.jpg"]) for i in range(12)]
    assert all(data.groups[i] == data.groups[j] for i, j in pairs)
    assert len(np.unique(data.groups)) == 40
    for seed in range(4):
        data = read(tmp_path, home, seed=seed)
        held_out = validation_part(data, 0.25, seed)
        assert all(data.splits[i] == data.splits[j] and held_out[i] == held_out[j] for i, j in pairs)
    (problem,) = [problem for problem in data.problems if problem.kind == "near-duplicates"]
    assert problem.severity == "note"
    assert str(problem).startswith(
        "24 images form 12 groups of near-duplicates by their pixels (for example 000.jpg, copy_000.jpg); 0 of the groups disagree"
    )


def test_near_duplicates_across_a_split_that_was_given_are_told(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    (tmp_path / "test" / "4.png").write_bytes((tmp_path / "train" / "1.png").read_bytes())
    (tmp_path / "train_label.csv").write_text("f,sea\n1.png,1\n2.png,0\n")
    (tmp_path / "test_label.csv").write_text("f,sea\n3.png,0\n4.png,0\n")
    (problem,) = [problem for problem in load(find_source(tmp_path), home).problems if problem.kind == "near-duplicates"]
    assert problem.severity == "warning"
    assert "(for example 1.png, 4.png); 1 of the groups disagree in their labels, 1 have images in both train and test" in str(
        problem
    )


# -- the split


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 pictures with three labels of their own shares."""
    folder = tmp_path_factory.mktemp("hundred")
    draw(folder, *(f"{i:03}.png" for i in range(100)))
    targets = (np.random.default_rng(1).random((100, 3)) < [0.5, 0.3, 0.1]).astype(int)
    rows = [",".join([f"{i:03}.png", *map(str, row)]) for i, row in enumerate(targets)]
    (folder / "labels.csv").write_text("\n".join(["file,a,b,c", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("share", [0.2, 0.35])
@pytest.mark.parametrize("seed", [0, 1])
def test_split_has_the_share_of_images_and_of_each_label(hundred: Path, home: Path, seed: int, share: float) -> None:
    data = read(hundred, home, seed=seed, test_share=share)
    test = data.indices("test")
    assert sorted([*test, *data.indices("train")]) == list(range(100))
    assert abs(len(test) - 100 * share) <= 2
    assert (np.abs(data.targets[test].sum(0) - share * data.targets.sum(0)) <= 1.5).all()


def test_same_seed_gives_the_same_split_and_another_seed_another(hundred: Path, home: Path, tmp_path: Path) -> None:
    first = read(hundred, home, seed=3).splits
    assert read(hundred, home, seed=3).splits == first
    assert read(hundred, tmp_path / "another workspace", seed=3).splits == first
    assert read(hundred, home, seed=4).splits != first


def test_split_is_written_and_what_is_written_counts(hundred: Path, home: Path) -> None:
    data = read(hundred, home)
    (file,) = (home / "splits").iterdir()
    lines = file.read_text().splitlines()
    assert lines == ["image,split", *(f"{image},{split}" for image, split in zip(data.images, data.splits, strict=True))]
    swapped = [line.replace(",test", ",TRAIN").replace(",train", ",test").replace("TRAIN", "train") for line in lines]
    file.write_text("\n".join(swapped) + "\n")
    assert read(hundred, home).splits == tuple("train" if split == "test" else "test" for split in data.splits)


def test_split_of_names_with_line_breaks_is_written_and_what_is_written_counts(tmp_path: Path, home: Path) -> None:
    draw(tmp_path, *(f"{i}\r.png" for i in range(10)))
    csv = "file,sea\n" + "".join(f'"{i}\r.png",{i % 2}\n' for i in range(10))
    data = read(tmp_path, home, csv)
    (file,) = (home / "splits").iterdir()
    assert file.read_bytes().count(b",test\n") == data.splits.count("test") == 2
    file.write_bytes(file.read_bytes().replace(b",test\n", b",train\n"))
    assert "test" not in read(tmp_path, home).splits


def test_two_tabs_may_read_a_new_data_set_at_the_same_time(hundred: Path, home: Path) -> None:
    data = read(hundred, home)
    (file,) = (home / "splits").iterdir()
    for _ in range(5):
        file.unlink()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: load(find_source(hundred), home).splits, range(8)))
        assert set(found) == {data.splits}
        assert [left.name for left in file.parent.iterdir()] == [file.name]


def test_split_that_cannot_be_written_is_said(hundred: Path, home: Path) -> None:
    (home / "splits").write_text("in the way")
    with pytest.raises(PanoramaError, match="the split cannot be written down"):
        read(hundred, home)


def test_damaged_split_file_is_made_again(hundred: Path, home: Path) -> None:
    splits = read(hundred, home).splits
    (file,) = (home / "splits").iterdir()
    for damage in (b"", b"image,split\n000.png,test\n", b"\xff\xfe\x00", b"\0"):
        file.write_bytes(damage)
        assert read(hundred, home).splits == splits


def test_corrected_labels_keep_the_split(hundred: Path, home: Path, tmp_path: Path) -> None:
    data = read(hundred, home)
    corrections = {(image, "c"): 1 - int(data.targets[i, 2]) for i, image in enumerate(data.images[:60])}
    write_corrected(data.parts, hundred, corrections, tmp_path)
    again = read(hundred, home, csv_folder=tmp_path)
    assert again.targets.tolist() != data.targets.tolist()
    assert again.splits == data.splits


def test_validation_is_a_share_of_the_training_images(hundred: Path, home: Path) -> None:
    data = read(hundred, home)
    held_out = validation_part(data, 0.25, 0)
    assert not held_out[data.indices("test")].any()
    assert abs(held_out.sum() - 20) <= 2
    assert np.array_equal(held_out, validation_part(data, 0.25, 0))
    assert not np.array_equal(held_out, validation_part(data, 0.25, 1))


def test_too_few_pictures_for_training_are_said(tmp_path: Path, home: Path) -> None:
    data = read(draw(tmp_path, "1.png", "2.png"), home, "f,sea\n1.png,1\n2.png,0\n")
    with pytest.raises(PanoramaError, match="Too few pictures for training"):
        validation_part(data, 0.2, 0)


def test_few_pictures_still_leave_one_for_validation_and_some_for_training(tmp_path: Path, home: Path) -> None:
    data = read(draw(tmp_path, *(f"{i}.png" for i in range(4))), home, "f,sea\n" + "".join(f"{i}.png,1\n" for i in range(4)))
    for seed in range(5):
        assert 0 < validation_part(data, 0.01, seed).sum() < len(data.indices("train"))


# -- writing


@pytest.fixture
def given(tmp_path: Path, home: Path) -> tuple[Path, DataSet, bytes]:
    """A folder, its data set and its CSV's bytes: BOM, CRLF, quotes and an extra column."""
    csv = b'\xef\xbb\xbffile,"sea",note,sky\r\n1.png,1,"a ""b""",0\r\n2.png,0,,1\r\n\r\n3.png,1,wide,1'
    folder = draw(tmp_path / "set", "1.png", "2.png", "3.png")
    return folder, read(folder, home, csv), csv


def test_without_corrections_every_byte_is_the_same(given: tuple[Path, DataSet, bytes], tmp_path: Path) -> None:
    folder, data, csv = given
    (written,) = write_corrected(data.parts, folder, {}, tmp_path / "out" / "deep")
    assert written == tmp_path / "out" / "deep" / "labels.csv"
    assert written.read_bytes() == csv
    (again,) = write_unchanged(find_source(folder), tmp_path / "again")
    assert again.read_bytes() == csv


def test_correction_changes_its_cell_and_no_other_byte(given: tuple[Path, DataSet, bytes], tmp_path: Path) -> None:
    folder, data, csv = given
    (written,) = write_corrected(data.parts, folder, {("2.png", "sea"): 1, ("3.png", "sky"): 1}, tmp_path / "out")
    assert written.read_bytes() == csv.replace(b"2.png,0,,1", b"2.png,1,,1")
    assert sorted(path.name for path in written.parent.iterdir()) == ["labels.csv"]


def test_original_is_never_overwritten(given: tuple[Path, DataSet, bytes], tmp_path: Path) -> None:
    folder, data, csv = given
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    for name, make in (("symlink", Path.symlink_to), ("hardlink", Path.hardlink_to)):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "labels.csv", folder / "labels.csv")
    for out in (folder, folder / ".." / "set", tmp_path / "link", tmp_path / "symlink", tmp_path / "hardlink"):
        with pytest.raises(PanoramaError, match=r"the original is never overwritten\. Choose another folder"):
            write_corrected(data.parts, folder, {("1.png", "sea"): 0}, out)
        with pytest.raises(PanoramaError, match="the original is never overwritten"):
            write_unchanged(find_source(folder), out)
    assert (folder / "labels.csv").read_bytes() == csv


def test_export_works_when_the_original_is_gone(given: tuple[Path, DataSet, bytes], tmp_path: Path) -> None:
    folder, data, csv = given
    write_corrected(data.parts, folder, {}, tmp_path / "out")
    (folder / "labels.csv").unlink()
    (written,) = write_corrected(data.parts, folder, {}, tmp_path / "out")
    assert written.read_bytes() == csv


def test_export_works_when_the_pictures_are_gone(given: tuple[Path, DataSet, bytes], tmp_path: Path) -> None:
    folder, _, csv = given
    source = find_source(folder)
    for path in folder.glob("*.png"):
        path.unlink()
    parts = sheet_parts(source, decided={"2.png"})
    (written,) = write_corrected(parts, folder, {("2.png", "sea"): 1}, tmp_path / "out")
    assert written.read_bytes() == csv.replace(b"2.png,0,,1", b"2.png,1,,1")


@pytest.mark.parametrize(
    ("correction", "words"),
    [
        (("9.png", "sea"), "'9.png' is not an image of this data set; 1 decision cannot"),
        (("1.png", "moon"), "'1.png' has no label 'moon'"),
    ],
)
def test_correction_that_has_no_place_is_said_and_nothing_is_written(
    correction: tuple[str, str], words: str, given: tuple[Path, DataSet, bytes], tmp_path: Path
) -> None:
    folder, data, _ = given
    with pytest.raises(PanoramaError, match=words):
        write_corrected(data.parts, folder, {("1.png", "sea"): 0, correction: 1}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_is_said(given: tuple[Path, DataSet, bytes], tmp_path: Path) -> None:
    folder, data, _ = given
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PanoramaError, match=r"labels\.csv: cannot be written \("):
        write_corrected(data.parts, folder, {}, tmp_path / "file")


# -- identity


def test_fingerprint_tells_the_bytes_of_the_csvs_and_not_their_place(
    given: tuple[Path, DataSet, bytes], tmp_path: Path, home: Path
) -> None:
    folder, data, csv = given
    moved = folder.rename(tmp_path / "moved")
    assert read(moved, home).fingerprint == data.fingerprint == csv_fingerprint([csv])
    assert read(moved, home, csv + b"\n").fingerprint != data.fingerprint
    assert csv_fingerprint([b"a", b"b"]) != csv_fingerprint([b"b", b"a"]) != csv_fingerprint([b"ba"])


def test_problems_are_values() -> None:
    assert str(Problem("error", "x", "wrong.", "a.csv", 3)) == "a.csv, line 3: wrong."
