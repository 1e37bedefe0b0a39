"""Guards: invariants that hold in a sound run, checked before its first step, while it runs, and at its end."""
