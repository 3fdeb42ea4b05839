"""Builders of table-top objects: each adds primitive geoms to a MuJoCo specification and says what it added."""
