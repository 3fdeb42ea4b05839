"""Simulated robots, scenes, tasks, experts, environments, rollouts and evaluations on MuJoCo."""
