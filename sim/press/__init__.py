"""Pressing on purpose: an arm is driven into surfaces of known stiffness, and what it presses with is measured."""
