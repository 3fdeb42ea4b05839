"""Action chunks to bytes and back, whatever a policy emitted: also wrong shapes, wrong types, no array at all."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, fields
from typing import Any, cast

import numpy as np

from controllers.doubt import ChunkDoubt
from controllers.types import ActionChunk, ChunkArrival, FloatArray, IntArray
from episodes.errors import EpisodeError
from episodes.manifest import canonical_json
from episodes.packing import clamp_int64
from episodes.schema import UNKNOWN_STAMP

MAX_TOKEN_BYTES = 1 << 20  # a stranger's chunk must not be able to fill the disk
MAX_TEXT = 1 << 16
NUMBERS = ("chunk_id", "observation_stamp_ns", "inference_ns")
CERTAINTY = ("log_probability", "entropy")
DOUBT = tuple(item.name for item in fields(ChunkDoubt))  # each is a column ``doubt_NAME`` of the chunks table
_JSON_TOKENS = "python/json"
_CUT_TOKENS = "python/cut"


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One chunk as logged.

    Attributes:
        header: All fields but the arrays, and the tokens' shape and dtype; integers of any size. ``forced_rows`` only
            where it is not 0; ``log_probability`` and ``entropy`` are their numbers of bytes, where there are any;
            ``doubt`` is the four numbers of a :class:`~controllers.doubt.ChunkDoubt`, where there is one.
        data: The tokens' bytes, then those of the log-probabilities, then those of the entropies.
    """

    header: dict[str, Any]
    data: bytes

    @property
    def tokens(self) -> bytes:
        """The tokens' bytes."""
        return self.data[: len(self.data) - self._size("log_probability") - self._size("entropy")]

    @property
    def log_probability(self) -> bytes:
        """Bytes of the log-probabilities, empty where the policy gave none."""
        end = len(self.data) - self._size("entropy")
        return self.data[end - self._size("log_probability") : end]

    @property
    def entropy(self) -> bytes:
        """Bytes of the entropies, empty where the policy gave none."""
        return self.data[len(self.data) - self._size("entropy") :]

    def _size(self, name: str) -> int:
        return self.header.get(name, 0)

    def is_regular(self, horizon: int, dims: int) -> bool:
        """Whether it fits the tokens table: int64 of the declared shape, all numbers within int64."""
        header = self.header
        return (
            header["dtype"] == "<i8"
            and header["shape"] == [horizon, dims]
            and all(type(header[name]) is str for name in ("tokenizer_id", "spec_hash"))
            and all(type(header[name]) is int and clamp_int64(header[name]) == header[name] for name in NUMBERS)
            and all(self._size(name) in (0, horizon * dims * 8) for name in CERTAINTY)
        )

    def encode(self) -> bytes:
        """Bytes in the journal and in the hash chain."""
        header = canonical_json(self.header).encode()
        return len(header).to_bytes(4, "little") + header + self.data

    def to_arrival(self) -> ChunkArrival:
        """The arrival as the loop saw it.

        Raises:
            EpisodeError: The chunk was too large or too strange to log.
        """
        header = self.header
        chunk = ActionChunk(
            tokens=_decode_tokens(header, self.tokens),
            tokenizer_id=_decode_scalar(header["tokenizer_id"]),
            spec_hash=_decode_scalar(header["spec_hash"]),
            observation_stamp_ns=_decode_scalar(header["observation_stamp_ns"]),
            chunk_id=_decode_scalar(header["chunk_id"]),
            forced_rows=_decode_scalar(header.get("forced_rows", 0)),
            log_probability=_decode_certainty(header, self.log_probability),
            entropy=_decode_certainty(header, self.entropy),
            doubt=ChunkDoubt(*header["doubt"]) if "doubt" in header else None,
        )
        return ChunkArrival(chunk, _decode_scalar(header["inference_ns"]), header.get("inferred_ns", UNKNOWN_STAMP))


def decode_chunk(payload: bytes | memoryview) -> ChunkRecord:
    """Decode what :meth:`ChunkRecord.encode` wrote."""
    size = int.from_bytes(payload[:4], "little")
    return ChunkRecord(json.loads(bytes(payload[4 : 4 + size])), bytes(payload[4 + size :]))


