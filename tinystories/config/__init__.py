"""The keys of a recipe and of the command line: dataclasses, parser, recipe file, ranges."""
