"""Pairs of passages of which one holds one mistake: rules, vocabulary, building and scoring."""
