"""A process that opens pictures one after another, and its keeper, who notices when it dies or hangs.

python -m tools.torture.opening OPENER     reads a line a picture, answers a line and, for accepted ones, the pixels
"""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.torture.checks import ROOT, peak_mb

MOST_PIXELS_SENT = 4_000_000
MAKING_SECONDS = 120.0


@dataclass(frozen=True)
class Answer:
    """What came of one picture. broken: the process died, hung, or raised what it should not; words: its message or what happened."""

    name: str
    outcome: Literal["accepted", "refused", "broken"]
    words: str
    seconds: float  # of the clock
    processor_seconds: float = 0.0  # of the process and of those it started
    added_mb: float = 0.0
    pixels: npt.NDArray[np.uint8] | None = None


class Opener:
    """Keeps one process; a new one is started when it has died or hung."""

    def __init__(self, opener: str, patience_seconds: float) -> None:
        self.opener, self.patience_seconds = opener, patience_seconds
        self.started, self.peak_mb = 0, 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def file(self, path: Path, name: str) -> Answer:
        """Opens a file and returns its pixels too."""
        return self._ask({"file": str(path), "name": name})

    def mutation(self, seed: int) -> Answer:
        """Opens `pictures.mutation(seed)`."""
        return self._ask({"seed": seed, "name": f"mutation {seed}"})

    def runaway(self, kind: str) -> Answer:
        """Opens `pictures.RUNAWAY[kind]`."""
        return self._ask({"kind": kind, "name": kind})

    def _ask(self, question: dict[str, Any]) -> Answer:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        name = question["name"]
        said: dict[str, Any] = {}
        for patience_seconds in (MAKING_SECONDS, self.patience_seconds):  # first it says that the picture is made
            late = threading.Event()
            clock = threading.Timer(patience_seconds, partial(_kill, process, late))
            clock.start()
            line = process.stdout.readline()
            clock.cancel()
            if not line:
                return self._broken(name, "no answer in time" if late.is_set() else "")
            said = json.loads(line)
            name = said["name"]
        self.peak_mb = max(self.peak_mb, said["peak_mb"])
        pixels = None
        if said["shape"]:
            pixels = np.frombuffer(process.stdout.read(int(np.prod(said["shape"]))), np.uint8).reshape(said["shape"])
        return Answer(
            said["name"], said["outcome"], said["words"], said["seconds"], said["processor_seconds"], said["added_mb"], pixels
        )

    def _start(self) -> subprocess.Popen[bytes]:
        self.started += 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.torture.opening", self.opener], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return self._process

    def _broken(self, name: str, words: str) -> Answer:
        status = self._end()
        return Answer(name, "broken", words or f"the process ended with {status}", 0.0)

    def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            return process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _kill(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


# -- the process


def processor_seconds() -> float:
    """What this process and the children it has waited for have used."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def naive(source: Path | bytes, name: str) -> Image.Image:
    """What one writes first: the control of the corpus."""
    import io

    del name
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source)).convert("RGB")


def fragile(source: Path | bytes, name: str) -> Image.Image:
    """open_rgb with a decoder that crashes, hangs or raises now and then: the control of the mutations."""
    from panorama.images import open_rgb

    seed = int(name.split()[0])
    if seed % 50 == 7:
        os.abort()
    if seed == 20:
        time.sleep(3600)
    if seed % 50 == 9:
        raise ValueError("as it came")
    return open_rgb(source, name)


def main() -> None:
    """Answers each line of standard input."""
    from panorama.images import PictureError, open_here, open_rgb
    from tools.torture.pictures import RUNAWAY, mutation

    openers = {"panorama": open_rgb, "here": lambda *given: open_here(*given)[0], "naive": naive, "fragile": fragile}
    opener = openers[sys.argv[1]]
    out = sys.stdout.buffer
    for line in sys.stdin:
        question = json.loads(line)
        name, source = question["name"], b""
        if "file" in question:
            source = Path(question["file"])
        elif "seed" in question:
            name, source = mutation(question["seed"])
        else:
            source = made_elsewhere(question["kind"]) if sys.platform == "linux" else RUNAWAY[question["kind"]]()
        out.write(json.dumps({"name": name}).encode() + b"\n")
        out.flush()
        before_mb, before_seconds, start_seconds = peak_mb(), processor_seconds(), time.perf_counter()
        image, outcome, words = None, "refused", ""
        try:
            image, outcome = opener(source, name), "accepted"
        except PictureError as error:
            words = str(error)
        except BaseException as error:
            outcome, words = "broken", f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start_seconds
        send = image is not None and "file" in question and image.width * image.height <= MOST_PIXELS_SENT
        pixels = np.asarray(image) if send and image is not None else None
        if image is not None and image.mode != "RGB":
            outcome, words = "broken", f"mode {image.mode}"
        said = {
            "name": name, "outcome": outcome, "words": words, "seconds": seconds, "processor_seconds": processor_seconds() - before_seconds, "added_mb": peak_mb() - before_mb, "peak_mb": peak_mb(),
            "shape": pixels.shape if pixels is not None else None,
        }  # fmt: skip
        out.write(json.dumps(said).encode() + b"\n")
        if pixels is not None:
            out.write(pixels.tobytes())
        out.flush()


def made_elsewhere(kind: str) -> bytes:
    """The picture made in a child, so that making it does not count as memory of opening it."""
    script = "import sys; from tools.torture.pictures import RUNAWAY; sys.stdout.buffer.write(RUNAWAY[sys.argv[1]]())"
    return subprocess.run([sys.executable, "-c", script, kind], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout


if __name__ == "__main__":
    main()
