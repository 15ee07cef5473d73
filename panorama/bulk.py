"""Predictions for any number of pictures, kept as they come: a run that was killed goes on after the last one.

Under `torchrun` or `accelerate launch` every process answers its share of each block, and the first writes, in order.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from panorama.errors import PanoramaError
from panorama.prediction import Predictor
from panorama.processes import Team

Row = tuple[str, list[float] | str]  # the name, and the probabilities or the problem
_BLOCK = 512  # pictures; what a kill can cost


def answers(predictor: Predictor, sources: Sequence[tuple[str, Path]], team: Team, *, skip: int = 0) -> Iterator[list[Row]]:
    """The rows of all sources but the first `skip`, block by block, in order: whole blocks in the first process, [] in others."""
    for start in range(skip, len(sources), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(sources)))
        mine = [sources[index] for index in team.share(block).tolist()]
        rows: list[Row] = [
            (found.name, found.problem or "" if found.probabilities is None else found.probabilities.tolist())
            for found in predictor.predict(mine)
        ]
        yield team.collect(rows)


class Unfinished:
    """The answers so far, one line of JSON a picture, beside the file they are for.

    Its name says which model and which pictures, of which size and time of change, they are of: other answers are never mixed in.
    model: the sha256 of its weights.
    """

    def __init__(self, out: Path, model: str, sources: Sequence[tuple[str, Path]]) -> None:
        digest = hashlib.sha256(model.encode())
        for name, path in sources:
            with suppress(OSError):
                status = path.stat()
                digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
            digest.update(f"\0{name}\0{path.resolve()}".encode(errors="surrogateescape"))
        self.path = out.with_name(f".{out.name}.{digest.hexdigest()[:16]}.unfinished")

    def count(self) -> int:
        """How many pictures are answered; from a line that is not whole on, all is cut off."""
        if not self.path.exists():
            return 0
        sound = lines = 0
        with self.path.open("rb+") as stream:
            for line in stream:
                if not line.endswith(b"\n") or not _is_row(line):
                    break
                sound, lines = sound + len(line), lines + 1
            stream.truncate(sound)
        return lines

    def append(self, rows: Sequence[Row]) -> None:
        """Keeps answers; handed to the system when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as stream:
            stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def rows(self) -> Iterator[Row]:
        """All answers, in order."""
        with self.path.open(encoding="ascii") as stream:
            for line in stream:
                name, answer = json.loads(line)
                yield name, answer

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While nobody else writes to it. Raises PanoramaError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise PanoramaError(f"{self.path.parent}: another prediction of the same pictures is being written here.") from None
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):
                self.path.with_suffix(".lock").unlink()


def _is_row(line: bytes) -> bool:
    try:
        name, answer = json.loads(line)
    except (ValueError, TypeError):
        return False
    return isinstance(name, str) and isinstance(answer, str | list)


def answered(rows: Iterator[Row], on_problem: Callable[[str], None]) -> Iterator[list[str]]:
    """The CSV rows of the pictures that could be read; the others' problems are told."""
    for name, answer in rows:
        if isinstance(answer, str):
            on_problem(answer)
        else:
            yield [name, *(f"{value:.6g}" for value in answer)]
