"""Values on the wire between judge and candidate."""

import enum
import json
import math
import socket
import struct
import time
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest

from mimosa.rewards.wire import BadFrame, Channel, Handle, NoBuiltin, decode, encode


def there_and_back(value):
    return decode(json.loads(json.dumps(encode(value))))


def name_of(value):
    """The same in every process: a set of strings is written in another order in each."""
    if type(value) is int:
        return value.bit_length()
    return f"set of {len(value)}" if type(value) is set else ascii(value)[:20]


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**53 - 1, 2**53, -(2**53), 7**9000, 0.1, -0.0, 1e308, math.inf, "", "ü\0\ud800", b"\0\xff",
        bytearray(b"x"), 1 + 2j, (), (1, (2.0,)), [[], [None]], set(), {1, "a"}, frozenset({(1, 2)}), {}, {1: {2: [3]}, (4,): None},
        range(0, 10, 3), Decimal("1.10"), Fraction(-1, 3), int, type(None), {"i": 1}, {"d": [[1, 2]]},
    ],
    ids=name_of,
)  # fmt: skip
def test_builtins_arrive_as_they_were(value):
    arrived = there_and_back(value)
    assert arrived == value and type(arrived) is type(value)
    if value != 7**9000 and type(value) is not set:  # a set's order may differ; repr is limited to 4300 digits
        assert repr(arrived) == repr(value)  # tells -0.0 from 0.0


class Whole(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__

    def __index__(self):
        return 99


class Words(list):
    def __iter__(self):
        return iter(["other"])


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Whole(5), 5), (Words(["a"]), ["a"]), (Counter("aab"), {"a": 2, "b": 1}), (OrderedDict(a=1), {"a": 1}), (Colour.RED, 3),
        (namedtuple("Point", "x y")(1, 2), (1, 2)),
    ],
)  # fmt: skip
def test_subclasses_arrive_as_their_base(value, base):
    arrived = there_and_back(value)
    assert type(arrived) is type(base) and arrived == base


@pytest.mark.parametrize(
    "value", [object(), print, lambda: 0, iter([]), Exception(), Counter, pytest, Ellipsis, memoryview(b"")]
)
def test_other_values_do_not_travel(value):
    with pytest.raises(NoBuiltin):
        encode([value])


def test_depth_is_bounded_on_both_sides():
    nest = item = []
    for _ in range(150):
        item.append([])
        item = item[0]
    with pytest.raises(NoBuiltin, match="deeper than 100"):
        encode(nest)
    with pytest.raises(BadFrame, match="too deeply"):
        decode(nest)


@pytest.mark.parametrize(
    "item",
    [
        1.5, {}, {"i": 5}, {"i": "0xzz"}, {"f": 1}, {"f": "one"}, {"f": "1" * 5000}, {"t": "ab"}, {"t": {"a": 1}}, {"s": [[1]]},
        {"d": [[1]]}, {"d": [[1, 2, 3]]}, {"d": [[{"d": []}, 1]]}, {"b": "0"}, {"c": ["1"]}, {"r": ["1", "2", "0"]}, {"F": ["1", "0"]},
        {"D": "x"}, {"T": "type"}, {"T": ["int"]}, {"T": {"a": 1}}, {"h": 0}, {"x": 1}, {"i": "1", "f": "1"}, {"__class__": "int"},
    ],
    ids=str,
)  # fmt: skip
def test_what_encode_never_makes_is_refused(item):
    with pytest.raises(BadFrame):
        decode(item)


def test_handles_only_where_they_are_expected():
    held = object()
    assert decode([{"t": [encode(Handle(4))]}], handles={4: held}) == [(held,)]
    with pytest.raises(BadFrame):
        decode({"h": 5}, handles={4: held})


@pytest.fixture
def ends():
    one, two = socket.socketpair()
    yield Channel(one, 1000), Channel(two, 1000), two
    one.close()
    two.close()


def test_frames(ends):
    one, two, raw = ends
    for message in ({"a": 1}, {"b": "x" * 900}):
        two.send(message)
    assert one.receive(time.monotonic() + 5) == {"a": 1}
    assert one.receive(time.monotonic() + 5) == {"b": "x" * 900}
    with pytest.raises(BadFrame, match="more than 1000 bytes"):
        two.send({"b": "x" * 1000})
    with pytest.raises(TimeoutError):
        one.receive(time.monotonic() + 0.05)
    raw.close()
    with pytest.raises(EOFError):
        one.receive(time.monotonic() + 5)


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff\xfe", b"1", b"[" * 900])
def test_frames_that_are_no_message(ends, body):
    one, _, raw = ends
    raw.send(struct.pack(">I", len(body)) + body)
    with pytest.raises(BadFrame):
        one.receive(time.monotonic() + 5)


def test_a_frame_above_the_cap_is_refused_by_its_header(ends):
    one, _, raw = ends
    raw.send(struct.pack(">I", 1001))
    with pytest.raises(BadFrame, match="1001 bytes, more than 1000"):
        one.receive(time.monotonic() + 5)
