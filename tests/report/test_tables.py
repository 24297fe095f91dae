"""Tables and figures say what the records say."""

import math
from dataclasses import replace

from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Interval,
    Latency,
    LayerReport,
    OperatorTime,
    OutputFidelity,
    Recipe,
    Report,
    StageReport,
    Step,
    Trial,
    Variant,
)
from mlflow_compress.report import (
    format_slower,
    front_figure,
    front_markdown,
    layer_rows,
    layers_figure,
    stage_markdown,
    trial_rows,
)
from mlflow_compress.report.figures import sensitivity_figure
from mlflow_compress.report.page import html_report
from mlflow_compress.report.tables import format_bytes, format_drop, output_cells
from tests.judged import fidelity as fidelity_of

ROWS = DatasetRef("rows", "0" * 64, 1000)
LAYER = LayerReport(
    "fc1.weight", (300, 784), "float32", "codebook", 940800, 47040, 0.8, 16, 1.5, 1.6
)

SHARE = (Step("share", {"clusters": 16}),)


def trial(number=0, rate=10.0, drop=0.004, labelled=True, steps=SHARE):
    accuracy = Accuracy("accuracy", 0.95 - drop, 0.95, drop, Interval(-0.003, 0.011), ROWS)
    report = Report(
        size_bytes=int(1e6 / rate),
        source_bytes=1_000_000,
        rate=rate,
        entropy=1.5,
        sha256="0" * 64,
        layers=(LAYER,),
        stages=(StageReport("source", 1_000_000, 1.0, 0.0, 20.0),),
        accuracy=accuracy if labelled else None,
        fidelity=fidelity_of(0.97, 0.01, ROWS),
        latency=(Latency("local", 1, 1, 0.02, 0.03, 0.04, 0.5, Interval(0.4, 0.6)),),
    )
    variant = Variant(f"k{number}", Recipe(steps), report)
    return Trial(number, variant.key, variant.recipe, "complete", variant=variant)


FAILED = Trial(9, "k9", Recipe(), "failed", error="step 1 'prune': no")


def test_sizes_for_people():
    assert [format_bytes(n) for n in (812, 24100, 3_204_000)] == ["812 B", "24.1 kB", "3.20 MB"]


def test_a_drop_shows_its_interval_in_points():
    assert format_drop(trial().variant.report) == "0.40 [-0.30, 1.10]"
    assert format_drop(trial(drop=-0.0).variant.report).startswith("0.00 ")
    report = trial().variant.report
    wide = replace(report.accuracy, drop_interval=Interval(-0.006, 0.014, 0.99))
    assert format_drop(replace(report, accuracy=wide)) == "0.40 [-0.60, 1.40] at 99 %"


def test_trial_rows_have_the_same_columns_for_every_trial():
    done, failed = trial_rows([trial(), FAILED])
    assert done.keys() == failed.keys()
    assert done["rate"] == 10.0
    assert done["drop_high"] == 0.011
    assert failed["rate"] is None
    assert failed["error"] == "step 1 'prune': no"


def test_layer_rows_tell_rate_and_redundancy():
    (row,) = layer_rows(trial().variant.report)
    assert (row["shape"], row["rate"], row["redundancy_bits"]) == ("300x784", 20.0, 0.1)


def test_front_table_lists_smallest_first_and_who_won():
    text = front_markdown([trial(0, 10), trial(1, 20), FAILED], {"k1": ["browser"]})
    rows = text.splitlines()[2:]
    assert len(rows) == 2
    assert "20.0x" in rows[0]
    assert rows[0].endswith("| browser |")
    assert "20 ms" not in text
    assert "0.02 ms (0.50x)" in rows[0]


def test_without_labels_agreement_stands_in():
    assert "97.00 % agree" in front_markdown([trial(labelled=False)])
    assert "| source | 1,000,000 | 1.00x |" in stage_markdown(trial().variant.report)


def test_each_output_has_its_numbers_on_the_page():
    given = trial(labelled=False)
    report = given.variant.report
    broken = OutputFidelity("price", "values", {"error": math.nan}, broken=3)
    both = replace(report.fidelity, outputs=(*report.fidelity.outputs, broken))
    variant = replace(given.variant, report=replace(report, fidelity=both))
    classes, values = output_cells(variant.report)
    assert classes[:2] == ("y", "classes")
    assert classes[2].startswith("agreement 97.00 % [97.00 %, 97.00 %], kl 0.01 nats")
    assert values == ("price", "values", "NaN or infinite in 3 rows, error nan")
    page = html_report([replace(given, variant=variant)], title="t", source="models:/t/1")
    assert "NaN or infinite in 3 rows" in page


def test_what_a_layer_bears_is_drawn_by_its_error_where_there_are_no_classes():
    rows = [
        {"layer": "w", "technique": "prune", "level": level, "bytes": 10, "kl": None, "error": 0.2}
        for level in (0.5, 0.9)
    ]
    figure = sensitivity_figure(rows)
    assert list(figure.data[0].y) == [0.2, 0.2]
    assert "error" in figure.layout.yaxis.title.text


def test_front_figure_has_a_trace_per_mix_and_the_front():
    both = (Step("prune", {"sparsity": 0.8}), Step("share", {"clusters": 16}))
    figure = front_figure(
        [trial(0, 10, 0.001), trial(1, 20, 0.01, steps=both), trial(2, 5, 0.02), FAILED]
    )
    traces = {trace.name: trace for trace in figure.data}
    assert traces.keys() == {"share", "prune + share", "front"}
    assert list(traces["front"].x) == [10, 20]
    assert math.isclose(traces["prune + share"].y[0], 1.0)
    assert "share 16" in traces["share"].text[0]


def test_front_figure_takes_a_given_front_and_no_trials():
    assert list(front_figure([trial(0), trial(1, 20)], {"k0"}).data[-1].x) == [10]
    assert len(front_figure([FAILED]).data) == 0


def test_layers_figure_shows_bytes_and_bits():
    traces = {trace.name: trace for trace in layers_figure(trial().variant.report).data}
    assert traces["packed bytes"].x[0] == 47040
    assert traces["entropy"].x[0] == 1.5


def test_a_drift_is_told_beside_the_latency(make_variant):
    from dataclasses import replace

    from mlflow_compress.report.tables import format_latency

    report = make_variant(ratio=(0.5, 0.5)).report
    assert format_latency(report) == "0.5 ms (0.50x)"
    for drift, text in ((0.05, "0.5 ms (0.50x)"), (0.25, "0.5 ms (0.50x, drift +25 %)")):
        latency = replace(report.latency[0], drift=drift)
        assert format_latency(replace(report, latency=(latency,))) == text


def test_a_slow_variant_names_its_operators(make_variant):
    slower = (OperatorTime("ConvInteger", 0.5, 0.0), OperatorTime("Relu", 0.02, 0.01))
    made = make_variant(ratio=(1.8, 2.2), slower=slower)
    assert format_slower(made.report) == (
        "2.00 times as slow as the source on this machine. By onnxruntime's profiler, per call: "
        "ConvInteger 0.5 ms (source 0 ms), Relu 0.02 ms (source 0.01 ms)."
    )
    assert format_slower(make_variant().report) == ""
