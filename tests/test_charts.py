"""Charts as the specification that the browser is given: nothing that a reader needs may be left to chance."""

from typing import Any

import numpy as np
import pytest
from conftest import COLOURS

from panorama import charts
from panorama.events import EpochEnded, Event, history


def encodings(spec: Any, channel: str) -> list[dict[str, Any]]:
    """That channel of every layer."""
    layers = spec.get("layer", [spec])
    return [layer["encoding"][channel] for layer in layers if channel in layer.get("encoding", {})]


@pytest.mark.parametrize("n_labels", [2, 8, 20, 40])
def test_every_label_keeps_its_name_on_both_sides_of_the_map(n_labels: int) -> None:
    labels = [f"label {n}" for n in range(n_labels)]
    spec = charts.cooccurrence(labels, np.ones((3, n_labels), np.int8)).to_dict()
    for channel, field in (("x", "with"), ("y", "label")):
        for encoding in encodings(spec, channel):
            assert encoding["axis"]["labelOverlap"] is False, "no name is left out for want of room"
            assert encoding["sort"] == labels
        assert any(field in str(tip.get("field")) for tips in encodings(spec, "tooltip") for tip in tips)


def test_labels_together_are_counted_as_by_hand() -> None:
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0]], np.int8)
    table = charts.together(list(COLOURS), targets).set_index(["label", "with"])
    assert table.loc[("red", "green"), "images"] == 2
    assert table.loc[("red", "green"), "share"] == pytest.approx(2 / 3)
    assert table.loc[("green", "red"), "share"] == pytest.approx(2 / 3)
    assert table.loc[("blue", "green"), "share"] == 1.0
    assert table.loc[("red", "blue"), "images"] == 0


def test_the_first_and_the_last_epoch_have_room_for_a_whole_mark() -> None:
    epochs: list[Event] = [EpochEnded(n, "adaptation", n, 0.5, 0.5, None, n == 10, 0, 2, 1.0, 1.0) for n in range(1, 11)]
    spec = charts.loss_curves(history(epochs)).to_dict()
    for encoding in encodings(spec, "x"):
        low, high = encoding["scale"]["domain"]
        assert low < 1
        assert high > 10


LONG = "a label that somebody wrote as a whole sentence, with everything one should know of it"


def test_a_long_name_stands_upright_above_its_column_as_a_slanted_one_runs_out_of_the_chart() -> None:
    for labels, angle in ((["red", "sea"], -40), (["red", LONG], -90), ([f"label {n}" for n in range(20)], -90)):
        spec = charts.cooccurrence(labels, np.ones((3, len(labels)), np.int8)).to_dict()
        assert {encoding["axis"]["labelAngle"] for encoding in encodings(spec, "x")} == {angle}


def test_the_number_beside_the_longest_bar_has_room() -> None:
    spec = charts.label_counts(["red", "sea"], np.array([[1, 1], [1, 0]] * 50, np.int8), ["train", "test"] * 50).to_dict()
    domains = [encoding["scale"]["domain"] for encoding in encodings(spec, "x") if "scale" in encoding]
    assert domains == [[0, pytest.approx(108)]]


def test_small_differences_have_ticks_that_differ() -> None:
    """Five ticks from -0.01 to 0.01 with two decimals would read -0.01, -0.01, +0.00."""
    for low, high, decimals in ((-0.004, 0.006, 3), (-0.2, 0.1, 2)):
        rows = [{"target": "one: two", "value": 0.0, "low": low, "high": high}]
        told = {e["axis"]["labelExpr"] for e in encodings(charts.differences(rows).to_dict(), "x") if "axis" in e}
        assert told == {f"datum.value == 0 ? '0' : format(datum.value, '+.{decimals}f')"}
