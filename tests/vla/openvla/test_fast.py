"""OpenVLA with options for speed: those that may not change a token do not, the others stay within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.openvla_inference import TOKENS, Frames, GenerateReference
from sim.foreign import ForeignAccess, ForeignSource, choose_foreign
from tests.vla.openvla.tiny import HEADS, KEY, SIDE, make_tensors, write_checkpoint
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.fast import FastDecoder
from vla.openvla.graphs import StepGraph
from vla.openvla.lean import LeanLlama, StaticCache, Where
from vla.openvla.model import Decoded, OpenVLAModel, load_model
from vla.openvla.policy import OpenVLAOptions, OpenVLAPolicy
from vla.openvla.published import CheckpointError
from vla.openvla.speed import InferenceOptions, Layout, Weights

PROMPTS = [[1, 512, 9, 77, 31000, 29871], [1, 40, 29871], [1, 9, 8, 7, 6, 5, 4, 29871]]
LEVELS = torch.full((6,), 60.0)
PATCHES = 9
EXACT = {
    "static cache": InferenceOptions(static_cache=True),
    "action head": InferenceOptions(action_head=True),
    "both": InferenceOptions(static_cache=True, action_head=True),
    "guesses": InferenceOptions(speculate=True),
    "guesses and head": InferenceOptions(speculate=True, action_head=True),
    "nothing dropped": InferenceOptions(prune_layer=1, keep=0.99),
}
APPROXIMATE = {
    "int8": InferenceOptions(weights=Weights.INT8),
    "pruned": InferenceOptions(prune_layer=1, keep=0.5),
    "reused": InferenceOptions(reuse=20.0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("openvla") / "checkpoint", make_tensors())


def load(folder: Path) -> OpenVLAModel:
    return load_model(Checkpoint(folder), dtype=torch.float32, heads=HEADS)


@pytest.fixture(scope="module")
def model(folder: Path) -> OpenVLAModel:
    return load(folder)


def pictures(seed: int, count: int = 1) -> torch.Tensor:
    return torch.randn((count, 6, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def assert_equal(found: Decoded, expected: Decoded) -> None:
    assert torch.equal(found.tokens, expected.tokens)
    assert (found.log_probability - expected.log_probability).abs().max() < 1e-4


# ----------------------------------------------------------------------------------- what may not change a token


@pytest.mark.parametrize("name", EXACT)
def test_exact_options_write_the_tokens_of_plain_decoding_single_and_in_batches(model: OpenVLAModel, name: str) -> None:
    decoder = FastDecoder(model, EXACT[name], LEVELS)
    for seed in (0, 0, 1):  # a second time with something to guess from, then with a guess that is wrong
        for count in (1, 3):
            seen, prompts = pictures(seed, count), PROMPTS[:count]
            found = decoder.decode(seen, prompts, 7)
            assert_equal(found, model.decode(seen, prompts, 7))
            assert bool(found.action_mass.isnan().all()) == EXACT[name].action_head


def test_plain_decoding_writes_what_generate_writes_with_and_without_its_cache(model: OpenVLAModel) -> None:
    """The benchmark's reference, restricted to action ids."""
    frames = Frames(tuple(pictures(seed) for seed in range(2)), tuple(PROMPTS[0]))
    with torch.inference_mode():
        reference = GenerateReference(model, frames)
        for index, seen in enumerate(frames.pixels):
            expected = model.decode(seen, PROMPTS[:1], TOKENS).tokens
            for cached in (False, True):
                assert torch.equal(reference.actions(index, cached=cached), expected)


