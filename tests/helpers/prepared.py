"""What libraries build when they are first used, built once in the server of forked.py; it imports this module."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping


get_checkpoint_conversion_mapping("llama")  # how old weights are renamed, of every network: a thousand patterns
