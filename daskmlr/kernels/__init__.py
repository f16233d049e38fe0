"""Pure functions on one task block or on small matrices; numpy and scipy only."""
