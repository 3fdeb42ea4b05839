"""Privileged experts: reactive policies that see the true state and speak in action tokens."""
