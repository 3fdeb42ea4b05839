"""Four ways to go from one chunk to the next while the model takes its time; one protocol.

=============  ==========================================================================================
synchronous    Play the execution horizon, stand, ask, wait for the answer, go on from there. Never out of date
               in place, but the arm stands for every delay.
switch         Ask while playing; when the chunk arrives, jump to the row that is due now. The rows played
               meanwhile were the old chunk's, so the paths need not meet: a seam. The naive asynchronous way.
ensembling     Average what all chunks say about each row to come (ACT, https://arxiv.org/abs/2304.13705).
token_rtc      Real-time chunking (https://arxiv.org/abs/2506.07339) for token models: the rows that will be
               executed during the delay are committed, go into the request as tokens, and come back as the
               new chunk's first rows. The others are decoded so that they continue them.
=============  ==========================================================================================

The last two keep their place in whole rows: the new plan begins with what has been played of the old one, so that
position is continuous whatever the chunk says, and the executor's clock waits at the end of the last row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from controllers.chunking import ChunkingOptions, ChunkStrategyName
from controllers.plan import ROW_EPSILON, PathBuilder, Plan, ReferenceMark, Request, Vote
from controllers.protocols import ActionDecodeError
from controllers.spatial import (
    quaternion_from_rotation_vector,
    rotate_by_vector,
    rotation_difference,
    rotation_vector_from_quaternion,
)
from controllers.types import (
    ActionChunk,
    ActionSpace,
    ActionSpec,
    FloatArray,
    RejectionReason,
    RobotState,
    TokenPrefix,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An admissible chunk, decoded, and the moment that it arrives in.

    Attributes:
        chunk: The chunk.
        actions: (horizon, dims) its actions.
        observed: Where the reference was at its observation.
        now: Where the reference is now.
        state: Sensed state now.
        request: The request that it answers, None if nobody asked.
    """

    chunk: ActionChunk
    actions: FloatArray
    observed: ReferenceMark
    now: ReferenceMark
    state: RobotState
    request: Request | None


class ChunkStrategy(Protocol):
    """How requests are made and how an answer is joined to what is being played. Holds no memory."""

    @property
    def keeps_rows(self) -> bool:
        """Whether it keeps its place in whole rows: the clock waits at the end of the plan, and may be slowed."""
        ...

    def request(self, plan: Plan | None, phase: float, delay_rows: float) -> Request:
        """The request to make now.

        Args:
            plan: What is being played.
            phase: Place in it, rows.
            delay_rows: Rows that will be played until the answer is expected.
        """
        ...

    def join(self, plan: Plan | None, arrival: Arrival) -> Plan:
        """What to play from now on.

        Raises:
            ActionDecodeError: The chunk does not continue what is being played.
        """
        ...


def make_strategy(options: ChunkingOptions, builder: PathBuilder, execution_horizon: int) -> ChunkStrategy:
    """The strategy that the options name."""
    match options.strategy:
        case ChunkStrategyName.SYNCHRONOUS:
            return Synchronous(builder, execution_horizon)
        case ChunkStrategyName.SWITCH:
            return AsynchronousSwitch(builder)
        case ChunkStrategyName.ENSEMBLING:
            return TemporalEnsembling(builder, options.ensembling_decay)
        case ChunkStrategyName.TOKEN_RTC:
            return TokenRealTimeChunking(builder)


def _start(builder: PathBuilder, arrival: Arrival, mark: ReferenceMark, rows: int) -> Plan:
    """A plan of the chunk's first ``rows`` alone, from a mark on."""
    chunk, actions = arrival.chunk, arrival.actions[:rows]
    path = builder.from_reference(actions, mark.reference, arrival.state)
    return Plan(path, chunk.chunk_id, mark.clock_s, 0, actions, chunk.tokens[:rows])


class Synchronous:
    """Stand while the model thinks."""

    keeps_rows = False

    def __init__(self, builder: PathBuilder, execution_horizon: int) -> None:
        """Play ``execution_horizon`` rows of each chunk."""
        self._builder = builder
        self._rows = execution_horizon

    def request(self, plan: Plan | None, phase: float, delay_rows: float) -> Request:
        """Ask for a chunk; nothing is committed."""
        del plan, phase, delay_rows
        return Request(-1, None)

    def join(self, plan: Plan | None, arrival: Arrival) -> Plan:
        """Start the chunk now, where the reference stands."""
        del plan
        return _start(self._builder, arrival, arrival.now, self._rows)


