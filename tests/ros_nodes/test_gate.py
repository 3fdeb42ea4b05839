from ros_nodes.gate import Gate

MS = 1_000_000


def test_babble_closes_the_gate_and_is_named() -> None:
    gate = Gate("candidate_command", 200.0)
    passed = [gate.arrived(k * MS) for k in range(100)]
    assert passed.index(False) <= 16  # within 16 ms at 1 kHz
    assert "babble" in gate.fault
    assert "200 Hz" in gate.fault
    assert gate.closed(100 * MS)


def test_the_nominal_rate_with_jitter_passes() -> None:
    gate = Gate("candidate_command", 200.0)
    assert all(gate.arrived(5 * MS * k + (4 * MS if k % 3 else 0)) for k in range(1000))


def test_a_burst_after_a_pause_is_no_babble() -> None:
    gate = Gate("candidate_command", 200.0)
    times = [5 * MS * k for k in range(50)] + [400 * MS + k for k in range(4)]
    assert all(gate.arrived(time) for time in times)


def test_garbage_closes_the_gate_for_a_clean_time() -> None:
    gate = Gate("candidate_command", 200.0, quarantine_ms=250.0)
    gate.refuse(0, "NaN")
    assert not gate.arrived(5 * MS)
    assert gate.closed(249 * MS)
    assert gate.arrived(251 * MS)
    assert gate.fault == "NaN"
    assert gate.refused == 2


def test_without_an_expected_rate_any_rate_passes() -> None:
    gate = Gate("joint_states", 0.0)
    assert all(gate.arrived(k * 1000) for k in range(5000))
