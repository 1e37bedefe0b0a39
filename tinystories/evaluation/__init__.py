"""Checkpoint to numbers: likelihood, minimal pairs, text metrics, a judge, tables and a leaderboard."""