class AsynchronousSwitch:
    """Jump to the row that is due."""

    keeps_rows = False

    def __init__(self, builder: PathBuilder) -> None:
        """Bind."""
        self._builder = builder

    def request(self, plan: Plan | None, phase: float, delay_rows: float) -> Request:
        """Ask for a chunk; nothing is committed."""
        del plan, phase, delay_rows
        return Request(-1, None)

    def join(self, plan: Plan | None, arrival: Arrival) -> Plan:
        """Play the chunk as if it had arrived at its observation."""
        del plan
        return _start(self._builder, arrival, arrival.observed, len(arrival.actions))


class TemporalEnsembling:
    """Average over chunks."""

    keeps_rows = True

    def __init__(self, builder: PathBuilder, decay: float) -> None:
        """Bind; ``decay`` as in :class:`~controllers.chunking.ChunkingOptions`."""
        self._builder = builder
        self._decay = decay

    def request(self, plan: Plan | None, phase: float, delay_rows: float) -> Request:
        """Ask for a chunk from the present row on."""
        del delay_rows
        return Request(-1 if plan is None else plan.first_row + int(phase + ROW_EPSILON), None)

    def join(self, plan: Plan | None, arrival: Arrival) -> Plan:
        """Average the rows to come; a chunk that nobody's plan waits for starts alone."""
        if plan is None:
            started = _start(self._builder, arrival, arrival.now, len(arrival.actions))
            return _with_votes(started, (Vote(0, arrival.actions),))
        row, played = _place(plan, arrival)
        votes = (*(vote for vote in plan.votes if vote.first_row + len(vote.actions) > row), Vote(row, arrival.actions))
        actions = np.array(arrival.actions)
        for index in range(played, len(actions)):
            say = [vote.actions[row + index - vote.first_row] for vote in votes if _covers(vote, row + index)]
            actions[index] = self._average(say)
        return _with_votes(_spliced(self._builder, plan, arrival, row, played, actions), votes)

    def _average(self, actions: list[FloatArray]) -> FloatArray:
        weights = np.exp(-self._decay * np.arange(len(actions)))
        return average_actions(actions, weights / weights.sum(), self._builder.spec)


def _covers(vote: Vote, row: int) -> bool:
    return vote.first_row <= row < vote.first_row + len(vote.actions)


def _with_votes(plan: Plan, votes: tuple[Vote, ...]) -> Plan:
    return Plan(plan.path, plan.chunk_id, plan.start_s, plan.first_row, plan.actions, plan.tokens, votes)


def average_actions(actions: list[FloatArray], weights: FloatArray, spec: ActionSpec) -> FloatArray:
    """Weighted mean (dims) of actions of one row.

    Absolute orientations are averaged on SO(3), in the tangent space at the newest; everything else, small rotation
    vectors of delta actions included, as vectors.
    """
    mean: FloatArray = weights @ np.array(actions)
    if spec.space is ActionSpace.EE_POSE:
        newest = quaternion_from_rotation_vector(actions[-1][3:6])
        turn = np.zeros(3)
        for weight, action in zip(weights.tolist(), actions, strict=True):
            turn += weight * rotation_difference(quaternion_from_rotation_vector(action[3:6]), newest)
        mean[3:6] = rotation_vector_from_quaternion(rotate_by_vector(newest, turn))
    return mean


