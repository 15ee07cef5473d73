"""A zip is unpacked inside its own folder, all of it or nothing, or refused in words that name the zip."""

import csv
import io
import stat
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import shared
from PIL import Image

from panorama import archives
from panorama.archives import ArchiveError, import_zip

buffer = io.BytesIO()
Image.new("RGB", (8, 8), "teal").save(buffer, "JPEG")
JPEG = buffer.getvalue()
Entry = tuple[str | zipfile.ZipInfo, bytes]


def zipped(*entries: Entry, method: int = zipfile.ZIP_STORED) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return stream


def named(raw: str) -> zipfile.ZipInfo:
    """An entry whose name goes into the zip as it is."""
    info = zipfile.ZipInfo("x")
    info.filename = raw
    return info


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where zips are imported, deep in a folder in which everything else would be noticed."""
    return tmp_path / "a" / "b" / "data"


def assert_untouched(root: Path, place: Path) -> None:
    """Neither a file outside `place` nor anything half imported in it."""
    assert files_below(root) == {}
    assert not place.exists() or list(place.iterdir()) == []


# -- what is taken


def test_pictures_and_csvs_are_unpacked_where_they_lie_in_the_zip(place: Path) -> None:
    stream = zipped(
        ("set/train/1.jpg", JPEG), ("set/labels.csv", b"file,sea\n1.jpg,1\n"), ("set/2.PNG", b"2"), ("set/t.tsv", b"3")
    )
    folder = import_zip(stream, place, "set.zip")
    assert files_below(folder) == {
        "set/train/1.jpg": JPEG, "set/labels.csv": b"file,sea\n1.jpg,1\n", "set/2.PNG": b"2", "set/t.tsv": b"3"
    }  # fmt: skip
    assert folder.parent == place
    assert list(place.iterdir()) == [folder]


def test_two_tabs_may_be_given_the_same_zip_at_the_same_time(place: Path) -> None:
    data = zipped(*((f"{i}.jpg", JPEG) for i in range(200))).getvalue()
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: import_zip(io.BytesIO(data), place, "set.zip"), range(4)))
    assert list(place.iterdir()) == [folders[0]]
    assert set(folders) == {folders[0]}
    assert files_below(folders[0]) == {f"{i}.jpg": JPEG for i in range(200)}


def test_other_files_are_left_in_the_zip(place: Path) -> None:
    names = ["setup.py", "run.sh", "__MACOSX/._1.jpg", ".hidden/1.jpg", "a/.DS_Store", "a/.2.jpg", "b.zip", "jpg"]
    folder = import_zip(zipped(("1.jpg", JPEG), *((name, b"x") for name in names)), place, "set.zip")
    assert set(files_below(folder)) == {"1.jpg"}


def test_same_zip_twice_is_one_folder_and_is_not_unpacked_again(place: Path) -> None:
    first = import_zip(zipped(("1.jpg", JPEG)), place, "a.zip")
    (first / "1.jpg").write_bytes(b"kept")
    assert import_zip(zipped(("1.jpg", JPEG)), place, "b.zip") == first
    assert files_below(first) == {"1.jpg": b"kept"}
    assert import_zip(zipped(("2.jpg", JPEG)), place, "b.zip") != first


def test_path_and_stream_give_the_same(place: Path, tmp_path: Path) -> None:
    stream = zipped(("1.jpg", JPEG))
    path = tmp_path / "set.zip"
    path.write_bytes(stream.getvalue())
    assert import_zip(path, place, "set.zip") == import_zip(stream, place, "set.zip")


@pytest.mark.parametrize("name", ["./1.jpg", "a//1.jpg", "grün/été 1.jpg", "2020-01-01T10:00.jpg", "a..b/1...jpg"])
def test_odd_but_harmless_names_are_taken(name: str, place: Path) -> None:
    folder = import_zip(zipped((named(name), JPEG)), place, "set.zip")
    assert list(files_below(folder).values()) == [JPEG]


def test_entry_for_the_folder_itself_does_no_harm(place: Path) -> None:
    assert set(files_below(import_zip(zipped((named("./"), b""), ("1.jpg", JPEG)), place, "set.zip"))) == {"1.jpg"}


def test_progress_counts_the_files_that_are_taken(place: Path) -> None:
    calls: list[tuple[int, int]] = []
    stream = zipped(("1.jpg", JPEG), ("2.jpg", JPEG), ("readme.txt", b""))
    import_zip(stream, place, "set.zip", lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_leftovers_of_a_killed_import_are_replaced(place: Path) -> None:
    stream = zipped(("1.jpg", JPEG))
    target = import_zip(stream, place, "set.zip")
    leftover = target.rename(place / f".{target.name}.unpacking")  # as a kill before the last step leaves it
    (leftover / "half.jpg").write_bytes(b"half")
    assert files_below(import_zip(stream, place, "set.zip")) == {"1.jpg": JPEG}
    assert not leftover.exists()


# -- what is refused


def symlink(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def device(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFIFO | 0o666) << 16
    return info


def patched(stream: io.BytesIO, signature: bytes, offset: int, field: bytes) -> io.BytesIO:
    """The zip with a field of its first header of that kind overwritten."""
    data = bytearray(stream.getvalue())
    at = data.index(signature) + offset
    data[at : at + len(field)] = field
    return io.BytesIO(data)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
NAMED_PLACES = ["../x.jpg", "a/../../x.jpg", "..", "/x.jpg", "//server/x.jpg", "..\\x.jpg", "a\\x.jpg", "\\x.jpg", "C:/x.jpg", "C:x.jpg",
                "a/C:x.jpg", "a/c:/x.jpg", "x\n.jpg", "../x.txt", "/etc/cron.d/x"]  # fmt: skip


@pytest.mark.parametrize("name", NAMED_PLACES)
def test_name_that_leads_out_of_the_zip_is_refused(name: str, tmp_path: Path, place: Path) -> None:
    stream = zipped(("1.jpg", JPEG), (named(name), JPEG))
    with pytest.raises(ArchiveError, match=r"^set\.zip: the entry .* does not name a place inside the zip"):
        import_zip(stream, place, "set.zip")
    assert_untouched(tmp_path, place)


def test_name_cut_at_a_nul_is_refused(tmp_path: Path, place: Path) -> None:
    stream = io.BytesIO(zipped((named("x.jpg_.txt"), JPEG)).getvalue().replace(b"x.jpg_.txt", b"x.jpg\0.txt"))
    with pytest.raises(ArchiveError, match="does not name a place"):
        import_zip(stream, place, "set.zip")
    assert_untouched(tmp_path, place)


def lying_size() -> io.BytesIO:
    """Says 10 bytes and inflates to 300,000."""
    stream = zipped(("1.jpg", bytes(300_000)), method=zipfile.ZIP_DEFLATED)
    stream = patched(stream, CENTRAL, 24, struct.pack("<I", 10))
    return patched(stream, LOCAL, 22, struct.pack("<I", 10))


def flipped() -> io.BytesIO:
    """One bit of the stored picture is wrong."""
    return io.BytesIO(zipped(("1.jpg", b"A" * 100)).getvalue().replace(b"AAAA", b"AAAB", 1))


REFUSED = {
    "a link": (lambda: zipped((symlink("1.jpg"), b"/etc/passwd")), "'1.jpg' is a link or a device"),
    "a link to a folder": (lambda: zipped((symlink("a"), b"/tmp"), ("a/1.jpg", JPEG)), "'a' is a link or a device"),
    "a pipe": (lambda: zipped((device("1.jpg"), b"")), "is a link or a device"),
    "names that differ in case": (lambda: zipped(("a/1.jpg", JPEG), ("A/1.JPG", JPEG)), "'A/1.JPG' and 'a/1.jpg' are one file"),
    "names that differ in Unicode form": (lambda: zipped(("é.jpg", JPEG), ("e\u0301.jpg", JPEG)), "are one file on many"),
    "a file that is also a folder": (lambda: zipped(("a.jpg", JPEG), ("a.jpg/1.jpg", JPEG)), "'a.jpg' is a file and also the folder"),
    "an encrypted entry": (lambda: patched(patched(zipped(("1.jpg", JPEG)), CENTRAL, 8, b"\1"), LOCAL, 6, b"\1"), "'1.jpg' is encrypted"),
    "a bomb": (lambda: zipped(("1.jpg", bytes(20_000_000)), method=zipfile.ZIP_DEFLATED), "would grow .* times; refused as a bomb"),
    "a size that lies": (lying_size, "'1.jpg' is damaged"),
    "a damaged entry": (flipped, "'1.jpg' is damaged .*Bad CRC"),
    "a broken deflate stream": (
        lambda: patched(zipped(("1.jpg", JPEG * 9), method=zipfile.ZIP_DEFLATED), b"1.jpg", 5, b"\xff" * 8), "'1.jpg' is damaged"
    ),
    "a broken bzip2 stream": (
        lambda: patched(zipped(("1.jpg", JPEG * 9), method=zipfile.ZIP_BZIP2), b"BZh", 4, b"\xff" * 8), "'1.jpg' is damaged"
    ),
    "an unknown method": (lambda: patched(patched(zipped(("1.jpg", JPEG)), CENTRAL, 10, b"\x63"), LOCAL, 8, b"\x63"), "is damaged"),
    "a zip cut off": (lambda: io.BytesIO(zipped(("1.jpg", JPEG)).getvalue()[:-30]), "not a zip that can be read"),
    "no zip": (lambda: io.BytesIO(b"Rar!\x1a\x07\x00 and so on"), "RAR, 7z and tar are not read"),
    "nothing": (lambda: io.BytesIO(b""), "not a zip that can be read"),
    "nothing for us": (lambda: zipped(("readme.txt", b"x")), "holds no picture and no CSV"),
    "an empty zip": (lambda: zipped(), "holds no picture and no CSV"),
    "a name too long": (lambda: zipped(("ü" * 130 + ".jpg", JPEG)), "longer than 240 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_zip_is_named_and_leaves_nothing(kind: str, tmp_path: Path, place: Path) -> None:
    make, words = REFUSED[kind]
    stream = make()
    if kind not in (
        "no zip",
        "a zip cut off",
        "nothing",
        "nothing for us",
        "an empty zip",
    ):  # also where sound entries come before
        try:
            with zipfile.ZipFile(stream, "a") as archive:
                archive.writestr("sound.jpg", JPEG)
        except (zipfile.BadZipFile, NotImplementedError):
            pass
    with pytest.raises(ArchiveError, match=words) as caught:
        import_zip(stream, place, "set.zip")
    assert str(caught.value).startswith("set.zip: ")
    assert_untouched(tmp_path, place)


def test_more_than_the_limit_is_refused_before_anything_is_written(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    with pytest.raises(ArchiveError, match=r"more than .* GB when unpacked"):
        import_zip(zipped(("1.jpg", bytes(600)), ("2.jpg", bytes(600))), place, "set.zip")
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    with pytest.raises(ArchiveError, match="3 entries; at most 2"):
        import_zip(zipped(("1.jpg", b""), ("2.jpg", b""), ("3.jpg", b"")), place, "set.zip")
    assert_untouched(tmp_path, place)


def test_missing_zip_is_said(tmp_path: Path, place: Path) -> None:
    with pytest.raises(ArchiveError, match=r"^set\.zip: cannot be read \(No such file"):
        import_zip(tmp_path / "gone.zip", place, "set.zip")


def test_interrupted_import_leaves_nothing(tmp_path: Path, place: Path) -> None:
    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_zip(zipped(("1.jpg", JPEG), ("2.jpg", JPEG)), place, "set.zip", stop)
    assert_untouched(tmp_path, place)


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_copy", full)
    with pytest.raises(ArchiveError, match="No space left on device"):
        import_zip(zipped(("1.jpg", JPEG)), place, "set.zip")
    assert_untouched(tmp_path, place)


def test_negative_control_the_detector_sees_a_naive_unpacker_write_outside(tmp_path: Path, place: Path) -> None:
    place.mkdir(parents=True)
    with zipfile.ZipFile(zipped((named("../x.jpg"), JPEG))) as archive:
        for info in archive.infolist():
            (place / info.orig_filename).write_bytes(archive.read(info))  # what the checks are there to prevent
    with pytest.raises(AssertionError):
        assert_untouched(tmp_path, place)


# -- the corpus of public test suites

# Backslashes and control characters in names are harmless to yauzl's reader; here they are refused (see NAMED_PLACES).
STRICTER = {"yauzl-zips/success/sloppy-filenames.zip", "yauzl-zips/success/unicode-path-extra-field.zip"}


def corpus_zips(expected: str) -> list[str]:
    with shared("corpus", "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file) if row["kind"] in ("zip", "tar") and row["expected"] == expected]


def test_every_bad_zip_of_the_corpus_is_refused_and_leaves_nothing(tmp_path: Path, place: Path) -> None:
    files = corpus_zips("reject")
    for file in files:
        with pytest.raises(ArchiveError, match=r"^set\.zip: "):
            import_zip(shared("corpus", file), place, "set.zip")
        assert_untouched(tmp_path, place)
    assert len(files) >= 19


def test_every_bad_zip_of_the_corpus_is_refused_even_if_its_text_files_were_wanted(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_wanted", lambda path: True)
    # zipfile looks past these slips of the directory; the bytes of every entry are still counted and their CRC checked.
    looked_past = ("Invalid comment length", "size mismatch for stored file", "multi-disk")
    for file in corpus_zips("reject"):
        if not any(words in file for words in looked_past):
            with pytest.raises(ArchiveError, match=r"^set\.zip: "):
                import_zip(shared("corpus", file), place, "set.zip")
            assert_untouched(tmp_path, place)


def test_every_sound_zip_of_the_corpus_gives_what_zipfile_reads(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_wanted", lambda path: True)
    monkeypatch.setattr(archives, "MAX_RATIO", 10**6)  # big-compression.zip is a million zeros
    for file in sorted(set(corpus_zips("accept")) - STRICTER):
        with zipfile.ZipFile(shared("corpus", file)) as archive:
            inside = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
        assert files_below(import_zip(shared("corpus", file), place, "set.zip")) == inside
