"""Pictures: the corpus against its manifest, seeded mutations, and pictures made to run away."""

import csv
import io
import itertools
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from panorama.images import FORMATS
from tools.torture.checks import CORPUS, Check, Outcome
from tools.torture.opening import Answer, Opener

MOST_SECONDS = 10.0
MOST_DIFFERENCE = 4.0  # of 255, the mean over all pixels
MOST_SERVER_MB = 1100.0  # what one picture may add to the server: 150 million pixels are 600 MB, and 450 MB on their way


# -- the corpus


def rows() -> list[dict[str, str]]:
    """The pictures of the manifest."""
    with (CORPUS / "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "image"]


UPSIDE_DOWN = "pillow/avif/rot0mir0.avif"  # looked at: stored mirrored from top to bottom
SIBLINGS = (  # (begin of the name, the sibling that shows the same)
    ("pillow/hopper_orientation_", "pillow/hopper.png"),
    ("pillow/hopper_bigtiff", "pillow/hopper.png"), ("pillow/hopper_float_dpi", "pillow/hopper.png"), ("pillow/hopper_jpg.tif", "pillow/hopper.png"),
    ("pillow/hopper.", "pillow/hopper.png"), ("pillow/avif/hopper", "pillow/hopper.png"),
    ("pillow/avif/rot", UPSIDE_DOWN), ("pillow/g4_orientation_", "pillow/g4_orientation_1.tif"),
)  # fmt: skip


def reference(row: dict[str, str]) -> Path | None:
    """A file that shows what this one must look like when it is opened."""
    file = row["file"]
    if row["ref_file"]:
        return CORPUS / row["ref_file"]
    if file.startswith("pillow/bmp/g/"):
        page = CORPUS / file.replace("/g/", "/html/").replace(".bmp", ".png")
        return page if page.exists() else None
    found = next((CORPUS / other for begin, other in SIBLINGS if file.startswith(begin)), None)
    return found if found is not None and found.exists() else None


def on_white(path: Path) -> npt.NDArray[np.float64]:
    """(height, width, 3) of a reference, told without panorama: 8-bit, untagged, alpha laid over white."""
    with Image.open(path) as image:
        rgba = np.asarray(image.convert("RGBA"), float)
    alpha = rgba[..., 3:] / 255
    flat = rgba[..., :3] * alpha + 255 * (1 - alpha)
    return flat[::-1] if path == CORPUS / UPSIDE_DOWN else flat


def in_blocks(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The means of 4 x 4 pixels: siblings were compressed one by one, each with noise of its own."""
    h, w = pixels.shape[0] // 4 * 4, pixels.shape[1] // 4 * 4
    return pixels[:h, :w].reshape(h // 4, 4, w // 4, 4, 3).mean((1, 3)) if h and w else pixels


def is_uniform(path: Path) -> bool:
    """Whether the file's own samples are all one value, so that one flat colour is the right answer."""
    with Image.open(path) as image:
        samples = np.asarray(image)
    return bool((samples == samples.reshape(-1, *samples.shape[2:])[0]).all())


def judged(row: dict[str, str], answer: Answer) -> str | None:
    """What is wrong with the answer, or None."""
    file = row["file"]
    if answer.outcome == "broken":
        return f"{file}: {answer.words}"
    if answer.seconds > MOST_SECONDS:
        return f"{file}: took {answer.seconds:.1f} s"
    if answer.outcome == "refused":
        if row["expected"] == "accept":
            return f"{file}: refused ({answer.words}), expected a picture"
        named, _, why = answer.words.partition(": ")
        return None if named == file and len(why) > 15 else f"{file}: the message does not name it and say why: {answer.words}"
    if row["expected"] == "reject":
        return f"{file}: accepted, expected a refusal ({row['expected_detail']})"
    assert answer.pixels is not None
    pixels = answer.pixels.astype(float)
    low, high = pixels.min(), pixels.max()
    if low == high and low in (0, 255) and not is_uniform(CORPUS / file):
        return f"{file}: all {'black' if low == 0 else 'white'}, and its samples are not"
    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    if row["pillow13_upright_size"] and size != row["pillow13_upright_size"]:
        return f"{file}: {size}, expected {row['pillow13_upright_size']}"
    if (path := reference(row)) is not None:
        wanted = on_white(path)
        if wanted.shape != pixels.shape:
            return f"{file}: {size}, its reference {wanted.shape[1]}x{wanted.shape[0]}"
        if not row["ref_file"] or file.startswith("exif-orientation"):
            wanted, pixels = in_blocks(wanted), in_blocks(pixels)
        if path == CORPUS / UPSIDE_DOWN:  # in its middle each says how it is stored
            wanted, pixels = wanted[:, : wanted.shape[1] // 4], pixels[:, : pixels.shape[1] // 4]
        difference = np.abs(wanted - pixels).mean()
        return f"{file}: {difference:.1f} of 255 from its reference" if difference > MOST_DIFFERENCE else None
    if row["expected"] == "accept" and not row["pillow13_mode"].startswith("I"):
        gap = np.abs(pixels.mean((0, 1)) - np.array(row["pillow13_mean_rgb"].split(), float)).max()
        return f"{file}: mean colour {gap:.1f} of 255 from the manifest's" if gap > MOST_DIFFERENCE else None
    return None


def corpus(quick: bool, opener: str = "panorama") -> Outcome:
    """Every picture of the manifest (quick: every sixth)."""
    if not CORPUS.exists():
        return Outcome(skipped="needs ../shared/corpus, which is not here")
    wrong, refused, slowest, compared = [], 0, 0.0, 0
    chosen = rows()[:: 6 if quick else 1]
    with Opener(opener, MOST_SECONDS + 5) as ask:
        for row in chosen:
            answer = ask.file(CORPUS / row["file"], row["file"])
            refused += answer.outcome == "refused"
            slowest = max(slowest, answer.seconds)
            compared += answer.outcome == "accepted" and reference(row) is not None
            if sentence := judged(row, answer):
                wrong.append(sentence)
    return Outcome(
        len(chosen), refused, tuple(wrong), measured={"slowest": f"{slowest:.1f} s", "against reference pixels": str(compared)}
    )


# -- mutations


@cache
def made() -> tuple[tuple[str, bytes], ...]:
    """A small picture in every format and mode that Pillow writes and panorama reads."""
    rng = np.random.default_rng(0)
    waves = np.add.outer(np.arange(40) * 5, np.arange(56) * 3)[..., None] + rng.integers(0, 30, (40, 56, 3))
    rgb = Image.fromarray(waves.astype(np.uint8))
    deep = Image.fromarray((waves[..., 0] * 150).astype(np.uint16))
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker" * 20
    frames = [rgb.rotate(angle) for angle in (0, 90, 180)]
    several = {"save_all": True, "append_images": frames[1:]}
    wanted: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("JPEG", rgb, {}), ("JPEG", rgb, {"progressive": True, "exif": exif.tobytes()}), ("JPEG", rgb.convert("L"), {}), ("JPEG", rgb.convert("CMYK"), {}),
        ("MPO", rgb, several), ("PNG", rgb, {}), ("PNG", rgb, several), ("PNG", rgb.convert("1"), {}), ("PNG", rgba, {}), ("PNG", rgba.convert("LA"), {}),
        ("PNG", rgb.quantize(16), {"transparency": 3}), ("PNG", deep, {}), ("BMP", rgb, {}), ("BMP", rgb.convert("L"), {}), ("BMP", rgba, {}),
        ("GIF", rgb.quantize(32), {"transparency": 1}), ("GIF", frames[0].quantize(32), several), ("WEBP", rgb, {}), ("WEBP", rgba, {"lossless": True}),
        ("WEBP", rgb, several), ("TIFF", deep, {}), ("AVIF", rgb, {"speed": 10}), ("AVIF", rgba, {"speed": 10, "exif": exif.tobytes()}),
        *(("TIFF", rgb, {"compression": c}) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        ("TIFF", rgb.convert("1"), {"compression": "group4"}),
    ]  # fmt: skip
    pictures = []
    for number, (kind, image, options) in enumerate(wanted):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        pictures.append((f"made{number}.{kind.lower()}", buffer.getvalue()))
    assert {name.rpartition(".")[2].upper() for name, _ in pictures} - {"MPO"} == set(FORMATS)
    return tuple(pictures)


@cache
def originals() -> tuple[tuple[str, bytes], ...]:
    """What mutations start from: the made ones, and those of the corpus that are not large."""
    if not CORPUS.exists():
        return made()
    small = [row["file"] for row in rows() if int(row["bytes"]) <= 150_000]
    return made() + tuple((file, (CORPUS / file).read_bytes()) for file in small)


NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)


def flip(data: bytearray, rng: random.Random) -> bytes:
    """Some bits turned."""
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncate(data: bytearray, rng: random.Random) -> bytes:
    """Cut off, or with a piece missing or twice."""
    a, b = sorted(rng.choices(range(len(data) + 1), k=2))
    return bytes(rng.choice((data[:a], data[a:], data[:a] + data[b:], data[:b] + data[a:])))


def splice(data: bytearray, rng: random.Random) -> bytes:
    """The beginning of one and the end of another."""
    other = rng.choice(originals())[1]
    return bytes(data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :])


def edit_header(data: bytearray, rng: random.Random) -> bytes:
    """Numbers of two or four bytes near the beginning made extreme."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice((">H", "<H", ">I", "<I"))
        piece = struct.pack(kind, rng.choice(NUMBERS) & (0xFFFF if kind[1] == "H" else 0xFFFFFFFF))
        at = rng.randrange(max(1, min(len(data), rng.choice((32, 64, 300))) - len(piece) + 1))
        data[at : at + len(piece)] = piece
    return bytes(data)


def mutation(seed: int) -> tuple[str, bytes]:
    """(name, bytes) of a mutated picture; the same for the same seed and corpus."""
    rng = random.Random(seed)
    pool = made() if seed % 3 == 0 else originals()
    name, data = rng.choice(pool)
    mutate = rng.choice((flip, flip, truncate, splice, edit_header, edit_header))
    return f"{seed} {mutate.__name__} {name}", mutate(bytearray(data), rng) if data else b""


def mutated(quick: bool, opener: str = "panorama", count: int = 0, patience_seconds: float = MOST_SECONDS + 5) -> Outcome:
    """5,000 mutations (quick: 150), each opened by one process that must outlive them all."""
    count = count or (150 if quick else 5000)
    wrong, refused, slowest = [], 0, ("", 0.0)
    with Opener(opener, patience_seconds) as ask:
        for seed in range(count):
            answer = ask.mutation(seed)
            refused += answer.outcome == "refused"
            slowest = max(slowest, (answer.name, answer.seconds), key=lambda pair: pair[1])
            if answer.outcome == "broken":
                wrong.append(f"{answer.name}: {answer.words}")
            elif answer.seconds > MOST_SECONDS:
                wrong.append(f"{answer.name}: took {answer.seconds:.1f} s")
            elif answer.outcome == "refused" and not answer.words.startswith(f"{answer.name}: "):
                wrong.append(f"{answer.name}: the message does not name it: {answer.words}")
        started, peak = ask.started, ask.peak_mb
    return Outcome(
        count, refused, tuple(wrong),
        measured={"slowest": f"{slowest[1]:.1f} s", "process peak": f"{peak:.0f} MB", "processes": str(started)},
    )  # fmt: skip


# -- pictures made to run away


def png(width: int, height: int, colour: int, data: bytes, before: bytes = b"") -> bytes:
    """A PNG of 8 bits a sample around compressed rows, with other chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def black(width: int, height: int, samples: int) -> bytes:
    """Compressed rows of zeros: a small part of what they become."""
    packer = zlib.compressobj(1)
    row = bytes(1 + width * samples)
    pieces = [packer.compress(row * 50) for _ in range(height // 50)]
    return b"".join([*pieces, packer.compress(row * (height % 50)), packer.flush()])


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def many_scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(Image.effect_noise((side, side), 50), "JPEG", progressive=True, quality=5)
    table = data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda"))
    return data[:table] + data[table:-2] * count + data[-2:]


def bmp_runs(n_bytes: int) -> bytes:
    """A BMP of run lengths, which Pillow unpacks in Python."""
    header = struct.pack("<IiiHHIIiiII", 40, 5000, 5000, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024)
    body = b"\x01\x05" * (n_bytes // 2)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body


JPEG = encoded(Image.new("RGB", (8, 8)), "JPEG")
Make = Callable[[], bytes]
RUNAWAY: dict[str, Make] = {
    "PNG that claims 60,000 x 60,000": lambda: png(60_000, 60_000, 2, b""),
    "PNG that claims 2^31 - 1 x 1": lambda: png(2**31 - 1, 1, 2, b""),
    "150 scans of a progressive JPEG": lambda: many_scans(600, 150),
    "70 million pixels of grey and alpha": lambda: png(10_000, 7000, 4, black(10_000, 7000, 2)),
    "148 million transparent pixels": lambda: png(14800, 10000, 6, black(14800, 10000, 4)),
    "148 million pixels of a PNG": lambda: png(14800, 10000, 2, black(14800, 10000, 3)),
    "148 million pixels of grey and alpha": lambda: png(14800, 10000, 4, black(14800, 10000, 2)),
    "148 million pixels of a JPEG": lambda: encoded(Image.new("RGB", (14800, 10000)), "JPEG"),
    "144 million pixels of a GIF": lambda: encoded(Image.new("L", (12000, 12000)), "GIF"),
    "144 million pixels of a WebP": lambda: encoded(Image.new("RGB", (12000, 12000)), "WEBP", lossless=True, method=0),
    "100 million pixels of a TIFF": lambda: encoded(Image.new("RGB", (10000, 10000)), "TIFF", compression="tiff_lzw"),
    "32 million pixels of an AVIF": lambda: encoded(Image.new("RGB", (8000, 4000)), "AVIF", speed=10),
    "1,500 scans of 4 million pixels": lambda: many_scans(2000, 1500)[: 400 * 2**20],
    "15 MB of empty PNG chunks": lambda: png(8, 8, 2, zlib.compress(bytes(200)), chunk(b"abCd", b"") * (15_000_000 // 12)),
    "40 MB of empty PNG chunks": lambda: png(8, 8, 2, zlib.compress(bytes(200)), chunk(b"abCd", b"") * (40_000_000 // 12)),
    "15 MB of JPEG comments": lambda: JPEG[:2] + b"\xff\xfe\x00\x02" * (15_000_000 // 4) + JPEG[2:],
    "100 MB of JPEG comments": lambda: JPEG[:2] + b"\xff\xfe\x00\x02" * (100_000_000 // 4) + JPEG[2:],
    "15 MB of BMP runs": lambda: bmp_runs(15_000_000),
    "300 MB of BMP runs": lambda: bmp_runs(300_000_000),
    "a megabyte of text that unpacks to a gigabyte": lambda: png(
        8, 8, 2, zlib.compress(bytes(200)), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**9), 9))
    ),
    "a colour profile that unpacks to a gigabyte": lambda: png(
        8, 8, 2, zlib.compress(bytes(200)), chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**9), 9))
    ),
    "a file of 600 MB": lambda: JPEG + bytes(600 * 2**20),
}  # fmt: skip
QUICK_RUNAWAY = 3


def runaway(quick: bool, opener: str = "panorama", kinds: tuple[str, ...] = ()) -> Outcome:
    """Pictures that would take gigabytes or minutes: each has a process of its own, whose peak is looked at."""
    chosen = kinds or tuple(itertools.islice(RUNAWAY, QUICK_RUNAWAY if quick else None))
    wrong, refused, longest, slowest, most = [], 0, 0.0, ("", 0.0), ("", 0.0)
    for kind in chosen:
        with Opener(opener, MOST_SECONDS * 3) as ask:
            answer = ask.runaway(kind)
            added_mb = answer.added_mb
        refused += answer.outcome == "refused"
        slowest = max(slowest, (kind, answer.processor_seconds), key=second)
        longest, most = max(longest, answer.seconds), max(most, (kind, added_mb), key=second)
        if answer.outcome == "broken":
            wrong.append(f"{kind}: {answer.words}")
        elif answer.processor_seconds > MOST_SECONDS:
            wrong.append(f"{kind}: took {answer.processor_seconds:.1f} s of the processor")
        elif added_mb > MOST_SERVER_MB:
            wrong.append(f"{kind}: took {added_mb:,.0f} MB of the server")
    return Outcome(
        len(chosen), refused, tuple(wrong),
        measured={"slowest": f"{slowest[1]:.1f} s of the processor ({slowest[0]}), {longest:.1f} s of the clock", "most memory": f"{most[1]:,.0f} MB ({most[0]})"},
    )  # fmt: skip


def second(pair: tuple[str, float]) -> float:
    """What to compare by."""
    return pair[1]


CONTROL_KIND = "70 million pixels of grey and alpha"  # enough to be seen, not enough to hurt this machine


CHECKS = (
    Check(
        "pictures-corpus", "383 pictures of public test suites against the manifest and reference pixels",
        corpus, lambda quick: corpus(quick, "naive"), "Image.open(...).convert('RGB'): not turned upright, alpha dropped, errors as they come", 300, 60,
    ),
    Check(
        "pictures-mutated", "seeded mutations of corpus pictures and of pictures in every format",
        mutated, lambda quick: mutated(quick, "fragile", 25, 1.5), "open_rgb in a process that aborts, sleeps or raises on some pictures", 400, 60,
    ),
    Check(
        "pictures-runaway", "bombs, huge sizes and slow decoders, by time and by memory of the server's process",
        runaway, lambda quick: runaway(quick, "here", (CONTROL_KIND,)), "the same picture decoded in the server's own process", 400, 60,
    ),
)  # fmt: skip
