"""Where labels are seen in a picture and along it, against the model's own answers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import patch_picture
from PIL import Image

from panorama.checkpoint import ModelCard
from panorama.model import build
from panorama.prediction import WIDE, Predictor, Strip, windows
from panorama.ui.predicting import strip_html, where_in_words

LABELS = ("red", "green", "blue")


def a_predictor(backbone: str = "mobilenet_v2") -> Predictor:
    model = build(backbone, len(LABELS), seed=3).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    return Predictor(model, ModelCard(backbone, LABELS, 96, 0.5, "none"))


def test_the_places_of_a_map_average_to_the_models_own_log_odds() -> None:
    predictor = a_predictor()
    picture = patch_picture(["red"], 1, (200, 150))
    heat = predictor.heat(picture)
    assert heat is not None
    assert heat.shape == (3, 3, 3)
    logits = np.log(heat / (1 - heat)).mean((1, 2))
    (p,) = predictor.predict_images([picture])
    assert logits == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_probabilities_are_in_the_order_of_the_labels() -> None:
    """Labels in no alphabetical order, and a head that is sure of the first, which any sorting moves, whatever it sees."""
    model = build("mobilenet_v2", len(LABELS), seed=3).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([9.0, -9.0, -9.0]))
    predictor = Predictor(model, ModelCard("mobilenet_v2", LABELS, 96, 0.5, "none"))
    (p,) = predictor.predict_images([patch_picture([], 1, (100, 100))])
    assert {label: round(float(value)) for label, value in zip(predictor.labels, p, strict=True)} == {
        "red": 1,
        "green": 0,
        "blue": 0,
    }


def test_a_backbone_without_a_last_map_has_no_heat() -> None:
    assert a_predictor("vgg11").heat(patch_picture([], 1, (100, 100))) is None


@pytest.mark.parametrize("aspect", [2.0, 2.5, 6.0, 20.0, 1000.0])
def test_windows_cover_the_picture_and_each_other_by_half(aspect: float) -> None:
    lefts, rights = windows(aspect)
    assert (lefts[0], rights[-1]) == (0, pytest.approx(1))
    assert np.all(lefts[1:] <= (lefts[:-1] + rights[:-1]) / 2 + 1e-9)
    assert np.all(rights - lefts >= 1.5 / aspect - 1e-9)
    assert 2 <= len(lefts) <= 48


def test_a_window_says_what_the_model_says_of_that_part_alone() -> None:
    predictor = a_predictor()
    wide = Image.new("RGB", (600, 100))
    for place, labels in enumerate((["red"], [], ["blue"], ["green"])):
        wide.paste(patch_picture(labels, place, (150, 100)), (150 * place, 0))
    strip = predictor.strip(wide)
    assert strip is not None
    for left, right, p in zip(strip.lefts, strip.rights, strip.probabilities, strict=True):
        part = wide.crop((round(left * 600), 0, round(right * 600), 100))
        assert p == pytest.approx(predictor.predict_images([part])[0], abs=1e-5)
    assert predictor.strip(wide.crop((0, 0, round(100 * WIDE) - 1, 100))) is None


def test_of_many_labels_those_seen_nowhere_are_folded_away() -> None:
    lefts, rights = windows(6.0)
    names = [f"label {j}" for j in range(12)]
    seen = np.full((len(lefts), 12), 0.1, np.float32)
    seen[2, [3, 7]] = 0.9
    shown, folded = strip_html(names, Strip(lefts, rights, seen), [0.5] * len(names)).split("<details>")
    assert [name for name in names if f"<b>{name}</b>" in shown] == ["label 3", "label 7"]
    assert folded.startswith("<summary>10 labels nowhere over 0.5</summary>")
    assert folded.count('class="pn-strip"') == 10
    assert "<details>" not in strip_html(names[:5], Strip(lefts, rights, seen[:, :5]), [0.5] * 5)


def test_the_words_say_where_a_label_is_seen() -> None:
    strip = a_predictor().strip(Image.new("RGB", (600, 100)))
    assert strip is not None
    n = len(strip.lefts)
    assert n == 7, "width 1/4, steps of 1/8"
    # Centres at 1/8, 2/8, ..., 7/8: halfway between them stand 3/16, 5/16, ..., 13/16.
    assert (
        where_in_words(strip, np.float32([0.9, 0.8, 0, 0, 0, 0.6, 0.2]), 0.5)
        == "0% to 31% of the width, 69% to 81% of the width; at most 0.90"
    )
    said = where_in_words(strip, np.float32([0.9, 0, 0.6, 0, 0, 0, 0]), 0.5)
    assert said.startswith("0% to 19% of the width, 31% to 44% of the width;"), "white in the strip between them"
    assert where_in_words(strip, np.float32([0.4, 0, 0, 0, 0, 0, 0.5]), 0.384).startswith("0% to 19% of the width, 81% to 100% ")
    assert where_in_words(strip, np.float32([0.5] * n), 0.5) == "nowhere over 0.5; at most 0.50"
    assert where_in_words(strip, np.float32([0.3] * n), 0.384) == "nowhere over 0.38; at most 0.30"
    assert where_in_words(strip, np.float32([0.75] * n), 0.5) == "all along, at most 0.75"


def test_a_model_may_be_loaded_while_others_predict() -> None:
    """torch.fx, which finds what can be folded, puts its own in the place of every module's call in all threads while it traces."""
    model, card = build("mobilenet_v2", len(LABELS), seed=3).eval(), ModelCard("mobilenet_v2", LABELS, 96, 0.5, "none")
    predictor, picture = Predictor(model, card), patch_picture(["red"], 1, (100, 100))
    expected = predictor.predict_images([picture])

    def loads(_: int) -> npt.NDArray[np.float32]:
        return Predictor(model, card).predict_images([picture])

    def predicts(_: int) -> npt.NDArray[np.float32]:
        assert predictor.heat(picture) is not None
        return predictor.predict_images([picture])

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(work, n) for n in range(12) for work in (loads, predicts)]
        assert all(answer.result() == pytest.approx(expected, abs=1e-5) for answer in answers)
