"""Opening a picture: upright, 8-bit RGB, on white; or a sentence that begins with its name. Never anything else."""

import csv
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, shared
from PIL import Image, ImageSequence

from panorama.images import MAX_PIXELS, PictureError, difference_hash, open_rgb, open_with_size, thumbnail_jpeg

pytestmark = pytest.mark.filterwarnings("ignore")  # pytest undoes the filter that panorama.images sets
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0)
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(image: Image.Image) -> list[str]:
    """The names of the nearest colours at top left, top right, bottom left, bottom right."""
    names = {"red": RED, "green": GREEN, "blue": BLUE, "yellow": YELLOW}
    w, h = image.size
    pixels = [image.getpixel(place) for place in ((2, 2), (w - 3, 2), (2, h - 3), (w - 3, h - 3))]
    return [min(names, key=lambda n: sum(abs(a - b) for a, b in zip(names[n], p, strict=True))) for p in pixels]


def four_corners() -> Image.Image:
    """64 x 48: red, green / blue, yellow."""
    image = Image.new("RGB", (64, 48))
    for place, colour in (((0, 0), RED), ((32, 0), GREEN), ((0, 24), BLUE), ((32, 24), YELLOW)):
        image.paste(colour, (*place, place[0] + 32, place[1] + 24))
    return image


# -- what a camera, a phone or a web page gives

