"""ONNX Runtime in torch's place answers as torch does; its networks are kept, and made again where they are not sound."""

import hashlib
import io
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, patch_picture
from PIL import Image

from panorama import cache, checkpoint, engine
from panorama.__main__ import main
from panorama.checkpoint import ModelCard
from panorama.errors import PanoramaError
from panorama.model import Classifier, build, calibrate_batchnorm
from panorama.prediction import Predictor

SIDE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
PICTURES = [patch_picture([list(COLOURS)[i % 3]], i, (90 + 5 * i, 70)) for i in range(11)]  # no multiple of what a thread takes
needs_packages = pytest.mark.skipif(
    any(engine.find_spec(name) is None for name in engine.PACKAGES), reason="needs requirements-onnx.txt"
)


_made: dict[bytes, object] = {}


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked to be written as ONNX in this test; each network is really written once in all, for that takes seconds."""
    asked: list[str] = []
    really = engine.exported

    def exported(network: torch.nn.Module, example: torch.Tensor, *names: str) -> object:
        asked.append(type(network).__name__)
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in network.state_dict().values())).digest()
        if digest not in _made:
            _made[digest] = really(network, example, *names)
        return _made[digest]

    monkeypatch.setattr(engine, "exported", exported)
    return asked


def a_run(folder: Path, backbone: str = "mobilenet_v2", seed: int = 0) -> Path:
    """A run folder with a model whose answers differ from picture to picture."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({"format": 1, "created": "2026-01-01T00:00:00+00:00", "train": {}, "data": {}})
    )
    model = build(backbone, len(COLOURS), seed=seed)
    torch.manual_seed(1)
    calibrate_batchnorm(model, [torch.randn(16, 3, SIDE, SIDE) for _ in range(2)])
    checkpoint.save_model(folder, model.state_dict(), ModelCard(backbone, tuple(COLOURS), SIDE, 0.5, "none"))
    return folder


def by_onnx(run: Path, kept: Path) -> Predictor:
    return Predictor.load(run, engine.choose("onnx", 1, kept))


def networks(kept: Path) -> list[Path]:
    return sorted((kept / "networks").glob("*"))


@needs_packages
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
def test_both_engines_give_the_same_answers(tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where torch computes in the blocked format: the ONNX has nothing of it, and is for any number of pictures.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    run = a_run(tmp_path / "run", backbone)
    expected = Predictor.load(run).predict_images(PICTURES)
    predictor = by_onnx(run, tmp_path)
    found = predictor.predict_images(PICTURES)
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.01, "the negative control"
    assert predictor.predict_images(PICTURES[:1]) == pytest.approx(expected[:1], abs=1e-4)
    assert predictor.predict_images([]).shape == (0, len(COLOURS))
    heat = predictor.heat(PICTURES[0])
    assert heat is not None
    assert heat == pytest.approx(Predictor.load(run).heat(PICTURES[0]), abs=1e-5)


@needs_packages
def test_the_command_writes_the_same_csv_with_either_engine(tmp_path: Path, home: Path, seed_folder: Callable[..., Path]) -> None:
    run, folder = a_run(tmp_path / "run"), seed_folder(6, 5) / "test"
    for choice in ("torch", "onnx"):
        assert main(["predict", str(run), str(folder), "--engine", choice, "--out", str(tmp_path / f"{choice}.csv")]) == 0
    one, two = ([line.split(",") for line in (tmp_path / f"{c}.csv").read_text().splitlines()] for c in ("torch", "onnx"))
    assert [row[0] for row in two] == ["image", *(f"test_{i:03}.jpg" for i in range(5))]
    assert np.array([row[1:] for row in two[1:]], float) == pytest.approx(np.array([row[1:] for row in one[1:]], float), abs=1e-4)
    assert len(networks(home / "cache")) == 1


@needs_packages
def test_a_network_is_written_once_and_again_when_it_is_damaged_or_cleared(tmp_path: Path, written: list[str]) -> None:
    run = a_run(tmp_path / "run")
    expected = by_onnx(run, tmp_path).predict_images(PICTURES)
    by_onnx(run, tmp_path)
    assert len(written) == 1

    (file,) = networks(tmp_path)
    sound = file.read_bytes()
    for damaged in (sound[:-1], b"", sound[:1000] + bytes([sound[1000] ^ 1]) + sound[1001:]):
        file.write_bytes(damaged)
        written.clear()
        assert by_onnx(run, tmp_path).predict_images(PICTURES) == pytest.approx(expected, abs=1e-6)
        assert len(written) == 1
        assert len(file.read_bytes()) == len(sound)

    assert cache.size(tmp_path) == len(sound)
    assert cache.clear(tmp_path) == len(sound)
    assert networks(tmp_path) == []
    by_onnx(run, tmp_path)
    assert len(written) == 2


@needs_packages
def test_other_weights_are_another_network(tmp_path: Path) -> None:
    one, two = a_run(tmp_path / "one"), a_run(tmp_path / "two", seed=5)
    first, second = (by_onnx(run, tmp_path).predict_images(PICTURES) for run in (one, two))
    assert len(networks(tmp_path)) == 2
    assert second == pytest.approx(Predictor.load(two).predict_images(PICTURES), abs=1e-4)
    assert np.abs(first - second).max() > 0.01, "the negative control"


@needs_packages
def test_without_room_in_the_cache_it_works_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "run")
    monkeypatch.setenv("PANORAMA_CACHE_GB", "0.000001")
    assert by_onnx(run, tmp_path).predict_images(PICTURES).shape == (len(PICTURES), len(COLOURS))
    assert networks(tmp_path) == []


