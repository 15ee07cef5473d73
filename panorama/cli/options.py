"""The options of a training: one for each number of the recipe."""

import argparse
import dataclasses

from panorama.config import TrainConfig, Unfreeze, seed_recipe

_CHOICES = {
    "precision": ["auto", "float32", "bfloat16"],
    "fold_models": ["auto", "heads", "trained"],
    "schedule": ["cosine", "constant"],
}


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field of TrainConfig, with its default."""
    helps = {
        "backbone": "a torchvision classifier: mobilenet_v2, vgg16, resnet50, efficientnet_b0, ...",
        "weights": "imagenet (torchvision's, downloaded on first use), starter (of mobilenet_v2, taught by drawn pictures, comes with panorama; taken where "
        "the download fails), none, or the path of a weights file as PyTorch saves them (a state dict)",
        "image_size": "side in pixels of what the network sees",
        "augmentation": "turn, crop and mirror training pictures at random",
        "validation_share": "share of the training split that decides early stopping, which epoch is kept, and thresholds",
        "test_share": "share held out for the report, where the data brings no test split",
        "unfreeze": "what fine tuning trains: all blocks, the last N, or auto: all but the first, which see edges and colours, and fewer in the second half (all with --weights starter or none)",
        "precision": "of training steps and feature passes, auto measures which is faster here; answers are float32",
        "folds": "folds of the out-of-fold probabilities",
        "fold_models": "what judges a fold: heads on pretrained features, or a model trained for it; auto: heads unless --weights none",
        "fold_repeats": "how often the folds are drawn anew",
        "threshold": "probability above which a label counts as predicted",
        "epochs_adaptation": "at most so many epochs with the extractor frozen",
        "schedule": "of the learning rate in fine tuning: cosine needs few epochs and all of them, constant goes on until patience ends it",
        "batch_size": "of all processes together",
        "epochs_finetuning": "at most so many epochs with layers unfrozen",
    }
    parser.add_argument(
        "--recipe",
        choices=["fast", "seed"],
        help="the numbers that the others start from: fast (the default), or seed, the notebook panorama began as (the default with "
        "--weights none: from random weights a few epochs learn little)",
    )
    seed = seed_recipe()
    for field in dataclasses.fields(TrainConfig):
        name, default = "--" + field.name.replace("_", "-"), field.default
        theirs = "" if getattr(seed, field.name) == default else f"; seed recipe {getattr(seed, field.name)}"
        text = f"{helps.get(field.name, '')} (default {default}{theirs})".strip()
        kind = type(default)
        if isinstance(default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        elif field.name == "unfreeze":
            parser.add_argument(name, type=_blocks, default=argparse.SUPPRESS, metavar="auto|all|N", help=text)
        elif field.name in _CHOICES:
            parser.add_argument(name, choices=_CHOICES[field.name], default=argparse.SUPPRESS, help=text)
        else:
            parser.add_argument(name, type=kind, default=argparse.SUPPRESS, metavar=kind.__name__.upper(), help=text)


def _blocks(text: str) -> Unfreeze:
    return "auto" if text == "auto" else "all" if text == "all" else int(text)
