"""OpenVLA-OFT's network: the same hidden states, logits, actions and tokens as an independent computation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.vla.openvla import tiny_oft
from tests.vla.openvla.tiny import HEADS, SIDE, TEXT_WIDTH, Tensors, make_tensors, write_checkpoint
from tests.vla.openvla.tiny_oft import DIMS, HORIZON, VALUES, Files, double, reference_actions, reference_hidden
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.oft.components import load_head
from vla.openvla.oft.declared import find_components
from vla.openvla.oft.model import OFTInputs, OFTModel, load_oft_model
from vla.openvla.towers import Placing

PROMPTS = [[1, 512, 9, 77, 31000, 29871], [1, 40, 29871], [1, 9, 8, 7, 6, 5, 4, 29871]]
COUNT = HORIZON * DIMS
# What was trained together: head, state, FiLM; and how many pictures.
VARIANTS = {
    "tokens": (False, False, False, 1),
    "tokens, state": (False, True, False, 2),
    "l1": (True, False, False, 1),
    "l1, state, two pictures": (True, True, False, 2),
    "l1, state, three pictures, FiLM": (True, True, True, 3),
    "tokens, FiLM": (False, False, True, 1),
}


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return make_tensors()


class Variant:
    """One kind of checkpoint, written and loaded."""

    def __init__(self, tensors: Tensors, folder: Path, name: str) -> None:
        head, state, film, self.images = VARIANTS[name]
        self.files = Files(
            tiny_oft.make_head() if head else None,
            tiny_oft.make_projector() if state else None,
            tiny_oft.make_vision(tensors) if film else None,
        )
        tiny_oft.write_files(write_checkpoint(folder, tensors), self.files)
        components = find_components(folder, tiny_oft.declaration(self.files))
        self.model: OFTModel = load_oft_model(Checkpoint(folder), components, dtype=torch.float32, heads=HEADS)
        self.exact = {name: tensor.double() for name, tensor in tensors.items()}
        self.exact_files = Files(double(self.files.head), double(self.files.projector), double(self.files.vision))

    def inputs(self, seed: int, prompts: list[list[int]]) -> OFTInputs:
        make = torch.Generator().manual_seed(seed)
        pixels = torch.randn((len(prompts), self.images, 6, SIDE, SIDE), generator=make)
        state = 2.0 * torch.rand((len(prompts), VALUES), generator=make) - 1.0
        return OFTInputs(pixels, prompts, None if self.files.projector is None else state)

    def reference(self, inputs: OFTInputs, index: int, *, causal: bool = False) -> torch.Tensor:
        state = None if inputs.state is None else inputs.state[index].double()
        prompt = list(inputs.prompts[index])
        return reference_hidden(
            self.exact, self.exact_files, inputs.pixels[index].double(), prompt, state, causal=causal
        )


@pytest.fixture(scope="module", params=VARIANTS)
def variant(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Variant:
    return Variant(tensors, tmp_path_factory.mktemp("oft"), request.param)


@pytest.mark.parametrize("seed", range(2))
def test_hidden_states_and_logits_equal_the_reference(variant: Variant, tensors: Tensors, seed: int) -> None:
    inputs = variant.inputs(seed, PROMPTS[:1])
    ours, expected = variant.model.hidden(inputs, COUNT)[0], variant.reference(inputs, 0)
    assert (ours - expected).abs().max() < 1e-4
    head = tensors["language_model.lm_head.weight"]
    assert (variant.model.base.language.lm_head(ours) - expected @ head.double().T).abs().max() < 1e-4


def test_a_batch_of_prompts_of_different_lengths_equals_the_reference(variant: Variant) -> None:
    inputs = variant.inputs(10, PROMPTS)
    together = variant.model.hidden(inputs, COUNT)
    for index in range(len(PROMPTS)):
        assert (together[index] - variant.reference(inputs, index)).abs().max() < 1e-4


def test_what_is_read_off_the_hidden_states_equals_the_reference(variant: Variant, tensors: Tensors) -> None:
    inputs = variant.inputs(20, PROMPTS)
    exact = [variant.reference(inputs, index) for index in range(len(PROMPTS))]
    if variant.exact_files.head is not None:
        actions = variant.model.actions(inputs, HORIZON)
        assert actions.shape == (len(PROMPTS), HORIZON, DIMS)
        for ours, hidden in zip(actions, exact, strict=True):
            assert (ours - reference_actions(variant.exact_files.head, hidden)).abs().max() < 1e-4
        return
    decoded = variant.model.decode(inputs, COUNT)
    head = tensors["language_model.lm_head.weight"].double()
    for tokens, hidden in zip(decoded.tokens, exact, strict=True):
        assert tokens.tolist() == (31744 + (hidden @ head.T)[:, 31744:32000].argmax(dim=-1)).tolist()
    assert decoded.log_probability.shape == decoded.action_mass.shape == (len(PROMPTS), COUNT)
    with pytest.raises(ValueError, match="expected a network with a regression head, found one that writes tokens"):
        variant.model.actions(inputs, HORIZON)


def test_the_heads_epsilon_is_torchs_unlike_the_towers(tmp_path: Path) -> None:
    """Hidden states of trained models are large enough to hide it, so these are small."""
    tensors = tiny_oft.make_head()
    torch.save({f"module.model.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "head.pt")
    head = load_head(tmp_path / "head.pt", TEXT_WIDTH, Placing(torch.device("cpu"), torch.float32))
    hidden = 1e-3 * torch.randn((1, COUNT, TEXT_WIDTH), generator=torch.Generator().manual_seed(0))
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    expected = reference_actions(exact, hidden[0].double())
    assert (head(hidden)[0] - expected).abs().max() < 1e-6
    for module in head.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    assert (head(hidden)[0] - expected).abs().max() > 1e-3


def test_every_position_attends_to_every_other(variant: Variant) -> None:
    """The published transformers fork has no causal mask; with the usual one, the values would be others."""
    inputs = variant.inputs(30, PROMPTS[:1])
    assert (variant.reference(inputs, 0, causal=True) - variant.reference(inputs, 0)).abs().max() > 0.1


def test_inputs_of_another_shape_are_refused(variant: Variant) -> None:
    inputs = variant.inputs(40, PROMPTS[:1])
    with pytest.raises(ValueError, match=r"expected pixels of shape \(1, images, 6, side, side\), found"):
        variant.model.hidden(OFTInputs(inputs.pixels[:, :, :3], inputs.prompts, inputs.state), COUNT)
    other = torch.zeros((1, VALUES)) if inputs.state is None else None
    with pytest.raises(ValueError, match="expected a state of shape"):
        variant.model.hidden(OFTInputs(inputs.pixels, inputs.prompts, other), COUNT)
    with pytest.raises(ValueError, match="expected prompts of two ids or more"):
        variant.model.hidden(OFTInputs(inputs.pixels, [[1]], inputs.state), COUNT)