WRITER = """
import sys, zlib
from pathlib import Path
from panorama.cache import Kept
kept = Kept(Path(sys.argv[1]), "k")
for _ in range(40):
    kept.write(bytes([int(sys.argv[2])]) * 300_000)
    found = kept.read()
    assert found is not None and len(found) == 300_000 and len(set(found)) == 1, "half of one and half of another"
"""


def test_several_processes_write_and_read_one_network_at_once(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)], cwd=root, stderr=subprocess.PIPE)
        for n in (1, 2, 3)
    ]
    for writer in writers:
        _, told = writer.communicate(timeout=120)
        assert writer.returncode == 0, told.decode()
    assert [file.name for file in networks(tmp_path)] == ["k.network"], "nothing unfinished is left"


def test_without_the_packages_onnx_is_refused_in_words_and_auto_is_torch(
    tmp_path: Path,
    home: Path,
    seed_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "onnxruntime" else object())
    run, folder = a_run(tmp_path / "run"), seed_folder(6, 2) / "test"
    assert main(["predict", str(run), str(folder), "--engine", "onnx"]) == 1
    told = capsys.readouterr().err
    assert "pip install -r requirements-onnx.txt" in told
    assert "onnxruntime" in told
    assert engine.choose("auto", 10**6, home) is engine.in_lanes
    assert main(["predict", str(run), str(folder)]) == 0


def test_auto_takes_onnx_for_many_pictures_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda _: object())
    monkeypatch.setattr(engine.hardware, "device", lambda: torch.device("cpu"))
    assert engine.choose("auto", engine.PAYS_FROM - 1, tmp_path) is engine.in_lanes
    assert engine.choose("auto", engine.PAYS_FROM, tmp_path) is not engine.in_lanes
    assert engine.choose("torch", 10**6, tmp_path) is engine.in_lanes
    assert engine.choose("torch", 10, tmp_path) is engine.choose("auto", 10, tmp_path) is engine.plain, "no lane for a handful"
    monkeypatch.setattr(engine.hardware, "device", lambda: torch.device("cuda"))
    assert engine.choose("auto", 10**6, tmp_path) is engine.in_lanes


def test_auto_goes_on_with_torch_where_a_backbone_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(engine, "find_spec", lambda _: object())
    monkeypatch.setattr(engine, "version", lambda _: "1")
    monkeypatch.setitem(sys.modules, "onnxruntime", sys.modules[__name__])
    monkeypatch.setattr(engine, "exported", refuses)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    run = a_run(tmp_path / "run")
    with pytest.raises(PanoramaError, match=r"mobilenet_v2 cannot be written as ONNX \(no such operator\). Use --engine torch"):
        engine._written(*checkpoint.load_model(run))
    predictor = Predictor.load(run, engine.choose("auto", engine.PAYS_FROM, tmp_path))
    assert predictor.predict_images(PICTURES) == pytest.approx(Predictor.load(run).predict_images(PICTURES), abs=1e-6)
    told = capsys.readouterr().err
    assert "going on with torch" in told
    assert "no such operator" in told


def test_auto_stays_with_torch_where_that_computes_in_the_blocked_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda _: object())
    monkeypatch.setattr(engine, "by_onnx_runtime", lambda *_: asked.append(True))
    for capability, expected in (("AVX2", []), ("DEFAULT", [True])):
        asked: list[bool] = []
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda value=capability: value)
        Predictor.load(a_run(tmp_path / "run"), engine.choose("auto", engine.PAYS_FROM, tmp_path))
        assert asked == expected
    assert not capsys.readouterr().err


