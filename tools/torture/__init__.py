"""Attempts to break panorama, each a check with a negative control: a deliberately broken variant that the check must catch.

`python -m tools.torture --help` lists and runs them (`scripts/torture` makes the environment first); docs/reliability.md has the figures.
A module of checks is a file here with a tuple `CHECKS`, named in `checks.MODULES`.
"""
