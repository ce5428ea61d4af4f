"""Many runs: cross-validation, ablation, comparison, and their statistics."""
