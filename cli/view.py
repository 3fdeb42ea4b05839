"""Look at an episode: a web page to scrub and play it, with scene, cameras, tokens, forces and margins."""

from __future__ import annotations

import tempfile
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cli.output import console, print_json
from episodes.episode import Episode
from episodes.extras import load
from episodes.reader import open_episode
from episodes.viewer.motion import BodyMotion
from episodes.viewer.viewer import Viewer
from sim.watching import watched_motion


@dataclass(frozen=True)
class Options:
    """Options of ``vla view``."""

    episode: Annotated[Path, tyro.conf.Positional]
    """The episode's folder, NAME.zarr."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 lets other machines look."""
    port: int = 8080
    """Port; the next free one if it is taken."""
    robot: str = ""
    """Robot to draw an episode without physics with; empty for the one that it names."""
    margins: bool = True
    """Judge every tick again for the margins to each limit; takes a second or two for ten of recording."""
    rerun: bool = False
    """Open it in the rerun viewer instead."""
    browser: bool = False
    """Open a browser, too."""
    json: bool = False
    """Print the address as one JSON object on stdout as soon as the page is served."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla view --json`` prints once the page is there."""

    url: str
    ticks: int
    source: str


def main(options: Options) -> int:
    """Serve until Ctrl-C."""
    episode = open_episode(options.episode)
    if not len(episode):
        raise ValueError(f"{options.episode}: expected an episode with ticks, found none; there is nothing to show")
    if options.rerun:
        return _rerun(options.episode)
    motion, source = _motion(episode, options)
    with Viewer(episode, motion, host=options.host, port=options.port) as viewer:
        console.print(f"{viewer.url}  ({source}); Ctrl-C ends it", highlight=False)
        if options.json:
            print_json(Result(viewer.url, len(episode), source))
        if options.browser:
            webbrowser.open(viewer.url)
        viewer.server.sleep_forever()
    return 0


def _motion(episode: Episode, options: Options) -> tuple[BodyMotion | None, str]:
    """The motion and where it is from, or None and why there is none."""
    try:
        motion = watched_motion(episode, robot=options.robot, margins=options.margins)
    except ValueError as error:
        if options.robot:
            raise
        return None, f"no geometry, the end effector alone: {error}"
    if motion is None:
        return None, "no geometry, the end effector alone; name a robot with --robot"
    return motion, motion.source


def _rerun(path: Path) -> int:
    from episodes.exchange.rerun_export import RerunExporter

    with tempfile.TemporaryDirectory() as scratch:
        recording = RerunExporter().export([path], Path(scratch) / "view").files[0]
        load("rerun", "viz").init("vla view", spawn=True)
        load("rerun", "viz").log_file_from_path(str(recording))
        input("rerun shows the episode; Enter ends this command\n")
    return 0
