"""The SPDY server against our client, against bytes of spdystream, and against anything at all."""

import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kci.kit import spdy

SYN_STREAM, SYN_REPLY, RST, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN = 1

# What moby/spdystream v0.5.1's framer writes, in this order on one connection.
SPDYSTREAM = {
    "error": "800300010000002900000001000000000000"
    "78f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff",
    "stdin": "800300010000001700000003000000000000c22e555c92929907000000ffff",
    "stdout": "800300010000001900000005000000000000c22ac5565c92925f5a02000000ffff",
    "data": "000000030000000568656c6c6f",
    "fin": "0000000301000000",
    "ping": "800300060000000400000001",
    "rst": "80030003000000080000000500000005",
    "headers": "80030008000000110000000182ca315680884a00000000ffff",
    "settings": "800300040000000c000000010000000400000064",
    "window": "80030009000000080000000100010000",
    "port": "800300010000001c0000000700000000000082f2580af28bc059c9c2c0c200000000ffff",
    "goaway": "80030007000000080000000000000000",
}


def control(kind, payload, flags=0):
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


def data(stream_id, content, flags=0):
    return struct.pack(">II", stream_id, flags << 24 | len(content)) + content


class Packer:
    """Header blocks as somebody else writes them, right or wrong."""

    def __init__(self):
        self._compressor = zlib.compressobj(zdict=spdy.HEADER_DICTIONARY)

    def block(self, raw=b"\0\0\0\0"):
        return self._compressor.compress(raw) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def syn(self, stream_id, raw=b"\0\0\0\0", flags=0):
        return control(SYN_STREAM, struct.pack(">IIH", stream_id, 0, 0) + self.block(raw), flags)


def headers_of(*pairs):
    raw = struct.pack(">I", len(pairs))
    for text in (text for pair in pairs for text in pair):
        raw += struct.pack(">I", len(text)) + text
    return raw


@pytest.mark.requirement("R42")
def test_what_spdystream_sends_is_understood():
    server = spdy.Server()
    assert server.receive(bytes.fromhex("".join(SPDYSTREAM.values()))) == [
        spdy.StreamOpened(1, {"streamtype": "error"}),
        spdy.StreamOpened(3, {"streamtype": "stdin"}),
        spdy.StreamOpened(5, {"streamtype": "stdout"}),
        spdy.DataReceived(3, b"hello"),
        spdy.StreamEnded(3),
        spdy.PingReceived(1),
        spdy.StreamReset(5, 5),
        spdy.StreamOpened(7, {"port": "8080"}),
        spdy.GoAway(0),
    ]


def test_what_the_server_sends_is_what_spdystream_sends():
    server = spdy.Server()
    _ = server.receive(bytes.fromhex(SPDYSTREAM["error"] + SPDYSTREAM["stdin"]))
    assert b"".join(server.send_data(3, b"hello")).hex() == SPDYSTREAM["data"]
    assert server.end_stream(3).hex() == SPDYSTREAM["fin"]
    assert server.pong(1).hex() == SPDYSTREAM["ping"]
    assert server.go_away() == control(GOAWAY, struct.pack(">II", 3, 0))


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
names = st.text("abcdefghij-", min_size=1, max_size=10)
orders = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.dictionaries(names, texts, max_size=5)),
        st.tuples(st.just("send"), st.integers(0, 5), st.binary(max_size=200)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("reset"), st.integers(0, 5)),
        st.tuples(st.just("ping"), st.integers(1, 100)),
    ),
    max_size=40,
)


def both_ways(client, server, chance):
    """Two functions that carry bytes in pieces of any size and return the events."""

    def carried(receiver, content):
        events = []
        while content:
            cut = chance.randint(1, len(content))
            events += receiver.receive(content[:cut])
            content = content[cut:]
        return events

    return (lambda content: carried(server, content)), (lambda content: carried(client, content))


