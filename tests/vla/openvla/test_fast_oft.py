"""OpenVLA-OFT with options for speed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.vla.openvla import tiny_oft
from tests.vla.openvla.tiny import HEADS, SIDE, make_tensors, write_checkpoint
from tests.vla.openvla.tiny_oft import DIMS, HORIZON, VALUES, Files
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.oft.declared import find_components
from vla.openvla.oft.model import OFTInputs, OFTModel, load_oft_model
from vla.openvla.published import CheckpointError
from vla.openvla.speed import InferenceOptions, Layout, Weights

PROMPTS = [[1, 512, 9, 77, 31000, 29871], [1, 40, 29871]]
COUNT = HORIZON * DIMS
LEVELS = torch.full((6,), 60.0)
VARIANTS = {"tokens": Files(), "l1, state, FiLM": None}


class Folder:
    """A checkpoint on disk, to be loaded with options."""

    def __init__(self, folder: Path, files: Files | None) -> None:
        tensors = make_tensors()
        self.files = files or Files(tiny_oft.make_head(), tiny_oft.make_projector(), tiny_oft.make_vision(tensors))
        self.folder = tiny_oft.write_files(write_checkpoint(folder, tensors), self.files)

    def load(self, options: InferenceOptions) -> OFTModel:
        components = find_components(self.folder, tiny_oft.declaration(self.files))
        return load_oft_model(
            Checkpoint(self.folder), components, dtype=torch.float32, heads=HEADS, inference=options, levels=LEVELS
        )

    def inputs(self, seed: int) -> OFTInputs:
        make = torch.Generator().manual_seed(seed)
        pixels = torch.randn((2, 2, 6, SIDE, SIDE), generator=make)
        state = torch.rand((2, VALUES), generator=make)
        return OFTInputs(pixels, PROMPTS, None if self.files.projector is None else state)


@pytest.fixture(scope="module", params=VARIANTS)
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Folder:
    return Folder(tmp_path_factory.mktemp("oft"), VARIANTS[request.param])


@pytest.fixture(scope="module")
def plain(folder: Folder) -> OFTModel:
    return folder.load(InferenceOptions())


@pytest.mark.parametrize("options", [InferenceOptions(static_cache=True), InferenceOptions(prune_layer=1, keep=0.99)])
def test_the_lean_pass_computes_the_same_hidden_states(
    folder: Folder, plain: OFTModel, options: InferenceOptions
) -> None:
    inputs = folder.inputs(0)
    assert (folder.load(options).hidden(inputs, COUNT) - plain.hidden(inputs, COUNT)).abs().max() < 1e-4


def test_the_action_head_writes_the_same_tokens(folder: Folder, plain: OFTModel) -> None:
    inputs = folder.inputs(0)
    found = folder.load(InferenceOptions(action_head=True)).decode(inputs, COUNT)
    assert torch.equal(found.tokens, plain.decode(inputs, COUNT).tokens)
    assert found.action_mass.isnan().all()


def test_a_picture_that_stayed_is_not_computed_again(folder: Folder, plain: OFTModel) -> None:
    model, first, second = folder.load(InferenceOptions(reuse=1.0)), folder.inputs(0), folder.inputs(1)
    mixed = first.pixels.clone()
    mixed[1, 1] = second.pixels[1, 1]
    for pixels, computed in ((first.pixels, 18), (first.pixels, 0), (mixed, 4), (second.pixels, 13)):
        inputs = OFTInputs(pixels, PROMPTS, first.state)
        assert (model.hidden(inputs, COUNT) - plain.hidden(inputs, COUNT)).abs().max() < 1e-4
        assert model.stages is not None
        assert model.stages.visual_tokens == computed
    model.reset()
    model.hidden(first, COUNT)
    assert model.stages.visual_tokens == 18


@pytest.mark.parametrize("options", [InferenceOptions(weights=Weights.INT8), InferenceOptions(prune_layer=1, keep=0.5)])
def test_approximate_options_repeat_themselves_and_stay_near(
    folder: Folder, plain: OFTModel, options: InferenceOptions
) -> None:
    inputs, model = folder.inputs(0), folder.load(options)
    found = model.hidden(inputs, COUNT)
    assert torch.equal(found, model.hidden(inputs, COUNT))
    exact = plain.hidden(inputs, COUNT)
    assert ((found - exact).norm() / exact.norm()) < 0.6


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(speculate=True),
        InferenceOptions(cuda_graphs=True),
        InferenceOptions(layout=Layout.TEXT_FIRST),
    ],
)
def test_options_of_token_after_token_are_refused(folder: Folder, options: InferenceOptions) -> None:
    with pytest.raises(CheckpointError, match=r"expected (options of a network that computes all|a CUDA device)"):
        folder.load(options)
