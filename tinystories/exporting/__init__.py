"""Checkpoint -> other programs: a module for each format, and the proof that it is the same model."""
