"""The cases and contenders of `scripts/bench.py`, and how they are checked and timed."""
