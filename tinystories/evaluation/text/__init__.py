"""Metrics of written stories, without a judge."""
