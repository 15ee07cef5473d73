"""Start a run, watch it learn, stop and resume it, compare runs."""

import streamlit as st

from panorama import cache, charts, launch, planted, runs, ui
from panorama.config import TrainConfig, demo_config, seed_recipe
from panorama.errors import PanoramaError
from panorama.runs import Run
from panorama.ui import listing, running
from panorama.ui.settings import settings
from panorama.workspace import current

ui.ensure_entrypoint()

st.title("Train")
home = runs.workspace()
found = current(home)
listed = runs.list_runs(home)
if found is None and not listed:
    ui.no_data_set()


RECIPES = {"fast": TrainConfig, "seed": seed_recipe}
untrained = found is not None and all(other.source.root != found.source.root for other in listed)


if found is not None:
    if untrained and listed:
        st.info(f"{ui.text(found.source.name)} has no training yet: start one here.")
    with st.expander("Start a training", expanded=untrained):
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
                    format_func={"fast": "Fast", "seed": "The notebook's"}.__getitem__,
                    key="recipe",
                    help="Fast: few epochs of fine tuning under a rising and falling learning rate. The notebook's: what panorama began as, a constant "
                    "learning rate until early stopping; several times slower and, where measured, not better (`--recipe seed` on the command line).",
                )
                chosen = settings(RECIPES[recipe or "fast"](), recipe or "fast")
        except PanoramaError as error:
            ui.show_error(error)
        if chosen is not None and st.button("Start training", type="primary", key="start"):
            begun = running.begin(found.source, chosen)
            if begun is not None:
                st.query_params["run"] = begun.id
                st.rerun()

listed = runs.list_runs(home)
if not listed:
    st.info("No training yet. Start one above; the curves appear here while it runs.")
    st.stop()


def show(another: str) -> None:
    """This run in place of the one that is shown."""
    ui.keep_run(another)
    st.query_params["run"] = another


busy, beside = runs.running(home), st.container()


def lead_to_the_running(shown: Run | None) -> None:
    """Where another run is shown, or none."""
    if busy and (shown is None or shown.id != busy):
        beside.info("A training is running." if shown is None else "Another training is running.")
        beside.button("Show the one that is running", key="show-running", on_click=show, args=(busy,))


if (
    untrained and ui.kept_run() is None and "run" not in st.query_params
):  # what was trained on other pictures is not shown unasked
    lead_to_the_running(None)
    listing.of_others(listed)
    st.stop()
run = ui.choose_run()
lead_to_the_running(run)


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
    h, state, now = running.under_way(shown)
    if state == "failed":
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
        ("Last epoch", last.phase if last else "—", f"epoch {last.epoch}" if last else ""),
        (
            "Validation loss",
            f"{best.validation_loss:.4f}" if best else "—",
            f"kept: {best.phase}, epoch {best.epoch}" if best else "",
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
    elif state in running.WORKING:
        st.caption("The curves appear with the first epoch.")
    if (
        state == "complete"
        and best is not None
        and best.phase == "adaptation"
        and any(one.phase != "adaptation" for one in h.epochs)
    ):
        st.caption(
            f"Fine tuning did not lower the validation loss: the model that is kept is the one from adaptation, epoch {best.epoch}."
        )
    if best is not None and best.phase == "fine tuning" and best.validation_loss > min(e.validation_loss for e in h.epochs):
        st.caption(
            "The fine-tuned model is kept although adaptation reached a lower validation loss: "
            "by no more than one standard error over the validation images, which is chance."
        )
    for note in h.notes:
        (st.warning if "could not be downloaded" in note else st.caption)(ui.text(note))


st.toggle("Logarithmic loss", key="log-scale")
alive = run.state() in running.WORKING
st.fragment(panel, run_every=1.0 if alive else None)(run)

if run.has("metrics.json"):
    st.success("Complete. Every image has predictions, and the suspects are ranked.")
    told = planted.score(run)
    if told is not None:
        st.write(f"panorama drew these pictures, so here it knows the truth: {told.in_words()}")
    left, middle, right = st.columns([1.5, 1, 1])
    with left:
        ui.page_link("sanity_check", "Next: see what it gets wrong →")
    with middle:
        ui.page_link("review", "Review suspects →")
    with right:
        ui.page_link("report", "Read the report →")

elif found is None:
    ui.page_link("dataset", "Choose a data set to train on →")

listing.table(listed)
listing.curves(listed, run)

folder = home / "cache"
with st.expander("Cache"):
    st.write(
        f"Decoded pictures and features are kept so that the next training starts at once: {cache.size(folder) / 1e9:.2f} GB "
        f"of at most {cache.limit(folder) / 1e9:.1f} GB. What was not used for longest goes first."
    )
    if st.button("Clear the cache", key="clear-cache", help="Nothing is lost but time: the next training computes them again."):
        cache.clear(folder)
        st.rerun()
