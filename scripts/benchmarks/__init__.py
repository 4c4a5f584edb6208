"""What `scripts/bench.py` compares: cases, contenders that do the same work, how they are checked and timed."""
