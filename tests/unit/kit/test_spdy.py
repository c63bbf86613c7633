"""The SPDY client against a second codec written from the draft, in this file."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kci.kit import spdy

SYN_REPLY, RST, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 2, 3, 4, 6, 7, 9
FIN = 1
NO_HEADERS = struct.pack(">I", 0)


class Server:
    """What a runtime sends and how it reads what we send."""

    def __init__(self):
        self._compressor = zlib.compressobj(zdict=spdy.HEADER_DICTIONARY)
        self._decompressor = zlib.decompressobj(zdict=spdy.HEADER_DICTIONARY)

    def headers(self, block):
        raw = self._decompressor.decompress(block)
        (count,) = struct.unpack_from(">I", raw)
        texts, at = [], 4
        for _ in range(2 * count):
            (length,) = struct.unpack_from(">I", raw, at)
            texts.append(raw[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def reply(self, stream_id, raw=NO_HEADERS):
        block = self._compressor.compress(raw) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return control(SYN_REPLY, struct.pack(">I", stream_id) + block)


def control(kind, payload, flags=0):
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


def data(stream_id, content, flags=0):
    return struct.pack(">II", stream_id, flags << 24 | len(content)) + content


def opened():
    client = spdy.Client()
    stream_id, _ = client.open_stream({"streamType": "stdout"})
    return client, stream_id


def test_the_header_dictionary_is_the_drafts():
    # The number by which zlib streams of SPDY/3 name it.
    assert zlib.adler32(spdy.HEADER_DICTIONARY) == 0xE3C6A7C2


def test_streams_are_opened_with_odd_ids_and_one_compression_for_all():
    client, server = spdy.Client(), Server()
    for number, name in ((1, "error"), (3, "stdin"), (5, "stdout")):
        stream_id, frame = client.open_stream({"streamType": name})
        assert stream_id == number
        assert frame[:4] == struct.pack(">HH", 0x8003, 1)
        assert struct.unpack_from(">I", frame, 8) == (number,)
        assert server.headers(frame[18:]) == {"streamtype": name}


@given(st.lists(st.integers(1, 40), max_size=20))
def test_events_do_not_depend_on_how_the_bytes_arrive(cuts):
    client, stream_id = opened()
    arriving = (
        Server().reply(stream_id)
        + data(stream_id, b"hello ")
        + control(SETTINGS, struct.pack(">III", 1, 4, 100))
        + data(stream_id, b"world")
        + control(PING, struct.pack(">I", 2))
        + control(WINDOW_UPDATE, struct.pack(">II", stream_id, 1))
        + data(stream_id, b"", FIN)
        + data(stream_id, b"too late")
        + control(GOAWAY, struct.pack(">II", 0, 0))
    )
    events = []
    for cut in cuts:
        events += client.receive(arriving[:cut])
        arriving = arriving[cut:]
    events += client.receive(arriving)
    assert events == [
        spdy.StreamAccepted(stream_id, {}),
        spdy.DataReceived(stream_id, b"hello "),
        spdy.DataReceived(stream_id, b"world"),
        spdy.PingReceived(2),
        spdy.StreamEnded(stream_id),
        spdy.GoAway(0),
    ]


def test_data_is_sent_in_pieces_and_half_closed():
    client, stream_id = opened()
    content = bytes(range(256)) * 300
    frames = list(client.send_data(stream_id, content))
    assert len(frames) > 1
    assert b"".join(frame[8:] for frame in frames) == content
    assert client.end_stream(stream_id) == data(stream_id, b"", FIN)


def test_a_reset_ends_a_stream_once():
    client, stream_id = opened()
    reset = control(RST, struct.pack(">II", stream_id, 5))
    assert client.receive(reset + reset) == [spdy.StreamReset(stream_id, 5)]


@pytest.mark.parametrize(
    "arriving",
    [
        pytest.param(struct.pack(">II", 1, spdy.MAX_DATA_BYTES + 1), id="a data frame over the limit"),
        pytest.param(
            struct.pack(">HHI", 0x8003, SETTINGS, spdy.MAX_CONTROL_BYTES + 1), id="a control frame over it"
        ),
        pytest.param(struct.pack(">HHI", 0x8002, PING, 4) + b"\0\0\0\2", id="another version"),
        pytest.param(control(PING, b"\0"), id="a frame that is too short"),
        pytest.param(control(1, bytes(18)), id="a stream of the server"),
        pytest.param(control(SYN_REPLY, b"\0\0\0\1no zlib"), id="a damaged header block"),
        pytest.param(Server().reply(1, struct.pack(">I", 1 << 20)), id="too many headers"),
        pytest.param(Server().reply(1, struct.pack(">II", 1, 1 << 30)), id="a header longer than its block"),
        pytest.param(Server().reply(1, bytes(16 << 20)), id="a small block that unpacks to much"),
    ],
)
def test_what_breaks_the_protocol_or_a_limit_is_refused(arriving):
    client, _ = opened()
    with pytest.raises(spdy.SpdyError):
        client.receive(arriving)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(arriving):
    client, _ = opened()
    try:
        client.receive(arriving)
    except spdy.SpdyError:
        return
