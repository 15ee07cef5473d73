"""Start a run, watch it learn, stop and resume it, compare runs."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from panorama import cache, charts, launch, runs, ui
from panorama.config import TrainConfig, demo_config, seed_recipe
from panorama.errors import PanoramaError
from panorama.events import progress
from panorama.runs import Run
from panorama.workspace import current

ui.ensure_entrypoint()

st.title("Train")
home = runs.workspace()
found = current(home)
listed = runs.list_runs(home)
if found is None and not listed:
    ui.empty_state(
        "There is no data set to train on yet.",
        "Choose a folder, upload a zip, or draw the demo first.",
        "dataset",
        "Choose a data set",
    )


RECIPES = {"fast": TrainConfig, "seed": seed_recipe}


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
    file = right.text_input(
        "Path of the weights file",
        key="weights-path",
        help="The backbone's weights as PyTorch saves them (a state dict, .pth or .safetensors); used with “a file of my own”.",
    )
    with st.expander("All numbers"):
        st.caption(
            "Adaptation trains the new head with the extractor frozen; fine tuning unfreezes layers at a lower learning rate."
        )
        a, b, c, d = st.columns(4)
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
            "seed": c.number_input("Seed", 0, 2**31 - 1, defaults.seed, key=f"seed-{name}"),
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
                "How often the parts are dealt anew",
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
        blocks = b.number_input("Unfreeze the last N blocks (0: all)", 0, 1000, 0, key=f"unfreeze-{name}")
        augmentation = c.toggle(
            "Augment pictures",
            defaults.augmentation,
            key=f"augmentation-{name}",
            help="Turn, crop and mirror training pictures at random.",
        )
    if file.strip() and start != "path":
        st.warning("The path of a weights file is only used with “a file of my own”: choose that under “Pretrained weights”.")
    if start == "none" and name == "fast":
        st.caption("From random weights a few epochs learn little: the seed recipe goes on until it stops improving.")
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
    return replace(defaults, backbone=backbone, weights=weights, unfreeze=blocks or "all", augmentation=augmentation, **values)


def begin(config: TrainConfig) -> None:
    """Creates the run folder and starts its worker."""
    assert found is not None
    waiting = any(other.state() in ("starting", "running") for other in runs.list_runs(home)[:3])
    if runs.running(home) is not None or waiting:
        st.error("A training is already running in this workspace. Wait for it, or stop it first.")
        return
    try:
        run = runs.create(ui.data_set(found.source), config, home)
        launch.start(run)
    except PanoramaError as error:
        ui.show_error(error)
        return
    st.query_params["run"] = run.id
    st.rerun()


if found is not None:
    with st.expander("Start a training", expanded=not listed):
        st.write(f"On {ui.text(found.source.name)}.")
        chosen: TrainConfig | None = None
        try:
            if found.is_demo:
                chosen = settings(demo_config(), "demo")
            else:
                recipe = st.segmented_control(
                    "Recipe",
                    list(RECIPES),
                    default="fast",
                    key="recipe",
                    help="Fast: few epochs of fine tuning under a rising and falling learning rate. Seed: the notebook panorama began as, "
                    "a constant learning rate until early stopping; several times slower and, where measured, not better.",
                )
                chosen = settings(RECIPES[recipe or "fast"](), recipe or "fast")
        except PanoramaError as error:
            ui.show_error(error)
        if chosen is not None and st.button("Start training", type="primary", key="start"):
            begin(chosen)

listed = runs.list_runs(home)
if not listed:
    st.info("No training yet. Start one above; the curves appear here while it runs.")
    st.stop()

run = ui.choose_run()


def resume(again: Run) -> None:
    """Starts the worker on the same folder; it goes on after its last finished epoch."""
    try:
        launch.start(again)
    except PanoramaError as error:
        ui.show_error(error)
        return
    st.rerun()


def panel(shown: Run) -> None:
    """How the run stands: state, progress, early stopping, curves."""
    h = shown.history()
    state = shown.state(h)
    if st.session_state.get("watched") != (shown.id, state):
        st.session_state["watched"] = (shown.id, state)
        st.rerun()  # once, so that the page ticks only while something runs
    now = progress(h, time.time(), shown.config)
    if state in ("starting", "running"):
        asked = shown.stop_is_asked()
        left = "" if now.seconds_left is None else f" · about {ui.duration(now.seconds_left)} left"
        st.progress(now.fraction, f"{'Stopping ...' if asked else ui.text(now.doing)}{left}")
        if st.button("Stop", key="stop", disabled=asked, help="Stops at the next batch; the run can be resumed."):
            shown.ask_to_stop()
            st.rerun(scope="fragment")
    elif state == "failed":
        st.error(ui.text(h.message))
        if "could not be downloaded" in h.message and found is not None:
            st.write("Choose another start above, under “Pretrained weights”: a file of your own, or random weights.")
    elif state in ("stopped", "interrupted"):
        st.warning("This run was stopped." if state == "stopped" else "This run ended without finishing (its process is gone).")
    if state in ("failed", "stopped", "interrupted") and st.button("Resume", type="primary", key="resume"):
        resume(shown)
    last, best = (h.epochs[-1] if h.epochs else None), h.best
    ui.facts(
        ("State", state),
        ("Phase", last.phase if last else "—", f"epoch {last.epoch}" if last else ""),
        (
            "Best validation loss",
            f"{best.validation_loss:.4f}" if best else "—",
            f"{best.phase}, epoch {best.epoch}" if best else "",
        ),
        ("Early-stop counter", f"{last.without_improvement} of {last.patience}" if last else "—", "epochs without a lower loss"),
        ("Images a second", f"{now.images_per_second:,.0f}" if now.images_per_second and state == "running" else "—"),
        ("Time", ui.duration(now.seconds_so_far) if alive else ui.duration((h.last_at or 0) - (h.started_at or 0))),
    )
    if h.epochs:
        log_scale = st.session_state.get("log-scale", False)
        st.altair_chart(charts.loss_curves(h, log_scale=log_scale), key="loss-curves")
        with st.expander("Loss of each batch"):
            st.altair_chart(charts.batch_losses(h, log_scale=log_scale), key="batch-losses")
    elif state in ("starting", "running"):
        st.caption("The curves appear with the first epoch.")
    for note in h.notes:
        (st.warning if "could not be downloaded" in note else st.caption)(ui.text(note))


st.toggle("Logarithmic loss", key="log-scale")
alive = run.state() in ("starting", "running")
st.fragment(panel, run_every=1.0 if alive else None)(run)

if run.has("metrics.json"):
    st.success("Complete. Every image has predictions, and the suspects are ranked.")
    left, middle, right = st.columns(3)
    with left:
        ui.page_link("sanity_check", "Next: see what it gets wrong →")
    with middle:
        ui.page_link("review", "Review suspects →")
    with right:
        ui.page_link("report", "Read the report →")

st.subheader("Runs")
rows = []
for other in listed:
    metrics, h = other.metrics(), other.history()
    test = metrics["test"] if metrics else None
    rows.append({
        "run": other.id, "data set": other.source.name, "backbone": other.config.backbone, "state": other.state(h), "epochs": len(h.epochs),
        "best validation loss": h.best.validation_loss if h.best else None,
        "test mAP": test["macro"]["average_precision"] if test else None, "test F1": test["macro"]["f1"] if test else None,
        "minutes": ((h.last_at or 0) - (h.started_at or 0)) / 60 if h.started_at else None,
    })  # fmt: skip
number = st.column_config.NumberColumn(format="%.3f")
st.dataframe(
    pd.DataFrame(rows), hide_index=True, key="runs",
    column_config={"best validation loss": number, "test mAP": number, "test F1": number, "minutes": st.column_config.NumberColumn(format="%.1f")},
)  # fmt: skip
with_epochs = [other for other in listed if other.history().epochs]
if len(with_epochs) > 1:
    picked = st.multiselect(
        "Compare",
        [other.id for other in with_epochs],
        default=[other.id for other in with_epochs[:3]],
        max_selections=8,
        key="compare",
    )
    if picked:
        histories = {other.id: other.history() for other in with_epochs if other.id in picked}
        st.altair_chart(charts.compare_runs(histories, log_scale=st.session_state["log-scale"]), key="compare-chart")

folder = home / "cache"
with st.expander("Cache"):
    st.write(
        f"Decoded pictures and features are kept so that the next training starts at once: {cache.size(folder) / 1e9:.2f} GB "
        f"of at most {cache.limit(folder) / 1e9:.1f} GB. What was not used for longest goes first."
    )
    if st.button("Clear the cache", key="clear-cache", help="Nothing is lost but time: the next training computes them again."):
        cache.clear(folder)
        st.rerun()
