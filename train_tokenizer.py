"""Train a byte-level BPE tokenizer on stories, saved in the Hugging Face fast format.

    python train_tokenizer.py --train_file stories.txt --vocab_size 10000 --output_dir tokenizer
    python train_tokenizer.py --num_sample_stories 20000 --vocab_size 2048 --output_dir tokenizer

`AutoTokenizer.from_pretrained("tokenizer")` loads it, and `--tokenizer_name tokenizer` gives it to run_clm.py. It takes
the same data options as run_clm.py; trains on the training stories and measures on the held-out ones. Writes
tokenizer_report.json beside the tokenizer.
"""

from tinystories.commands.tokenizer import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