UPRIGHT = ["red", "green", "blue", "yellow"]
# What was stored, read as rows from the top, for each EXIF orientation: "row 0 is the visual ..., column 0 the visual ..."
STORED = {  # orientation: (corners as stored, in the order of `corners`)
    1: ["red", "green", "blue", "yellow"],  # row 0 = top, column 0 = left
    2: ["green", "red", "yellow", "blue"],  # top, right
    3: ["yellow", "blue", "green", "red"],  # bottom, right
    4: ["blue", "yellow", "red", "green"],  # bottom, left
    5: ["red", "blue", "green", "yellow"],  # left, top
    6: ["green", "yellow", "red", "blue"],  # right, top
    7: ["yellow", "green", "blue", "red"],  # right, bottom
    8: ["blue", "red", "yellow", "green"],  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_picture_is_turned_upright_for_every_exif_orientation(orientation: int, kind: str) -> None:
    colours = {"red": RED, "green": GREEN, "blue": BLUE, "yellow": YELLOW}
    size = (64, 48) if orientation < 5 else (48, 64)
    stored = Image.new("RGB", (2, 2))
    stored.putdata([colours[name] for name in STORED[orientation]])
    stored = stored.resize(size, Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = open_rgb(encoded(stored, kind, exif=exif.tobytes()), "turned")
    assert image.size == (64, 48)
    assert corners(image) == UPRIGHT


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_impossible_orientation_leaves_the_picture_as_it_is(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert corners(open_rgb(encoded(four_corners(), "JPEG", exif=exif.tobytes()))) == UPRIGHT


@pytest.mark.parametrize(
    "rubbish", [b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 30]
)
def test_exif_that_cannot_be_parsed_does_not_cost_the_picture(rubbish: bytes) -> None:
    assert corners(open_rgb(encoded(four_corners(), "JPEG", exif=rubbish))) == UPRIGHT


def test_sixteen_bit_greyscale_png_is_scaled_from_its_full_range() -> None:
    ramp = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert np.asarray(open_rgb(encoded(ramp, "PNG")))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_dark_sixteen_bit_png_stays_dark() -> None:
    assert np.asarray(open_rgb(encoded(Image.fromarray(np.full((4, 4), 4095, np.uint16)), "PNG"))).max() == 16


def test_twelve_bits_in_a_sixteen_bit_tiff_are_scaled_from_twelve_bits() -> None:
    ramp = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
    assert np.asarray(open_rgb(encoded(ramp, "TIFF")))[0, :, 2].tolist() == [0, 128, 255]


def test_sixteen_bit_tiff_beyond_twelve_bits_is_scaled_from_sixteen() -> None:
    ramp = Image.fromarray(np.array([[0, 4096, 65535]], np.uint16))
    assert np.asarray(open_rgb(encoded(ramp, "TIFF")))[0, :, 1].tolist() == [0, 16, 255]


def test_cmyk_looks_like_ink_on_paper() -> None:
    inks = Image.new("CMYK", (64, 16))
    for x, ink in enumerate([(0, 0, 0, 0), (0, 255, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255)]):  # paper, red, blue, black
        inks.paste(ink, (16 * x, 0, 16 * x + 16, 16))
    image = open_rgb(encoded(inks, "TIFF"))
    assert [image.getpixel((16 * x + 8, 8)) for x in range(4)] == [(255, 255, 255), RED, BLUE, (0, 0, 0)]


def transparent_pictures() -> dict[str, bytes]:
    """Each with its left pixel opaque blue or black and its right pixel transparent over another colour."""
    palette = Image.new("P", (2, 1))
    palette.putpalette([*BLUE, *RED])
    palette.putdata([0, 1])
    rgba = Image.new("RGBA", (2, 1))
    rgba.putdata([(*BLUE, 255), (*RED, 0)])
    la = Image.new("LA", (2, 1))
    la.putdata([(0, 255), (90, 0)])
    key = Image.new("RGB", (2, 1))
    key.putdata([BLUE, RED])
    grey = Image.new("L", (2, 1))
    grey.putdata([0, 90])
    deep = Image.fromarray(np.array([[0, 30_000]], np.uint16))
    return {
        "palette, one index": encoded(palette, "PNG", transparency=1),
        "palette, alpha table": encoded(palette, "PNG", transparency=b"\xff\x00"),
        "GIF": encoded(palette, "GIF", transparency=1),
        "RGBA": encoded(rgba, "PNG"),
        "LA": encoded(la, "PNG"),
        "RGB with a transparent colour": encoded(key, "PNG", transparency=RED),
        "grey with a transparent level": encoded(grey, "PNG", transparency=90),
        "16-bit grey with a transparent level": encoded(deep, "PNG", transparency=30_000),
        "lossless WebP": encoded(rgba, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("kind", transparent_pictures())
def test_transparent_places_are_white(kind: str) -> None:
    image = open_rgb(transparent_pictures()[kind])
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) in (BLUE, (0, 0, 0))
    assert image.getpixel((1, 0)) == (255, 255, 255)


def test_half_transparent_black_is_grey() -> None:
    assert open_rgb(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_animation_is_its_first_frame(kind: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, GREEN)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 3
    assert open_rgb(data).getpixel((4, 4)) == RED


def test_two_jpegs_in_one_file_are_the_first(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    four_corners().save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    with Image.open(path) as image:
        assert image.format == "MPO"
    assert corners(open_rgb(path)) == UPRIGHT


def test_reduced_decoding_keeps_both_sides_at_least_as_long_as_asked() -> None:
    data = encoded(four_corners().resize((1600, 400)), "JPEG")
    image = open_rgb(data, at_least=90)
    assert image.width < 1600
    assert min(image.size) >= 90
    assert corners(image) == UPRIGHT


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_is_found_at_a_reduced_size_too(progressive: bool) -> None:
    """The scan of a data set looks at JPEGs at an eighth of their size, and training trusts it."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).resize((800, 600))
    whole = encoded(noise, "JPEG", progressive=progressive)
    damaged = [whole[: len(whole) * share // 100] for share in (5, 30, 60, 90, 99)]
    for place in rng.integers(0, len(whole), 60).tolist():
        damaged.append(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    outcomes = []
    for data in [whole, *damaged]:
        outcome = []
        for at_least in (None, 64):
            try:
                outcome.append(open_rgb(data, at_least=at_least).size[0] > 0)
            except PictureError as error:
                outcome.append(str(error))
        assert outcome[0] == outcome[1]
        outcomes.append(outcome[0])
    assert outcomes[0] is True
    assert len({str(outcome) for outcome in outcomes[1:]}) > 1, "cut off in the middle"
    assert True in outcomes[6:], "and what decoders make good, they do at either size"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, *STORED])
def test_the_size_is_that_of_the_whole_upright_picture(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.new("RGB", (1000, 998) if orientation < 5 else (998, 1000))  # at an eighth both are 125 x 125
    for at_least in (None, 64):
        image, size = open_with_size(encoded(stored, kind, exif=exif.tobytes()), at_least=at_least)
        assert size == (1000, 998)
        assert image.size == ((125, 125) if kind == "JPEG" and at_least else size)


def test_bytes_and_file_give_the_same_pixels(tmp_path: Path) -> None:
    data = encoded(four_corners(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.array_equal(np.asarray(open_rgb(data)), np.asarray(open_rgb(tmp_path / "a.jpg")))


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "really_a_png.jpg").write_bytes(encoded(four_corners(), "PNG"))
    assert corners(open_rgb(tmp_path / "really_a_png.jpg")) == UPRIGHT


# -- refused, in words

Forge = Callable[[], bytes]


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG's header and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


JPEG = encoded(Image.effect_noise((200, 200), 60).convert("RGB"), "JPEG")
PNG = encoded(Image.effect_noise((200, 200), 60), "PNG")
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"empty \(0 bytes\)"),
    "text": (b"hello, I am no picture", "not a picture that can be read; expected one of JPEG, PNG"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "Save it as JPEG or PNG"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "damaged or cut off"),
    "JPEG without its end": (JPEG[:-200], "damaged or cut off"),
    "half a PNG": (PNG[: len(PNG) // 2], "damaged or cut off"),
    "32-bit float TIFF": (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "no defined range from black to white"),
    "32-bit integer TIFF": (encoded(Image.new("I", (4, 4), 70_000), "TIFF"), "no defined range from black to white"),
    "just too large": (png_that_claims(MAX_PIXELS // 1000 + 1, 1000), f"at most {MAX_PIXELS:,} in all"),
    "bomb": (png_that_claims(60_000, 60_000), f"more than {MAX_PIXELS:,} pixels"),
    "PPM, a format we do not read": (encoded(four_corners(), "PPM"), "not a picture that can be read"),
    "PDF, a format that starts other programs": (encoded(four_corners(), "PDF"), "not a picture that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_name_first(kind: str) -> None:
    data, words = REFUSED[kind]
    with pytest.raises(PictureError, match=words) as caught:
        open_rgb(data, "beach.jpg")
    assert str(caught.value).startswith("beach.jpg: ")


def test_missing_file_and_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"gone\.jpg: the file is not there"):
        open_rgb(tmp_path / "gone.jpg")
    with pytest.raises(PictureError, match=r": a folder, not a picture"):
        open_rgb(tmp_path)


def test_file_without_permission_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jpg").write_bytes(JPEG)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PictureError, match="may not read the file"):
        open_rgb(tmp_path / "a.jpg")


def outcome(source: Path | bytes, name: str) -> str:
    """ "accepted" as RGB, or "refused" with a message that begins with the name; anything else is an error."""
    try:
        return {"RGB": "accepted"}[open_rgb(source, name).mode]
    except PictureError as error:
        return "refused" if str(error).startswith(f"{name}: ") else f"message without the name: {error}"


@pytest.mark.parametrize("original", [JPEG, PNG], ids=["jpeg", "png"])
def test_flipped_bytes_give_a_picture_or_a_picture_error(original: bytes) -> None:
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(original)
        for place in rng.integers(0, len(data), int(rng.integers(1, 6))):
            data[place] = int(rng.integers(256))
        outcomes.add(outcome(bytes(data), "x.jpg"))
    assert "refused" in outcomes <= {"accepted", "refused"}


# -- the corpus of public test suites

MANIFEST = SHARED / "corpus" / "MANIFEST.csv"


def corpus_images(expected: str) -> list[dict[str, str]]:
    with (shared("corpus") / "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "image" and row["expected"] == expected]


def test_every_sound_picture_of_the_corpus_opens_with_its_size_and_mean_colour() -> None:
    wrong = []
    rows = corpus_images("accept")
    for row in rows:
        image = open_rgb(shared("corpus", row["file"]), row["file"])
        mean = np.asarray(image, float).mean((0, 1))
        reference = np.array(row["pillow13_mean_rgb"].split(), float)
        # Decoders of other versions round differently; 16-bit greyscale is clipped by the reference and scaled by us.
        if f"{image.width}x{image.height}" != row["pillow13_upright_size"] or (
            np.abs(mean - reference).max() > 1.5 and not row["pillow13_mode"].startswith("I")
        ):
            wrong.append(
                (row["file"], image.size, mean.round(1).tolist(), row["pillow13_upright_size"], row["pillow13_mean_rgb"])
            )
        assert image.mode == "RGB"
    assert wrong == []
    assert len(rows) > 200


def test_every_bad_picture_of_the_corpus_is_refused_by_name() -> None:
    rows = corpus_images("reject")
    outcomes = {row["file"]: outcome(shared("corpus", row["file"]), row["file"]) for row in rows}
    assert {file: what for file, what in outcomes.items() if what != "refused"} == {}
    assert len(rows) > 60


def test_every_doubtful_picture_of_the_corpus_is_opened_or_refused_by_name() -> None:
    outcomes = [outcome(shared("corpus", row["file"]), row["file"]) for row in corpus_images("either")]
    assert set(outcomes) == {"accepted", "refused"}


# -- what is made of a picture


def test_thumbnail_is_a_jpeg_of_the_whole_picture_and_never_larger() -> None:
    wide = encoded(four_corners().resize((640, 120)), "PNG")
    small = Image.open(io.BytesIO(thumbnail_jpeg(wide, 64)))
    assert (small.format, small.size) == ("JPEG", (64, 12))
    assert corners(small) == UPRIGHT
    assert Image.open(io.BytesIO(thumbnail_jpeg(encoded(four_corners(), "PNG"), 500))).size == (64, 48)


def test_difference_hash_of_ramps() -> None:
    ramp = np.tile(np.arange(0, 252, 28, dtype=np.uint8), (8, 1))  # 9 columns, brighter to the right
    assert difference_hash(Image.fromarray(ramp)) == 0
    assert difference_hash(Image.fromarray(ramp[:, ::-1].copy())) == 2**64 - 1
    ramp[0] = ramp[0, ::-1]
    assert difference_hash(Image.fromarray(ramp)) == 0xFF << 56  # the first row is the first byte
