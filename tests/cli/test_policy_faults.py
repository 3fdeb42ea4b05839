"""The bench that kills, stops and garbles the policy of a moving arm: what it reports is what must hold."""

from __future__ import annotations

import pytest

from benchmarks.policy_faults import Options, run

pytestmark = [pytest.mark.realtime, pytest.mark.slow, pytest.mark.gl]


@pytest.mark.timeout(400)
def test_the_arm_goes_on_after_a_fault_of_its_policy_and_the_log_has_it_all() -> None:
    result = run(Options(trials=1, kinds=("kill", "garbage")))
    assert result.trials == result.resumed == 2
    assert result.ticks_lost == 0
    assert result.all_replay
    by_kind = {row.fault: row for row in result.kinds}
    assert by_kind["garbage"].refused_chunks > 0
    assert by_kind["kill"].restarts == 1


def test_an_unknown_kind_of_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'garbage'"):
        run(Options(kinds=("garbige",)))
