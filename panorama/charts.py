"""Tables in, Altair charts out. No Streamlit here: the same charts serve pages and reports.

Two series never differ by colour alone: they also differ by dash or shape, and are named beside the line or in a legend.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from panorama.events import History

LabelLine = tuple[Sequence[float], Sequence[float]] | None  # recall, precision
AnyChart = Any  # altair names its charts by how they were put together; callers only draw them

TRAINING, VALIDATION, BEST = "#d97b29", "#2b83a6", "#3c8d5a"
BLUES = ["#2b83a6", "#d97b29", "#3c8d5a", "#a05195", "#8a6d3b", "#6b7f8c", "#c44e52", "#4c5fa8"]
RED = "#c62f3b"
_SHORT = 14  # characters
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [1, 3], [10, 4], [4, 1], [6, 1, 1, 1]]


def epoch_table(history: History) -> pd.DataFrame:
    """One row an epoch and part: epoch (counted through both phases), phase, part, loss, is_best."""
    n_adaptation = sum(epoch.phase == "adaptation" for epoch in history.epochs)
    best = history.best
    rows = [
        {
            "epoch": epoch.epoch + (n_adaptation if epoch.phase == "fine tuning" else 0),
            "phase": epoch.phase,
            "part": part,
            "loss": loss,
            "mAP": epoch.validation_map,
            "is_best": epoch is best,
        }
        for epoch in history.epochs
        for part, loss in (("training", epoch.train_loss), ("validation", epoch.validation_loss))
    ]
    return pd.DataFrame(rows, columns=["epoch", "phase", "part", "loss", "mAP", "is_best"])


def loss_curves(history: History, *, log_scale: bool = False, height: int = 320) -> AnyChart:
    """Training and validation loss per epoch, the phase boundary, and the epoch whose model is kept marked."""
    table = epoch_table(history)
    n_adaptation = int((table["phase"] == "adaptation").sum() // 2)
    # One epoch has no line: a domain of at least two keeps the axis from jumping. At both ends there is room for a whole mark and its words.
    last = max(2, int(table["epoch"].max()) if len(table) else 2)
    room = 0.04 * (last - 1)
    scale = alt.Scale(domain=[1 - room, last + room], nice=False)
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=scale)
    y = alt.Y(
        "loss:Q",
        title="loss (binary cross entropy)",
        scale=alt.Scale(type="log" if log_scale else "linear", zero=False, nice=True),
    )
    colour = alt.Color(
        "part:N",
        title=None,
        scale=alt.Scale(domain=["training", "validation"], range=[TRAINING, VALIDATION]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3),
    )
    dash = alt.StrokeDash(
        "part:N", title=None, scale=alt.Scale(domain=["training", "validation"], range=[[5, 3], [1, 0]]), legend=None
    )
    tooltip = [
        "phase:N", "epoch:Q", "part:N", alt.Tooltip("loss:Q", format=".4f"), alt.Tooltip("mAP:Q", format=".3f", title="validation mAP"),
    ]  # fmt: skip
    lines = alt.Chart(table).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash, detail="phase:N")
    points = alt.Chart(table).mark_point(filled=True, size=28).encode(x=x, y=y, color=colour, tooltip=tooltip)
    layers: list[alt.Chart] = [lines, points]
    if n_adaptation and (table["phase"] == "fine tuning").any():
        edge = pd.DataFrame({"epoch": [n_adaptation + 0.5], "text": ["fine tuning ▸"]})
        layers.append(alt.Chart(edge).mark_rule(strokeDash=[2, 3], color="gray").encode(x="epoch:Q"))
        layers.append(alt.Chart(edge).mark_text(align="left", dx=-4, y=-8, color="gray").encode(x="epoch:Q", text="text:N"))
    best = table[table["is_best"] & (table["part"] == "validation")].assign(text="★ kept")
    if len(best):
        layers.append(alt.Chart(best).mark_point(shape="diamond", size=140, strokeWidth=2, color=BEST).encode(x=x, y=y))
        layers.append(alt.Chart(best).mark_text(dy=-14, color=BEST, fontWeight="bold").encode(x=x, y=y, text="text:N"))
    return alt.layer(*layers).properties(height=height)


def batch_losses(history: History, *, log_scale: bool = False, height: int = 180, most: int = 600) -> AnyChart:
    """The loss of each logged batch of fine tuning, in order; thinned to `most` points."""
    batches = [b for b in history.batches if b.phase == "fine tuning"]
    batches = batches[:: max(1, len(batches) // most)]
    table = pd.DataFrame(
        {"position": [b.epoch - 1 + b.batch / b.batches for b in batches], "loss": [b.loss for b in batches]},
        columns=["position", "loss"],
    )
    scale = alt.Scale(type="log" if log_scale else "linear", zero=False)
    return (
        alt.Chart(table)
        .mark_line(strokeWidth=1, color=TRAINING)
        .encode(
            x=alt.X("position:Q", title="epoch of fine tuning", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("loss:Q", title="loss of a batch", scale=scale),
            tooltip=[alt.Tooltip("position:Q", format=".2f", title="epoch"), alt.Tooltip("loss:Q", format=".4f")],
        )
        .properties(height=height)
    )


def compare_runs(histories: Mapping[str, History], *, log_scale: bool = False, height: int = 320) -> AnyChart:
    """Validation loss per epoch, one line a run."""
    tables = [epoch_table(history).assign(run=name) for name, history in histories.items()]
    table = pd.concat(tables) if tables else epoch_table(History()).assign(run="")
    names = list(histories)
    return (
        alt.Chart(table[table["part"] == "validation"])
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(zero=False)),
            y=alt.Y("loss:Q", title="validation loss", scale=alt.Scale(type="log" if log_scale else "linear", zero=False)),
            color=alt.Color(
                "run:N",
                title=None,
                scale=alt.Scale(domain=names, range=BLUES),
                legend=alt.Legend(orient="top", columns=2, symbolType="stroke", symbolStrokeWidth=3),
            ),
            strokeDash=alt.StrokeDash("run:N", title=None, scale=alt.Scale(domain=names, range=_DASHES), legend=None),
            tooltip=["run:N", "phase:N", "epoch:Q", alt.Tooltip("loss:Q", format=".4f"), alt.Tooltip("mAP:Q", format=".3f")],
        )
        .properties(height=height)
    )


def label_counts(labels: Sequence[str], targets: npt.NDArray[np.int8], splits: Sequence[str]) -> AnyChart:
    """How many images carry each label, a bar a label, split by shade, the number beside it."""
    where = np.array(splits)
    rows = [
        {"label": label, "split": split, "images": int(targets[where == split, k].sum())}
        for k, label in enumerate(labels)
        for split in ("train", "test")
    ]
    table = pd.DataFrame(rows)
    total = table.groupby("label", as_index=False, sort=False)["images"].sum()
    y = alt.Y("label:N", title=None, sort=list(labels), axis=alt.Axis(labelLimit=260))
    room = alt.Scale(domain=[0, 1.08 * max(1, int(total["images"].max()))], nice=False)  # for the number beside the longest bar
    bars = (
        alt.Chart(table)
        .mark_bar(height={"band": 0.7})
        .encode(
            y=y,
            x=alt.X("images:Q", title="images that carry the label", scale=room, axis=alt.Axis(tickMinStep=1, format=",d")),
            color=alt.Color(
                "split:N",
                title=None,
                scale=alt.Scale(domain=["train", "test"], range=[VALIDATION, "#9cc7d6"]),
                legend=alt.Legend(orient="top"),
            ),
            order=alt.Order("split:N", sort="descending"),
            tooltip=["label:N", "split:N", alt.Tooltip("images:Q", format=",d")],
        )
    )
    numbers = (
        alt.Chart(total)
        .mark_text(align="left", dx=4, color="gray")
        .encode(y=y, x="images:Q", text=alt.Text("images:Q", format=",d"))
    )
    return alt.layer(bars, numbers).properties(height=alt.Step(26))


FEW_LABELS = 12  # up to here `cooccurrence` has room beside another chart, and for numbers
MOST_TOGETHER = 40  # labels on it: more would be too small to read


def together(labels: Sequence[str], targets: npt.NDArray[np.int8]) -> pd.DataFrame:
    """How often two labels are on one image: label, with, images, share (of the images with `label`); in the order of the labels."""
    carried = targets.astype(np.float32)  # multiplied much faster than integers, and exact up to 16 million images
    both = (carried.T @ carried).astype(int)  # (n_labels, n_labels)
    rows = [
        {"label": a, "with": b, "images": int(both[i, j]), "share": float(both[i, j] / both[i, i]) if both[i, i] else 0.0}
        for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["label", "with", "images", "share"])


def are_short(labels: Sequence[str]) -> bool:
    """Whether two charts with these names beside them have room side by side."""
    return all(len(label) <= _SHORT for label in labels)


def cooccurrence(labels: Sequence[str], targets: npt.NDArray[np.int8]) -> AnyChart:
    """Of the images with the row's label, the share that also carry the column's; the number of images on each cell where there is room.

    Every row and column keeps its name, upright above many columns; a long name is cut, and whole where one points at a cell.
    """
    table = together(labels, targets)
    upright = len(labels) > 8 or not are_short(labels)  # a slanted name is as wide as it is high, and runs out of the chart
    beside = alt.Axis(labelLimit=160, labelOverlap=False, labelFlush=False)
    above = alt.Axis(orient="top", labelAngle=-90 if upright else -40, labelLimit=120, labelOverlap=False, labelFlush=False)
    base = alt.Chart(table).encode(
        y=alt.Y("label:N", title="images with ...", sort=list(labels), axis=beside),
        x=alt.X("with:N", title="... that also carry", sort=list(labels), axis=above),
    )
    has_numbers = len(labels) <= FEW_LABELS  # more would lie over each other
    legend = None if has_numbers else alt.Legend(title=None, format=".0%", orient="bottom", gradientLength=200)
    cells = base.mark_rect().encode(
        color=alt.Color("share:Q", title="share", scale=alt.Scale(scheme="tealblues", domainMin=0), legend=legend),
        tooltip=["label:N", "with:N", alt.Tooltip("images:Q", format=",d"), alt.Tooltip("share:Q", format=".0%")],
    )
    top = float(table["share"].max()) if len(table) else 0.0
    text = base.mark_text(fontSize=11).encode(
        text=alt.Text("images:Q", format=",d"),
        color=alt.condition(alt.datum.share > top * 0.55, alt.value("white"), alt.value("#1c2a30")),
    )
    if not has_numbers:
        return cells.properties(height=alt.Step(18))
    return alt.layer(cells, text).properties(height=alt.Step(30))


def probability_bars(
    labels: Sequence[str], probabilities: Sequence[float], thresholds: Sequence[float] | None, *,
    predicted: Collection[str], beside: Mapping[str, float] | None = None,
) -> AnyChart:  # fmt: skip
    """One bar a label, 0 to 1: predicted labels are filled and ticked, each threshold a short line (None: none), `beside` another model's answers."""
    table = pd.DataFrame({"label": list(labels), "probability": list(probabilities)})
    table["predicted"] = ["predicted" if label in predicted else "not predicted" for label in labels]
    table["text"] = [f"{p:.2f}" + (" ✓" if label in predicted else "") for label, p in zip(labels, probabilities, strict=True)]
    y = alt.Y("label:N", title=None, sort=list(labels), axis=alt.Axis(labelLimit=200))
    # Room for the numbers in a column of their own: beside the bars, the thresholds run through them.
    x = alt.X(
        "probability:Q",
        title="probability",
        scale=alt.Scale(domain=[0, 1.22]),
        axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2f"),
    )
    colour = alt.Color(
        "predicted:N", legend=None, scale=alt.Scale(domain=["predicted", "not predicted"], range=[VALIDATION, "#9aa7ad"])
    )
    tooltip = ["label:N", alt.Tooltip("probability:Q", format=".3f"), "predicted:N"]
    layers = [
        alt.Chart(table).mark_bar(height={"band": 0.65}).encode(y=y, x=x, color=colour, tooltip=tooltip),
        alt.Chart(table).mark_text(align="left", color="gray").encode(y=y, x=alt.datum(1.03), text="text:N"),
    ]
    if thresholds is not None:
        lines = pd.DataFrame({"label": list(labels), "probability": list(thresholds)})
        layers.append(alt.Chart(lines).mark_tick(thickness=2, color="gray", bandSize=22).encode(y=y, x=x))
    if beside:
        known = pd.DataFrame([{"label": label, "probability": beside[label]} for label in labels if label in beside])
        if len(known):
            layers.append(alt.Chart(known).mark_point(size=90, color=TRAINING, strokeWidth=2.5).encode(y=y, x=x))
    return alt.layer(*layers).properties(height=alt.Step(26))


