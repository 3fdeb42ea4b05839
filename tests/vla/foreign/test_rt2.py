"""Actions as text: whatever the logits are, what is decoded is a whole chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

import torch

from controllers.types import Observation, Pose, RobotState, frozen_array
from sim.tabletop import CAMERAS
from sim.tabletop import TABLETOP_ACTION_SPEC as SPEC
from tests.vla.foreign import tiny_text
from vla.foreign.declaration import ForeignDeclaration, parse_declaration
from vla.process.refusal import is_refusal
from vla.rt2.grammar import ChunkGrammar, Place, TextChunkError, TokenGrammar, bin_ranges
from vla.rt2.policy import GrammarMask, TextPolicy, TextPolicyOptions
from vla.rt2.vocabulary import token_texts
from vla.tokenizers import decoder_from_id

RT2 = "uniform-256/rt2"
MERGED = ("12", "128", " 1", " 2", "00", "0 1", "255", " 255 ", "\n1")
WORDS: dict[str, Any] = {name: tiny_text.tokenizer(merged) for name, merged in (("bytes", ()), ("merged", MERGED))}


def declaration(text: dict[str, str] | None = None) -> ForeignDeclaration:
    images = {"front": {"camera": "workspace", "size": 32}}
    return parse_declaration({"observation": {"images": images, "state": {}}, "text": text or {}})


def seen(seed: int = 0) -> Observation:
    random = np.random.default_rng(seed)
    pose = Pose(frozen_array([0.4, 0.0, 0.3]), frozen_array([1.0, 0.0, 0.0, 0.0]))
    zeros = frozen_array(np.zeros(7))
    state = RobotState(zeros, zeros, zeros, pose, frozen_array(np.zeros(6)), 0.08, 5)
    images = {name: random.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in CAMERAS.items()}
    return Observation(images, state, pose, "pick up the red block", 5)


# ----------------------------------------------------------------------------------------------- grammar


def decoded(grammar: TokenGrammar, scores: np.random.Generator, bad: float, size: int) -> list[int]:
    """Greedy decoding of arbitrary scores; gives the tokens."""
    mask, ids = GrammarMask(grammar, 3), [1, 1, 1]
    for _ in range(grammar.longest):
        row = torch.from_numpy(scores.normal(0, 1e3, (1, size)))
        row[torch.from_numpy(scores.random((1, size)) < bad)] = float(scores.choice([np.nan, np.inf, -np.inf]))
        ids.append(int(mask(torch.tensor([ids]), row).argmax()))
        if ids[-1] == grammar.end:
            break
    return ids[3:]


@given(
    st.sampled_from(["bytes", "merged"]),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 1200)), min_size=1, max_size=5),
    st.sampled_from([" ", "\n", " ; ", ", "]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_logits_give_a_well_formed_chunk(
    kind: str, rows: int, limits: list[tuple[int, int]], apart: str, seed: int, bad: float
) -> None:
    words, grammar = WORDS[kind], ChunkGrammar(rows, tuple((min(pair), max(pair)) for pair in limits), apart)
    tokens = TokenGrammar(grammar, token_texts(words, grammar.alphabet), words.eos_token_id)
    answer = decoded(tokens, np.random.default_rng(seed), bad, len(words))
    assert answer[-1] == words.eos_token_id
    chunk = grammar.parse(words.decode(answer[:-1], clean_up_tokenization_spaces=False))
    assert chunk.shape == (rows, len(limits))
    assert (chunk >= np.min(limits, axis=1)).all()
    assert (chunk <= np.max(limits, axis=1)).all()


@given(st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), min_size=1, max_size=4), st.booleans())
def test_every_chunk_can_be_written(rows: list[list[int]], space: bool) -> None:
    grammar = ChunkGrammar(len(rows), ((0, 255),) * 3, "\n")
    text = " " * space + "\n".join(" ".join(map(str, row)) for row in rows)
    place = grammar.advance(Place(), text)
    assert place is not None
    assert grammar.complete(place)
    assert len(text) <= grammar.longest
    assert grammar.parse(text).tolist() == rows


@pytest.mark.parametrize(
    "text",
    ["", "1", "1 2 3 4", "1  2", "1 256", "01 2", "1 2 ", "  1 2", "1\n2", "-1 2", "1 ٢", "1.0 2", "a 2", "1 2 3\n4"],
)
def test_a_text_that_is_no_chunk_is_refused(text: str) -> None:
    grammar = ChunkGrammar(1, ((0, 255), (0, 255)))
    with pytest.raises(TextChunkError, match=r"expected (1 rows of 2 integers|one in 0\.\.255), found"):
        grammar.parse(text)
    place = grammar.advance(Place(), text)
    assert place is None or not grammar.complete(place)


def test_a_vocabulary_without_a_character_is_refused() -> None:
    with pytest.raises(TextChunkError, match=r"expected a token for each of the characters .*found none for \['7'\]"):
        TokenGrammar(ChunkGrammar(1, ((0, 9),)), {ord(c): c for c in " 012345689"}, 0)


def test_only_integers_as_tokens_will_do() -> None:
    assert bin_ranges(RT2, SPEC) == ((0, 255),) * 6 + ((127, 255),)  # the gripper passes through: 0 to 1
    with pytest.raises(TextChunkError, match=r"found 'uniform-255/openvla-32000'; declare stack\.tokenizer"):
        bin_ranges("uniform-255/openvla-32000", SPEC)


# ----------------------------------------------------------------------------------------------- a model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text.save_model(tmp_path_factory.mktemp("rt2"), MERGED)


def load(folder: Path, text: dict[str, str] | None = None) -> TextPolicy:
    return TextPolicy.load(folder, declaration(text), TextPolicyOptions(SPEC, RT2, dtype="fp32"))


def test_a_random_model_answers_with_a_chunk_that_decodes(folder: Path) -> None:
    policy = load(folder, {"rows_apart": "\n"})
    answers = [policy.infer(seen(seed)) for seed in range(3)]
    for answer in answers:
        assert answer.tokens.shape == (SPEC.horizon, SPEC.dims)
        assert (answer.tokenizer_id, answer.spec_hash, answer.observation_stamp_ns) == (RT2, SPEC.hash, 5)
    decoder_from_id(RT2, SPEC).decode(policy.infer(seen()).tokens)


def test_the_cache_changes_nothing(folder: Path) -> None:
    policy = load(folder)
    inputs = policy._inputs(seen())
    answer = policy.answer(seen())
    ids, length = inputs["input_ids"], inputs["input_ids"].shape[1]
    mask = GrammarMask(policy._grammar, length)
    others = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        while ids[0, -1] != policy._grammar.end or ids.shape[1] == length:
            logits = policy._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **others).logits
            ids = torch.cat((ids, mask(ids, logits[:, -1]).argmax(-1, keepdim=True)), dim=1)
    assert policy._grammar.text(ids[0, length:].tolist()) == answer


def test_the_prompt_holds_pictures_and_words(folder: Path) -> None:
    policy = load(folder, {"prompt": "Do: {instruction}. A:"})
    ids = policy._inputs(seen())["input_ids"][0].tolist()
    words = policy._processor.tokenizer
    assert ids.count(words.convert_tokens_to_ids("<image>")) == tiny_text.TOKENS_OF_A_PICTURE
    assert words.decode(ids).endswith("Do: pick up the red block. A:")


@pytest.mark.parametrize(("flag", "ends"), [("0", False), ("1", True)])
def test_the_terminate_flag_rests_the_arm(flag: str, ends: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load(folder, {"leading": "terminate"})
    row = f"{flag} 128 91 241 5 101 127 217"
    monkeypatch.setattr(policy, "answer", lambda observation: " ".join([row] * SPEC.horizon))
    answer = policy.infer(seen())
    assert is_refusal(answer) is ends
    if not ends:
        assert answer.tokens.tolist() == [[128, 91, 241, 5, 101, 127, 217]] * SPEC.horizon
    else:
        assert answer.tokenizer_id == "none: the model takes the episode for finished (its terminate flag is 1)"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextChunkError, match="expected an image-text model with its processor"):
        load(tmp_path)
