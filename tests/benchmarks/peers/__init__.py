"""Other programs and plain baselines on the same tables."""
