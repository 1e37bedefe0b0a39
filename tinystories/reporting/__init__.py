"""Numbers to pages and cards."""
