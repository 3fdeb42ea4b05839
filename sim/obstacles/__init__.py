"""Obstacles in the way of a task: placed from a seed, declared as keep-out zones, and watched for collisions."""
