"""The loop's memory to JSON and back, exactly: what a replay needs besides the physics to begin at a key frame.

The memory is a tree of frozen dataclasses, named tuples, tuples, enumerations, read-only arrays and scalars; whatever
the executor and the safety filter remember is in it, so nothing here knows their fields. Floats are written so that
they read back to the same bits. Arrays that are one object stay one object, since a filter may ask for identity.
Reading builds only classes that the loop's own memory is made of, from their own fields: a file cannot name others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Protocol, Union, cast, get_args, get_origin, get_type_hints, runtime_checkable

import numpy as np

from controllers.names import nearest_name_hint
from episodes.errors import EpisodeError

_LONG = 16  # tuples of more items are encoded a few items at a time
_ROWS = 4  # as many items of one class as have nothing new inside
_CLASS, _ENUM, _ARRAY, _SAME, _FLOAT = "~", "~enum", "~array", "~same", "~float64"
_AGAIN, _ITEMS = "~again", "~rows"
_PLAIN = (bool, int, float, str, type(None))


@runtime_checkable
class Essential(Protocol):
    """A memory that knows what of it no later tick can depend on."""

    def essential(self) -> object:
        """The same memory without that."""
        ...


def encode_memory(memory: object) -> str:
    """A loop's memory as JSON.

    Raises:
        TypeError: It holds something that is none of the above.
    """
    return "".join(encoding_steps(memory))


def encoding_steps(memory: object) -> Iterator[str]:
    """The same in pieces, each a few microseconds' work, for a loop that has no time; ``memory`` must not change."""
    return _Encoder().pieces(memory.essential() if isinstance(memory, Essential) else memory)


@cache
def _field_names(kind: type[Any]) -> tuple[str, ...] | None:
    """Names of a dataclass's or named tuple's fields, None for any other class."""
    if is_dataclass(kind):
        return tuple(item.name for item in fields(kind))
    return getattr(cast(object, kind), "_fields", None) if issubclass(kind, tuple) else None


class _Encoder:
    """Numbers arrays as they are begun, and dataclasses as they are done; the decoder counts alike."""

    def __init__(self) -> None:
        self._arrays: dict[int, int] = {}
        self._done: dict[int, int] = {}

    def pieces(self, value: Any) -> Iterator[str]:
        kind = cast("type[Any]", type(value))
        names = _field_names(kind)
        if names is not None and id(value) not in self._done:
            yield f'{{"{_CLASS}":{_text(kind.__name__)}'
            for name in names:
                yield f',"{name}":'
                yield from self.pieces(getattr(value, name))
            self._done[id(value)] = len(self._done)
            yield "}"
        elif kind is tuple and len(value) > _LONG:
            yield from self._items(value)
        else:
            yield _text(self._plain(value))

    def _items(self, items: tuple[Any, ...]) -> Iterator[str]:
        """A long tuple: of one class as rows of its fields, whose names are written once."""
        kinds = {cast("type[Any]", type(item)) for item in items}
        kind = kinds.pop()
        names = None if kinds else _field_names(kind)
        if names is None:
            for index, item in enumerate(items):
                yield ("," if index else "[") + _text(self._plain(item))
            yield "]"
            return
        yield f'{{"{_ITEMS}":{_text(kind.__name__)},"fields":{_text(names)},"items":'
        pending = "["
        count = 0
        for item in items:
            known = len(self._done)
            row = [self._plain(getattr(item, name)) for name in names]
            pending += _text(row)
            count = _ROWS if len(self._done) > known else count + 1
            self._done[id(item)] = len(self._done)
            if count >= _ROWS:
                yield pending
                pending, count = "", 0
            pending += ","
        yield pending.removesuffix(",") + "]}"

    def _plain(self, value: Any) -> Any:
        kind = cast("type[Any]", type(value))
        if kind in _PLAIN:
            return value
        if kind is tuple:
            return [item if type(item) is float else self._plain(item) for item in value]
        if kind is np.ndarray:
            return self._array(value)
        names = _field_names(kind)
        if names is not None:
            done = self._done.get(id(value))
            if done is not None:
                return {_AGAIN: done}
            encoded = {_CLASS: kind.__name__}
            for name in names:
                encoded[name] = self._plain(getattr(value, name))
            self._done[id(value)] = len(self._done)
            return encoded
        if isinstance(value, Enum):
            return {_ENUM: kind.__name__, "value": value.value}
        if kind is np.float64:
            return {_FLOAT: float(value)}
        raise TypeError(f"expected a loop's memory of plain frozen values, found a {kind.__name__}: {value!r:.60}")

    def _array(self, array: Any) -> dict[str, Any]:
        known = self._arrays.get(id(array))
        if known is not None:
            return {_SAME: known}
        self._arrays[id(array)] = len(self._arrays)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"expected an array of numbers in a loop's memory, found {array.dtype}")
        return {_ARRAY: array.dtype.str, "shape": list(array.shape), "data": array.ravel().tolist()}


