"""Commands on a finished run: suspects, predictions, the model for other programs, the report."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from panorama import finding, quick, runs
from panorama.csvscan import counted, csv_text
from panorama.errors import PanoramaError
from panorama.files import write_atomically
from panorama.reviewfiles import open_queue
from panorama.runs import Run


def suspects(options: argparse.Namespace) -> int:
    """Cells or images, the most doubtful first."""
    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    path = run.folder / "suspects.csv"
    if not path.is_file():
        raise PanoramaError(
            f"{run.id} has no suspects yet: it is {run.state()}. Let it finish: python -m panorama resume {run.folder}"
        )
    header, rows = _suspect_images(run, options.kind) if options.images else _suspect_cells(path, options.kind)
    if options.out is None:
        print(csv_text([header, *rows[:20]]).encode(errors="replace").decode(), end="")
        return 0
    _refuse_out(options.out, run)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.images or options.kind:
        runs.write_rows(options.out, header, rows)
    else:
        options.out.write_bytes(path.read_bytes())
    print(f"{options.out}: {counted(len(rows), 'image' if options.images else 'cell')}, most doubtful first.")
    return 0


def _suspect_cells(path: Path, kind: str | None) -> tuple[list[str], list[list[str]]]:
    """The rows of suspects.csv, all columns; those of one kind, where one is wanted."""
    header, rows = runs.read_rows(path)
    if kind is None:
        return header, rows
    if "kind" not in header:
        raise PanoramaError(f"{path}: damaged; expected a column kind. Resume the run, or start a new one.")
    column = header.index("kind")
    return header, [row for row in rows if row[column] == kind]


def _suspect_images(run: Run, kind: str | None) -> tuple[list[str], list[list[str]]]:
    """One row an image with a cell of that kind, the likeliest to have an error first: its worst cell, then the image as a whole."""
    queue = open_queue(run)
    chosen = np.arange(len(queue.doubts)) if kind is None else np.flatnonzero(queue.given == (kind == "extra"))
    worst, whole = queue.by_whole_image(chosen)
    order = [row for row in np.argsort(-whole, kind="stable").tolist() if worst[row] >= 0]
    rows = []
    for row in order:
        cell = int(worst[row])
        worst_kind = "extra" if queue.given[cell] else "missing"
        rows.append([queue.images[row], queue.splits[row], queue.labels[queue.label_of[cell]], worst_kind,
                     f"{queue.doubts[cell]:.6g}", f"{whole[row]:.6g}"])  # fmt: skip
    return ["image", "split", "worst_label", "kind", "worst_cell", "whole_image"], rows


def predict(options: argparse.Namespace) -> int:
    """Probabilities for pictures; with --out a killed one goes on where it was."""
    with quick.imports():
        from panorama import bulk, engine, hardware, processes
        from panorama.prediction import Predictor
    from panorama.terminal import Bar

    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    if options.out is not None:
        _refuse_out(options.out, run)
    hardware.keep_memory(of_threads=True)
    team = processes.join()
    sources = team.from_first(_pictures(options.pictures) if team.is_first else None)
    computes = engine.choose(options.engine, len(sources), runs.workspace() / "cache")
    predictor = Predictor.load(run.folder, computes)
    header = ["image", *predictor.labels]
    unread = 0

    def left_out(problem: str) -> None:
        nonlocal unread
        unread += 1
        print(f"panorama: {problem} It is left out.", file=sys.stderr)

    if options.out is None:
        for number, block in enumerate(bulk.answers(predictor, sources, team)):
            rows = list(bulk.answered(iter(block), left_out))
            if team.is_first:
                print(csv_text([header, *rows] if number == 0 else rows), end="", flush=True)
        processes.leave()
    else:
        unfinished = bulk.Unfinished(options.out, predictor.sha256, sources)
        with unfinished.alone() if team.is_first else nullcontext(), Bar("Predicting", "images") as bar:
            done = team.from_first(unfinished.count() if team.is_first else 0)
            for block in bulk.answers(predictor, sources, team, skip=done):
                if team.is_first:
                    unfinished.append(block)
                    done += len(block)
                    bar.set(done, len(sources))
            processes.leave()
            if not team.is_first:
                return 0
            runs.write_rows(options.out, header, bulk.answered(unfinished.rows(), left_out))
            unfinished.path.unlink()
    if team.is_first and unread == len(sources):
        raise PanoramaError(f"None of {counted(len(sources), 'picture')} could be read.")
    if options.out is not None:
        left = f"; {unread:,} left out" if unread else ""
        print(f"{options.out}: {counted(len(sources) - unread, 'image')}{left}.")
    return 0


def _pictures(given: Sequence[Path]) -> list[tuple[str, Path]]:
    """(name, file): below a folder the path inside it, else the file's name; whole paths where names would collide."""
    found: list[tuple[str, Path]] = []
    for path in given:
        if path.is_dir():
            files = finding.PictureIndex(path).files
            if not files:
                raise PanoramaError(f"{path}: there is no picture in this folder.")
            found += [(name, path / name) for name in files]
        elif path.exists():
            found.append((path.name, path))
        else:
            raise PanoramaError(f"{path}: there is no such picture or folder.")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        return [(str(path), path) for _, path in found]
    return list(found)


def _refuse_out(out: Path, run: Run) -> None:
    if out.is_dir():
        raise PanoramaError(f"{out}: a folder. Give the name of the file to write.")
    if run.folder in out.expanduser().resolve().parents:
        raise PanoramaError(f"{out}: inside the run folder, whose files are not overwritten. Choose another place.")


def onnx(options: argparse.Namespace) -> int:
    """Writes the model as ONNX."""
    from panorama.onnx import export

    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    export(run.folder, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB; its metadata says what to put in and what comes out.")
    return 0


def report(options: argparse.Namespace) -> int:
    """Writes the report as one HTML file."""
    from panorama.report import gather, read
    from panorama.report_html import render
    from panorama.reviews import ReviewStore

    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    _refuse_out(options.out, run)
    queue = open_queue(run) if run.has("suspects.csv") else None
    fold = ReviewStore(runs.workspace() / "reviews.sqlite").fold(run.fingerprint)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, render(gather(run, read(run), queue, fold), run))
    print(options.out)
    return 0