def label_scores(rows: Sequence[Mapping[str, Any]]) -> AnyChart:
    """Average precision per label before and after training: two marks on one line a label. rows: label, when, average_precision."""
    table = pd.DataFrame(list(rows), columns=["label", "when", "average_precision"])
    order = list(dict.fromkeys(table["label"]))
    base = alt.Chart(table).encode(y=alt.Y("label:N", title=None, sort=order, axis=alt.Axis(labelLimit=260)))
    line = base.mark_line(color="#9aa7ad").encode(x="average_precision:Q", detail="label:N")
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=alt.X(
            "average_precision:Q",
            title="average precision on the test split",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(labelFlushOffset=_AT_THE_EDGE),
        ),
        color=alt.Color(
            "when:N",
            title=None,
            scale=alt.Scale(domain=["before", "after"], range=["#9aa7ad", VALIDATION]),
            legend=alt.Legend(orient="top"),
        ),
        shape=alt.Shape("when:N", title=None, scale=alt.Scale(domain=["before", "after"], range=["circle", "diamond"])),
        tooltip=["label:N", "when:N", alt.Tooltip("average_precision:Q", format=".3f")],
    )
    return alt.layer(line, points).properties(height=alt.Step(28))


_OLD, _NEW = "#a0742c", VALIDATION
_ROW_HEIGHT, _AXIS_HEIGHT = 112, 70  # the axis takes its part of the height that Streamlit gives
_AT_THE_EDGE = -3  # pixels: a label that ends where the chart does loses part of its last figure
_TWO_LINES = alt.Axis(labelExpr="split(datum.label, ': ')", labelLimit=230, labelPadding=8, ticks=False, domain=False)


