"""The model's answers beside the CSV's labels, before and after training; mispredictions framed red and said in words."""

from urllib.parse import urlencode

import numpy as np
import streamlit as st

from panorama import runs, ui
from panorama.csvscan import counted
from panorama.errors import PanoramaError

ui.ensure_entrypoint()

st.title("Sanity check")
run = ui.choose_run(needs="before.csv")
try:
    found = ui.answers(run)
    decided = ui.review_store(runs.workspace()).fold(run.fingerprint)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
images, splits, labels, targets = found.images, found.splits, found.labels, found.targets

controls = st.columns([1.9, 1, 1.6, 0.9])
options = ["before training", "after training"] if found.after is not None else ["before training"]
when = ui.kept(controls[0].segmented_control, "Predictions", options, f"when-{len(options)}", first=options[-1], required=True)
label = ui.kept(controls[1].selectbox, "Label", ["all labels", *labels], "sanity-label")
kinds = {
    "all": "all pictures",
    "wrong": "any disagreement",
    "extra": "model says it, CSV does not (false positive)",
    "missing": "CSV says it, model does not (false negative)",
    "right": "full agreement",
}
kind = ui.kept(controls[2].selectbox, "Show", list(kinds), "sanity-kind", format_func=kinds.__getitem__)
split = ui.kept(controls[3].selectbox, "Split", ["test", "validation", "train", "all"], "sanity-split")
if found.after is None:
    st.info("This run has not finished: these are the predictions of the untrained head.")

probabilities = found.after if when == "after training" and found.after is not None else found.before
threshold = run.config.threshold
predicted = probabilities > threshold
columns = slice(None) if label == "all labels" else [labels.index(label)]
false_positive = (predicted & (targets == 0))[:, columns].any(1)
false_negative = (~predicted & (targets == 1))[:, columns].any(1)
by_kind = {
    "all": np.ones(len(images), bool),
    "wrong": false_positive | false_negative,
    "extra": false_positive,
    "missing": false_negative,
    "right": ~(false_positive | false_negative),
}
in_split = np.ones(len(images), bool) if split == "all" else np.array(splits) == split
if label != "all labels" and kind == "all":
    by_kind["all"] = (targets[:, columns] == 1).any(1) | predicted[:, columns].any(1)
shown = np.flatnonzero(by_kind[kind] & in_split)

n_wrong = int(((false_positive | false_negative) & in_split).sum())
n_all = int(in_split.sum())
where = "" if split == "all" else f" of the {split} split"
about = "" if label == "all labels" else f" about {ui.text(label)}"
st.write(
    f"On **{n_wrong:,} of {n_all:,}** pictures{where} the model disagrees with the CSV{about} (probability over {threshold:g} counts as predicted)."
)
if split in ("train", "all") and when == "after training":
    st.caption("The model was trained on the pictures of the train split with their labels: agreement there is not evidence.")
if not len(shown):
    st.info("No picture fits this filter.")


def verdict_on(image: str, name: str) -> str:
    """What people have said of a cell where the model and the CSV differ; "" where nobody has."""
    if (image, name) in decided.conflicts:
        return " · people disagree"
    standing = decided.standing.get((image, name))
    if standing is None or standing.value is None:
        return ""
    return " · decided: the CSV is wrong" if standing.verdict == "change" else " · decided: the CSV is right"


def card(i: int) -> str:
    """An image: its picture, what the CSV and the model say, and where they differ."""
    given = [labels[k] for k in np.flatnonzero(targets[i])]
    said = [f"{labels[k]} {probabilities[i, k]:.2f}" for k in np.argsort(-probabilities[i]) if predicted[i, k]]
    differences = [
        (
            f"<b>✗ {ui.esc(labels[k])}</b>: model says yes ({probabilities[i, k]:.2f}), CSV says no" if predicted[i, k]
            else f"<b>✗ {ui.esc(labels[k])}</b>: CSV says yes, model says no ({probabilities[i, k]:.2f})"
        ) + verdict_on(images[i], labels[k])
        for k in np.flatnonzero(predicted[i] != (targets[i] == 1))
    ]  # fmt: skip
    verdict = (
        f'<div class="pn-verdict pn-bad">✗ {counted(len(differences), "difference")}</div>'
        if differences else '<div class="pn-verdict">✓ agrees</div>'
    )  # fmt: skip
    link = ""
    if differences and run.has("suspects.csv"):
        query = urlencode({"run": run.id, "image": images[i], "mode": "image"})
        link = f'<a class="pn-link" href="review?{ui.esc(query)}">review this picture →</a>'
    return (
        f'<div class="pn-card{" pn-wrong" if differences else ""}">'
        f"{ui.run_picture_html(run, found.paths[i], 480, images[i])}"
        f'<div class="pn-body"><div class="pn-name">{ui.esc(images[i])}</div><div class="pn-quiet">{ui.esc(splits[i])}</div>{verdict}'
        f"<div>CSV: {ui.esc(', '.join(given) or 'no label')}</div><div>Model: {ui.esc(', '.join(said) or 'no label')}</div>"
        f"{''.join(f'<p class=pn-error>{line}</p>' for line in differences)}{link}</div></div>"
    )


ui.grid((card(i) for i in shown[ui.pager(len(shown), 24, f"grid {label} {kind} {split} {when}")].tolist()), card_width=225)
st.divider()
st.write(
    "Where the two disagree, sometimes the model is right and the CSV is wrong. The review begins with the likeliest, and shows what models say that never "
    "saw the picture: its numbers differ from these."
)
if runs.find_run(runs.workspace(), run.id) and run.has("suspects.csv"):
    ui.page_link("review", "Next: review the labels that are probably wrong →")
else:
    ui.page_link("train", "The suspects are ranked at the end of the training: see how far it is →")
