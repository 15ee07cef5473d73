"""The commands of `python -m panorama`, each a function of its options that returns an exit code."""
