"""Data sets at the edge of sense, each from the folder to the trained run and the exported CSV: a result or a plain sentence, in a minute."""

import csv
import math
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from panorama.errors import PanoramaError
from panorama.runs import Run
from tools.torture.checks import ROOT, Check, Outcome

MOST_SECONDS = 60.0
sys.path.insert(0, str(ROOT / "tests"))  # the drawn pictures and the settings of the tests
Work = Callable[[Path], str]


@dataclass(frozen=True)
class Case:
    """make: writes the data set into a folder; words: what must come of it, "complete" or a part of the sentence; then: done before training."""

    make: Callable[[Path], None]
    words: str = "complete"
    settings: dict[str, Any] = field(default_factory=dict)
    then: Callable[[Run], None] | None = None
    during: Callable[[Run], None] | None = None  # done when the training has read the data
    quick: bool = False


def picture(path: Path, seed: int, **options: Any) -> None:
    """Drawn noise with a patch of colour, in the format of its suffix."""
    from conftest import patch_picture

    path.parent.mkdir(parents=True, exist_ok=True)
    patch_picture(["red"] if seed % 2 else [], seed).save(path, **options)


def pictures(
    n: int, header: str = "a,b", row: Callable[[int], str] = lambda i: f"{i % 2},{int(i % 3 == 0)}", name: str = "{}.png"
) -> Callable[[Path], None]:
    """n pictures and labels.csv."""

    def make(folder: Path) -> None:
        for i in range(n):
            picture(folder / name.format(i), i)
        lines = [f"file,{header}", *(f"{name.format(i)},{row(i)}" for i in range(n))]
        (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return make


def only(files: dict[str, str]) -> Callable[[Path], None]:
    """These texts and nothing else."""

    def make(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    return make


def changed(make: Callable[[Path], None], change: Callable[[Path], object]) -> Callable[[Path], None]:
    """The data set, then something done to it."""

    def both(folder: Path) -> None:
        make(folder)
        change(folder)

    return both


def corrupt(which: Callable[[int], bool]) -> Callable[[Path], None]:
    """Overwrites some of the pictures."""

    def change(folder: Path) -> None:
        for path in sorted(folder.glob("*.png")):
            if which(int(path.stem)):
                path.write_bytes(b"not a picture")

    return change


def missing(which: Callable[[int], bool]) -> Callable[[Path], None]:
    """Deletes some of the pictures."""

    def change(folder: Path) -> None:
        for path in sorted(folder.glob("*.png")):
            if which(int(path.stem)):
                path.unlink()

    return change


def seed_layout(
    n_train: int = 10, n_test: int = 4, *, test_header: str = "a,b", same_names: bool = False, train_prefix: str = ""
) -> Callable[[Path], None]:
    """train/, test/ and a CSV for each."""

    def make(folder: Path) -> None:
        for split, n, header in (("train", n_train, "a,b"), ("test", n_test, test_header)):
            (folder / split).mkdir()
            lines = [f"file,{header}"]
            for i in range(n):
                name = f"{i}.png" if same_names else f"{split}{i}.png"
                picture(folder / split / name, i + 100 * len(split))
                lines.append(f"{train_prefix}{name},{i % 2},{int(i % 3 == 0)}")
            (folder / f"{split}_label.csv").write_text("\n".join(lines) + "\n")

    return make


def all_alike(folder: Path) -> None:
    """Twelve copies of one picture."""
    pictures(12)(folder)
    for i in range(1, 12):
        shutil.copyfile(folder / "0.png", folder / f"{i}.png")


def one_pixel(folder: Path) -> None:
    """Pictures of a single pixel."""
    pictures(12)(folder)
    for i in range(12):
        Image.new("RGB", (1, 1), (20 * i, 0, 255 - 20 * i)).save(folder / f"{i}.png")


def very_wide(folder: Path) -> None:
    """Pictures of 4,000 by 1 pixel."""
    pictures(12)(folder)
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (1, 4000, 3), np.uint8)).save(folder / f"{i}.png")


def all_formats(folder: Path) -> None:
    """A picture in each format and in odd modes."""
    suffixes = ("jpg", "png", "bmp", "gif", "webp", "tif", "avif")
    lines = ["file,a,b"]
    for i in range(14):
        name = f"{i}.{suffixes[i % 7]}"
        picture(folder / name, i)
        lines.append(f"{name},{i % 2},{int(i % 3 == 0)}")
    with Image.open(folder / "1.png") as image:
        image.convert("LA").save(folder / "1.png")
    (folder / "labels.csv").write_text("\n".join(lines))


