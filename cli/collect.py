"""Record labelled episodes to train on: the expert with bursts of noise, or a student that the expert corrects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cli.output import console, print_json
from cli.stack import StackOptions, build_config
from episodes.profile import LOSSLESS, LogOptions, camera_profile
from sim.collection import collect
from sim.evaluation import EvalOptions, Recording
from sim.other_goals import label_folder
from sim.policies import EXPERT, PolicyChoice
from sim.rollout import Teaching
from sim.tasks.catalog import get_task, task_names
from sim.teaching import BurstNoise, Mixture


@dataclass(frozen=True)
class Options:
    """Options of ``vla collect``."""

    out: Path
    """Folder; the episodes go to OUT/episodes. Running again records what is missing."""
    tasks: str = ""
    """Tasks, separated by commas; empty for all."""
    policy: str = EXPERT
    """Who drives: expert, compact, or the path of a policy folder (a student)."""
    episodes: int = 100
    """Episodes for each task."""
    seed: int = 0
    """First seed; keep below 1,000,000, where evaluation begins."""
    noise_probability: float = 0.08
    """Chance that a burst of noise begins with a chunk of the expert; 0 for none."""
    noise_sigma_bins: float = 24.0
    """Size of the bursts, in bins of the tokenizer."""
    expert_fraction: float = 0.2
    """Share of stretches that the expert drives in a student's stead."""
    other_goals: int = 2
    """For how many other goals in the same scene to add labels, from the pictures of the same episode."""
    camera_log: str = LOSSLESS
    """How pictures are logged: lossless, or jpeg:QUALITY, which is smaller and not quite what a policy would see."""
    workers: int = 1
    """Processes."""
    stack: StackOptions = field(default_factory=StackOptions)
    """How tokens become motion."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla collect --json`` prints."""

    episodes: str
    recorded: int
    present: int
    success_rate: float | None
    complete: bool


def main(options: Options) -> int:
    """Collect; 130 after Ctrl-C."""
    names = tuple(name.strip() for name in options.tasks.split(",") if name.strip()) or task_names()
    for name in names:
        get_task(name)
    noise = BurstNoise(options.noise_probability, sigma_bins=options.noise_sigma_bins)
    student = options.policy != EXPERT
    summary = collect(
        EvalOptions(
            policy=PolicyChoice(options.policy),
            config=build_config(options.stack),
            tasks=names,
            episodes=options.episodes,
            first_seed=options.seed,
            workers=options.workers,
            out_dir=options.out,
            recording=Recording.ALL,
            teaching=Teaching(noise, Mixture(options.expert_fraction) if student else None),
            log=LogOptions(camera_profile(options.camera_log)),
        )
    )
    if options.other_goals and summary.complete:
        label_folder(summary.folder, options.other_goals)
    rate = summary.successes / summary.recorded if summary.recorded else None
    done = "" if rate is None else f", {100 * rate:.1f}% of them successful"
    console.print(f"{summary.recorded} recorded{done}; {summary.present} were there; episodes in {summary.folder}")
    if options.json:
        print_json(Result(str(summary.folder), summary.recorded, summary.present, rate, summary.complete))
    return 0 if summary.complete else 130
