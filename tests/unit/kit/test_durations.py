"""Spans of time are read as Go reads them."""

import pytest

from kci.kit import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30),
        ("1m", 60),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (".5m", 30),
    ],
)
def test_a_span_of_time(text, seconds):
    assert durations.to_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "-1s", "1 m", "m", "1d", "1s ", "s1", "٣s"])
def test_what_is_none_is_named(text):
    with pytest.raises(ValueError, match="is no span of time such as 30s, 5m or 1h30m"):
        durations.to_seconds(text)
