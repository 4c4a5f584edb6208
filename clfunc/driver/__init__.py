"""How a run goes: its options, its loop over events, its state, evaluation and checkpoints."""
