"""Rows to checkpoint: the Trainer, its guards and callbacks, and what keeps a long run safe."""
