"""Bounded msgpack with numpy arrays, as ``openpi_client.msgpack_numpy`` writes them. Nothing is ever unpickled.

An array is a map with the byte-string keys ``__ndarray__``, ``data``, ``dtype`` and ``shape``; a numpy scalar one with
``__npgeneric__``, ``data`` and ``dtype`` (https://github.com/Physical-Intelligence/openpi, packages/openpi-client).
A message is walked once without building anything, so that what it may cost is known before it costs anything:
a megabyte of empty lists would otherwise become 56 megabytes of objects.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

_DTYPE = re.compile(r"[<>|=][biuf][1248]")
_TEXT_DTYPE = re.compile(r"[<>|=]U\d{1,6}")
_NDARRAY, _GENERIC = b"__ndarray__", b"__npgeneric__"


class WireError(ValueError):
    """A message that is not what the protocol allows; the text says what was expected and found."""


@dataclass(frozen=True)
class WireLimits:
    """What one message may hold.

    Attributes:
        max_bytes: Whole message.
        max_objects: Values, keys and containers together; arrays count as the five or seven objects they are made of.
        max_depth: Containers inside containers.
        max_text_bytes: One string.
        max_array_dims: Dimensions of one array.
    """

    max_bytes: int = 8 * 1024 * 1024
    max_objects: int = 4096
    max_depth: int = 16
    max_text_bytes: int = 256 * 1024
    max_array_dims: int = 8


DEFAULT_LIMITS = WireLimits()


def pack(message: Mapping[str, Any]) -> bytes:
    """Write a message.

    Raises:
        WireError: A value that the protocol cannot carry, such as an object array.
    """
    try:
        return msgpack.packb(message, default=_pack_numpy, use_bin_type=True)  # pyright: ignore[reportReturnType]
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"cannot send this message: {error}") from error


def unpack(data: bytes, limits: WireLimits = DEFAULT_LIMITS) -> Any:
    """Read a message; its arrays are read-only.

    Raises:
        WireError: Malformed, cut short, followed by more bytes, or over a limit.
    """
    if len(data) > limits.max_bytes:
        raise WireError(f"expected at most {limits.max_bytes} bytes, found {len(data)}")
    _walk(data, limits)
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_hook=lambda value: _unpack_numpy(value, limits),
            ext_hook=_no_extension,
        )
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"malformed msgpack: {error or type(error).__name__}") from error


def unpack_map(data: bytes, limits: WireLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Read a message that must be a map with text keys.

    Raises:
        WireError: As :func:`unpack`, or another kind of message.
    """
    message = unpack(data, limits)
    if not isinstance(message, dict):
        raise WireError(f"expected a map, found {type(message).__name__}")
    for key in message:
        if not isinstance(key, str):
            raise WireError(f"expected text keys, found {key!r}")
    return message


# ------------------------------------------------------------------------------------------------ numpy


def _pack_numpy(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "VOc":
        raise TypeError(f"expected an array of numbers, found dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        return {_NDARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {_GENERIC: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} has no place in the protocol")


def _unpack_numpy(value: dict[Any, Any], limits: WireLimits) -> Any:
    if _NDARRAY in value:
        return _array(value, limits)
    if _GENERIC in value:
        return _scalar(value)
    return value


def _array(value: dict[Any, Any], limits: WireLimits) -> np.ndarray:
    data, dtype, shape = value.get(b"data"), value.get(b"dtype"), value.get(b"shape")
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise WireError(f"expected an array of booleans, integers or floats, found dtype {_short(dtype)}")
    if not isinstance(shape, (list, tuple)) or len(shape) > limits.max_array_dims:
        raise WireError(f"expected an array shape of at most {limits.max_array_dims} sizes, found {_short(shape)}")
    if any(type(size) is not int or size < 0 for size in shape):
        raise WireError(f"expected array sizes of 0 or more, found {_short(shape)}")
    kind = np.dtype(dtype)
    expected = math.prod(shape) * kind.itemsize
    if not isinstance(data, bytes) or len(data) != expected:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise WireError(f"expected {expected} bytes for an array of shape {tuple(shape)} and {kind}, found {found}")
    return np.frombuffer(data, dtype=kind).reshape(shape)


def _scalar(value: dict[Any, Any]) -> Any:
    data, dtype = value.get(b"data"), value.get(b"dtype")
    if isinstance(dtype, str) and _TEXT_DTYPE.fullmatch(dtype) and isinstance(data, str):
        return data
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype) or not isinstance(data, (bool, int, float)):
        raise WireError(f"expected a numpy scalar, found dtype {_short(dtype)} with {type(data).__name__}")
    try:
        return np.dtype(dtype).type(data)
    except (OverflowError, ValueError) as error:
        raise WireError(f"expected a numpy scalar of {dtype}: {error}") from error


