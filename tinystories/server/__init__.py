"""Serves a checkpoint as a web page and an API."""
