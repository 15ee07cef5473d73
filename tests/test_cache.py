"""The cache: what is read back is what was written, whatever crashed, whoever else writes, and however full it is."""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import patch_picture
from PIL import Image
from torch import nn

from panorama import cache, features
from panorama.cache import PixelFile, Rows
from panorama.features import Features, Indices, Pixels, cached, extract, whole_pass
from panorama.images import PictureError, open_rgb
from panorama.model import Classifier
from panorama.preprocessing import square

WIDTH = 7


def content(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def some(numbers: range | list[int]) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Contents and rows that tell which number they are of."""
    return [content(n) for n in numbers], np.array([np.arange(WIDTH) + 100 * n for n in numbers], np.float32)


def test_rows_come_back_under_their_content_in_the_order_asked(tmp_path: Path) -> None:
    rows = Rows(tmp_path, "k", WIDTH)
    rows.append(*some(range(5)))
    rows.append(*some(range(5, 8)))
    wanted = [6, 99, 0, 6, 3]
    known, found = rows.read([content(n) for n in wanted])
    assert known.tolist() == [True, False, True, True, True]
    assert (found[known] == some([6, 0, 6, 3])[1]).all()
    assert not Rows(tmp_path, "another key", WIDTH).read([content(0)])[0].any()


def test_what_a_crash_left_unfinished_is_cut_off_and_the_rest_stays(tmp_path: Path) -> None:
    rows = Rows(tmp_path, "k", WIDTH)
    rows.append(*some(range(4)))
    file = tmp_path / "features" / "k.rows"
    file.write_bytes(file.read_bytes()[:-3])
    assert rows.read([content(n) for n in range(4)])[0].tolist() == [True, True, True, False]
    rows.append(*some([3, 4]))
    known, found = rows.read([content(n) for n in range(5)])
    assert known.all()
    assert (found == some(range(5))[1]).all()


def test_a_row_that_was_damaged_is_not_believed(tmp_path: Path) -> None:
    rows = Rows(tmp_path, "k", WIDTH)
    rows.append(*some(range(3)))
    file = tmp_path / "features" / "k.rows"
    data = bytearray(file.read_bytes())
    data[len(data) // 3 + 40] ^= 1  # within the second of three rows
    file.write_bytes(bytes(data))
    assert rows.read([content(n) for n in range(3)])[0].tolist() == [True, False, True]


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        mine = Rows(tmp_path, "k", WIDTH)
        for n in range(20):
            mine.append(*some([writer * 20 + n]))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known, found = Rows(tmp_path, "k", WIDTH).read([content(n) for n in range(80)])
    assert known.all()
    assert (found == some(range(80))[1]).all()


def test_a_full_cache_drops_what_was_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents, values = some(range(100))
    for age, key in enumerate(["newest", "middle", "oldest"]):
        Rows(tmp_path, key, WIDTH).append(contents, values)
        file = tmp_path / "features" / f"{key}.rows"
        os.utime(file, (1e9 - age, 1e9 - age))
    one = (tmp_path / "features" / "oldest.rows").stat().st_size
    monkeypatch.setenv("PANORAMA_CACHE_GB", str(3.5 * one / 1e9))
    Rows(tmp_path, "one more", WIDTH).append(contents, values)
    assert sorted(path.stem for path in (tmp_path / "features").glob("*.rows")) == ["middle", "newest", "one more"]
    assert cache.size(tmp_path) <= cache.limit(tmp_path)


def test_what_does_not_fit_at_all_is_not_kept_and_evicts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents, values = some(range(100))
    Rows(tmp_path, "there", WIDTH).append(contents[:10], values[:10])
    monkeypatch.setenv("PANORAMA_CACHE_GB", "0.000001")
    Rows(tmp_path, "large", WIDTH).append(contents, values)
    assert [path.stem for path in (tmp_path / "features").glob("*.rows")] == ["there"]
    PixelFile(tmp_path, "k", 1000, 8).write(pytest.fail("decoded for nothing") for _ in range(1))
    assert not list((tmp_path / "pixels").glob("*"))


def test_clearing_says_how_much_went_and_leaves_files_of_others(tmp_path: Path) -> None:
    Rows(tmp_path, "k", WIDTH).append(*some(range(10)))
    (tmp_path / "pictures.sqlite").write_bytes(b"another cache")
    (tmp_path / "features" / "notes.txt").write_text("not ours")
    taken = cache.size(tmp_path)
    assert taken > 0
    assert cache.clear(tmp_path) == taken
    assert cache.size(tmp_path) == 0
    assert (tmp_path / "pictures.sqlite").exists()
    assert (tmp_path / "features" / "notes.txt").exists()


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[list[Path], list[str]]:
    """Nine files, the last a copy of the first, and their contents."""
    paths = [tmp_path / f"{n}.png" for n in range(9)]
    for n, path in enumerate(paths):
        patch_picture(["red"] if n % 2 else ["blue"], n % 8).save(path)
    return paths, [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_pixels_from_the_cache_are_those_of_the_files(tmp_path: Path, pictures: tuple[list[Path], list[str]]) -> None:
    paths, contents = pictures
    expected = np.stack([square(open_rgb(path), 32) for path in paths])
    folder = tmp_path / "cache"
    for _ in range(2):
        pixels = Pixels(paths, [path.name for path in paths], 32, contents=contents, cache=folder)
        pixels.read()
        assert (pixels.batch(np.arange(9)).numpy() == expected).all()
    for path in paths[:3]:
        path.unlink()
    assert (pixels.batch(np.array([2, 0])).numpy() == expected[[2, 0]]).all(), "read from the cache, not from the files"
    cache.clear(folder)
    assert (pixels.batch(np.array([1])).numpy() == expected[[1]]).all(), "cleared under a run that has it open"


def test_more_pictures_than_are_decoded_at_once_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_THREADS", 1)  # eight are on their way
    colours = np.random.default_rng(0).integers(0, 256, (21, 3), np.uint8)
    paths = [tmp_path / f"{n:02}.png" for n in range(21)]
    for path, colour in zip(paths, colours.tolist(), strict=True):
        Image.new("RGB", (40, 40), tuple(colour)).save(path)
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    told: list[tuple[int, int]] = []

    def read(folder: str) -> Pixels:
        pixels = Pixels(paths, [path.name for path in paths], 32, contents=contents, cache=tmp_path / folder)
        pixels.read(lambda done, total: told.append((done, total)))
        return pixels

    pixels = read("one").batch(np.arange(21)).numpy()
    assert (pixels == colours[:, None, None]).all()
    assert told == [(8, 21), (16, 21), (21, 21)]
    paths[12].write_bytes(paths[11].read_bytes())
    with pytest.raises(PictureError, match=r"^12\.png: the file has changed"):
        read("two")
    assert not list((tmp_path / "two" / "pixels").iterdir()), "not even a part of the file"


def test_a_damaged_or_cut_pixel_file_is_read_from_the_pictures_again(
    tmp_path: Path, pictures: tuple[list[Path], list[str]]
) -> None:
    paths, contents = pictures
    expected = np.stack([square(open_rgb(path), 32) for path in paths])

    def read() -> npt.NDArray[np.uint8]:
        pixels = Pixels(paths, [path.name for path in paths], 32, contents=contents, cache=tmp_path / "cache")
        pixels.read()
        found: npt.NDArray[np.uint8] = pixels.batch(np.arange(9)).numpy()
        return found

    read()
    (file,) = (tmp_path / "cache" / "pixels").glob("*.pixels")
    sound = file.read_bytes()
    file.write_bytes(sound[:100] + bytes([sound[100] ^ 255]) + sound[101:])
    assert (read() == expected).all()
    assert not file.exists(), "what is not sound is not kept"
    file.write_bytes(sound[:-1])
    assert (read() == expected).all()
    assert file.stat().st_size == len(sound), "and written anew"


@pytest.mark.parametrize("gigabytes", ["0", "0.000001"])
def test_without_room_pixels_are_decoded_when_asked_for(
    tmp_path: Path, pictures: tuple[list[Path], list[str]], monkeypatch: pytest.MonkeyPatch, gigabytes: str
) -> None:
    monkeypatch.setenv("PANORAMA_CACHE_GB", gigabytes)
    paths, contents = pictures
    pixels = Pixels(paths, [path.name for path in paths], 32, contents=contents, cache=tmp_path / "cache")
    pixels.read()
    assert not list((tmp_path / "cache").rglob("*.pixels"))
    assert (pixels.batch(np.array([4])).numpy() == square(open_rgb(paths[4]), 32)).all()


def small_model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8, 2)


def test_a_pass_computes_each_content_once_and_none_the_second_time(
    tmp_path: Path, pictures: tuple[list[Path], list[str]]
) -> None:
    paths, contents = pictures
    pixels = Pixels(paths, [path.name for path in paths], 36)
    run = whole_pass(small_model(), pixels, image_size=32, dtype=torch.float32)
    computed: list[int] = []

    def counting(indices: Indices):  # type: ignore[no-untyped-def]
        computed.extend(indices.tolist())
        return run(indices)

    def again(some_contents: list[str]) -> Features:
        computed.clear()
        return cached(counting, some_contents, 8, ["weights"], tmp_path / "cache")

    expected = extract(run, np.arange(9), 8)
    assert again(contents) == pytest.approx(expected, abs=1e-6)
    assert computed == list(range(8)), "the copy has the content of the first"
    assert (again(contents) == again(contents)).all()
    assert computed == []
    assert again([content(1), *contents[1:]])[1:] == pytest.approx(expected[1:], abs=1e-6)
    assert computed == [0], "one picture replaced: it alone is new, the copy of what it was is known"


def test_a_pass_that_was_stopped_goes_on_where_it_was(tmp_path: Path, pictures: tuple[list[Path], list[str]]) -> None:
    paths, contents = pictures
    pixels = Pixels(paths, [path.name for path in paths], 36)
    model = small_model()
    run = whole_pass(model, pixels, image_size=32, dtype=torch.float32)
    asked: list[list[int]] = []

    def one_by_one(indices: Indices):  # type: ignore[no-untyped-def]
        asked.append(indices.tolist())
        for index in indices:
            yield from run(np.array([index]))

    def stop_after_three(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(one_by_one, contents, 8, [], tmp_path / "cache", stop_after_three)
    found = cached(one_by_one, contents, 8, [], tmp_path / "cache")
    assert asked == [list(range(8)), list(range(3, 8))]
    assert found == pytest.approx(extract(run, np.arange(9), 8), abs=1e-6)


def test_a_cache_that_is_cleared_while_pixels_are_written_is_only_not_kept(
    tmp_path: Path, pictures: tuple[list[Path], list[str]]
) -> None:
    paths, contents = pictures
    folder = tmp_path / "cache"
    pixels = Pixels(paths, [path.name for path in paths], 32, contents=contents, cache=folder)
    pixels.read(lambda done, total: cache.clear(folder) and None)
    assert (pixels.batch(np.array([4])).numpy() == square(open_rgb(paths[4]), 32)).all()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_keeps_nothing_and_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.open
    full = lambda path, *mode: plain(Path("/dev/full"), *mode) if path.suffix in (".tmp", ".rows") else plain(path, *mode)  # noqa: E731
    monkeypatch.setattr(Path, "open", full)
    PixelFile(tmp_path, "k", 3, 64).write(np.zeros((64, 64, 3), np.uint8) for _ in range(3))
    Rows(tmp_path, "k", WIDTH).append(*some(range(5)))
    monkeypatch.undo()
    assert not Rows(tmp_path, "k", WIDTH).read([content(0)])[0].any()
    assert not PixelFile(tmp_path, "k", 3, 64).open()


def test_a_picture_that_changed_since_it_was_scanned_is_refused_by_name(pictures: tuple[list[Path], list[str]]) -> None:
    """Its pixels must not be kept under the content it no longer has."""
    paths, contents = pictures
    patch_picture(["green"], 77).save(paths[5])
    pixels = Pixels(paths, [path.name for path in paths], 32, contents=contents)
    with pytest.raises(PictureError, match=r"5\.png.*changed"):
        pixels.batch(np.array([5]))
    assert len(pixels.batch(np.array([4]))) == 1


@pytest.mark.parametrize("wrong", ["nan", "much", "-1", ""])
def test_a_limit_that_is_none_is_never_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("PANORAMA_CACHE_GB", wrong)
    assert cache.limit(tmp_path / "not" / "there") >= 0
    assert not (tmp_path / "not").exists()


def test_what_was_used_lately_is_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run holds it: dropping it would free nothing now and cost the next run all of it."""
    contents, values = some(range(100))
    Rows(tmp_path, "in use", WIDTH).append(contents, values)
    one = (tmp_path / "features" / "in use.rows").stat().st_size
    monkeypatch.setenv("PANORAMA_CACHE_GB", str(1.5 * one / 1e9))
    Rows(tmp_path, "new", WIDTH).append(contents, values)
    assert [path.stem for path in (tmp_path / "features").glob("*.rows")] == ["in use"]
