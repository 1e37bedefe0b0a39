"""Rows to checkpoint: the Trainer, its guards and callbacks, and checkpoints and resuming."""
