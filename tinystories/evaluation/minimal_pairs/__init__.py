"""Pairs of passages, one of them with a mistake: rules, vocabulary, building and scoring."""