@pytest.mark.requirement("R42", runs=200)
@settings(max_examples=200, deadline=None)
@given(orders, st.randoms(use_true_random=False))
def test_what_a_client_does_a_server_sees_and_the_reverse(steps, chance):
    client, server = spdy.Client(), spdy.Server()
    to_server, to_client = both_ways(client, server, chance)
    opened, alive = [], set()
    for step in steps:
        match step:
            case ("open", headers):
                stream_id, frame = client.open_stream(headers)
                assert to_server(frame) == [spdy.StreamOpened(stream_id, headers)]
                assert to_client(server.accept_stream(stream_id)) == [spdy.StreamAccepted(stream_id, {})]
                opened.append(stream_id)
                alive.add(stream_id)
            case ("send", number, content) if number < len(opened):
                stream_id = opened[number]
                expected = [spdy.DataReceived(stream_id, content)] if content and stream_id in alive else []
                assert to_server(b"".join(client.send_data(stream_id, content))) == expected
                assert to_client(b"".join(server.send_data(stream_id, content))) == expected
            case ("end", number) if number < len(opened):
                stream_id = opened[number]
                expected = [spdy.StreamEnded(stream_id)] if stream_id in alive else []
                assert to_server(client.end_stream(stream_id)) == expected
                assert to_client(server.end_stream(stream_id)) == expected
                alive.discard(stream_id)
            case ("reset", number) if number < len(opened):
                stream_id = opened[number]
                expected = [spdy.StreamReset(stream_id, 5)] if stream_id in alive else []
                assert to_server(client.reset_stream(stream_id)) == expected
                alive.discard(stream_id)
            case ("ping", number):
                expected = [spdy.PingReceived(number)] if number % 2 else []
                assert to_server(client.pong(number)) == expected
    assert server.open_streams == len(alive)


def test_a_stream_counts_until_both_sides_have_ended_it():
    client, server = spdy.Client(), spdy.Server(max_streams=2)
    first, second, third = (client.open_stream({"n": str(number)}) for number in range(3))
    _ = server.receive(first[1] + second[1])
    assert server.receive(third[1]) == [spdy.StreamRefused(third[0])]
    # What it sends on the refused stream goes nowhere.
    assert server.receive(b"".join(client.send_data(third[0], b"x"))) == []
    _ = server.receive(client.end_stream(first[0]))
    assert server.open_streams == 2
    _ = server.end_stream(first[0])
    assert server.open_streams == 1
    fourth, frame = client.open_stream({})
    assert server.receive(frame) == [spdy.StreamOpened(fourth, {})]


def test_a_stream_may_end_with_its_first_frame():
    assert spdy.Server().receive(Packer().syn(1, flags=FIN)) == [
        spdy.StreamOpened(1, {}),
        spdy.StreamEnded(1),
    ]


HOSTILE = {
    "a data frame over the limit": struct.pack(">II", 1, spdy.MAX_DATA_BYTES + 1),
    "a control frame over it": struct.pack(">HHI", 0x8003, SETTINGS, spdy.MAX_CONTROL_BYTES + 1),
    "the largest length there is": struct.pack(">HHI", 0x8003, SYN_STREAM, 0xFFFFFF),
    "another version": struct.pack(">HHI", 0x8002, PING, 4) + b"\0\0\0\1",
    "an empty SYN_STREAM": control(SYN_STREAM, b""),
    "a stream without headers": control(SYN_STREAM, struct.pack(">IIH", 1, 0, 0)),
    "stream 0": Packer().syn(0),
    "an even stream": Packer().syn(2),
    "a reply to nothing": control(SYN_REPLY, struct.pack(">I", 1) + Packer().block()),
    "data of no stream": data(1, b"x"),
    "data of stream 0": data(0, b"x"),
    "headers of no stream": control(HEADERS, struct.pack(">I", 9) + Packer().block()),
    "headers that are no zlib": control(SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + b"no zlib"),
    "another dictionary": control(
        SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + zlib.compress(headers_of((b"a", b"b")))
    ),
    "a compression that ends": control(
        SYN_STREAM,
        struct.pack(">IIH", 1, 0, 0)
        + (ended := zlib.compressobj(zdict=spdy.HEADER_DICTIONARY)).compress(headers_of((b"a", b"b")))
        + ended.flush(),
    ),
    "too many headers": Packer().syn(1, struct.pack(">I", 65)),
    "four billion headers": Packer().syn(1, struct.pack(">I", 0xFFFFFFFF)),
    "a header longer than its block": Packer().syn(1, struct.pack(">II", 1, 1 << 30)),
    "a header twice": Packer().syn(1, headers_of((b"a", b"1"), (b"a", b"2"))),
    "a header without a name": Packer().syn(1, headers_of((b"", b"1"))),
    "a header in capitals": Packer().syn(1, headers_of((b"streamType", b"x"))),
    "more than the block says": Packer().syn(1, headers_of((b"a", b"1")) + b"more"),
    "a small block that unpacks to much": Packer().syn(1, bytes(32 << 20)),
    "settings that lie about their number": control(SETTINGS, struct.pack(">I", 0x1FFFFFFF)),
    "too many settings": control(SETTINGS, struct.pack(">I", 65) + bytes(65 * 8)),
    "half a setting": control(SETTINGS, struct.pack(">I", 1) + bytes(4)),
    "a short ping": control(PING, b"\0"),
    "a long ping": control(PING, bytes(8)),
    "a short reset": control(RST, b"\0\0\0\1"),
    "a short go-away": control(GOAWAY, b"\0\0\0\1"),
}