def test_answers_stay_with_their_pictures_whenever_a_lane_computes_them(tmp_path: Path) -> None:
    """Four batches, of the first no picture can be read, of the others some; each is computed sooner than the one before it."""
    told: list[tuple[str, int]] = []

    def slow_at_first(model: Classifier, card: ModelCard) -> engine.Network:  # noqa: ARG001
        def logits(x: torch.Tensor) -> torch.Tensor:
            number = round(float(x[0, 0, 0, 0] * STD[0] + MEAN[0]) * 255 / 2) // 32
            told.append(("begun", number))
            time.sleep(0.6 / number)
            told.append(("done", number))
            return x.mean((2, 3))

        return engine.Network(logits, engine.Lanes(2, 32))

    predictor = Predictor.load(a_run(tmp_path / "run"), slow_at_first)
    greys = [None if number < 32 or number % 7 == 3 else number * 2 for number in range(120)]
    sources = []
    for number, grey in enumerate(greys):
        stream = io.BytesIO()
        if grey is not None:
            Image.new("RGB", (70, 70), (grey,) * 3).save(stream, "PNG")
        sources.append((f"{number}.png", stream.getvalue()))
    answers = list(predictor.predict(sources))
    assert [answer.name for answer in answers] == [name for name, _ in sources]
    assert [answer.probabilities is None for answer in answers] == [grey is None for grey in greys]
    assert [answer.problem is not None for answer in answers] == [grey is None for grey in greys]
    seen = [answer.probabilities for answer in answers if answer.probabilities is not None]
    expected = [[1 / (1 + math.exp(-(grey / 255 - mean) / std)) for mean, std in zip(MEAN, STD, strict=True)] for grey in greys if grey is not None]  # fmt: skip
    assert np.stack(seen) == pytest.approx(np.array(expected), abs=1e-5)
    assert sorted(number for what, number in told if what == "done") == [1, 2, 3]
    assert told.index(("done", 2)) < told.index(("done", 1)), "no lane waits for another"


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_lanes_answer_as_one_thread_does_each_with_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.hardware, "keeps_memory_of_threads", lambda: True)
    monkeypatch.setattr(engine.hardware, "device", lambda: torch.device("cpu"))
    run = a_run(tmp_path / "run")
    predictor = Predictor.load(run, engine.in_lanes)
    lanes = predictor._network.lanes
    assert lanes is not None
    assert lanes.at_once == 32
    assert torch.get_num_threads() == 2, "what is not in a lane computes as before"
    threads = lanes.map(
        lambda _: (time.sleep(0.01), torch.ones(9).sum(), torch.get_num_threads(), threading.get_ident())[2:], range(20)
    )
    found = set(threads)
    assert {count for count, _ in found} == {1}
    assert len(found) == 2
    images = PICTURES * 7
    assert predictor.predict_images(images) == pytest.approx(Predictor.load(run).predict_images(images), abs=1e-5)
    assert predictor.predict_images([]).shape == (0, len(COLOURS))


@pytest.mark.usefixtures("two_threads")
def test_lanes_are_for_a_cpu_whose_memory_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, card = checkpoint.load_model(a_run(tmp_path / "run"))
    monkeypatch.setattr(engine.hardware, "keeps_memory_of_threads", lambda: False)
    assert engine.in_lanes(model, card).lanes is None
    monkeypatch.setattr(engine.hardware, "keeps_memory_of_threads", lambda: True)
    assert engine.in_lanes(model, card).lanes is not None
    torch.set_num_threads(1)
    assert engine.in_lanes(model, card).lanes is None
    torch.set_num_threads(2)
    assert engine.in_lanes(model.to("meta"), card).lanes is None


def test_lanes_take_parts_as_they_are_wanted_and_hand_on_what_goes_wrong() -> None:
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    lanes = engine.Lanes(2, 4)
    results = lanes.map(lambda number: 1 / (10 - number), parts())
    assert next(results) == 0.1
    assert len(taken) < 10, "millions of pictures are not all taken at once"
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert list(lanes.map(str, range(3))) == ["0", "1", "2"], "and go on"


def test_a_lane_hands_on_what_is_ready_while_its_parts_come_slowly() -> None:
    lanes, computed, taken = engine.Lanes(1, 4), threading.Semaphore(0), []

    def slowly() -> Iterator[int]:
        for number in range(4):
            taken.append(number)
            if number:
                assert computed.acquire(timeout=20)
                time.sleep(0.2)  # what was computed is handed back right after
            yield number

    def work(number: int) -> int:
        computed.release()
        return number

    for result in lanes.map(work, slowly()):
        assert len(taken) <= result + 2, "kept back"


def test_who_waits_for_pictures_has_answers_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(a_run(tmp_path / "run"))
    decode, given = predictor._decode, threading.Event()

    def slow(source: tuple[str, Path | bytes]) -> np.ndarray | str:
        if int(source[0]) >= 32 and not given.wait(20):
            given.set()
            pytest.fail("the first batch is kept back")
        return decode(source)

    monkeypatch.setattr(predictor, "_decode", slow)
    stream = io.BytesIO()
    Image.new("RGB", (70, 70)).save(stream, "PNG")
    found = predictor.predict([(str(number), stream.getvalue()) for number in range(70)])
    assert next(found).name == "0"
    given.set()
    assert len(list(found)) == 69
