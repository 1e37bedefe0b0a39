"""What a run is asked to do: dataclasses, parser, recipe file, ranges."""
