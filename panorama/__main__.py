"""The command line: the same journeys as the pages, without a browser. What each command does is in `panorama.cli`.

Exit codes: 0 success, 1 bad input (one clear line on standard error), 2 bad usage.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from panorama import quick
from panorama.cli import app, data, results, training
from panorama.cli.options import add_training_options
from panorama.errors import PanoramaError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    if hasattr(sys.stdout, "reconfigure"):  # a label may hold what the terminal's encoding has no character for
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except PanoramaError as error:
        print(f"panorama: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("panorama: interrupted.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"panorama: {where}{error.strerror or error}. Check the path, the disk space and your rights there.", file=sys.stderr
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panorama",
        description="Train a multi-label image classifier, find the labels that are probably wrong, take home a corrected CSV.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data_help = "a folder with pictures and CSVs, a CSV in the folder of its pictures, or a zip of such a folder"

    check = commands.add_parser("check", help="say what is in a data set and what is wrong with it")
    check.add_argument("data", metavar="DATA", type=Path, help=data_help)
    check.add_argument("--file-column", metavar="NAME", help="the column with the file names, where the guess is wrong")
    check.set_defaults(run=data.check)

    train = commands.add_parser("train", help="train in two phases, predict, and rank suspects; the last line is the run folder")
    train.add_argument("data", metavar="DATA", type=Path, help=data_help)
    train.add_argument("--file-column", metavar="NAME", help="the column with the file names, where the guess is wrong")
    train.add_argument("--out", metavar="RUN_DIR", type=Path, help="the run folder, new or empty (default: in the workspace)")
    add_training_options(train)
    train.set_defaults(run=training.train)

    resume = commands.add_parser("resume", help="go on with a run that was stopped or killed")
    resume.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    resume.set_defaults(run=training.resume)

    stop = commands.add_parser("stop", help="ask a run that trains elsewhere to stop; it can be resumed")
    stop.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    stop.set_defaults(run=training.stop)

    listing = commands.add_parser("runs", help="list the runs of the workspace")
    listing.set_defaults(run=training.list_all)

    suspects = commands.add_parser("suspects", help="every cell of every image, the most doubtful first")
    suspects.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    suspects.add_argument(
        "--kind", choices=["missing", "extra"], help="only cells where the CSV says no (missing) or yes (extra)"
    )
    suspects.add_argument("--images", action="store_true", help="one row an image, by how likely any cell of it is wrong")
    suspects.add_argument("--out", metavar="CSV", type=Path, help="write them here (default: the first 20 on standard output)")
    suspects.set_defaults(run=results.suspects)

    predict = commands.add_parser("predict", help="probabilities for pictures the run has not seen")
    predict.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    predict.add_argument("pictures", metavar="PICTURE_OR_FOLDER", type=Path, nargs="+")
    predict.add_argument("--out", metavar="CSV", type=Path, help="write them here (default: standard output)")
    predict.add_argument(
        "--engine",
        choices=["auto", "torch", "onnx"],
        default="auto",
        help="what computes: torch, or ONNX Runtime (pip install -r requirements-onnx.txt); auto (the default): ONNX Runtime where it is installed, "
        "there is no GPU, there are 5,000 pictures or more, and torch is slower",
    )
    predict.set_defaults(run=results.predict)

    onnx = commands.add_parser("onnx", help="write the model of a run as an ONNX file, for other programs")
    onnx.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    onnx.add_argument("--out", metavar="FILE", type=Path, required=True)
    onnx.set_defaults(run=results.onnx)

    cached = commands.add_parser("cache", help="say what is kept to be faster, or clear it; nothing is lost by that but time")
    cached.add_argument("--clear", action="store_true")
    cached.set_defaults(run=app.cached)

    export = commands.add_parser("export", help="write each CSV corrected; every other byte stays as it is")
    export.add_argument("data", metavar="DATA", type=Path, help=data_help)
    export.add_argument("--decisions", metavar="CSV", type=Path, required=True, help="columns image, label, value (0 or 1)")
    export.add_argument("--out", metavar="DIR", type=Path, required=True)
    export.set_defaults(run=data.export)

    report = commands.add_parser("report", help="write all that was measured and decided as one HTML file for a colleague")
    report.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    report.add_argument("--out", metavar="FILE", type=Path, required=True)
    report.set_defaults(run=results.report)

    effect = commands.add_parser("effect", help="train again on the corrected labels, and say what it changed")
    effect.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    effect.set_defaults(run=training.effect)

    demo = commands.add_parser("demo", help="the whole loop on pictures that panorama draws, without a network")
    demo.add_argument("folder", metavar="DIR", type=Path, nargs="?", help="default: demo in the workspace")
    demo.add_argument("--images", type=int, default=400, metavar="N", help="how many pictures to draw (default 400)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=training.demo)

    serve = commands.add_parser("serve", help="open the app, on this machine only unless told otherwise (docs/deployment.md)")
    serve.add_argument("--port", type=app.port, default=8501)
    serve.add_argument("--address", default="127.0.0.1", help="where to listen (default 127.0.0.1: this machine only)")
    serve.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which browsers reach it; may be given several times",
    )
    serve.add_argument("--people", choices=["login", "proxy"], help="who checks those that come in from elsewhere")
    serve.set_defaults(run=app.serve)
    return parser


if __name__ == "__main__":
    quick.leave(main())
