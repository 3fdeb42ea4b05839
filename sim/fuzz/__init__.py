"""Attacks on the whole stack, judged by the independent monitor: the filter's trial by fire."""

from sim.fuzz.campaign import CampaignOptions, CampaignReport, Finding, Tally, run_campaign
from sim.fuzz.plan import SENSE_ERROR, Attack, EpisodeName, EpisodePlan, plan_episode

__all__ = [
    "SENSE_ERROR",
    "Attack",
    "CampaignOptions",
    "CampaignReport",
    "EpisodeName",
    "EpisodePlan",
    "Finding",
    "Tally",
    "plan_episode",
    "run_campaign",
]
