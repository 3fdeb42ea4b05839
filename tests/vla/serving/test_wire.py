"""The wire format: the same bytes as the openpi client's, bounded, and never more than data."""

from __future__ import annotations

import pickle

import hypothesis.extra.numpy as hnp
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.serving.wire import WireError, WireLimits, pack, unpack, unpack_map

DTYPES = st.sampled_from(["|u1", "|b1", "<i8", "<i4", "<f4", "<f8", "<f2", ">f4"])
ARRAYS = hnp.arrays(DTYPES.map(np.dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20) | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_what_is_packed_is_unpacked(message: dict[str, object]) -> None:
    assert same(message, unpack_map(pack(message)))


def test_the_bytes_are_those_of_the_openpi_client() -> None:
    message = {"state": np.array([1.0, 2.0], dtype=np.float32), "gripper": np.float32(0.5), "prompt": "go"}
    assert pack(message).hex() == (
        "83a5737461746584c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634c405736861"
        "70659102a76772697070657283c40d5f5f6e7067656e657269635f5fc3c40464617461cb3fe0000000000000c4056474797065a33c66"
        "34a670726f6d7074a2676f"
    )


def test_arrays_are_read_only() -> None:
    assert not unpack(pack({"a": np.zeros(3)}))["a"].flags.writeable


def test_a_numpy_string_is_text() -> None:
    assert unpack(pack({"prompt": np.str_("pick up")})) == {"prompt": "pick up"}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        unpack(data)
    except WireError:
        return


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5), st.data())
def test_a_damaged_message_is_read_or_refused(message: dict[str, object], data: st.DataObject) -> None:
    damaged = bytearray(pack(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(bytes(damaged))
    except WireError:
        return


@given(st.dictionaries(st.text(max_size=8), VALUES, min_size=1, max_size=5), st.integers(1, 1000))
def test_a_message_that_was_cut_short_is_refused(message: dict[str, object], less: int) -> None:
    data = pack(message)
    with pytest.raises(WireError, match="cut short"):
        unpack(data[: max(0, len(data) - less)])


def array_message(**changes: object) -> bytes:
    entries = {"__ndarray__": True, "data": bytes(8), "dtype": "<f8", "shape": [1], **changes}
    return msgpack.packb({key.encode(): value for key, value in entries.items()})  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (array_message(dtype="|O"), "expected an array of booleans, integers or floats, found dtype '|O'"),
        (array_message(dtype="O"), "found dtype 'O'"),
        (array_message(dtype="f8,O"), "found dtype 'f8,O'"),
        (array_message(dtype="<M8[ns]"), "found dtype"),
        (array_message(dtype="<c8"), "found dtype"),
        (array_message(shape=[-1]), "expected array sizes of 0 or more, found [-1]"),
        (array_message(shape=[True]), "expected array sizes of 0 or more"),
        (array_message(shape=[1] * 9), "expected an array shape of at most 8 sizes"),
        (array_message(shape=[2**40]), "expected 8796093022208 bytes for an array of shape (1099511627776,)"),
        (array_message(shape=[2]), "expected 16 bytes for an array of shape (2,) and float64, found 8 bytes"),
        (array_message(data="text"), "found str"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}), "expected a numpy scalar of |u1"),
        (msgpack.packb({b"__npgeneric__": True, b"data": b"x", b"dtype": "|O"}), "expected a numpy scalar"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), "expected msgpack without extension types"),
        (msgpack.packb([[]] * 5000), "expected at most 4096 values in a message"),
        (b"\xdd\xff\xff\xff\xff", "expected at most 4096 values in a message, found 4294967296"),
        (b"\x91" * 20 + b"\x90", "expected containers at most 16 deep"),
        (b"\xc6\xff\xff\xff\xff", "the message is cut short"),
        (msgpack.packb("x" * 300_000), "expected strings of at most 262144 bytes, found 300000"),
        (msgpack.packb({1: 2}), "malformed msgpack"),
        (b"\xa2\xff\xff", "malformed msgpack"),
        (b"\x01\x02", "expected one message, found 1 bytes after it"),
        (bytes(9 * 1024 * 1024), "expected at most 8388608 bytes, found 9437184"),
        (pickle.dumps({"a": 1}), "expected one message, found"),
    ],
)
def test_what_is_refused_and_why(data: bytes, reason: str) -> None:
    with pytest.raises(WireError) as error:
        unpack(data)
    assert reason in str(error.value)


def test_many_small_values_are_refused_before_they_are_built() -> None:
    limits = WireLimits()
    data = msgpack.packb([[[]] * 2000] * 3)
    assert data is not None
    with pytest.raises(WireError, match="4096 values"):
        unpack(data, limits)


def test_what_cannot_be_sent_says_so() -> None:
    with pytest.raises(WireError, match="expected an array of numbers, found dtype object"):
        pack({"a": np.array([object()])})
    with pytest.raises(WireError, match="set has no place in the protocol"):
        pack({"a": {1}})


def test_a_message_must_be_a_map() -> None:
    with pytest.raises(WireError, match="expected a map, found list"):
        unpack_map(msgpack.packb([1]) or b"")
    with pytest.raises(WireError, match="expected text keys"):
        unpack_map(msgpack.packb({b"a": 1}) or b"")
