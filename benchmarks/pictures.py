"""What the look before decoding costs: `open_rgb` against the same decoding without it, on ordinary pictures, in turn.

python -m benchmarks.pictures [--rounds 15]      prints a ratio a kind of picture; at most 1.10 is promised (docs/reliability.md)

The last column is `open_rgb` as the scan of a data set asks for it: a JPEG read to its end and computed at a reduced size.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from panorama.images import FORMATS, open_rgb


def plain(path: Path) -> Image.Image:
    """The same without the look: is there a file, how large is it, decode, upright, RGB."""
    assert not path.is_dir()
    assert 0 < path.stat().st_size < 2**29
    with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
        image.load()
        return ImageOps.exif_transpose(image).convert("RGB")


def reduced(path: Path) -> Image.Image:
    """As a data set is scanned (`pictures.py`)."""
    return open_rgb(path, at_least=64)


def photo(width: int, height: int) -> Image.Image:
    """Waves with grain, which compress about as a photo does."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 90 + k) + np.cos(y / 70 - k) for k in range(3)], -1) * 50 + 128
    return Image.fromarray((waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8))


def milliseconds(open_picture: Callable[[Path], Image.Image], path: Path) -> float:
    """The processor time of one opening: on a shared machine the clock says more about the others."""
    start_seconds = time.process_time()
    open_picture(path)
    return (time.process_time() - start_seconds) * 1000


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    kinds = [
        ("JPEG", 384, 256),
        ("JPEG", 1600, 1200),
        ("JPEG", 4000, 3000),
        ("PNG", 640, 480),
        ("WEBP", 1600, 1200),
        ("TIFF", 1600, 1200),
    ]
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'picture':22}{'plain ms':>10}{'open_rgb ms':>13}{'ratio':>8}{'scan ms':>10}")
        for kind, width, height in kinds:
            buffer = io.BytesIO()
            photo(width, height).save(buffer, kind)
            path = Path(folder) / "picture"
            path.write_bytes(buffer.getvalue())
            times: list[tuple[float, float, float]] = []
            for n in range(rounds + 2):
                order = (plain, open_rgb, reduced) if n % 2 else (reduced, open_rgb, plain)
                one = {opener: milliseconds(opener, path) for opener in order}
                times.append((one[plain], one[open_rgb], one[reduced]))
            without, with_look, scanned = (statistics.median(side) for side in zip(*times[2:], strict=True))
            ratio = with_look / without
            print(f"{f'{kind} {width} x {height}':22}{without:10.2f}{with_look:13.2f}{ratio:8.2f}{scanned:10.2f}")


if __name__ == "__main__":
    main()