@pytest.mark.requirement("R42")
@pytest.mark.parametrize("arriving", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_breaks_the_protocol_or_a_limit_is_refused(arriving):
    tracemalloc.start()
    try:
        with pytest.raises(spdy.SpdyError, match=r"^cannot"):
            spdy.Server().receive(arriving)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.requirement("R42")
@pytest.mark.parametrize("again", [1, 3, 5])
def test_a_streams_id_is_never_used_again(again):
    packer, server = Packer(), spdy.Server()
    _ = server.receive(packer.syn(5) + data(5, b"", FIN))
    _ = server.end_stream(5)
    with pytest.raises(spdy.SpdyError, match="only rise"):
        server.receive(packer.syn(again))


@pytest.mark.requirement("R42", runs=1000)
@settings(max_examples=1000, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_no_bytes_raise_anything_else(pieces):
    server = spdy.Server()
    try:
        for piece in pieces:
            _ = server.receive(piece)
    except spdy.SpdyError:
        return


def conversation():
    client = spdy.Client()
    frames = [bytes.fromhex(SPDYSTREAM["settings"]), client.pong(1)]
    for number in range(20):
        stream_id, frame = client.open_stream({"streamType": "data", "port": "80", "requestID": str(number)})
        frames += [frame, *client.send_data(stream_id, bytes(number * 7)), client.end_stream(stream_id)]
    return b"".join(frames)


@pytest.mark.requirement("R42")
def test_mutated_conversations_end_in_order_and_keep_little(runs):
    """Bytes flipped, cut out, doubled and put in, anywhere in a conversation that was right."""
    whole = conversation()
    tracemalloc.start()
    try:
        for run in range(runs.scale(quick=300, faults=20_000, release=500_000)):
            chance = runs.random(run)
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                _mutate(broken, chance)
            server = spdy.Server(max_streams=16)
            try:
                for start in range(0, len(broken), 4096):
                    _ = server.receive(bytes(broken[start : start + 4096]))
            except spdy.SpdyError:
                continue
            assert server.open_streams <= 16
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 << 20


def _mutate(broken: bytearray, chance: random.Random):
    place = chance.randrange(len(broken))
    match chance.randrange(5):
        case 0:
            broken[place] ^= 1 << chance.randrange(8)
        case 1:
            del broken[place : place + chance.randrange(1, 20)]
        case 2:
            broken[place:place] = chance.randbytes(chance.randrange(1, 20))
        case 3:
            broken[place:place] = broken[place : place + chance.randrange(1, 60)]
        case 4:
            broken[place : place + 4] = b"\xff\xff\xff\xff"


@pytest.mark.requirement("R42")
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes.fromhex(SPDYSTREAM["settings"]), id="settings"),
        pytest.param(bytes.fromhex(SPDYSTREAM["window"]), id="window updates"),
        pytest.param(control(99, b"x" * 50), id="unknown frames"),
        pytest.param(control(RST, struct.pack(">II", 99, 1)), id="resets of no stream"),
        pytest.param(data(1, b""), id="empty data"),
    ],
)
def test_a_flood_of_frames_that_mean_nothing_leaves_nothing(frame):
    server = spdy.Server()
    _ = server.receive(Packer().syn(1))
    flood = frame * (16384 // len(frame))
    tracemalloc.start()
    try:
        for _ in range(50):
            assert server.receive(flood) == []
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 64 << 10
    assert most < 1 << 20