@given(stream=st.lists(st.integers(0, 2), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_whatever_was_guessed_the_tokens_are_those_of_plain_decoding(model: OpenVLAModel, stream: list[int]) -> None:
    decoder = FastDecoder(model, InferenceOptions(speculate=True), LEVELS)
    for seed in stream:
        seen = pictures(seed, 2)
        assert_equal(decoder.decode(seen, PROMPTS[:2], 7), model.decode(seen, PROMPTS[:2], 7))


def test_a_right_guess_leaves_nothing_to_write(model: OpenVLAModel) -> None:
    decoder, passes = FastDecoder(model, InferenceOptions(speculate=True), LEVELS), [0]
    llama = decoder.llama
    assert llama is not None
    inner = llama.step

    def counted(x: torch.Tensor, positions: torch.Tensor, where: Where, later: Where, cache: StaticCache):
        passes[0] += 1
        return inner(x, positions, where, later, cache)

    llama.step = counted
    for expected in (6, 6):  # six passes for the first picture, none for the same again
        decoder.decode(pictures(0), PROMPTS[:1], 7)
        assert passes[0] == expected


def test_text_first_what_was_computed_of_the_prompt_changes_nothing(model: OpenVLAModel) -> None:
    options = InferenceOptions(layout=Layout.TEXT_FIRST)
    keeping, fresh = (FastDecoder(model, options, LEVELS) for _ in range(2))
    for seed, count in ((0, 1), (1, 1), (2, 3), (3, 3)):
        fresh.reset()
        seen = pictures(seed, count)
        found, expected = (decoder.decode(seen, PROMPTS[:count], 7) for decoder in (keeping, fresh))
        assert_equal(found, expected)
    # Other words: nothing of theirs was kept.
    other = [[1, 3, 4, 29871]]
    fresh.reset()
    assert_equal(keeping.decode(pictures(0), other, 7), fresh.decode(pictures(0), other, 7))


def test_text_first_is_another_network(model: OpenVLAModel) -> None:
    decoder = FastDecoder(model, InferenceOptions(layout=Layout.TEXT_FIRST), LEVELS)
    found, expected = decoder.decode(pictures(0), PROMPTS[:1], 7), model.decode(pictures(0), PROMPTS[:1], 7)
    assert (found.log_probability - expected.log_probability).abs().max() > 1e-3


@pytest.mark.parametrize("start", [0, 3, 20])
def test_a_position_anywhere_in_the_cache_sees_the_same_as_behind_a_prompt(model: OpenVLAModel, start: int) -> None:
    """What a CUDA graph records: the whole buffer under a mask."""
    llama = LeanLlama(model.language, InferenceOptions(static_cache=True))
    make = torch.Generator().manual_seed(start)
    before, token = (torch.randn((2, size, llama.width), generator=make) for size in (start + 1, 1))
    answers: list[torch.Tensor] = []
    for masked in (False, True):
        cache = StaticCache(llama, 2, 64)
        where = Where.straight(2, 0, start + 1, before.device)
        llama(before, where.columns, where, cache, where.columns[:, -1:])
        positions = torch.full((2, 1), start + 1)
        place = Where.scattered(positions, 64) if masked else Where.straight(2, start + 1, 1, before.device)
        answers.append(llama.step(token, positions, place, place, cache))
    assert (answers[0] - answers[1]).abs().max() < 1e-5


# ----------------------------------------------------------------------------------- what may


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_options_repeat_themselves_and_write_action_ids(folder: Path, name: str) -> None:
    decoder = FastDecoder(load(folder), APPROXIMATE[name], LEVELS)
    runs: list[torch.Tensor] = []
    for _ in range(2):
        decoder.reset()
        runs.append(torch.cat([decoder.decode(pictures(seed), PROMPTS[:1], 7).tokens for seed in range(3)]))
    assert torch.equal(*runs)
    assert runs[0].min() >= 31744
    assert runs[0].max() <= 31999


@pytest.mark.parametrize("name", ["int8", "pruned"])
def test_a_batch_of_different_prompts_equals_one_at_a_time(folder: Path, name: str) -> None:
    decoder, batch = FastDecoder(load(folder), APPROXIMATE[name], LEVELS), pictures(20, 3)
    together = decoder.decode(batch, PROMPTS, 7)
    for index, prompt in enumerate(PROMPTS):
        alone = decoder.decode(batch[index : index + 1], [prompt], 7)
        assert torch.equal(alone.tokens[0], together.tokens[index])


def test_eight_bits_move_the_probabilities_a_little(folder: Path, model: OpenVLAModel) -> None:
    decoder = FastDecoder(load(folder), APPROXIMATE["int8"], LEVELS)
    for seed in range(4):
        found, exact = (each.decode(pictures(seed), PROMPTS[:1], 1) for each in (decoder, model))
        assert (found.log_probability - exact.log_probability).abs().max() < 0.3


def test_pruning_keeps_what_is_looked_at_most(model: OpenVLAModel) -> None:
    llama = LeanLlama(model.language, InferenceOptions(prune_layer=1, keep=0.5))
    score = torch.tensor([[9.0, 1.0, 5.0, 4.0, 2.0, 0.0, 0.0]])
    left, dropped = llama._left(score, torch.tensor([[1, 2, 3, 4]]), 7)
    assert left.tolist() == [[0, 2, 3, 5, 6]]
    assert dropped == 2


def test_the_same_picture_costs_no_visual_token_and_changes_nothing(model: OpenVLAModel) -> None:
    decoder = FastDecoder(model, InferenceOptions(reuse=1.0), LEVELS)
    expected = model.decode(pictures(0, 3), PROMPTS, 7)
    for tokens in (PATCHES, 0, 0):
        found = decoder.decode(pictures(0, 3), PROMPTS, 7)
        assert_equal(found, expected)
        assert found.stages.visual_tokens == tokens


def test_a_picture_that_changed_all_over_is_computed_anew(model: OpenVLAModel) -> None:
    decoder = FastDecoder(model, InferenceOptions(reuse=1.0), LEVELS)
    for seed in range(3):
        seen = pictures(seed, 3)
        assert_equal(decoder.decode(seen, PROMPTS, 7), model.decode(seen, PROMPTS, 7))


def test_only_patches_that_changed_are_computed_and_slow_change_adds_up(model: OpenVLAModel) -> None:
    decoder = FastDecoder(model, InferenceOptions(reuse=10.0), LEVELS)
    seen = pictures(0)
    computed: list[int] = []
    for _ in range(5):
        computed.append(decoder.decode(seen, PROMPTS[:1], 7).stages.visual_tokens)
        seen = seen.clone()
        seen[:, :, :14, 14:28] += 4.0 / 60.0  # four levels of the second patch
    assert computed == [9, 0, 0, 1, 0]


def test_other_words_are_not_answered_from_the_pictures_of_the_last_ones(model: OpenVLAModel) -> None:
    decoder = FastDecoder(model, InferenceOptions(reuse=1.0), LEVELS)
    for prompts in (PROMPTS[:1], [[1, 3, 4, 5, 6, 29871]], PROMPTS[1:2]):
        assert_equal(decoder.decode(pictures(0), prompts, 7), model.decode(pictures(0), prompts, 7))


# ----------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            InferenceOptions(cuda_graphs=True),
            "expected a CUDA device, found cpu; drop --fast-cuda-graphs, or choose --device cuda",
        ),
        (
            InferenceOptions(weights=Weights.FP8),
            "expected a CUDA device, found cpu; drop --fast-weights fp8, or choose --device cuda",
        ),
    ],
)
def test_what_needs_cuda_says_so(folder: Path, model: OpenVLAModel, options: InferenceOptions, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        FastDecoder(model, options, LEVELS)
    assert str(caught.value) == message
    with pytest.raises(CheckpointError) as caught:
        OpenVLAPolicy.load(folder, OpenVLAOptions(statistics_key=KEY, rate_hz=5, inference=options))
    assert str(caught.value) == message


def test_a_graph_of_the_processor_is_refused(model: OpenVLAModel) -> None:
    llama = LeanLlama(model.language, InferenceOptions(static_cache=True))
    with pytest.raises(CheckpointError, match="expected a CUDA device, found cpu"):
        StepGraph(llama, StaticCache(llama, 1, 64), 0)


def test_four_bits_are_of_the_processor(model: OpenVLAModel) -> None:
    with pytest.raises(CheckpointError, match="expected the processor"):
        InferenceOptions(weights=Weights.INT4).check_device("cuda:0")
    with pytest.raises(CheckpointError, match="inputs divide by 32 and outputs by 16 for 4-bit weights, found 48"):
        FastDecoder(model, InferenceOptions(weights=Weights.INT4), LEVELS)


def test_options_that_cannot_be_joined_are_refused(model: OpenVLAModel) -> None:
    with pytest.raises(CheckpointError, match="give both --fast-prune-layer and --fast-keep"):
        InferenceOptions(prune_layer=2)
    with pytest.raises(CheckpointError, match="expected reuse of patches or pruning, found both"):
        InferenceOptions(prune_layer=2, keep=0.5, reuse=1.0)
    with pytest.raises(CheckpointError, match="share of the patches in"):
        InferenceOptions(prune_layer=2, keep=0.0)
    with pytest.raises(CheckpointError, match=r"fewer layers than the language model's 2, found 2"):
        FastDecoder(model, InferenceOptions(prune_layer=2, keep=0.5), LEVELS)


def test_a_prompt_beyond_the_networks_places_is_refused(model: OpenVLAModel) -> None:
    decoder = FastDecoder(model, InferenceOptions(static_cache=True), LEVELS)
    with pytest.raises(ValueError, match="expected at most 2048 positions"):
        decoder.decode(pictures(0), [[1] * 3000], 7)


def test_a_network_that_gave_its_layers_up_says_so(folder: Path) -> None:
    own = load(folder)
    FastDecoder(own, InferenceOptions(weights=Weights.INT8), LEVELS)
    with pytest.raises(RuntimeError, match="emptied for layers of fewer bits"):
        own.logits(pictures(0), PROMPTS[:1])


# ----------------------------------------------------------------------------------- from the command line


def test_options_are_named_in_the_log(folder: Path) -> None:
    access = ForeignAccess(
        unnorm_key=KEY, fast_static_cache=True, fast_weights="int8", fast_prune_layer=1, fast_keep=0.5
    )
    assert access.inference == InferenceOptions(static_cache=True, weights=Weights.INT8, prune_layer=1, keep=0.5)
    name = f"openvla:{folder}"

    def unused(_: object) -> None:
        raise AssertionError

    source = ForeignSource(name, choose_foreign(name, access), unused, "cpu", "fp32")  # pyright: ignore[reportArgumentType]
    assert source.identity.name == f"{name} (static_cache weights=int8 prune_layer=1 keep=0.5)"
    plain = ForeignSource(
        name,
        choose_foreign(name, ForeignAccess(unnorm_key=KEY)),
        unused,  # pyright: ignore[reportArgumentType]
        "cpu",
        "fp32",
    )
    assert plain.identity.name == name