def chunk_record(arrival: ChunkArrival) -> ChunkRecord:
    """What is logged of an arrival. Takes anything for tokens; never raises on a policy's rubbish."""
    chunk = arrival.chunk
    dtype, shape, data = _encode_tokens(cast(object, chunk.tokens))
    header = {
        "chunk_id": _encode_scalar(chunk.chunk_id),
        "observation_stamp_ns": _encode_scalar(chunk.observation_stamp_ns),
        "inference_ns": _encode_scalar(arrival.inference_ns),
        "tokenizer_id": _encode_scalar(chunk.tokenizer_id),
        "spec_hash": _encode_scalar(chunk.spec_hash),
        "shape": shape,
        "dtype": dtype,
    }
    if not (type(chunk.forced_rows) is int and chunk.forced_rows == 0):
        header["forced_rows"] = _encode_scalar(chunk.forced_rows)
    if type(arrival.inferred_ns) is int and arrival.inferred_ns != UNKNOWN_STAMP:
        header["inferred_ns"] = clamp_int64(arrival.inferred_ns)
    for name in CERTAINTY:
        certainty = _encode_certainty(getattr(chunk, name), shape)
        if certainty:
            header[name] = len(certainty)
            data += certainty
    if isinstance(chunk.doubt, ChunkDoubt):
        header["doubt"] = list(astuple(chunk.doubt))
    return ChunkRecord(header, data)


def _encode_scalar(value: object) -> object:
    """A field that should be a number or a string, whatever it is: replay must refuse it for the same reason."""
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return str(value)[:MAX_TEXT]
    if isinstance(value, np.bool_ | np.integer | np.floating):
        scalar = np.asarray(cast(Any, value))
        return {"numpy": scalar.dtype.str, "value": scalar.item()}
    return {"python": type(value).__name__}


def _decode_scalar(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    encoded = cast(dict[str, Any], value)
    if "numpy" in encoded:
        return np.asarray(encoded["value"], encoded["numpy"])[()]
    raise EpisodeError(
        "a chunk", "numbers and strings in its fields", f"a {encoded.get('python')}", "it cannot be replayed"
    )


def as_int64(value: object) -> int:
    """A field of the chunks table: the number, or -1 for what is none."""
    return clamp_int64(value) if isinstance(value, int) else -1


def _encode_tokens(tokens: object) -> tuple[str, list[int], bytes]:
    """Type, shape and bytes of whatever stands where tokens should be."""
    if isinstance(tokens, np.ndarray):
        array = cast("np.ndarray[Any, np.dtype[Any]]", tokens)
        shape = [int(size) for size in array.shape]
        if array.dtype.hasobject or array.dtype.names is not None:
            return _CUT_TOKENS, shape, f"array of {array.dtype}".encode()[:MAX_TOKEN_BYTES]
        if array.nbytes > MAX_TOKEN_BYTES:
            return _CUT_TOKENS, shape, f"{array.nbytes} bytes of {array.dtype}".encode()
        return array.dtype.str, shape, array.tobytes()
    try:
        text = json.dumps(tokens)
    except (TypeError, ValueError, RecursionError):
        return _CUT_TOKENS, [], f"a {type(tokens).__name__}".encode()
    if len(text) > MAX_TOKEN_BYTES:
        return _CUT_TOKENS, [], f"{len(text)} characters of {type(tokens).__name__}".encode()
    return _JSON_TOKENS, [], text.encode()


def _encode_certainty(values: object, shape: list[int]) -> bytes:
    """Log-probabilities or entropies as float64, one a token; anything else says nothing and is left out."""
    if not isinstance(values, np.ndarray):
        return b""
    array = cast("np.ndarray[Any, np.dtype[Any]]", values)
    if array.dtype.kind != "f" or list(array.shape) != shape or array.size * 8 > MAX_TOKEN_BYTES:
        return b""
    exact = np.asarray(array, np.float64)
    return b"" if np.isnan(exact).all() else exact.tobytes()


def _decode_certainty(header: dict[str, Any], data: bytes) -> FloatArray | None:
    if not data:
        return None
    return cast(FloatArray, cast(Any, np).frombuffer(data, np.float64).reshape(header["shape"]))


def _decode_tokens(header: dict[str, Any], data: bytes) -> IntArray:
    dtype = header["dtype"]
    if dtype == _CUT_TOKENS:
        raise EpisodeError(
            f"chunk {header['chunk_id']}",
            f"tokens of at most {MAX_TOKEN_BYTES} bytes",
            data.decode(),
            "it was too large or too strange to log, so it can be counted but not replayed",
        )
    if dtype == _JSON_TOKENS:
        return cast(IntArray, json.loads(data))
    array = cast(Any, np).frombuffer(data, dtype).reshape(header["shape"])  # read-only: made from bytes
    return cast(IntArray, array)
