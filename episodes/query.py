"""A small language to find episodes: ``task=stack and min_margin<0.01 and not success=true``.

query  = term {"or" term}
term   = factor {"and" factor}
factor = "not" factor | "(" query ")" | FIELD OPERATOR VALUE
OPERATOR is one of = != < <= > >= and ~ (contains)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

from controllers.names import nearest_name_hint
from episodes.index import IndexRow

Predicate = Callable[[IndexRow], bool]
_TOKEN = re.compile(r"\s*(?:(!=|<=|>=|=|<|>|~|\(|\))|\"([^\"]*)\"|'([^']*)'|([^\s()=<>!~\"']+))")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TYPES: dict[str, type[Any]] = {item.name: get_type_hints(IndexRow)[item.name] for item in fields(IndexRow)}


class QueryError(ValueError):
    """A query that cannot be understood; says where, what was expected and what was found."""


def parse_query(text: str) -> Predicate:
    """The question as a predicate of an index row; an empty one is true of all.

    Raises:
        QueryError: Unknown field, an operator that does not fit its type, a value of another type, or bad grammar.
    """
    if not text.strip():
        return lambda row: True
    parser = _Parser(text)
    found = parser.either()
    parser.end()
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int, bool]] = []  # token, place, quoted
        place = 0
        while place < len(text.rstrip()):
            match = _TOKEN.match(text, place)
            if match is None:
                raise QueryError(f"{text!r}, character {place}: expected a field, an operator or a value")
            quoted = match[2] is not None or match[3] is not None
            token = next(group for group in match.groups() if group is not None)
            self._tokens.append((token, match.start(), quoted))
            place = match.end()
        self._at = 0

    def _peek(self) -> str:
        if self._at >= len(self._tokens):
            return ""
        token, _, quoted = self._tokens[self._at]
        return "" if quoted else token

    def _take(self, expected: str) -> str:
        if self._at >= len(self._tokens):
            raise QueryError(f"{self._text!r}: expected {expected} at its end, found nothing")
        self._at += 1
        return self._tokens[self._at - 1][0]

    def end(self) -> None:
        if self._at < len(self._tokens):
            token, place, _ = self._tokens[self._at]
            raise QueryError(f"{self._text!r}, character {place}: expected 'and', 'or' or the end, found {token!r}")

    def either(self) -> Predicate:
        parts = [self._both()]
        while self._peek().lower() == "or":
            self._at += 1
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def _both(self) -> Predicate:
        parts = [self._factor()]
        while self._peek().lower() == "and":
            self._at += 1
            parts.append(self._factor())
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def _factor(self) -> Predicate:
        if self._peek().lower() == "not":
            self._at += 1
            inner = self._factor()
            return lambda row: not inner(row)
        if self._peek() == "(":
            self._at += 1
            inner = self.either()
            if self._take("')'") != ")":
                raise QueryError(f"{self._text!r}: expected ')' to close a parenthesis")
            return inner
        return self._comparison()

    def _comparison(self) -> Predicate:
        name = self._take("a field")
        if name not in _TYPES:
            names = tuple(_TYPES)
            raise QueryError(f"unknown field {name!r}{nearest_name_hint(name, names)}; fields: {', '.join(names)}")
        sign = self._take("an operator")
        kind = _TYPES[name]
        allowed = [*_COMPARE, "~"] if kind is str else ["=", "!="] if kind is bool else [*_COMPARE]
        if sign not in allowed:
            raise QueryError(f"{name}: expected one of {' '.join(allowed)} for a {kind.__name__}, found {sign!r}")
        value = _value(name, kind, self._take(f"a value for {name}"))
        if sign == "~":
            return lambda row: value.lower() in getattr(row, name).lower()
        compare = _COMPARE[sign]
        return lambda row: compare(getattr(row, name), value)


def _value(name: str, kind: type[Any], text: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else f"a {kind.__name__}"
        raise QueryError(f"{name}: expected {wanted}, found {text!r}") from None
