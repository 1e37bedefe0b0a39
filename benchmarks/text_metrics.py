"""Whether the metrics of generated text can tell nonsense from stories: each on human text, on its floors, on models.

    python benchmarks/text_metrics.py --train_file train.txt --validation_file valid.txt runs/good runs/shifted

Human text is held-out stories; the floors are the same stories with their words shuffled, their first sentence looped,
their halves mixed up, and training stories given out as new ones, of the lengths of what the first checkpoint writes.
Each checkpoint has its own human column, of its own lengths. Prints a table, in which a star marks what is worse than
human text, and writes docs/results/text_metrics.json. Ends with status 1 if a metric does not expose its own floor.
"""

import argparse
import json
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.checkpoint import load_checkpoint
from tinystories.console import run_command
from tinystories.corpus import read_files
from tinystories.decoding import DEFAULT_PRESET, PRESETS
from tinystories.errors import UserError
from tinystories.evaluation import novelty
from tinystories.evaluation.generation import write_samples
from tinystories.evaluation.prompts import PROMPTS
from tinystories.evaluation.samples import Sample, human_samples, looped, shuffled, spliced
from tinystories.evaluation.text_metrics import (
    METRICS,
    TextMetric,
    measure_texts,
    texts_to_look_up,
    worse_than_human,
)
from tinystories.recipe import DataArguments


RESULTS = Path(__file__).parent.parent / "docs" / "results" / "text_metrics.json"
BY_NAME = {metric.name: metric for metric in METRICS}
SEED, BATCH_SIZE, MAX_NEW_TOKENS = 0, 16, 200


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    train = list(read_files(arguments.train_file, DataArguments())[0]["text"])
    validation = list(read_files(arguments.validation_file, DataArguments())[0]["text"])
    written = {Path(name).name: write(name, arguments.preset) for name in arguments.checkpoints}
    copied = look_up_all(written, validation, train)
    table = {}
    for i, (name, samples) in enumerate(written.items()):
        for metric, both in measure_texts(samples, validation, copied, seed=SEED).items():
            row = table.setdefault(metric, {})
            row[f"human beside {name}"], row[name] = both["human"], both["value"]
            if i == 0 and not BY_NAME[metric].whole:
                nonsense = floors(samples, validation, train)
                row |= {floor: BY_NAME[metric].measure(texts, copied) for floor, texts in nonsense.items()}
    print_table(table)
    result = {
        "settings": {"preset": arguments.preset, "seed": SEED, "batch_size": BATCH_SIZE, "prompts": len(PROMPTS)}
        | {"max_new_tokens": MAX_NEW_TOKENS, "training_stories": len(train), "held_out_stories": len(validation)},
        "metrics": {name: {of: e and e.as_dict() for of, e in row.items()} for name, row in table.items()},
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8", newline="\n")
    blind = [metric.name for metric in METRICS if metric.floor and not seen(metric, table[metric.name], metric.floor)]
    if blind:
        raise UserError(f"these metrics do not expose their floors: {', '.join(blind)}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the metrics of generated text.")
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULT_PRESET)
    return parser.parse_args(argv)


def write(checkpoint: str, preset: str) -> list[Sample]:
    model, tokenizer = load_checkpoint(checkpoint)
    return write_samples(model, tokenizer, list(PROMPTS.values()), preset, [SEED], MAX_NEW_TOKENS, BATCH_SIZE)


def look_up_all(written: dict[str, list[Sample]], validation: list[str], train: list[str]) -> dict:
    """What every text that is going to be measured has in common with the training stories, in one reading of them."""
    texts = [text for samples in written.values() for text in texts_to_look_up(samples, validation, SEED)]
    nonsense = floors(next(iter(written.values())), validation, train)
    texts += [sample.text for samples in nonsense.values() for sample in samples]
    return novelty.look_up(texts, train)


def floors(samples: list[Sample], validation: list[str], train: list[str]) -> dict[str, list[Sample]]:
    human = human_samples(samples, validation, SEED)
    copies = human_samples(samples, train, SEED)
    return {"shuffled": shuffled(human), "looped": looped(human), "spliced": spliced(human), "copied": copies}


def seen(metric: TextMetric, row: dict, column: str) -> bool:
    """Whether a column is worse than the human one beside it: that of the first checkpoint is beside the floors too."""
    if column.startswith("human beside "):
        return False
    human = row.get(f"human beside {column}", next(iter(row.values())))
    return worse_than_human(metric, row.get(column), human)


def print_table(table: dict) -> None:
    width = 30
    columns = list(table[METRICS[0].name])
    print("metric".ljust(20), *(name.ljust(width) for name in columns))
    for metric in METRICS:
        row = table[metric.name]
        cells = [
            (f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" if (e := row.get(column)) else "-")
            + " *" * seen(metric, row, column)
            for column in columns
        ]
        print(metric.name.ljust(20), *(cell.ljust(width) for cell in cells))


if __name__ == "__main__":
    run_command(main)
