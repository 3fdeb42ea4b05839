"""What a chunk looks like as text, and which tokens may follow, for every token of a vocabulary. No torch.

A chunk is rows of integers without leading zeros: ``1 128 91 241 5 101 127 217``. A space stands between two integers,
``rows_apart`` between two rows, and one space may stand before the first. Every state of the grammar has a way on in
single characters, so that a vocabulary that has those can always finish a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from controllers.types import ActionSpec, IntArray
from vla.tokenizers import TokenConvention, UniformBinTokenizer, tokenizer_from_id

_DIGITS = "0123456789"


class TextChunkError(ValueError):
    """A text that is no chunk, or a vocabulary that cannot write one."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a text has come.

    Attributes:
        number: Index of the integer that is being written, or that comes next.
        digits: What there is of it.
        waiting: Characters of the separator before it that are still to come.
        begun: Whether anything was written at all.
    """

    number: int = 0
    digits: str = ""
    waiting: str = ""
    begun: bool = False


@dataclass(frozen=True)
class ChunkGrammar:
    """The language of one chunk.

    Attributes:
        rows: Rows of a chunk.
        limits: Lowest and highest integer of each column of a row.
        rows_apart: What stands between two rows.
    """

    rows: int
    limits: tuple[tuple[int, int], ...]
    rows_apart: str = " "

    @property
    def numbers(self) -> int:
        """Integers in a chunk."""
        return self.rows * len(self.limits)

    @property
    def longest(self) -> int:
        """Characters of the longest chunk."""
        digits = self.rows * sum(len(str(high)) for _, high in self.limits)
        return 1 + digits + self.rows * (len(self.limits) - 1) + (self.rows - 1) * len(self.rows_apart)

    @property
    def alphabet(self) -> str:
        """Every character that a chunk may hold."""
        return _DIGITS + "".join(sorted(set(" " + self.rows_apart)))

    def advance(self, place: Place, text: str) -> Place | None:
        """Where a text leads from a place; None where it may not stand."""
        for character in text:
            following = self._step(place, character)
            if following is None:
                return None
            place = following
        return place

    def complete(self, place: Place) -> bool:
        """Whether a chunk may end here."""
        return place.number == self.numbers - 1 and self._whole(place)

    def parse(self, text: str) -> IntArray:
        """Read a chunk as (rows, columns) int64, written independently of :meth:`advance`.

        Raises:
            TextChunkError: Says what was expected and found.
        """
        lines = text.removeprefix(" ").split(self.rows_apart) if self.rows_apart != " " else [text.removeprefix(" ")]
        numbers = [word for line in lines for word in line.split(" ")]
        if len(numbers) != self.numbers or (self.rows_apart != " " and len(lines) != self.rows):
            raise TextChunkError(
                f"expected {self.rows} rows of {len(self.limits)} integers, found {len(numbers)} in {text!r:.200}"
            )
        for index, word in enumerate(numbers):
            low, high = self.limits[index % len(self.limits)]
            if not word.isascii() or not word.isdigit() or str(int(word)) != word or not low <= int(word) <= high:
                raise TextChunkError(f"integer {index}: expected one in {low}..{high}, found {word!r} in {text!r:.200}")
        chunk = np.array(numbers, np.int64).reshape(self.rows, len(self.limits))
        chunk.flags.writeable = False
        return chunk

    def _range(self, place: Place) -> tuple[int, int]:
        return self.limits[place.number % len(self.limits)]

    def _whole(self, place: Place) -> bool:
        return bool(place.digits) and int(place.digits) >= self._range(place)[0]

    def _step(self, place: Place, character: str) -> Place | None:
        if place.waiting:
            return Place(place.number, "", place.waiting[1:], True) if character == place.waiting[0] else None
        if character in _DIGITS:
            digits = place.digits + character
            return Place(place.number, digits, "", True) if _begins(digits, *self._range(place)) else None
        if not place.digits:
            return Place(begun=True) if character == " " and not place.begun else None
        if place.number == self.numbers - 1 or not self._whole(place):
            return None
        after = place.number + 1
        separator = self.rows_apart if after % len(self.limits) == 0 else " "
        return Place(after, "", separator[1:], True) if character == separator[0] else None


def _begins(digits: str, low: int, high: int) -> bool:
    """Whether an integer of a range is written with these digits first."""
    if digits[0] == "0":
        return digits == "0" and low == 0
    first, last = int(digits), int(digits)
    while first <= high:
        if last >= low:
            return True
        first, last = 10 * first, 10 * last + 9
    return False


class TokenGrammar:
    """The same, in the tokens of one vocabulary."""

    def __init__(self, grammar: ChunkGrammar, texts: Mapping[int, str], end: int) -> None:
        """Take a vocabulary.

        Args:
            grammar: The language.
            texts: Token id -> what it writes in the middle of a text; tokens that no chunk holds may be left out.
            end: Id of the token that ends the answer.

        Raises:
            TextChunkError: A character of the language has no token of its own.
        """
        alphabet = set(grammar.alphabet)
        self.grammar, self.end = grammar, end
        self._texts = {token: text for token, text in texts.items() if text and token != end and alphabet >= set(text)}
        missing = sorted(alphabet - set(self._texts.values()))
        if missing:
            raise TextChunkError(
                f"expected a token for each of the characters {grammar.alphabet!r}, found none for {missing}; choose "
                "another rows_apart, or a model whose tokenizer has them"
            )
        self._allowed: dict[Place, IntArray] = {}

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest answer, with the one that ends it."""
        return self.grammar.longest + 1

    def allowed(self, place: Place) -> IntArray:
        """Ids that may follow; never empty."""
        known = self._allowed.get(place)
        if known is None:
            ids = [token for token, text in self._texts.items() if self.grammar.advance(place, text) is not None]
            if self.grammar.complete(place):
                ids.append(self.end)
            known = self._allowed[place] = np.array(sorted(ids), np.int64)
        return known

    def advance(self, place: Place, token: int) -> Place:
        """Where a token leads.

        Raises:
            TextChunkError: It may not stand here.
        """
        text = self._texts.get(token)
        following = None if text is None else self.grammar.advance(place, text)
        if following is None:
            raise TextChunkError(f"token {token} ({text!r}) may not stand after integer {place.number}")
        return following

    def text(self, tokens: list[int]) -> str:
        """What tokens write, up to the one that ends the answer."""
        ended = tokens.index(self.end) if self.end in tokens else len(tokens)
        return "".join(self._texts.get(token, "\N{REPLACEMENT CHARACTER}") for token in tokens[:ended])