def old_and_new(rows: Sequence[Mapping[str, Any]]) -> AnyChart:
    """Two runs side by side: a dot, its interval and both in words. rows: target (": " breaks the line), run (old, new), value,
    low, high, text.

    Where low is None there is a dot alone. Old is a circle, new a diamond.
    """
    table = pd.DataFrame(list(rows), columns=["target", "run", "value", "low", "high", "text"])
    table[["low", "high"]] = table[["low", "high"]].astype(float)
    table["end"] = table["high"].fillna(table["value"])
    lowest = float(np.nanmin(table[["value", "low"]].to_numpy(float))) if len(table) else 0.0
    # The words of the leftmost interval end where it ends, and need room.
    scale = alt.Scale(domain=[max(0.0, lowest - 0.45 * (1 - lowest) - 0.02), 1.0], nice=False, zero=False)
    runs = ["old", "new"]
    base = alt.Chart(table).encode(
        y=alt.Y("target:N", title=None, sort=list(dict.fromkeys(table["target"])), axis=_TWO_LINES),
        yOffset=alt.YOffset("run:N", sort=runs, scale=alt.Scale(paddingInner=0.1, paddingOuter=0.25)),
        color=alt.Color("run:N", legend=None, scale=alt.Scale(domain=runs, range=[_OLD, _NEW])),
    )
    x = alt.X("value:Q", title="higher is better", scale=scale, axis=alt.Axis(labelFlushOffset=_AT_THE_EDGE, tickCount=6))
    interval = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q", title="higher is better", scale=scale), x2="high:Q")
    shape = alt.Shape("run:N", legend=None, scale=alt.Scale(domain=runs, range=["circle", "diamond"]))
    dots = base.mark_point(size=100, filled=True, opacity=1).encode(x=x, shape=shape)
    words = base.mark_text(align="right", dy=-13, fontSize=12, limit=320).encode(
        x=alt.X("end:Q", title="higher is better", scale=scale), text="text:N"
    )
    return alt.layer(interval, dots, words).properties(height=_ROW_HEIGHT * table["target"].nunique() + _AXIS_HEIGHT)


