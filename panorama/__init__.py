"""panorama: train a multi-label image classifier, find the labels that are wrong, take home a corrected CSV.

The map, from the ground up (a module imports only what stands above it; tests/test_architecture.py holds the rules):

    core      errors, csvscan, labels, config, events, metrics, noise, suspects, split, bootstrap, charts, drawing, countdown
    pictures  decoding, images; terrain, scenery, demo (drawn pictures)
    torch     preprocessing, hardware, model, features, training, kernel, crossval, checkpoint, prediction
    storage   archives, pictures, finding, datasets, runs, heat, reviews, reviewing, reviewfiles, workbench, cards, export, effect, report, report_html, workspace
    shell     worker (with preparing, runlog, outcome), demo_job, bulk, launch, terminal, quick, cli, ui, __main__

The names below are the ones meant for other programs; importing them does not import torch.
"""

import os

# PyTorch's threads wait for each other by spinning, and where other programs want the cores too, all of them spin for the one that was put aside. A shorter spin
# costs nothing on a quiet machine (docs/speed.md). GNU's OpenMP reads it when torch is imported, so it is set here.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from panorama.config import TrainConfig
from panorama.datasets import DataSet, corrected_csvs, load, write_corrected
from panorama.decisions import Decision
from panorama.errors import PanoramaError
from panorama.events import History, history, progress
from panorama.finding import Source, find_source
from panorama.images import open_rgb
from panorama.labels import corrected, parse_csv, read_labels
from panorama.reviews import ReviewStore
from panorama.runs import Run, create, list_runs
from panorama.suspects import doubts, rank

__all__ = [
    "DataSet", "Decision", "History", "PanoramaError", "ReviewStore", "Run", "Source", "TrainConfig", "corrected",
    "corrected_csvs", "create", "doubts", "find_source", "history", "list_runs", "load", "open_rgb", "parse_csv", "progress",
    "rank", "read_labels", "write_corrected",
]  # fmt: skip