def two_folders(folder: Path) -> None:
    """The same names in two folders, and a CSV that does not say which."""
    for i in range(8):
        for place in "xy":
            picture(folder / place / f"{i}.png", i + (50 if place == "y" else 0))
    (folder / "labels.csv").write_text("file,a\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(8)))


def told_folders(folder: Path) -> None:
    """The same names in two folders, and a CSV that says which."""
    two_folders(folder)
    (folder / "labels.csv").write_text("file,a\n" + "".join(f"{p}/{i}.png,{i % 2}\n" for i in range(8) for p in "xy"))


def replace_picture(run: Run) -> None:
    """Another picture under the name of one that the run has read."""
    picture(run.source.root / "3.png", 999)


def delete_picture(run: Run) -> None:
    """A picture that the run has read is gone."""
    (run.source.root / "3.png").unlink()


def delete_all(run: Run) -> None:
    """The whole data set is gone."""
    shutil.rmtree(run.source.root)


def edit_csv(run: Run) -> None:
    """Another value and a row less in the CSV beside the pictures, while its run is reviewed."""
    file = run.source.root / "labels.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace(",0,", ",1,"), *lines[3:]]))


def full_of(value: str) -> Callable[[int], str]:
    """A row of one value."""
    return lambda _: value


OURS = "image,split,path,label,given,probability,doubt,kind,rank,reason,event,value,verdict,reviewer,way,note"
CASES: dict[str, Case] = {
    "an empty folder": Case(only({}), "there is no CSV", quick=True), "a CSV and no picture": Case(only({"labels.csv": "file,a\n1.png,1\n2.png,0\n"}), "no column names a picture|not in the folder", quick=True),
    "pictures and no CSV": Case(lambda folder: picture(folder / "1.png", 1), "there is no CSV", quick=True), "a CSV of 0 bytes": Case(changed(pictures(4), lambda f: (f / "labels.csv").write_bytes(b"")), "the file is empty", quick=True),
    "a header and no row": Case(changed(pictures(4), lambda f: (f / "labels.csv").write_text("file,a\n")), "no image is left|no row below", quick=True),
    "separators and nothing else": Case(changed(pictures(4), lambda f: (f / "labels.csv").write_text("file,a\n,\n,\n,\n")), "no", quick=True),
    "1 image": Case(pictures(1), "Too few pictures|nothing to learn", quick=True), "2 images": Case(pictures(2), "Too few pictures", quick=True), "3 images": Case(pictures(3), "Too few pictures"), "5 images": Case(pictures(5)),
    "one label": Case(pictures(12, "a", lambda i: str(i % 2)), quick=True), "no label": Case(pictures(6, "who", lambda i: f"Ann{i}"), "no column is a label"),
    "one label, never set": Case(pictures(12, "a", full_of("0")), "nothing to learn"), "one label, always set": Case(pictures(12, "a", full_of("1")), "nothing to learn"),
    "a label never set beside another": Case(pictures(12, "never,a", lambda i: f"0,{i % 2}")), "a label always set beside another": Case(pictures(12, "always,a", lambda i: f"1,{i % 2}")),
    "a label set once": Case(pictures(12, "once,a", lambda i: f"{int(i == 5)},{i % 2}")), "two labels that are the same": Case(pictures(12, "a,b", lambda i: f"{i % 2},{i % 2}")),
    "hardly anything to validate on": Case(pictures(12), settings={"validation_share": 0.01}), "fewer images than a batch": Case(pictures(8), settings={"batch_size": 512}),
    "batches of one": Case(pictures(8), "batch size of 2 or more", settings={"batch_size": 1}), "more folds than images": Case(pictures(8), settings={"folds": 20}),
    "every picture damaged": Case(changed(pictures(8), corrupt(lambda i: True)), "no image is left", quick=True), "half of the pictures damaged": Case(changed(pictures(20), corrupt(lambda i: i % 4 < 2))),
    "half of the pictures missing": Case(changed(pictures(20), missing(lambda i: i % 4 < 2))), "every picture missing but one": Case(changed(pictures(8), missing(lambda i: i > 0)), "Too few pictures"),
    "1,000 labels": Case(pictures(12, ",".join(f"label{k}" for k in range(1000)), lambda i: ",".join(str((i + k) % 2) for k in range(1000)))),
    "labels named like our own columns": Case(pictures(12, OURS, lambda i: ",".join(str((i + k) % 2) for k in range(16)))), "a label of 2,000 characters": Case(pictures(12, "x" * 2000, lambda i: str(i % 2))),
    "labels that are words of SQL, JSON and Python": Case(pictures(12, "select,drop table x,null,NaN,True,{},[],__class__,../..", lambda i: ",".join(str((i + k) % 2) for k in range(9)))),
    "values that are neither": Case(pictures(8, "a", full_of("maybe")), "no column is a label|nothing to learn"), "one row that is neither": Case(pictures(12, "a", lambda i: "?" if i == 3 else str(i % 2))),
    "every row twice, with other values": Case(changed(pictures(8), lambda f: (f / "labels.csv").write_text("file,a\n" + "".join(f"{i}.png,{k}\n" for i in range(8) for k in (0, 1)))), "no image is left|other labels"),
    "the same name in two folders": Case(two_folders, "may mean|no image is left"), "the same name in two folders, told apart": Case(told_folders),
    "the same names in train and test": Case(seed_layout(same_names=True)), "an empty train folder": Case(changed(seed_layout(), lambda f: [p.unlink() for p in (f / "train").iterdir()]), "no column|Too few pictures|not in the folder"),
    "an empty test folder": Case(changed(seed_layout(), lambda f: [p.unlink() for p in (f / "test").iterdir()]), "complete|no column|test"), "no test folder": Case(changed(seed_layout(), lambda f: shutil.rmtree(f / "test")), "test/ is missing"),
    "a test CSV without rows": Case(changed(seed_layout(), lambda f: (f / "test_label.csv").write_text("file,a,b\n")), "complete|test"), "other labels in test than in train": Case(seed_layout(test_header="a,c"), "do not have the same labels"),
    "all pictures alike": Case(all_alike, "complete|alike|near-duplicates"), "pictures of one pixel": Case(one_pixel, "complete|alike|near-duplicates"), "pictures of 4,000 x 1 pixels": Case(very_wide), "every format and odd modes": Case(all_formats),
    "tags": Case(pictures(12, "tags", lambda i: "sea" if i % 2 else "sea sky")), "names without a suffix": Case(changed(pictures(12), lambda f: (f / "labels.csv").write_text("file,a\n" + "".join(f"{i},{i % 2}\n" for i in range(12))))),
    "a name with every odd character": Case(pictures(12, name="ü 海 %s {{}} 'q' {}.png")),
    "a picture replaced before the training reads it": Case(pictures(12), then=replace_picture), "a picture deleted before the training reads it": Case(pictures(12), then=delete_picture),
    "a picture replaced during training": Case(pictures(12), "has changed since the run read it", during=replace_picture), "a picture deleted during training": Case(pictures(12), "3.png: the file is not there", during=delete_picture),
    "the data set deleted before the training reads it": Case(pictures(12), "no image is left", then=delete_all), "the data set deleted during training": Case(pictures(12), "the file is not there", during=delete_all),
    "the CSV edited while it is reviewed": Case(pictures(12), then=edit_csv), "the CSV edited during training": Case(pictures(12), during=edit_csv),
}  # fmt: skip


def ended(case: Case, folder: Path, home: Path, work: Work) -> tuple[str, Run | None]:
    """("complete" or the sentence that says why not, the run if there is one)."""
    from conftest import QUICK

    from panorama import runs
    from panorama.config import TrainConfig
    from panorama.datasets import load
    from panorama.finding import find_source, with_layouts
    from panorama.workspace import remember

    run = None
    try:
        source = with_layouts(find_source(folder))
        remember(home, source)
        settings = {**QUICK, "epochs_adaptation": 1, "epochs_finetuning": 1, "fold_models": "heads", **case.settings}
        run = runs.create(load(source, home), TrainConfig(**settings), home)
        if case.then:
            case.then(run)
        with mock.patch("panorama.worker.load", partial(_load_then, load, case.during, run)):
            status = work(run.folder)
    except PanoramaError as error:
        return str(error), run
    message = run.history().message
    return ("complete" if status == "complete" else message or f"ended as {status} without a word"), run


def _load_then(load: Callable[..., Any], during: Callable[[Run], None] | None, run: Run, *values: Any, **options: Any) -> Any:
    data = load(*values, **options)
    if during:
        during(run)
    return data


def faults(case: Case, said: str, run: Run | None) -> Iterator[str]:
    """What is wrong with how it ended."""
    if not re.search(case.words, said):
        yield f"{said[:300]!r}, expected {case.words!r}"
    if said != "complete":
        if (
            "Traceback" in said
            or "unexpected" in said
            or re.search(r"\b\w+Error\b", said)
            or len(said) < 25
            or not said.rstrip().endswith((".", "?"))
        ):
            yield f"not a plain sentence: {said[:300]!r}"
        return
    assert run is not None
    for name in ("before.csv", "predictions.csv", "out_of_fold.csv", "suspects.csv", "neighbours.csv"):
        if not run.has(name):
            yield f"complete without {name}"
            continue
        with (run.folder / name).open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
            numbers = [
                n for n, column in enumerate(header) if column not in ("image", "split", "path", "label", "kind", "reason")
            ]
            if any(row[n].lower() in ("nan", "inf", "-inf") for row in rows for n in numbers):
                yield f"NaN in {name}"
    if run.metrics() is None:  # NaN and Infinity count as damage there
        yield "complete without metrics that can be read"
    if not all(math.isfinite(epoch.validation_loss) for epoch in run.history().epochs) or not run.history().epochs:
        yield "no epoch, or one without a validation loss"
    yield from exported(run)


def exported(run: Run) -> Iterator[str]:
    """Whether the run's CSVs come back as they went in."""
    from panorama.datasets import corrected_csvs

    for name, data in corrected_csvs(run.sheets(), {}).items():
        if data != (run.csv_folder / Path(name).name).read_bytes():
            yield f"{name} comes back with other bytes"


def shown(home: Path) -> Iterator[str]:
    """Exceptions and NaNs on the pages."""
    import logging
    import os

    from streamlit.logger import set_log_level
    from streamlit.testing.v1 import AppTest

    set_log_level(logging.CRITICAL)  # that there is no browser
    before = os.environ.get("PANORAMA_HOME")
    os.environ["PANORAMA_HOME"] = str(home)
    try:
        for page in ("dataset", "review", "export", "report"):
            app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
            app.run()
            app.switch_page(f"pages/{page}.py").run()
            if app.exception:
                yield f"page {page}: {app.exception[0].value}"
            words = " ".join(
                [str(e.value) for e in (*app.markdown, *app.caption, *app.metric)] + [e.proto.body for e in app.get("html")]
            )
            if re.search(r"(?<![\w.])(nan|NaN|inf)(?![\w.])", re.sub(r"<[^>]*>", " ", words)) and "NaN" not in str(home):
                yield f"page {page} shows NaN"
    finally:
        os.environ.pop("PANORAMA_HOME")
        if before is not None:
            os.environ["PANORAMA_HOME"] = before


def cases(quick: bool, work: Work | None = None, names: tuple[str, ...] = ()) -> Outcome:
    """Every case, and its pages (quick: those that end at once, and one training, without pages)."""
    import os

    import torch

    from panorama.worker import run as train

    torch.set_num_threads(1)
    wrong: list[str] = []
    refused, slowest = 0, ("", 0.0)
    chosen = {name: case for name, case in CASES.items() if (name in names if names else case.quick or not quick)}
    for name, case in chosen.items():
        with tempfile.TemporaryDirectory() as place:
            folder, home = Path(place) / "set", Path(place) / "home"
            folder.mkdir()
            os.environ["PANORAMA_HOME"] = str(home)
            case.make(folder)
            start_seconds = time.perf_counter()
            try:
                said, run = ended(case, folder, home, work or train)
                seconds = time.perf_counter() - start_seconds
                found = list(faults(case, said, run))
                if (
                    not quick and run is not None and name != "labels that are words of SQL, JSON and Python"
                ):  # one of them is called NaN
                    found += shown(home)
            except Exception:
                said, seconds, found = "", time.perf_counter() - start_seconds, [traceback.format_exc()]
            refused += said != "complete"
            slowest = max(slowest, (name, seconds), key=lambda pair: pair[1])
            if seconds > MOST_SECONDS:
                found.append(f"took {seconds:.0f} s")
            wrong += [f"{name}: {fault}" for fault in found]
    os.environ.pop("PANORAMA_HOME", None)
    return Outcome(len(chosen), refused, tuple(wrong), measured={"slowest": f"{slowest[1]:.1f} s ({slowest[0]})"})


def lazy(folder: Path) -> str:
    """The control: a worker that says complete and has written a NaN."""
    (folder / "predictions.csv").write_text("image,split,a\n1.png,test,nan\n")
    return "complete"


CHECKS = (
    Check(
        "degenerate", "data sets at the edge of sense, from the folder to the trained run, its CSV and its pages",
        cases, lambda quick: cases(True, lazy, ("one label", "one label, never set")), "a worker that says complete at once and writes a NaN", 1200, 60,
    ),
)  # fmt: skip
