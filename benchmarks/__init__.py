"""Measurements, one file for each ``vla bench NAME``; each prints its figure beside a reference of the same run."""
