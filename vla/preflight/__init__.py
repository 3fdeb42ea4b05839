"""Preflight: does a policy mean by its actions and see in its pictures what the robot's stack means and gives?"""
