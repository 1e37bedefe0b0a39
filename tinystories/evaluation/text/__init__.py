"""Metrics of generated stories, without a judge."""
