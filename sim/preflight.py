"""Preflight of a policy against a simulated stack, and against a recorded episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from controllers.doubt import DoubtMeasure, DoubtOptions
from controllers.protocols import ActionDecodeError
from controllers.robot import load_robot
from controllers.types import ActionChunk, ActionSpec, FloatArray, ImageArray, Observation
from episodes.episode import Episode
from sim.foreign import foreign_kind
from sim.openvla import OPENVLA
from sim.policies import EXPERTS, PolicyChoice
from sim.remote import is_remote
from sim.stack import StackConfig
from vla.preflight.checks import compare
from vla.preflight.contract import ActionContract, PictureContract, contract_of_spec
from vla.preflight.data import Comparison, compare_predicted, compare_recorded
from vla.preflight.findings import Check, Finding, PreflightError
from vla.preflight.reading import read_contract
from vla.tokenizers import decoder_from_id

Predict = Callable[[Observation], FloatArray]


class Model(Protocol):
    """A policy that answers one observation."""

    def ask(self, observation: Observation) -> ActionChunk:
        """Its chunk."""
        ...


_SAMPLES = 16  # observations of an episode that the policy is asked about, three times each


def stack_contract(config: StackConfig) -> ActionContract:
    """What a stack executes and gives: upright RGB pictures, the joints of its robot description in order."""
    pictures = {name: PictureContract(height, width) for name, (height, width) in config.cameras.items()}
    joints = load_robot(config.robot).joint_names
    return contract_of_spec("the stack", config.action_spec, config.tokenizer_id, pictures, joints)


def preflight(choice: PolicyChoice, config: StackConfig, instruction: str = "") -> list[Finding]:
    """The cheap part: compare contracts. Experts have none, and a server's is compared when it is connected to.

    A foreign policy has no contract of ours: its files are compared with the mapping and the stack.

    Raises:
        ContractError: The policy's contract cannot be read.
        ValueError: A foreign policy that does not fit; lists every difference. Or thresholds on a doubt that the policy
            does not tell.
    """
    check_doubt(choice, config.doubt)
    if foreign_kind(choice.name):
        choice.check_foreign(config)
        return []
    if choice.name in EXPERTS or is_remote(choice.name):
        return []
    return compare(read_contract(choice.folder), stack_contract(config), instruction)


_ENTROPY = (DoubtMeasure.MEAN_ENTROPY,)
_PROBABILITIES = (DoubtMeasure.MEAN_PROBABILITY, DoubtMeasure.MIN_PROBABILITY)


def told_measures(choice: PolicyChoice) -> tuple[DoubtMeasure, ...] | None:
    """Measures of doubt that a policy tells; None for a server, which only answers can tell."""
    if is_remote(choice.name):
        return None
    kind = foreign_kind(choice.name)
    if kind == OPENVLA:
        return _PROBABILITIES
    if kind or choice.name in EXPERTS:
        return ()
    sampled = (DoubtMeasure.AGREEMENT,) if choice.doubt_samples else ()
    return (*_ENTROPY, *_PROBABILITIES, *sampled)


def check_doubt(choice: PolicyChoice, options: DoubtOptions) -> None:
    """Refuse thresholds that no chunk of the policy could be compared with: each would be rejected.

    Raises:
        ValueError: Says what was expected, what was found and what to change.
    """
    told = told_measures(choice)
    if not options.enabled or told is None or options.measure in told:
        return
    names = ", ".join(measure.value for measure in told) or "no doubt at all"
    hint = "take one of these measures" if told else "drop the thresholds"
    if options.measure is DoubtMeasure.AGREEMENT and told:
        hint += ", or sample decodes with --doubt-samples"
    raise ValueError(
        f"expected a policy that tells its doubt by {options.measure.value}, which the stack has thresholds for; "
        f"{choice.name!r} tells {names}; {hint}"
    )


def running_contract(choice: PolicyChoice, config: StackConfig) -> ActionContract:
    """The contract of a policy that was found to fit: a server's or a foreign one's is the stack's own."""
    own = not is_remote(choice.name) and not foreign_kind(choice.name)
    return read_contract(choice.folder) if own else stack_contract(config)


def require_preflight(choice: PolicyChoice, config: StackConfig, instruction: str = "") -> None:
    """Refuse a policy that does not mean what the stack means.

    Raises:
        PreflightError: Lists every difference.
    """
    findings = preflight(choice, config, instruction)
    if findings:
        raise PreflightError(choice.name, findings)


