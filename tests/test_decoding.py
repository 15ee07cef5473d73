"""A picture that may run away is decoded in a process of its own: the same pixels, or a refusal that names it."""

import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panorama import decoding, images
from panorama.images import PictureError, open_here, open_rgb, open_with_size

EXIF = Image.Exif()
EXIF[0x0112] = 6


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = Image.effect_noise((96, 64), 60).convert("RGB")
CLEAR = NOISE.copy()
CLEAR.putalpha(NOISE.convert("L"))
KINDS = {
    "JPEG": encoded(NOISE, "JPEG", exif=EXIF.tobytes()),
    "PNG with alpha": encoded(CLEAR, "PNG"),
    "GIF": encoded(NOISE.quantize(32), "GIF"),
}


@pytest.fixture
def nothing_is_ordinary(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every picture is decoded elsewhere; a list with an item for each that was."""
    calls: list[int] = []

    def counted(source: Path | bytes, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        calls.append(1)
        return decoding.decode_elsewhere(source, at_least)

    monkeypatch.setattr(images, "_ORDINARY_PIXELS", 1)
    monkeypatch.setattr(images, "_ORDINARY_JPEG_PIXELS", 1)
    monkeypatch.setattr(images, "decode_elsewhere", counted)
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_the_same_wherever_it_is_decoded(kind: str, nothing_is_ordinary: list[int], tmp_path: Path) -> None:
    path = tmp_path / "größe 1.jpg"
    path.write_bytes(KINDS[kind])
    for source in (path, KINDS[kind]):
        assert np.array_equal(np.asarray(open_rgb(source)), np.asarray(open_here(source)[0]))
    assert len(nothing_is_ordinary) == 2


def test_a_jpeg_is_reduced_there_too(nothing_is_ordinary: list[int]) -> None:
    data = encoded(NOISE.resize((1600, 800)), "JPEG")
    for opener in (open_with_size, open_here):
        image, whole = opener(data, at_least=100)
        assert image.size == (200, 100)
        assert whole == (1600, 800)
    assert nothing_is_ordinary


def test_damage_is_said_as_if_it_were_found_here(nothing_is_ordinary: list[int]) -> None:
    said = []
    for opener in (open_rgb, open_here):
        with pytest.raises(PictureError) as caught:
            opener(KINDS["JPEG"][:-300], "beach.jpg")
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith("beach.jpg: damaged or cut off")
    assert nothing_is_ordinary


def test_ordinary_pictures_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_elsewhere", lambda *_: pytest.fail("started a process"))
    for data in KINDS.values():
        open_rgb(data)
    open_rgb(encoded(NOISE.resize((1000, 1000)), "JPEG", progressive=True))


def test_what_is_large_and_what_has_many_scans_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_elsewhere", lambda *_: (Image.new("RGB", (1, 2)), (1, 2)))
    scan = KINDS["JPEG"].rindex(b"\xff\xda")
    for data in (
        encoded(Image.new("1", (8000, 4001)), "PNG"),
        encoded(Image.new("L", (8001, 8000)), "JPEG"),
        KINDS["JPEG"][:scan] + KINDS["JPEG"][scan:-2] * 70,
        KINDS["PNG with alpha"] + bytes(images._ORDINARY_BYTES),
    ):
        assert open_rgb(data).size == (1, 2)


@pytest.mark.usefixtures("nothing_is_ordinary")
def test_a_decoder_that_crashes_takes_nothing_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crash = tmp_path / "python"
    crash.write_text(f"#!{sys.executable}\nimport os\nos.abort()\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(PictureError, match=r"^beach\.jpg: its decoder broke down \(status -6\)"):
        open_rgb(KINDS["JPEG"], "beach.jpg")


@pytest.mark.usefixtures("nothing_is_ordinary")
def test_a_decoder_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_WALL_SECONDS", 0.01)
    with pytest.raises(PictureError, match=r"^beach\.jpg: it takes longer than 9 seconds to decode"):
        open_rgb(KINDS["JPEG"], "beach.jpg")


@pytest.mark.usefixtures("nothing_is_ordinary")
@pytest.mark.skipif(sys.platform != "linux", reason="the system sets no limit of memory for a process")
def test_a_decoder_that_wants_too_much_memory_is_refused_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = tmp_path / "python"
    script = "import sys; from panorama import decoding; decoding.MEMORY_BYTES = 10**9; sys.argv = sys.argv[2:]; decoding.main()"
    small.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{script}" "$@"\n')
    small.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(small))
    with pytest.raises(PictureError, match=r"^wide\.png: not enough memory to decode it; make it smaller\."):
        open_rgb(encoded(Image.new("LA", (9000, 9000)), "PNG"), "wide.png")


@pytest.mark.usefixtures("nothing_is_ordinary")
@pytest.mark.skipif(sys.platform == "win32", reason="the system sets no limit of processor time for a process")
def test_a_decoder_that_computes_without_end_is_ended_by_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Long before the clock on the wall, which is for decoders that wait."""
    busy = tmp_path / "python"
    script = (
        "import sys, itertools, collections; from panorama import decoding, images; decoding.PROCESSOR_SECONDS = 1; "
        "images.open_here = lambda *_, **__: collections.deque(itertools.count(), maxlen=0); sys.argv = sys.argv[2:]; decoding.main()"
    )
    busy.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{script}" "$@"\n')
    busy.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(busy))
    started = time.perf_counter()
    with pytest.raises(PictureError, match=r"^beach\.jpg: it takes longer than 9 seconds to decode"):
        open_rgb(KINDS["JPEG"], "beach.jpg")
    assert time.perf_counter() - started < decoding._WALL_SECONDS
