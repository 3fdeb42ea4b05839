"""Words of an instruction as ids. Small, learned from the training instructions, saved with the model.

A word of a later noun phrase is a word of its own (``red@2``): in "stack the red block on the blue block" it is the
order of the two phrases that says which block moves, and a small model that averages words hardly learns order.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from controllers.types import IntArray

PAD, UNKNOWN = "<pad>", "<unk>"
_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


def split_words(instruction: str) -> list[str]:
    """Lower-case words and punctuation marks of an instruction."""
    return _WORD.findall(instruction.lower())


LATER = "@2"


def tagged_words(instruction: str) -> list[str]:
    """:func:`split_words`, with :data:`LATER` at the words from the second "the" on."""
    tagged, phrases = [], 0
    for word in split_words(instruction):
        phrases += word == "the"
        tagged.append(word + LATER if phrases > 1 else word)
    return tagged


def plain(word: str) -> str:
    """A word without its tag."""
    return word.removesuffix(LATER)


@dataclass(frozen=True)
class WordVocabulary:
    """A closed list of words; all others are ``<unk>``.

    Attributes:
        words: Words in id order; the first two are ``<pad>`` and ``<unk>``.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[:2] != (PAD, UNKNOWN):
            raise ValueError(f"a vocabulary starts with {PAD}, {UNKNOWN}; found {list(self.words[:2])}")
        if len(set(self.words)) != len(self.words):
            raise ValueError("a vocabulary must not repeat words")

    @staticmethod
    def from_instructions(instructions: Iterable[str]) -> WordVocabulary:
        """Collect the words of instructions, in alphabetical order so that the order of data does not matter."""
        counts: Counter[str] = Counter()
        for instruction in instructions:
            counts.update(tagged_words(instruction))
        return WordVocabulary((PAD, UNKNOWN, *sorted(counts)))

    def extended(self, instructions: Iterable[str]) -> WordVocabulary:
        """This vocabulary with the new words of ``instructions`` at its end, so that old ids stay."""
        fresh = WordVocabulary.from_instructions(instructions).words
        return WordVocabulary((*self.words, *(word for word in fresh if word not in self.words)))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def encode(self, instruction: str, length: int) -> IntArray:
        """Write an instruction as (length,) int64 ids, padded at the end.

        Raises:
            ValueError: The instruction is empty or longer than ``length`` words.
        """
        words = tagged_words(instruction)
        if not words:
            raise ValueError("the instruction is empty")
        if len(words) > length:
            raise ValueError(f"the instruction has {len(words)} words, at most {length} fit: {instruction!r}")
        ids = np.zeros(length, dtype=np.int64)
        # A word that was only ever seen in the other place is still that word.
        ids[: len(words)] = [self._id(word) for word in words]
        return ids

    def _id(self, word: str) -> int:
        ids, base = self._ids, plain(word)
        return ids.get(word, ids.get(base, ids.get(base + LATER, 1)))

    def unknown_words(self, instruction: str) -> tuple[str, ...]:
        """Words of an instruction that the model never saw."""
        return tuple(plain(word) for word in tagged_words(instruction) if self._id(word) == 1)

    def to_json(self) -> str:
        """The vocabulary as a JSON list."""
        return json.dumps(list(self.words), indent=0)

    @staticmethod
    def from_json(text: str) -> WordVocabulary:
        """Rebuild a vocabulary from :meth:`to_json`."""
        words = json.loads(text)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("a vocabulary file holds a list of words")
        return WordVocabulary(tuple(words))
