"""Which faults ``vla bench ros-faults`` lets happen, whose they are, and what must answer them by when."""

from __future__ import annotations

from dataclasses import dataclass

_COMMAND_MS, _STATE_MS, _ROBOT_MS, POLICY_MS = 60.0, 100.0, 60.0, 500.0


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of trial.

    Attributes:
        fault: kill, stop, babble, nan, stale, names or qos.
        node: Culprit.
        topic: What garbage is sent on, empty for faults of the process.
        bound_ms: Longest time to the first tick with a stop.
        words: What the diagnostics must say, any of them.
        by_robot: The robot stops by itself, since the safety node is the culprit.
    """

    fault: str
    node: str
    topic: str
    bound_ms: float
    words: tuple[str, ...]
    by_robot: bool = False

    @property
    def name(self) -> str:
        """Fault and culprit."""
        return f"{self.fault}/{self.node}"


def _cases() -> tuple[Case, ...]:
    command, state, robot, policy = _COMMAND_MS, _STATE_MS, _ROBOT_MS, POLICY_MS
    chunk = policy
    process = [
        ("control_node", command, ("command_watchdog", "command_stale"), False),
        ("robot_sim_node", state, ("state_stale",), False),
        ("safety_node", robot, ("no safe_command",), True),
        ("policy", policy, ("policy_silent",), False),
    ]
    cases = [
        Case(how, node, "", bound, words, by_robot)
        for how in ("kill", "stop")
        for node, bound, words, by_robot in process
    ]
    said = {"babble": ("babble",), "nan": ("NaN",), "stale": ("stale stamp",), "names": ("expected the joints",)}
    for fault, words in said.items():
        cases += [
            Case(fault, "control_node", "candidate_command", command, words),
            Case(fault, "robot_sim_node", "joint_states", state, words),
            Case(fault, "safety_node", "safe_command", robot, words, by_robot=True),
        ]
    cases += [
        Case("babble", "policy", "action_chunk", chunk, ("babble",)),
        Case("nan", "policy", "action_chunk", chunk, ("rejected chunk: token_out_of_vocabulary",)),
        Case("stale", "policy", "action_chunk", chunk, ("rejected chunk: stale",)),
        Case("names", "policy", "action_chunk", chunk, ("rejected chunk: unknown_tokenizer",)),
        Case("qos", "control_node", "", command, ("candidate_command: a publisher offers less",)),
        Case("qos", "safety_node", "", robot, ("safe_command: a publisher offers less",), by_robot=True),
        Case("qos", "policy", "action_chunk", chunk, ("action_chunk: a publisher offers less",)),
    ]
    return tuple(cases)


CASES: tuple[Case, ...] = _cases()
