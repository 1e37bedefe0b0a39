"""The share of phrases that makes two stories near-copies: what honest splits and changed copies share.

    python benchmarks/near_copies.py stories.txt --output_file docs/results/near_copies.json

Honest: held-out stories, searched in all training stories, for several splits of the file and of the sample corpus.
Changed copies: the same held-out stories after a changed copy of each was added to the training stories. A threshold is
good if it lies above the honest shares and below those of the copies; tinystories/data/near_copies.py holds it.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

import datasets
import numpy as np


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.config.keys import DataArguments
from tinystories.data import near_copies
from tinystories.data.corpus import Corpus, load_corpus, story_hashes
from tinystories.provenance import Stopwatch, hash_files, provenance


SPLITS = 3
SAMPLE_STORIES = 20_000
PERCENTILES = [0, 1, 5, 50, 95, 99, 99.9, 100]


def every_seventh_word(text: str, words: list[str], rng: random.Random) -> str:
    return " ".join(rng.choice(words) if i % 7 == 3 else word for i, word in enumerate(text.split()))


CHANGES = {
    "other case": lambda text, words, rng: text.upper(),
    "no punctuation": lambda text, words, rng: "".join(c for c in text if c.isalnum() or c.isspace()),
    "a prefix": lambda text, words, rng: f"Here is a story for you. {text}",
    "the first half": lambda text, words, rng: text[: len(text) // 2],
    "the second half": lambda text, words, rng: text[len(text) // 2 :],
    "every seventh word changed": every_seventh_word,
}


def search(train: datasets.Dataset, held_out: list[str], seed: int) -> tuple[near_copies.Likeness, float]:
    hashes, begin = story_hashes(train), time.process_time()
    found = near_copies.search_copies(train, held_out, hashes, np.random.default_rng(seed), near_copies.CONTROLS)
    return found, time.process_time() - begin


def shares(found: near_copies.Likeness) -> dict:
    known = found.share[np.isfinite(found.share)]
    return {
        "searched": len(known),
        "too_few_phrases": len(found.share) - len(known),
        "share": dict(zip(map(str, PERCENTILES), np.percentile(known, PERCENTILES).round(4).tolist(), strict=True)),
        "control_99": round(float(np.nanquantile(found.control, 0.99)), 4),
        "threshold": round(found.threshold, 4),
        "found": len(found.near_copies()),
    }


def measure(corpus: Corpus, seed: int) -> dict:
    """Shares of the honest split, and of each change."""
    rng, held_out = random.Random(seed), corpus.validation["text"][:]
    words = " ".join(corpus.train["text"][:500]).split()
    honest, seconds = search(corpus.train, held_out, seed)
    result = {
        "seed": seed,
        "training_stories": len(corpus.train),
        "seconds": round(seconds, 2),
        "honest": shares(honest),
    }
    for name, change in CHANGES.items():
        copies = [change(text, words, rng) for text in held_out]
        train = datasets.Dataset.from_dict({"text": corpus.train["text"][:] + copies})
        result[name] = shares(search(train, held_out, seed)[0])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stories", help="a file of stories")
    parser.add_argument("--output_file", type=Path)
    arguments = parser.parse_args()
    began = Stopwatch()
    sources = {"file": {"train_file": arguments.stories}, "sample corpus": {"num_sample_stories": SAMPLE_STORIES}}
    results = {
        name: [measure(load_corpus(DataArguments(split_seed=seed, **source)), seed) for seed in range(SPLITS)]
        for name, source in sources.items()
    }
    settings = {name: getattr(near_copies, name) for name in ("WINDOW", "FEWEST", "COMMON", "NEAR_COPY", "CERTAIN")}
    data = {"stories": {"source": Path(arguments.stories).name} | hash_files([Path(arguments.stories)])}
    record = {"provenance": provenance(began, list(range(SPLITS)), data), "settings": settings, "results": results}
    text = json.dumps(record, indent=1) + "\n"
    print(text)
    if arguments.output_file:
        arguments.output_file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
