"""How good a story model is, in numbers that cannot be fooled: what run_evaluation.py measures (docs/evaluation.md)."""
