"""Data of other kinds: questions about pictures and their answers, so that fine-tuning forgets less."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from controllers.types import ImageArray

PAIRS = "pairs.jsonl"
PROMPT = "In: {question}\nOut:"
STOP_ID = 2  # Llama's end of sequence
_ENTRIES = ("answer", "image", "question")


class GeneralDataError(ValueError):
    """A folder of pairs that cannot be used; the message says which line and why."""


@dataclass(frozen=True)
class Pair:
    """One question with its answer, as ids.

    Attributes:
        image: File of the picture.
        prompt: Ids of the question in the prompt's form, with BOS.
        target: Ids of the answer and of the end of sequence.
    """

    image: Path
    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def picture(self) -> ImageArray:
        """The picture (H, W, 3) uint8 RGB.

        Raises:
            GeneralDataError: It cannot be read.
        """
        try:
            with Image.open(self.image) as file:
                return np.asarray(file.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise GeneralDataError(f"{self.image}: expected a picture, found none that reads ({error})") from error


def read_pairs(folder: Path, encode: Callable[[str], Sequence[int]]) -> list[Pair]:
    """The pairs of a folder.

    Args:
        folder: Holds ``pairs.jsonl`` and the pictures that it names.
        encode: Text to ids, with BOS.

    Raises:
        GeneralDataError: No such file, a line that is none, a picture that is missing, or a tokenizer that joins the
            answer to the question.
    """
    path = folder / PAIRS
    if not path.is_file():
        raise GeneralDataError(
            f"expected {path}, found none; write one line a pair: "
            '{"image": "a.jpg", "question": "what is this?", "answer": "a cup"}'
        )
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise GeneralDataError(f"{where}: expected JSON ({error})") from error
        if not isinstance(entry, dict) or sorted(entry) != list(_ENTRIES):
            raise GeneralDataError(f"{where}: expected the entries {', '.join(_ENTRIES)}, found {line[:80]}")
        image = folder / str(entry["image"])
        if not image.is_file():
            raise GeneralDataError(f"{where}: expected the picture {image}, found none")
        question, answer = (str(entry[name]).strip() for name in ("question", "answer"))
        if not question or not answer:
            raise GeneralDataError(f"{where}: expected a question and an answer, found an empty one")
        text = PROMPT.format(question=question)
        prompt, whole = list(encode(text)), list(encode(f"{text} {answer}"))
        if whole[: len(prompt)] != prompt:
            raise GeneralDataError(
                f"{where}: expected the answer's ids behind the question's, found that the tokenizer joins the two; "
                "change the answer's first word"
            )
        pairs.append(Pair(image, tuple(prompt), (*whole[len(prompt) :], STOP_ID)))
    if not pairs:
        raise GeneralDataError(f"{path}: expected at least one pair, found none")
    return pairs
