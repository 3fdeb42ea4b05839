"""`vla train` as a user meets it: expert episodes, a small OpenVLA checkpoint, and a policy that runs and replays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("peft")

from cli.training_data import read_general, read_mappings, read_sources
from tests.cli.test_commands import last_json, vla
from tests.vla.openvla.small import write_small
from tests.vla.synthetic import write_episode


@pytest.mark.slow
@pytest.mark.gl
@pytest.mark.timeout(900)  # six commands, each of which loads torch
def test_an_openvla_checkpoint_is_tuned_on_expert_episodes_and_drives_one_that_replays(tmp_path: Path) -> None:
    collected = vla(
        *("collect", "--out", str(tmp_path / "data"), "--tasks", "reach", "--episodes", "4"),
        *("--other-goals", "0", "--json"),
    )
    assert collected.returncode == 0, collected.stderr
    small = write_small(tmp_path / "small")
    train = (
        *("train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--model", f"openvla:{small}"),
        *("--unnorm-key", "mine", "--learning-rate", "3e-3", "--batch-size", "8", "--dtype", "fp32", "--json"),
        *("--lora.rank", "8", "--lora.checkpoint-every", "10"),
    )
    first = vla(*train, "--steps", "20")
    assert first.returncode == 0, first.stderr
    second = vla(*train, "--steps", "30", "--resume", "--eval-every", "30", "--eval-episodes", "1")
    assert second.returncode == 0, second.stderr
    record = last_json(second)
    assert record["steps"] == 30
    assert float(str(record["last_loss"])) < 0.75 * float(str(record["first_loss"]))
    assert record["eval_success_rate"] in (0.0, 1.0)
    assert (tmp_path / "run/evaluations/step-0000030/results.jsonl").is_file()
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged if "loss" in entry] == list(range(1, 31))
    run = vla(
        *("run", "--task", "reach", "--policy", f"openvla:{record['policy']}", "--unnorm-key", "mine"),
        *("--openvla-center-crop", "0.9", "--dtype", "fp32", "--out", str(tmp_path / "episode"), "--json"),
    )
    assert run.returncode == 0, run.stderr
    assert last_json(run)["ticks"]
    replay = vla("replay", str(last_json(run)["episode"]), "--json")
    assert replay.returncode == 0, replay.stderr
    assert last_json(replay)["identical"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "openvl:x"), "--model: expected compact or openvla:PATH, found 'openvl:x'"),
        (("--unnorm-key", "mine"), "expected no --unnorm-key with --model compact, found it; drop it"),
        (("--model", "openvla:x", "--processes", "2"), "expected no --processes with --model openvla:x"),
        (("--data-mapping", "nowhere=file"), "--data-mapping: expected one of the paths given with --data, found"),
        (("--eval-every", "5", "--eval-tasks", "reech"), "unknown task 'reech'; did you mean 'reach'"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    write_episode(tmp_path / "data", 0, frames=2)
    result = vla("train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_weights_shares_and_mappings_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    data = (str(tmp_path / "a"), f"{tmp_path / 'a'}:2.5", f"{tmp_path / 'b'}:25%")
    mappings = read_mappings((f"{tmp_path / 'b'}=tabletop_lerobot",), data)
    plain, weighted, shared = read_sources(data, True, mappings)
    assert (plain.weight, weighted.weight, shared.weight) == (1.0, 2.5, 1.0)
    assert (plain.share, shared.share) == (None, 0.25)
    assert plain.declaration is None
    assert shared.declaration is not None
    (general,) = read_general(("pairs:12.5%",))
    assert (general.path, general.share) == (Path("pairs"), 0.125)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}:x", "expected PATH, PATH:WEIGHT or PATH:SHARE%, found"),
        ("{}:0", "expected a weight above 0, found 0; leave the folder out"),
        ("{}:120%", "expected a share above 0% and up to 100%, found 120%"),
        ("{}/none", "expected a folder of episodes or a LeRobotDataset, found nothing at"),
    ],
)
def test_data_that_is_none_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_sources((text.format(tmp_path),), True, {})
    with pytest.raises(ValueError, match=r"expected PATH:SHARE%, e\.g\. pairs:20%, found 'pairs:2'"):
        read_general(("pairs:2",))
