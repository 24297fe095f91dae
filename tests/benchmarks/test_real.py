"""What ``benchmarks/kinds.py`` judges real models by, on outputs made by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from real import boxes, scores, spectra, table  # noqa: E402


def row(**changed):
    """Return one row of the table; ours is smaller and as good."""
    made = {
        "model": "net",
        "kind": "classifier",
        "bytes": 4000,
        "source": {"accuracy": 0.9},
        "ours": {"bytes": 500, "scores": {"accuracy": 0.9}, "gates": ("at least 99 %",)},
        "onnxruntime": {"bytes": 1000, "zstd": 900, "scores": {"accuracy": 0.8}},
        "nncf": {"error": "RuntimeError: no"},
    }
    return made | changed


@pytest.mark.parametrize(
    ("size", "accuracy", "smaller", "as_good"),
    [
        (899, 0.8, True, True),
        (900, 0.8, False, True),  # as small as the zipped peer
        (899, 0.79, True, False),
    ],
)
def test_a_peer_is_beaten_by_fewer_bytes_than_its_zipped_file_at_no_worse_a_metric(
    size, accuracy, smaller, as_good
):
    made = row(ours={"bytes": size, "scores": {"accuracy": accuracy}})
    table.compare(made)
    assert (made["onnxruntime"]["smaller"], made["onnxruntime"]["as good"]) == (smaller, as_good)
    assert "smaller" not in made["nncf"]


def test_a_peer_luckier_than_the_source_does_not_ask_for_more_than_the_source():
    made = row(onnxruntime={"bytes": 1000, "zstd": 900, "scores": {"accuracy": 0.95}})
    table.compare(made)
    assert made["onnxruntime"]["as good"]


def test_the_table_shows_rates_metrics_verdicts_and_what_failed_within_100_columns():
    made = row()
    table.compare(made)
    text = table.table([made])
    assert max(map(len, text.splitlines())) <= 100
    (line,) = (line for line in text.splitlines() if line.startswith("net  "))
    assert "8.0 0.9000" in line and "4.0 (4.4) 0.8000 +" in line and "RuntimeError" in line
    assert "gate: at least 99 %" in text


def test_boxes_are_matched_once_each_by_class_and_overlap():
    one = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
    wanted = [(one, np.array([0, 1]))]
    assert boxes.f1(wanted, wanted) == 1
    assert boxes.f1(wanted, [(one, np.array([0, 2]))]) == pytest.approx(0.5)
    doubled = [(np.concatenate([one, one[:1]]), np.array([0, 1, 0]))]
    assert boxes.f1(wanted, doubled) == pytest.approx(4 / 5)
    assert boxes.f1(wanted, [(one + 6, np.array([0, 1]))]) == 0
    assert boxes.f1([(one[:0], np.zeros(0, int))], [(one[:0], np.zeros(0, int))]) == 1


def test_of_boxes_that_overlap_the_best_is_left():
    overlapping = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 50, 50]], float)
    assert boxes.separate(overlapping, np.array([0.5, 0.9, 0.1]), 0.5) == [1, 2]


def test_yolo_and_centerface_heads_give_the_boxes_that_were_put_in():
    head = np.zeros((1, 4 + 2, 3), np.float32)
    head[0, :, 1] = (50, 60, 20, 10, 0.1, 0.8)
    ((found, classes),) = boxes.yolo({"output0": head})
    assert found.tolist() == [[40, 55, 60, 65]] and classes.tolist() == [1]
    heat, size, offset = (np.zeros((1, count, 8, 8), np.float32) for count in (1, 2, 2))
    heat[0, 0, 2, 5] = 0.9
    size[0, :, 2, 5] = np.log(8 / 4), np.log(12 / 4)  # height, width
    ((found, _),) = boxes.centerface({"537": heat, "538": size, "539": offset})
    assert found == pytest.approx(np.array([[22 - 6, 10 - 4, 22 + 6, 10 + 4]]))


def test_text_is_read_without_blanks_and_repeats():
    chosen = np.array([[1, 1, 0, 1, 2, 2], [2, 0, 0, 0, 0, 0]])
    likely = np.eye(3)[chosen]
    truth = {"alphabet": np.array(["", "a", "b"]), "labels": np.array(["aab", "a"])}
    found = scores.text("y")({"y": likely}, {"y": likely}, truth)
    assert found == {"characters": 1 - 1 / 4, "same text": 1.0}


@pytest.mark.parametrize(
    ("wanted", "found", "distance"), [("kitten", "sitting", 3), ("", "ab", 2), ("ab", "ab", 0)]
)
def test_edits(wanted, found, distance):
    assert scores.edits(wanted, found) == distance


def test_scores_are_as_good_as_their_worst_column():
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((200, 2))
    constant = np.stack([wanted[:, 0], np.full(200, wanted[:, 1].mean())], axis=1)
    assert scores.values("y", 2)({"y": wanted}, {"y": constant}, {})["R²"] == pytest.approx(0)
    assert scores.values("y", 2)({"y": wanted}, {"y": wanted}, {})["R²"] == 1


def test_neighbours_and_cosines_of_the_same_vectors_are_1_and_of_a_constant_are_not():
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((50, 8))
    same = scores.neighbours("y")({"y": wanted}, {"y": 3 * wanted}, {})
    assert same["neighbour"] == 1 and same["cosine"] == pytest.approx(1)
    assert scores.neighbours("y")({"y": wanted}, {"y": np.ones_like(wanted)}, {})["neighbour"] < 0.1


def test_a_spectrum_gives_its_sound_back_and_gains_of_1_leave_the_noise():
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((2, 16000))
    noisy = clean + 0.1 * rng.standard_normal(clean.shape)
    inner = slice(spectra.HOP, -spectra.HOP)
    back = spectra.sound_of(spectra.spectrum(clean))
    assert np.abs(back - clean[:, inner]).max() < 0.03
    truth = {"clean": clean, "noisy": noisy}
    gains = {"output": np.ones((2, 99, 161))}
    found = scores.denoised({"output": rng.random((2, 99, 161))}, gains, truth)
    assert found["SI-SDR dB"] == pytest.approx(20, abs=0.5)


def test_names_that_differ_in_one_letter_are_not_the_same():
    wanted, found = np.array([[5, 6, 0], [7, 0, 0]]), np.array([[5, 9, 0], [7, 0, 0]])
    result = scores.spelled({"spelled": wanted}, {"spelled": found}, {})
    assert result == {"same names": 0.5, "letters": pytest.approx(2 / 3)}
