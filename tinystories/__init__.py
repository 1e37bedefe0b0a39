"""The library under the commands: train_tokenizer.py, run_clm.py and run_generation.py only read arguments, call it and print."""
