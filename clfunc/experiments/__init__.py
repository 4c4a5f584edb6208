"""Many runs: chunks, audits of unlearning, halving, runs until a mean is known, executors."""
