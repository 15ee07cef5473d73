"""Commands that train, or ask a training for something; and the loops around it: the demo, and training again on corrections."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from panorama import datasets, finding, planted, quick, runs
from panorama.cli.data import load
from panorama.config import NAMED_WEIGHTS, TrainConfig, demo_config, seed_recipe
from panorama.csvscan import counted
from panorama.errors import PanoramaError
from panorama.runs import Run
from panorama.workspace import remember

if TYPE_CHECKING:
    from panorama.processes import Team


def train(options: argparse.Namespace) -> int:
    """Makes a run and trains it here; the last line is its folder."""
    with quick.imports():
        from panorama import processes

    team = processes.join()
    if not team.is_first:
        return _help(team)
    given = {name: value for name, value in vars(options).items() if name in TrainConfig.__dataclass_fields__}
    from_random = given.get("weights") == "none" and options.recipe is None
    config = dataclasses.replace(seed_recipe() if options.recipe == "seed" or from_random else TrainConfig(), **given)
    if config.weights not in NAMED_WEIGHTS:
        path = Path(config.weights).expanduser().resolve()
        if not path.is_file():
            raise PanoramaError(
                f"{config.weights}: there is no such weights file. Give a file of weights (.pth, .pt or .safetensors), imagenet, starter or none."
            )
        config = dataclasses.replace(config, weights=str(path))
    if options.out is not None:
        runs.refuse_used_folder(options.out)
    with quick.imports():
        from panorama.model import refuse_other_than_starter, refuse_unknown

    refuse_unknown(config.backbone)
    if config.weights == "starter":
        refuse_other_than_starter(config.backbone)
    data = load(options, config.seed, config.test_share)
    for problem in data.problems:
        if problem.severity != "note":
            print(f"{problem.severity}: {problem}", file=sys.stderr)
    run = runs.create(data, config, runs.workspace(), folder=options.out)
    team.from_first(run.folder)
    _work(run)
    print(run.folder)
    return 0


def _help(team: "Team") -> int:
    """A process that is not the first: it computes its share of the run that the first one made, and says nothing."""
    with quick.imports():
        from panorama import worker

    try:
        folder = team.from_first(None)
    except RuntimeError:  # the first ended before it made a run, and says why
        return 1
    return 1 if worker.run(folder) == "failed" else 0


def _work(run: Run) -> None:
    """Trains in this process, showing progress, and prints how it ended."""
    with quick.imports():
        from panorama import worker
    from panorama.terminal import Progress

    (run.folder / "stop").unlink(missing_ok=True)
    with Progress() as shown:
        status = worker.run(run.folder, shown)
    message = run.history().message
    if status == "failed":
        raise PanoramaError(message)
    if status == "stopped":
        print(f"{message} python -m panorama resume {run.folder}")
    else:
        _print_metrics(run)


def _print_metrics(run: Run) -> None:
    values = run.metrics() or {}
    test = values.get("test", {})
    print(f"test split, {counted(test.get('images', 0), 'image')} the training did not see:")
    for name, value in (("mAP", test["macro"]["average_precision"]), ("F1", test["macro"]["f1"]),
                        ("subset accuracy", test["subset_accuracy"]), ("Hamming loss", test["hamming_loss"])):  # fmt: skip
        print(f"  {name:<16}{_figure(value)}")
    for label, found in test["labels"].items():
        print(f"  {label}: average precision {_figure(found['average_precision'])}, F1 {_figure(found['f1'])}")


def _figure(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.3f}"


def resume(options: argparse.Namespace) -> int:
    """Goes on with a run that was stopped or killed."""
    run = Run(options.run_dir.expanduser().resolve())
    with quick.imports():
        from panorama import processes, worker

    team = processes.join()
    complete = team.from_first(run.state() == "complete")
    if not team.is_first:
        return 1 if not complete and worker.run(run.folder) == "failed" else 0
    if complete:
        print(f"{run.id} is complete; there is nothing to resume.")
    else:
        _work(run)
    print(run.folder)
    return 0


def stop(options: argparse.Namespace) -> int:
    """Asks a run that trains elsewhere to stop."""
    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    if not runs.is_running(run):
        raise PanoramaError(f"{run.id} is not training now.")
    run.ask_to_stop()
    print(f"Asked {run.id} to stop. It can be resumed: python -m panorama resume {run.folder}")
    return 0


def list_all(_: argparse.Namespace) -> int:
    """The workspace's runs, a line each."""
    found = runs.list_runs(runs.workspace())
    if not found:
        print(f"No runs in {runs.workspace()} yet. Start one: python -m panorama train DATA")
    for run in found:
        metrics = run.metrics()
        quality = f"test mAP {_figure(metrics['test']['macro']['average_precision'])}" if metrics else ""
        print(f"{run.id}  {run.state():<11}  {run.source.name}  {run.config.backbone}  {quality}".rstrip())
    return 0


def effect(options: argparse.Namespace) -> int:
    """Trains again on the workspace's corrections, and says what that changed."""
    from panorama import effect
    from panorama.reviews import ReviewStore

    old = Run(options.run_dir.expanduser().resolve())
    _ = old.config
    home = runs.workspace()
    store = ReviewStore(home / "reviews.sqlite")
    fold, corrections = store.fold(old.fingerprint), store.corrections(old.fingerprint)
    new = effect.retrain_run(old, corrections, home, decisions_up_to=fold.last_id)
    _work(new)
    if new.has("metrics.json"):
        found = effect.compare(old, new, fold.standing)
        print(found.verdict)
        for target in found.targets:
            print(f"{target.title}: {target.measured_on if target.figures else target.missing}")
            for figure in target.figures:
                told = f"{figure.old.words()} -> {figure.new.words()}, {figure.difference.words('+')}: {figure.verdict}"
                print(f"  {figure.name}: {told}")
            if target.figures:
                print(f"  It can show {target.can}\n  It cannot show {target.cannot}")
    print(new.folder)
    return 0


def demo(options: argparse.Namespace) -> int:
    """The whole loop on drawn pictures; says how many of the planted errors were found."""
    from panorama.demo import draw_demo
    from panorama.terminal import Bar

    home = runs.workspace()
    folder = (options.folder or home / "demo").expanduser().resolve()
    with Bar("Drawing pictures", "images") as bar:
        data_folder = draw_demo(folder, n_images=options.images, seed=options.seed, on_progress=bar.set)
    source = finding.with_layouts(finding.find_source(data_folder))
    remember(home, source, is_demo=True)  # so that the app goes on from here
    with Bar("Reading pictures", "images") as bar:
        data = datasets.load(source, home, on_progress=bar.set)
    run = runs.create(data, demo_config(options.seed), home)
    _work(run)
    if not run.has("suspects.csv"):
        print(run.folder)
        return 0
    errors = planted.planted_errors(folder)
    found = planted.found_errors(run, errors)
    told = planted.score(run)
    if told is not None:
        print(told.in_words())
    decisions = folder / "decisions.csv"
    runs.write_rows(decisions, ["image", "label", "value"], [(image, label, errors[image, label]) for image, label in found])
    written = datasets.write_corrected(data.parts, source.root, {cell: errors[cell] for cell in found}, folder / "corrected")
    print(
        f"A reviewer who decides those rightly (here: the truth) gets the corrected CSVs: {', '.join(str(file) for file in written)}"
    )
    print(run.folder)
    return 0
