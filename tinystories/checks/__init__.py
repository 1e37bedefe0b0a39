"""Before a run and after it: preflight, dry run, diagnosis."""
