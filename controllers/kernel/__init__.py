"""Compiled mathematics of the controllers. Safety has its own (``safety/kernel``): neither reads the other's."""