def differences(rows: Sequence[Mapping[str, Any]]) -> AnyChart:
    """New minus old, a dot and its interval beside a line at zero. rows: target (": " breaks the line), value, low, high."""
    table = pd.DataFrame(list(rows), columns=["target", "value", "low", "high"])
    table[["low", "high"]] = table[["low", "high"]].astype(float)
    reach = 1.15 * max(0.01, float(np.nanmax(np.abs(table[["value", "low", "high"]].to_numpy(float))))) if len(table) else 1.0
    scale, title = alt.Scale(domain=[-reach, reach], nice=False), "new minus old"
    decimals = "+.2f" if reach > 0.05 else "+.3f"
    base = alt.Chart(table).encode(y=alt.Y("target:N", title=None, sort=list(dict.fromkeys(table["target"])), axis=_TWO_LINES))
    interval = base.mark_rule(strokeWidth=2.5, color=_NEW).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
    dots = base.mark_point(size=100, filled=True, opacity=1, shape="diamond", color=_NEW).encode(
        x=alt.X(
            "value:Q",
            title=title,
            scale=scale,
            axis=alt.Axis(labelExpr=f"datum.value == 0 ? '0' : format(datum.value, '{decimals}')", tickCount=5),
        )
    )
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(strokeDash=[4, 3], color="gray").encode(x="at:Q")
    return alt.layer(zero, interval, dots).properties(height=_ROW_HEIGHT * table["target"].nunique() + _AXIS_HEIGHT)