# ----------------------------------------------------------------------------------------- with an episode


@dataclass(frozen=True, slots=True)
class Recording:
    """What an episode holds of observations and the actions that answered them.

    Attributes:
        observations: As the policy saw them.
        actions: (N, horizon, dims) decoded chunks.
    """

    observations: tuple[Observation, ...]
    actions: FloatArray


def read_recording(episode: Episode, samples: int = _SAMPLES) -> Recording:
    """Observations, evenly spread over an episode, with the decoded chunks that answered them."""
    manifest = episode.manifest
    spec = ActionSpec.from_json(manifest.action_spec)
    definition = str(manifest.stack.get("tokenizer_definition", ""))
    decoder = decoder_from_id(manifest.tokenizer_id, spec, definition)
    indices = {int(stamp): index for index, stamp in enumerate(episode.observations.stamp_ns)}
    pairs: list[tuple[int, FloatArray]] = []
    for _, record in episode.chunk_records:
        chunk = record.to_arrival().chunk
        index = indices.get(chunk.observation_stamp_ns)
        try:
            actions = decoder.decode(chunk.tokens)
        except ActionDecodeError:
            continue  # refused when it was recorded, too
        if index is not None and chunk.tokenizer_id == manifest.tokenizer_id:
            pairs.append((index, actions))
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(samples, len(pairs))).astype(int)) if pairs else []
    observations = tuple(replace(episode.observation(pairs[place][0]), prefix=None) for place in chosen)
    actions = np.stack([pairs[place][1] for place in chosen]) if pairs else np.empty((0, spec.horizon, spec.dims))
    return Recording(observations, actions)


def predictor(source: Model, config: StackConfig) -> Predict:
    """The (horizon, dims) actions that a model gives for an observation, decoded as the stack decodes them."""
    decoder = decoder_from_id(config.tokenizer_id, config.action_spec, config.tokenizer_definition)
    return lambda observation: decoder.decode(source.ask(observation).tokens)


def episode_findings(episode: Episode, contract: ActionContract, predict: Predict | None) -> list[Finding]:
    """A recorded episode against a policy's contract and against what it predicts.

    Args:
        episode: The recording.
        contract: The policy's.
        predict: Gives the policy's actions for an observation; None to look at the recorded actions only.
    """
    findings = _manifest(episode, contract)
    if findings:
        return findings
    recording = read_recording(episode)
    findings = compare_recorded(recording.actions, contract, episode.path.name)
    if predict is None or findings or not recording.observations:
        return findings
    return compare_predicted(predictions(recording, predict), contract)


def predictions(recording: Recording, predict: Predict) -> Comparison:
    """Ask a policy about every observation of a recording, and again with altered pictures."""

    def answers(alter: Callable[[ImageArray], ImageArray] | None) -> FloatArray:
        rows = []
        for seen in recording.observations:
            if alter is not None:
                pictures = {name: np.ascontiguousarray(alter(image)) for name, image in seen.images.items()}
                seen = replace(seen, images=pictures)
            rows.append(predict(seen))
        return np.stack(rows)

    return Comparison(
        recorded=recording.actions,
        predicted=answers(None),
        altered={
            Check.COLOR_ORDER: answers(lambda image: image[..., ::-1]),
            Check.IMAGE_TURN: answers(lambda image: image[::-1, ::-1]),
        },
        ee_position=np.stack([seen.state.ee_pose.position for seen in recording.observations]),
    )


def _manifest(episode: Episode, contract: ActionContract) -> list[Finding]:
    """An episode that means other actions cannot be compared number by number."""
    manifest = episode.manifest
    recorded = contract_of_spec(
        str(episode.path),
        ActionSpec.from_json(manifest.action_spec),
        manifest.tokenizer_id,
        {name: PictureContract(image.shape[0], image.shape[1]) for name, image in _pictures(episode).items()},
        load_robot(manifest.robot).joint_names if not Path(manifest.robot).suffix else (),
    )
    return [
        Finding(
            finding.check,
            f"{finding.expected}, as in {episode.path.name}",
            finding.found,
            f"compare with an episode of the policy's own kind, or {finding.fix}",
        )
        for finding in compare(contract, recorded)
    ]


def _pictures(episode: Episode) -> Mapping[str, ImageArray]:
    """The first observation's pictures; a recording without observations has none."""
    return episode.observation(0).images if len(episode.observations.stamp_ns) else {}
