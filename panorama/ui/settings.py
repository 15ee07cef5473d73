"""The form of a training's settings: the few that are asked for first, and every number of the run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from panorama.config import TrainConfig


def settings(defaults: TrainConfig, name: str) -> TrainConfig | None:
    """The form's values; every number of the run can be changed. name: of the defaults, so that others bring their own numbers."""
    left, middle, right = st.columns(3)
    common = ["mobilenet_v2", "efficientnet_b0", "resnet50", "vgg16"]
    backbone = left.selectbox(
        "Backbone", common, accept_new_options=True, key="backbone", help="Any torchvision classifier; type its name."
    )
    options = {
        "imagenet": "ImageNet (downloaded on first use)",
        "starter": "starter (comes with panorama)",
        "none": "none: start from random weights",
        "path": "a file of my own",
    }
    start = middle.selectbox(
        "Pretrained weights",
        list(options),
        index=list(options).index(defaults.weights),
        format_func=options.__getitem__,
        key="weights",
    )
    file = ""
    if start == "path":
        file = right.text_input(
            "Path of the weights file",
            key="weights-path",
            help="The backbone's weights as PyTorch saves them (a state dict, .pth or .safetensors).",
        )
    with st.expander("All numbers"):
        st.caption(
            "Adaptation trains the new head with the extractor frozen; fine tuning unfreezes layers at a lower learning rate."
        )
        a, b, c, d = st.container(key="numbers").columns(4)
        values: dict[str, Any] = {
            "epochs_adaptation": a.number_input(
                "Adaptation: most epochs", 0, 10_000, defaults.epochs_adaptation, key=f"ea-{name}"
            ),
            "learning_rate_adaptation": b.number_input(
                "Adaptation: learning rate", 1e-7, 1.0, defaults.learning_rate_adaptation, format="%.1e", key=f"la-{name}"
            ),
            "patience_adaptation": c.number_input(
                "Adaptation: patience (epochs)", 1, 1000, defaults.patience_adaptation, key=f"pa-{name}"
            ),
            "batch_size": d.number_input("Batch size", 1, 4096, defaults.batch_size, key=f"bs-{name}"),
            "epochs_finetuning": a.number_input(
                "Fine tuning: most epochs", 0, 10_000, defaults.epochs_finetuning, key=f"ef-{name}"
            ),
            "learning_rate_finetuning": b.number_input(
                "Fine tuning: learning rate", 1e-7, 1.0, defaults.learning_rate_finetuning, format="%.1e", key=f"lf-{name}"
            ),
            "patience_finetuning": c.number_input(
                "Fine tuning: patience (epochs)", 1, 1000, defaults.patience_finetuning, key=f"pf-{name}"
            ),
            "image_size": d.number_input("Picture side (pixels)", 32, 1024, defaults.image_size, key=f"is-{name}"),
            "validation_share": a.number_input(
                "Validation share of training", 0.01, 0.5, defaults.validation_share, key=f"vs-{name}"
            ),
            "test_share": b.number_input("Test share (if no test split)", 0.01, 0.9, defaults.test_share, key=f"ts-{name}"),
            "seed": c.number_input(
                "Random seed",
                0,
                2**31 - 1,
                defaults.seed,
                key=f"seed-{name}",
                help="Of the split, the folds and the training: the same seed gives the same run.",
            ),
            "weight_decay": d.number_input("Weight decay", 0.0, 1.0, defaults.weight_decay, format="%.3f", key=f"wd-{name}"),
            "folds": a.number_input(
                "Parts judged in turn (folds)",
                2,
                50,
                defaults.folds,
                key=f"folds-{name}",
                help="All pictures are dealt into so many parts; each part is judged by models that learned from the other parts only. "
                "So no label is judged by a model that was trained on it (“out of fold”): suspects are ranked by these answers.",
            ),
            "fold_repeats": b.number_input(
                "Repeats, dealt anew",
                1,
                50,
                defaults.fold_repeats,
                key=f"repeats-{name}",
                help="The answers are averaged over so many ways to deal the pictures: steadier, and as many times as long.",
            ),
            "threshold": c.number_input("Threshold for predictions", 0.01, 0.99, defaults.threshold, key=f"threshold-{name}"),
            "fold_models": d.selectbox(
                "A part is judged by",
                ["auto", "heads", "trained"],
                index=["auto", "heads", "trained"].index(defaults.fold_models),
                key=f"fold-models-{name}",
                help="“heads” are small models on what the pretrained network sees, and take seconds; “trained” is a whole training for each part. “auto”: heads, unless training starts from random weights.",
            ),
            "schedule": d.selectbox(
                "Fine tuning: schedule",
                ["cosine", "constant"],
                index=["cosine", "constant"].index(defaults.schedule),
                key=f"schedule-{name}",
                help="Cosine: the learning rate rises, then falls to nothing over all epochs, and few are needed. Constant: until patience ends it.",
            ),
            "precision": a.selectbox("Precision", ["auto", "float32", "bfloat16"], key=f"precision-{name}"),
        }
        blocks = b.number_input(
            "Unfreeze the last N blocks",
            0,
            1000,
            0,
            key=f"unfreeze-{name}",
            help="What fine tuning trains. 0: as the recipe has it, all but the first blocks, which see edges and colours, and fewer in the second half; all of them in the notebook’s recipe, from starter weights and from random ones. More than there are: all.",
        )
        augmentation = c.toggle(
            "Augment pictures",
            defaults.augmentation,
            key=f"augmentation-{name}",
            help="Turn, crop and mirror training pictures at random.",
        )
    if start == "none" and name == "fast":
        st.caption("From random weights a few epochs learn little: the notebook's recipe goes on until it stops improving.")
    if start == "starter":
        st.caption(
            "Pictures that panorama draws taught these weights, not photos: better than random ones, and on photos well behind ImageNet's. "
            "Also taken where ImageNet's cannot be downloaded."
        )
        if backbone != "mobilenet_v2":
            st.info("Starter weights are there for mobilenet_v2 only. Choose that backbone, or other weights.")
            return None
    if start == "path" and not Path(file.strip()).expanduser().is_file():
        st.info("Give the path of a weights file that is there.")
        return None
    weights = str(Path(file.strip()).expanduser().resolve()) if start == "path" else start
    return replace(
        defaults, backbone=backbone, weights=weights, unfreeze=blocks or defaults.unfreeze, augmentation=augmentation, **values
    )
