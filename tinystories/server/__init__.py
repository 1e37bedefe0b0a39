"""A checkpoint as a web page and an API."""
