"""Text to rows of tokens: readers, corpus, quality, tokenizer, packing, cache."""
