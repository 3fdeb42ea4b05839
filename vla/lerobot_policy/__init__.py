"""Policies that LeRobot trained: their folder, checked without torch, and the policy itself."""
