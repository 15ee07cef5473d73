"""Commands on a data set: what is in it, and the corrected CSV."""

import argparse
from pathlib import Path

from panorama import datasets, finding, runs
from panorama.archives import import_zip
from panorama.csvscan import counted
from panorama.errors import PanoramaError
from panorama.labels import read_decisions


def source_of(options: argparse.Namespace) -> finding.Source:
    """The data set of a command, its zip unpacked, its layouts decided."""
    path: Path = options.data
    if path.is_file() and path.suffix.lower() == ".zip":
        path = import_zip(path, runs.workspace() / "data", path.name)
    source = finding.find_source(path)
    wanted = getattr(options, "file_column", None)
    if wanted is not None:
        source = finding.with_file_column(source, wanted)
    return finding.with_layouts(source)


def load(options: argparse.Namespace, seed: int = 0, test_share: float = 0.2) -> datasets.DataSet:
    """The data set of a command, read with a bar."""
    from panorama.terminal import Bar

    source = source_of(options)
    with Bar("Reading pictures", "images") as bar:
        return datasets.load(source, runs.workspace(), seed=seed, test_share=test_share, on_progress=bar.set)


def check(options: argparse.Namespace) -> int:
    """What is in a data set, label by label, and what is wrong with it."""
    data = load(options)
    n_train, n_test = len(data.indices("train")), len(data.indices("test"))
    n_images, n_labels = counted(len(data.images), "image"), counted(len(data.labels), "label")
    print(f"{data.source.root}: {n_images} ({n_train:,} train, {n_test:,} test), {n_labels}")
    for part in data.parts:
        header = part.sheet.table.header
        layout = part.source.layout
        assert layout is not None
        how = "one column a label" if layout.tag_column is None else f"tags in column {header[layout.tag_column]!r}"
        print(f"{part.source.file}: file names in column {header[layout.file_column]!r}, {how}")
    if data.source.csvs[0].split is None:
        print("split: made by panorama, stratified by label combination (seed 0)")
    width = max(len(label) for label in data.labels)
    for k, label in enumerate(data.labels):
        positives = int(data.targets[:, k].sum())
        print(f"  {label:<{width}}  {positives:>7,} of {len(data.images):,} ({positives / len(data.images):.1%})")
    for problem in data.problems:
        print(f"{problem.severity}: {problem}")
    if data.n_left_out:
        print(f"{counted(data.n_left_out, 'image')} left out; the others can be used.")
    return 0


def export(options: argparse.Namespace) -> int:
    """Writes each CSV corrected, or unchanged where nothing was decided."""
    try:
        decisions = read_decisions(options.decisions.read_bytes(), options.decisions.name)
    except FileNotFoundError:
        raise PanoramaError(
            f"{options.decisions}: there is no such file. Expected a CSV with the columns image, label, value."
        ) from None
    path: Path = options.data
    if path.is_file() and path.suffix.lower() == ".zip":
        path = import_zip(path, runs.workspace() / "data", path.name)
    source = finding.find_source(path)
    if decisions:
        parts = datasets.sheet_parts(source, decided={image for image, _ in decisions})
        written = datasets.write_corrected(parts, source.root, decisions, options.out)
    else:
        written = datasets.write_unchanged(source, options.out)
    for file in written:
        print(file)
    return 0
