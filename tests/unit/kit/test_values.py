import datetime
import stat

import pytest

from kci.kit import channels, clock, errors, files, secret


def test_a_secret_never_prints_itself():
    hidden = secret.Secret("hunter2")
    assert "hunter2" not in f"{hidden} {hidden!r} {[hidden]} { ({'k': hidden}) }"
    assert hidden == secret.Secret("hunter2")
    assert hidden != secret.Secret("hunter3")
    assert not secret.Secret("")


def test_all_problems_of_settings_are_in_one_error():
    error = errors.SettingsError(["KCI_REGION is missing: set it", "--port must be a number"])
    assert "KCI_REGION" in str(error)
    assert "--port" in str(error)


def test_an_atomic_write_replaces_the_whole_file_with_its_mode(tmp_path):
    path = tmp_path / "deep" / "file"
    files.write_atomic(path, "old", mode=0o644)
    files.write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_times_are_written_as_kubernetes_writes_them():
    moment = datetime.datetime(
        2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.timezone(datetime.timedelta(hours=8))
    )
    assert clock.to_rfc3339(moment) == "2026-01-01T19:04:05Z"
    assert clock.to_rfc3339_micro(moment) == "2026-01-01T19:04:05.678901Z"


@pytest.mark.parametrize("text", ["2026-01-01T19:04:05.5Z", "2026-01-01t20:04:05.500000000999+01:00"])
def test_times_are_read_to_the_nanosecond(text):
    assert clock.parse_rfc3339_ns(text) == 1767294245_500000000


@pytest.mark.parametrize(
    "text", ["", "now", "2026-01-01", "2026-13-01T00:00:00Z", "\uff12026-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_not_read(text):
    with pytest.raises(ValueError, match=r"time|month"):
        clock.parse_rfc3339_ns(text)


@pytest.mark.parametrize("code", [0, 1, 7, 137, 255])
def test_an_exit_code_survives_the_status_message(code):
    assert channels.parse_status(channels.exit_status(code))[0] == code


def test_a_failed_stream_has_no_exit_code_but_a_message():
    assert channels.parse_status(channels.error_status("no such container")) == (None, "no such container")


def test_frames_carry_channel_data_and_half_close():
    assert channels.parse(channels.frame(channels.Channel.STDOUT, b"x")) == (channels.Channel.STDOUT, b"x")
    assert channels.parse(channels.close_frame(channels.Channel.STDIN)) == (channels.Channel.CLOSE, b"\x00")
    size = channels.Resize(width=80, height=24)
    channel, data = channels.parse(channels.resize_frame(size))
    assert (channel, channels.parse_resize(data)) == (channels.Channel.RESIZE, size)


@pytest.mark.parametrize("message", [b"", b"\x09data"])
def test_a_bad_stream_message_is_an_error(message):
    with pytest.raises(ValueError):
        channels.parse(message)


@pytest.mark.parametrize("text", ["", "cannot find a running container 'main' in pod a/b", "größe\n\r100 %"])
def test_why_a_stream_was_not_opened_comes_through_a_header(text):
    (value,) = channels.refusal_header(text).values()
    assert value.isascii()
    assert value.isprintable() or not value
    assert channels.refusal_of(channels.refusal_header(text)) == text.replace("\n\r", "")
    assert channels.refusal_of(None) == ""