def _text(value: Any) -> str:
    return _dumps(value)


_dumps = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder for each call


def decode_memory(text: str, template: object, where: str) -> Any:
    """Rebuild a loop's memory.

    Args:
        text: What :func:`encode_memory` gave.
        template: A memory of the same loop, such as its initial one; says which classes there may be.
        where: For error messages.

    Raises:
        EpisodeError: It was written by another release, whose memory is made of other parts.
    """
    classes: dict[str, type[Any]] = {}
    _collect_types(type(template), classes)
    _collect_values(template, classes)
    try:
        return _Decoder(classes).build(json.loads(text))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise EpisodeError(
            where,
            f"a memory of {type(template).__name__} as this release has it",
            str(error),
            "begin at tick 0, or use the release that recorded it",
        ) from error


def _collect_types(hint: Any, classes: dict[str, type[Any]]) -> None:
    """All classes that a type hint speaks of, by name."""
    origin = get_origin(hint)
    if origin is Union or origin is UnionType or origin is tuple:
        for part in get_args(hint):
            _collect_types(part, classes)
    elif isinstance(hint, type) and (issubclass(hint, Enum) or _field_names(cast("type[Any]", hint)) is not None):
        kind = cast("type[Any]", hint)
        if classes.setdefault(kind.__name__, kind) is not kind:
            raise TypeError(f"two classes of a loop's memory are called {kind.__name__!r}; rename one")
        if not issubclass(kind, Enum):
            for part in get_type_hints(kind).values():
                if part is not kind and getattr(part, "__name__", "") not in classes:
                    _collect_types(part, classes)


def _collect_values(value: Any, classes: dict[str, type[Any]]) -> None:
    """The classes of the values themselves: hints may be type variables."""
    names = _field_names(cast("type[Any]", type(value)))
    if names is None:
        return
    _collect_types(cast("type[Any]", type(value)), classes)
    for name in names:
        _collect_values(getattr(value, name), classes)


class _Decoder:
    def __init__(self, classes: Mapping[str, type[Any]]) -> None:
        self._classes = classes
        self._arrays: list[Any] = []
        self._done: list[Any] = []

    def build(self, data: Any) -> Any:
        if isinstance(data, list):
            return tuple([item if type(item) is float else self.build(item) for item in cast("list[Any]", data)])
        if not isinstance(data, dict):
            return data
        entry = cast("dict[str, Any]", data)
        if _ARRAY in entry:
            array = np.array(entry["data"], entry[_ARRAY]).reshape(entry["shape"])
            array.flags.writeable = False
            self._arrays.append(array)
            return array
        if _SAME in entry:
            return self._arrays[entry[_SAME]]
        if _AGAIN in entry:
            return self._done[entry[_AGAIN]]
        if _ITEMS in entry:
            kind, fields_here = self._class(entry[_ITEMS]), entry["fields"]
            return tuple([self._finished(kind, dict(zip(fields_here, row, strict=True))) for row in entry["items"]])
        if _FLOAT in entry:
            return np.float64(entry[_FLOAT])
        if _ENUM in entry:
            return self._class(entry[_ENUM])(entry["value"])
        return self._finished(
            self._class(entry[_CLASS]), {name: value for name, value in entry.items() if name != _CLASS}
        )

    def _finished(self, kind: type[Any], values: dict[str, Any]) -> Any:
        names = _field_names(kind)
        if names is None or set(names) != set(values):
            raise ValueError(f"{kind.__name__} with the fields {sorted(values)}")
        # In the order of writing, so that arrays and dataclasses are numbered as they were.
        made = kind(**{name: self.build(value) for name, value in values.items()})
        self._done.append(made)
        return made

    def _class(self, name: str) -> type[Any]:
        if name not in self._classes:
            raise ValueError(f"a {name!r}{nearest_name_hint(name, tuple(self._classes))}")
        return self._classes[name]