def precision_recall(test: LabelLine, fold: LabelLine, point: tuple[float, float] | None, *, height: int = 230) -> AnyChart:
    """One label's curves: on the test split (solid) and out of fold (dashed), with the point of its threshold. Each: recall, precision or None."""
    names = ["test split", "out of fold, all images"]
    rows = [
        {"measured on": name, "recall": r, "precision": p, "order": n}
        for name, line in zip(names, (test, fold), strict=True) if line is not None
        for n, (r, p) in enumerate(zip(*line, strict=True))
    ]  # fmt: skip
    x = alt.X("recall:Q", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("precision:Q", scale=alt.Scale(domain=[0, 1]))
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolStrokeWidth=3, title=None)
    lines = (
        alt.Chart(pd.DataFrame(rows, columns=["measured on", "recall", "precision", "order"]))
        .mark_line(strokeWidth=2)
        .encode(
            x=x, y=y, order="order:Q",
            color=alt.Color("measured on:N", legend=legend, scale=alt.Scale(domain=names, range=[VALIDATION, TRAINING])),
            strokeDash=alt.StrokeDash("measured on:N", legend=legend, scale=alt.Scale(domain=names, range=[[1, 0], [5, 3]])),
            tooltip=["measured on:N", alt.Tooltip("recall:Q", format=".2f"), alt.Tooltip("precision:Q", format=".2f")],
        )
    )  # fmt: skip
    layers = [lines]
    if point is not None:
        at = pd.DataFrame({"recall": [point[0]], "precision": [point[1]]})
        layers.append(alt.Chart(at).mark_point(size=130, strokeWidth=3, color="#a05195").encode(x=x, y=y))
    return alt.layer(*layers).properties(height=height)


def reliability(rows: Sequence[Mapping[str, Any]], *, height: int = 300) -> AnyChart:
    """Mean probability against the share that is yes, a dot a bin, larger for more cells. rows: said, carried, cells."""
    table = pd.DataFrame(list(rows), columns=["said", "carried", "cells"])
    line = alt.Chart(pd.DataFrame({"x": [0.0, 1.0]})).mark_line(strokeDash=[4, 3], color="gray").encode(x="x:Q", y="x:Q")
    dots = (
        alt.Chart(table)
        .mark_point(filled=True, opacity=0.85, color=VALIDATION)
        .encode(
            x=alt.X("said:Q", title="mean probability", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("carried:Q", title="share that is yes", scale=alt.Scale(domain=[0, 1])),
            size=alt.Size("cells:Q", legend=None, scale=alt.Scale(range=[40, 400])),
            tooltip=[
                alt.Tooltip("said:Q", format=".3f", title="mean probability"),
                alt.Tooltip("carried:Q", format=".3f", title="share that is yes"), alt.Tooltip("cells:Q", format=",d", title="values"),
            ],
        )
    )  # fmt: skip
    return alt.layer(line, dots).properties(height=height)
