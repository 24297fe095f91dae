import pytest

from mlflow_compress.targets import format_ms, format_size, parse_ms, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2MB", 2_000_000),
        ("60kB", 60_000),
        ("60KB", 60_000),
        ("1.5MiB", 1_572_864),
        ("1 GiB", 2**30),
        ("512 B", 512),
        (4096, 4096),
    ],
)
def test_sizes(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["2Mb", "2", "", "MB", "-1MB", "1e3kB", 0, -5, True, None, "0B"])
def test_sizes_that_are_refused(text):
    with pytest.raises(ValueError, match="got"):
        parse_size(text)


@pytest.mark.parametrize(("text", "ms"), [("15ms", 15.0), ("0.2s", 200.0), ("800us", 0.8)])
def test_durations(text, ms):
    assert parse_ms(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["15", "15min", "-1ms", "0ms", None, True])
def test_durations_that_are_refused(text):
    with pytest.raises(ValueError, match="got"):
        parse_ms(text)


def test_a_bare_number_is_no_duration():
    with pytest.raises(ValueError, match=r"needs a unit, got 15 \(write 15ms or 15s\)"):
        parse_ms(15)


def test_for_people():
    assert [format_size(n) for n in (812, 28_123, 1_070_000, 2_500_000_000)] == [
        "812 B",
        "28.12 kB",
        "1.07 MB",
        "2.5 GB",
    ]
    assert [format_ms(n) for n in (0.0412, 15, 1200)] == ["0.0412 ms", "15 ms", "1.2 s"]