class TokenRealTimeChunking:
    """Commit the rows of the delay, and have the model continue them."""

    keeps_rows = True

    def __init__(self, builder: PathBuilder) -> None:
        """Bind."""
        self._builder = builder

    def request(self, plan: Plan | None, phase: float, delay_rows: float) -> Request:
        """Ask for a chunk that begins with the rows that will have begun by the time it arrives."""
        if plan is None:
            return Request(-1, None)
        row = int(phase + ROW_EPSILON)
        begun = math.ceil(phase + delay_rows - ROW_EPSILON)
        # At least one row of the answer must be new, and only rows that exist can be committed.
        last = min(begun, plan.path.horizon, row + self._builder.spec.horizon - 1)
        prefix = TokenPrefix(plan.tokens[row:last]) if last > row else None
        return Request(plan.first_row + row, prefix)

    def join(self, plan: Plan | None, arrival: Arrival) -> Plan:
        """Go on with the chunk's rows after those that were committed or have begun."""
        chunk, request = arrival.chunk, arrival.request
        prefix = None if request is None else request.prefix
        _check_prefix(chunk, prefix)
        if plan is None:
            if prefix is not None:
                raise ActionDecodeError(
                    RejectionReason.STALE,
                    f"the chunk continues {prefix.rows} committed rows, but their motion was stopped meanwhile",
                )
            return _start(self._builder, arrival, arrival.now, len(arrival.actions))
        row, played = _place(plan, arrival)
        if prefix is not None:
            first = row - plan.first_row
            committed = plan.tokens[first : first + prefix.rows]
            if not np.array_equal(committed, prefix.tokens):
                raise ActionDecodeError(
                    RejectionReason.PREFIX_MISMATCH,
                    f"the {prefix.rows} rows that the chunk continues are not those being played any more",
                )
        return _spliced(self._builder, plan, arrival, row, played, arrival.actions)


def _check_prefix(chunk: ActionChunk, prefix: TokenPrefix | None) -> None:
    """Make sure that the chunk begins with the committed rows and says so."""
    rows = 0 if prefix is None else prefix.rows
    if type(chunk.forced_rows) is not int or chunk.forced_rows != rows:
        hint = ""
        if chunk.forced_rows == 0:
            hint = ": the policy does not force prefixes; choose another chunk strategy, such as ensembling"
        raise ActionDecodeError(
            RejectionReason.PREFIX_MISMATCH,
            f"expected a chunk that honours {rows} committed rows, found one that honours {chunk.forced_rows}{hint}",
        )
    if prefix is None or np.array_equal(chunk.tokens[:rows], prefix.tokens):
        return
    row, dim = np.argwhere(chunk.tokens[:rows] != prefix.tokens)[0].tolist()
    raise ActionDecodeError(
        RejectionReason.PREFIX_MISMATCH,
        f"row {row}, dimension {dim}: expected the committed token {prefix.tokens[row, dim]}, "
        f"found {chunk.tokens[row, dim]}",
    )


def _place(plan: Plan, arrival: Arrival) -> tuple[int, int]:
    """Number of the row at the chunk's observation, and how many of the chunk's rows have begun.

    Raises:
        ActionDecodeError: Nobody asked, or all its rows have begun.
    """
    request = arrival.request
    if request is None or request.row < plan.first_row:
        raise ActionDecodeError(
            RejectionReason.OUT_OF_ORDER, "the chunk answers no outstanding request; what is being played goes on"
        )
    phase = min(plan.phase(arrival.now.clock_s), float(plan.path.horizon))
    played = plan.first_row + math.ceil(phase - ROW_EPSILON) - request.row
    if played >= len(arrival.actions):
        raise ActionDecodeError(
            RejectionReason.STALE, f"all {len(arrival.actions)} rows of the chunk are past; the model is too slow"
        )
    return request.row, max(played, 0)


def _spliced(builder: PathBuilder, plan: Plan, arrival: Arrival, row: int, played: int, actions: FloatArray) -> Plan:
    """The rows that have begun, as they are played, then the chunk's; the anchor is the old path's own waypoint."""
    first = row - plan.first_row
    chunk = arrival.chunk
    rows = np.concatenate((plan.actions[first : first + played], actions[played:]))
    rows.flags.writeable = False
    tokens = chunk.tokens
    if tokens.shape == rows.shape == actions.shape:  # not so for tokenizers that write whole chunks
        tokens = np.concatenate((plan.tokens[first : first + played], tokens[played:]))
        tokens.flags.writeable = False
    path = builder.from_waypoint(rows, plan.path, first, arrival.state)
    return Plan(path, chunk.chunk_id, plan.start_s + first / plan.path.rate_hz, row, rows, tokens)