def bin_ranges(tokenizer_id: str, spec: ActionSpec) -> tuple[tuple[int, int], ...]:
    """Lowest and highest bin of each dimension that the spec's bounds allow: nothing else may be written.

    Raises:
        TextChunkError: A tokenizer whose tokens are not the integers that a model writes, or one without a bin for a
            dimension.
    """
    tokenizer = tokenizer_from_id(tokenizer_id)
    if not isinstance(tokenizer, UniformBinTokenizer) or tokenizer.convention is not TokenConvention.RT2:
        raise TextChunkError(
            f"expected a tokenizer whose tokens are the integers that the model writes, found {tokenizer_id!r}; "
            "declare stack.tokenizer: uniform-256/rt2, with the number of bins that it was trained with"
        )
    table, tolerance = tokenizer.action_table(spec), tokenizer.bin_tolerance(spec)
    inside = (table >= spec.lower[:, None] - tolerance) & (table <= spec.upper[:, None] + tolerance)
    ranges = []
    for name, allowed in zip(spec.names, inside, strict=True):
        bins = np.flatnonzero(allowed)
        if not bins.size:
            raise TextChunkError(f"expected a bin of {tokenizer_id!r} within the bounds of {name}, found none")
        ranges.append((int(bins[0]), int(bins[-1])))
    return tuple(ranges)
