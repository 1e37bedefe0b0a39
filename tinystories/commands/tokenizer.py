"""Train a byte-level BPE tokenizer on stories, saved in the Hugging Face fast format.

    python train_tokenizer.py --train_file stories.txt --vocab_size 10000 --output_dir tokenizer
    python train_tokenizer.py --num_sample_stories 20000 --vocab_size 2048 --output_dir tokenizer

`AutoTokenizer.from_pretrained("tokenizer")` loads it, and `--tokenizer_name tokenizer` gives it to run_clm.py. It takes
the same data options as run_clm.py; trains on the training stories and measures on the held-out ones. Writes
tokenizer_report.json beside the tokenizer.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tinystories.commands.shortest import require_arguments
from tinystories.config.familiar import TOKENIZER
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.config.parser import StrictParser
from tinystories.console import command_name, program_name
from tinystories.errors import UserError
from tinystories.output_file import check_output_folder, written_together


@dataclass
class OutputArguments:
    _argument_group_name = "output"

    output_dir: str = field(default="tokenizer", metadata={"help": "Folder for the tokenizer."})


def main(argv: list[str]) -> None:
    require_arguments("tokenizer", argv)
    parser = StrictParser(
        (DataArguments, TokenizerArguments, OutputArguments),
        "tokenizer",
        TOKENIZER,
        prog=program_name("tokenizer"),
        usage=f"{command_name('tokenizer')} --train_file FILE [--key value ...]",
        description="Train a byte-level BPE tokenizer on stories.",
    )
    parser.check(argv)
    data, arguments, output = parser.build(argv)
    if arguments.tokenizer_name is not None:
        raise UserError("tokenizer_name names an existing tokenizer", "leave it out to train one")
    folder = Path(output.output_dir)
    check_output_folder(folder)
    if (folder / "config.json").exists():
        raise UserError(f"{folder} contains a model, whose tokenizer must not change", "give another --output_dir")
    train(folder, data, arguments)


def train(folder: Path, data: DataArguments, arguments: TokenizerArguments) -> None:
    from tinystories.data.corpus import load_corpus  # seconds of imports, for a command line that is understood
    from tinystories.data.tokenizer import describe, tokenizer_report, train_tokenizer

    corpus = load_corpus(data)
    tokenizer = train_tokenizer(corpus.train, arguments)
    report = tokenizer_report(tokenizer, corpus.validation)
    with written_together(folder) as unfinished:
        tokenizer.save_pretrained(unfinished)
        (unfinished / "tokenizer_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(describe(report))
    print(f"saved in {folder}")