def _no_extension(code: int, data: bytes) -> Any:
    raise WireError(f"expected no msgpack extension types, found type {code}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------------------- walk

# First byte -> (bytes of the length field, bytes beside it, what the length counts).
_SIZED = {
    0xC4: (1, "bytes"), 0xC5: (2, "bytes"), 0xC6: (4, "bytes"),
    0xD9: (1, "text"), 0xDA: (2, "text"), 0xDB: (4, "text"),
    0xDC: (2, "items"), 0xDD: (4, "items"),
    0xDE: (2, "pairs"), 0xDF: (4, "pairs"),
}  # fmt: skip
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2,
          0xD2: 4, 0xD3: 8}  # fmt: skip
_LENGTH = {1: ">B", 2: ">H", 4: ">I"}


def _walk(data: bytes, limits: WireLimits) -> None:
    """Check sizes, number and depth of all values against the bytes that are there, building nothing."""
    position, objects = 0, 0
    open_containers = [1]  # values still to come, innermost last
    while open_containers:
        if open_containers[-1] == 0:
            open_containers.pop()
            continue
        open_containers[-1] -= 1
        objects += 1
        if objects > limits.max_objects:
            raise WireError(f"expected at most {limits.max_objects} values in a message, found more")
        kind, size, position = _header(data, position)
        if kind == "text" and size > limits.max_text_bytes:
            raise WireError(f"expected strings of at most {limits.max_text_bytes} bytes, found {size}")
        if kind in ("items", "pairs"):
            count = size if kind == "items" else 2 * size
            if objects + count > limits.max_objects:
                raise WireError(f"expected at most {limits.max_objects} values in a message, found {objects + count}")
            open_containers.append(count)
            if len(open_containers) > limits.max_depth + 1:
                raise WireError(f"expected containers at most {limits.max_depth} deep, found deeper ones")
        else:
            position += size
        if position > len(data):
            raise WireError(f"the message is cut short: it needs {position} bytes or more, found {len(data)}")
    if position != len(data):
        raise WireError(f"expected one message, found {len(data) - position} bytes after it")


def _header(data: bytes, position: int) -> tuple[str, int, int]:
    """Kind of the value at ``position``, its size, and where its content begins."""
    if position >= len(data):
        raise WireError(f"the message is cut short: it needs more than {len(data)} bytes")
    first = data[position]
    position += 1
    if first <= 0x7F or first >= 0xE0:
        return "number", 0, position
    if first <= 0x8F:
        return "pairs", first & 0x0F, position
    if first <= 0x9F:
        return "items", first & 0x0F, position
    if first <= 0xBF:
        return "text", first & 0x1F, position
    if first in _FIXED:
        return "number", _FIXED[first], position
    if first not in _SIZED:
        raise WireError(f"expected msgpack without extension types, found the byte 0x{first:02x}")
    width, kind = _SIZED[first]
    if position + width > len(data):
        raise WireError(f"the message is cut short: it needs {position + width} bytes or more, found {len(data)}")
    (size,) = struct.unpack_from(_LENGTH[width], data, position)
    return kind, size, position + width
