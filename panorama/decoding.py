"""Decode a picture that may run away in a process of its own, with a limit of memory and of time.

`images.open_rgb` sends here what would take gigabytes or many seconds: a bomb takes down the child, never the server.
    python -m panorama.decoding SIDE [PATH]     (without a path: the bytes come on standard input)
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from PIL import Image

_PROJECT = Path(__file__).resolve().parent.parent
MEMORY_BYTES = 4 * 2**30  # 150 million transparent pixels take 3.5 GB on their way to RGB
PROCESSOR_SECONDS = 9
_WALL_SECONDS = 30.0  # for a machine that has other things to do
_AT_ONCE = threading.BoundedSemaphore(2)
_WORDS_BYTES = 10_000


class DecodingError(Exception):
    """Why the child gave no picture, in words without the picture's name."""


def decode_elsewhere(source: Path | bytes, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture and the size of the whole as `images.open_here` gives them, from a child process. Raises DecodingError."""
    command = [sys.executable, "-m", "panorama.decoding", str(at_least or 0)]
    command += [os.path.abspath(source)] if isinstance(source, Path) else []  # noqa: PTH100 - no link is followed
    with _AT_ONCE, subprocess.Popen(
        command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:  # fmt: skip
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        clock = threading.Timer(_WALL_SECONDS, stop)
        clock.start()
        try:
            answer = _exchange(child, source)
        finally:
            clock.cancel()
            child.kill()
            status = child.wait()
    if isinstance(answer, tuple):
        return answer
    if answer:
        raise DecodingError(answer)
    if late.is_set() or -status in (getattr(signal, "SIGXCPU", None), getattr(signal, "SIGKILL", None)):
        raise DecodingError(f"it takes longer than {PROCESSOR_SECONDS} seconds to decode; make it smaller, or save it again.")
    raise DecodingError(f"its decoder broke down (status {status}); open it in an image editor and save it again.")


def _exchange(child: subprocess.Popen[bytes], source: Path | bytes) -> tuple[Image.Image, tuple[int, int]] | str:
    """The picture and the size of the whole, or why there is none; "" when the child ended without a word."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(OSError):  # it may end before it has read all: what it said before that counts
        if isinstance(source, bytes):
            child.stdin.write(source)
    with suppress(OSError):
        child.stdin.close()
    kind, *sides = child.stdout.readline(100).split()[:5] or [b""]
    if kind != b"picture":
        return child.stdout.read(_WORDS_BYTES).decode("utf-8", "replace") if kind == b"refused" else ""
    width, height, *whole = (int(side) for side in sides)
    size = (width, height)
    pixels = bytearray(3 * size[0] * size[1])
    left = memoryview(pixels)
    while left and (n := child.stdout.readinto(left)):  # type: ignore[attr-defined]
        left = left[n:]
    return "" if left else (Image.frombytes("RGB", size, pixels), (whole[0], whole[1]))


def _limit_this_process() -> None:
    try:
        import resource
    except ImportError:  # Windows: the clock of the parent is the only limit there
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """The child: one picture in, its pixels or why not on standard output."""
    from panorama.images import PictureError, open_here

    _limit_this_process()
    side, *path = sys.argv[1:]
    out = sys.stdout.buffer
    try:
        image, whole = open_here(Path(path[0]) if path else sys.stdin.buffer.read(), "", at_least=int(side) or None)
        rows = image.tobytes()
    except PictureError as error:
        out.write(b"refused\n" + str(error).removeprefix(": ").encode("utf-8", "replace"))
    except MemoryError:
        out.write(b"refused\nnot enough memory to decode it; make it smaller.")
    else:
        out.write(f"picture {image.width} {image.height} {whole[0]} {whole[1]}\n".encode())
        out.write(rows)


if __name__ == "__main__":
    main()
