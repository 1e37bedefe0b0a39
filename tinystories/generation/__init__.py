"""Checkpoint to text: presets, one story, tidying up."""
