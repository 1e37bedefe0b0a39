"""How near to people's stories each way of sampling comes: the measurement behind the default preset.

    python benchmarks/presets.py --model runs/tinystories-cpu --validation_file valid.txt --train_file train.txt
    python benchmarks/presets.py --render

Without the two files, the stories are those of the model's run. Writes docs/results/presets.json, and from it the table
in docs/evaluation.md; --render only writes the table.

The model continues each beginning of the evaluation with each way of sampling and each seed. The distance of its
stories from people's, at the same lengths, is the mean of seven differences in log-odds, one for each metric of
COMPARED: they are shares, 0.01 and 0.04 differ as much as 0.96 and 0.99 do, and no sample size or floor scales them.
Greedy stories, copies of training stories and nonsense are measured too, and have to be far from people.

Two ways are told apart if one is nearer with every seed. The default preset must not be told apart from the nearest.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.checkpoint.foreign import open_model
from tinystories.console import run_command
from tinystories.data.corpus import pick_stories
from tinystories.data.held_out import find_held_out
from tinystories.errors import UserError
from tinystories.evaluation.text.comparison import texts_of
from tinystories.evaluation.text.generation import SEEDS_APART
from tinystories.evaluation.text.metrics import METRICS
from tinystories.evaluation.text.novelty import Copied, look_up
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.evaluation.text.samples import Sample, human_samples, human_stories, looped, shuffled
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.generation.sample import decoder_of
from tinystories.generation.sampler import Adjustments, Sampler, Settings
from tinystories.generation.story import continue_stories
from tinystories.provenance import Stopwatch, hash_files, hash_texts, provenance
from tinystories.run_files import Run


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "presets.json"
DOCUMENT = ROOT / "docs" / "evaluation.md"
MARKS = ("<!-- presets: numbers -->", "<!-- presets: end -->")
COMPARED = (  # how a text holds together, repeats itself and others, is worded, copies, and ends
    *("introduced_names", "repeated_4grams", "distinct_2", "self_bleu"),
    *("known_triples", "seen_8grams", "ended"),
)
SHOWN = (*COMPARED, "grammar_errors", "missing_determiners", "near_copies")
# Without the metrics that need a critic, and clean sentences: the grammar checker would read each one by itself.
MEASURED = tuple(metric.name for metric in METRICS if not metric.needs_critic and metric.name != "clean_sentences")
NAME = re.compile(r"[\u0120\u2581][A-Z][a-z]+")  # a token: a space, a capital and more letters
CONTROLS = ("other people", "greedy", "copies of training stories", "one sentence repeated", "words shuffled")
OTHER_PEOPLE = 100  # added to the seed that draws the stories of people who are compared with people
SMALLEST = 0.002  # shares are held between this and 1 - this: 44 stories say no more
SEEDS = (1, 2, 3)
MAX_NEW_TOKENS = 200


@dataclass(frozen=True)
class Way:
    """A way of sampling. last: the penalty looks back this many tokens only (0: all); spares: not at names; ngram: no
    n-gram twice."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    last: int = 0
    spares: bool = False
    ngram: int = 0


PLAIN = Way(temperature=0.8, top_k=50, top_p=0.95)
WAYS = {
    **{name: Way(**settings) for name, settings in PRESETS.items()},
    "temperature 1": Way(),
    "temperature 0.8": Way(0.8),
    "temperature 0.5": Way(0.5),
    "0.8, top_k 50": Way(0.8, 50),
    "0.8, top_p 0.95": Way(0.8, top_p=0.95),
    "0.8, top_p 0.9": Way(0.8, top_p=0.9),
    "1.0, min_p 0.05": Way(min_p=0.05),
    "1.0, min_p 0.1": Way(min_p=0.1),
    "0.9, min_p 0.05": Way(0.9, min_p=0.05),
    "0.8, min_p 0.05": Way(0.8, min_p=0.05),
    "0.8, min_p 0.1": Way(0.8, min_p=0.1),
    "penalty 1.1": replace(PLAIN, repetition_penalty=1.1),
    "penalty 1.1 on the last 64 tokens": replace(PLAIN, repetition_penalty=1.1, last=64),
    "penalty 1.1 on the last 32 tokens": replace(PLAIN, repetition_penalty=1.1, last=32),
    "penalty 1.1 but for names": replace(PLAIN, repetition_penalty=1.1, spares=True),
    "no 3-gram twice": replace(PLAIN, ngram=3),
    "no 4-gram twice": replace(PLAIN, ngram=4),
    "no 5-gram twice": replace(PLAIN, ngram=5),
    "greedy": Way(temperature=0),
}


class TriedSampler:
    """A `Sampler` with what no `Settings` can say: the penalty on some tokens only, and no n-gram twice.

    names: whether a token begins a word with a capital, (vocab_size,).
    """

    def __init__(self, way: Way, seed: int, names: np.ndarray):
        self.way, self.names = way, names
        settings = Settings(way.temperature, way.top_k, way.top_p, repetition_penalty=1.0)
        self.sampler = Sampler(settings, seed, adjustments=Adjustments(min_p=way.min_p))

    def next_token(self, ids: Sequence[int], logits: np.ndarray) -> int:
        scores, n = logits.copy(), self.way.ngram
        used = np.unique(ids[-self.way.last :])  # [-0:] is all of them
        used = used[~self.names[used]] if self.way.spares else used
        old, penalty = scores[used], np.float32(self.way.repetition_penalty)
        scores[used] = np.where(old < 0, old * penalty, old / penalty)
        if n:
            begin = tuple(ids[len(ids) - n + 1 :])
            scores[[ids[i + n - 1] for i in range(len(ids) - n + 1) if tuple(ids[i : i + n - 1]) == begin]] = -np.inf
        return self.sampler.next_token(ids, scores)


Group = dict[int, list[Sample]]  # the stories of one way by seed


def write(model: Any, tokenizer: PreTrainedTokenizerBase, ways: dict[str, Way], prompts: list[str]) -> dict[str, Group]:
    """The stories of each way: each prompt continued once with each seed."""
    ids = [[tokenizer.bos_token_id, *one] for one in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    decoder, end = decoder_of(model, slots=len(ids)), tokenizer.eos_token_id
    if decoder is None:
        raise UserError("the decoder of this project does not run this model", "name a run of this project")
    limit = min(MAX_NEW_TOKENS, decoder.context - max(map(len, ids)))
    names = np.array([bool(NAME.fullmatch(name)) for name in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))])
    groups: dict[str, Group] = {}
    for name, way in ways.items():
        groups[name] = {}
        for seed in SEEDS:
            samplers = [TriedSampler(way, seed + SEEDS_APART * i, names) for i in range(len(ids))]
            written = dict(continue_stories(decoder, ids, samplers, {end}, limit))
            groups[name][seed] = [
                Sample(prompt, tokenizer.decode(written[i], skip_special_tokens=True), end in written[i], name, seed)
                for i, prompt in enumerate(prompts)
            ]
        print(f"{name}: {sum(len(story.text) for stories in groups[name].values() for story in stories):,} letters")
    return groups


def with_controls(groups: dict[str, Group], held_out: list[str], training: list[str]) -> dict[str, Group]:
    """And the texts whose place is known: other people's, copies and nonsense, as long as those of the default."""
    like = groups[DEFAULT_PRESET]
    people = {seed: human_stories(stories, held_out, seed + OTHER_PEOPLE) for seed, stories in like.items()}
    return groups | {
        "other people": people,
        "copies of training stories": {seed: human_stories(one, training, seed) for seed, one in like.items()},
        "one sentence repeated": {seed: looped(stories) for seed, stories in people.items()},
        "words shuffled": {seed: shuffled(stories) for seed, stories in people.items()},
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    began, run = Stopwatch(), Run(arguments.model)
    found = find_held_out(run, arguments.validation_file, arguments.train_file)
    if found.training is None:
        raise UserError("the training stories are not known, and copies could not be found", "give --train_file")
    model, tokenizer, facts = open_model(arguments.model)
    held_out, training = list(found.stories["text"]), found.training
    prompts = list(PROMPTS.values())[: arguments.prompts]
    ways = {name: way for name, way in WAYS.items() if not arguments.ways or name in {*PRESETS, *arguments.ways}}
    some = pick_stories(training, len(prompts) * len(SEEDS))["text"]
    groups = with_controls(write(model, tokenizer, ways, prompts), held_out, list(some))
    cut = {name: people_like(group, held_out, human_samples) for name, group in groups.items()}
    whole = {name: people_like(group, held_out, human_stories) for name, group in groups.items()}
    texts = [story.text for group in (*groups.values(), *cut.values()) for one in group.values() for story in one]
    copied = look_up(texts, texts_of(training))
    measured = {name: measured_group(group, copied) for name, group in groups.items()}
    people = {
        name: measured_group(cut[name], copied, SHOWN if name == DEFAULT_PRESET else COMPARED, whole[name])
        for name in groups
    }
    data = {"validation": hash_texts(held_out), "train": hash_texts(texts_of(training))}
    data["model"] = hash_files(sorted(Path(arguments.model).glob("model*.safetensors")))
    record = {
        "provenance": provenance(began, SEEDS, data, libraries=["harper-py"]),
        "model": {"parameters": facts["parameters"]},
        "settings": {"prompts": len(prompts), "max_new_tokens": MAX_NEW_TOKENS, "compared": list(COMPARED)},
        "ways": {name: vars(way) for name, way in ways.items()},
        "metrics": measured,
        "people": people,
        "distances": {name: distances(measured[name], people[name]) for name in groups},
    }
    return record | {"tables": [table_of(record)], "goals": goals(record), "did_not_help": did_not_help(record)}


def people_like(
    group: Group, held_out: list[str], cut: Callable[[list[Sample], list[str], int], list[Sample]]
) -> Group:
    """People's stories with which a group is compared, for each seed the same ones for every way."""
    return {seed: cut(stories, held_out, seed) for seed, stories in group.items()}


def measured_group(
    group: Group, copied: dict[str, Copied], names: Sequence[str] = MEASURED, whole: Group | None = None
) -> dict[str, list[float | None]]:
    """The metrics of these names, a value for each seed; None where one finds nothing to judge.

    whole: of people, the stories for metrics of length, which are cut at the limit of tokens only.
    """
    values = {}
    for metric in METRICS:
        if metric.name in names:
            stories = whole if whole and metric.whole else group
            values[metric.name] = [metric.measure(stories[seed], copied) for seed in SEEDS]
    return {name: [value and value.value for value in found] for name, found in values.items()}


def log_odds(share: float | None) -> float:
    """Of a share held between SMALLEST and 1 - SMALLEST; of nothing to judge as of a share of 0."""
    held = min(1 - SMALLEST, max(SMALLEST, share or 0.0))
    return math.log(held / (1 - held))


def distances(found: dict[str, list], people: dict[str, list]) -> list[float]:
    """For each seed, the mean difference in log-odds over COMPARED from the mean of people's stories."""
    expected = {name: mean(map(log_odds, people[name])) for name in COMPARED}
    return [mean(abs(log_odds(found[name][i]) - expected[name]) for name in COMPARED) for i in range(len(SEEDS))]


def ranked(record: dict[str, Any]) -> list[str]:
    """The ways of sampling, the nearest to people first; without the controls."""
    ways = [name for name in record["ways"] if name not in CONTROLS]
    return sorted(ways, key=lambda name: mean(record["distances"][name]))


def farther(record: dict[str, Any], name: str, other: str) -> bool:
    """Whether `name` is told apart from `other`: farther from people with every seed."""
    pairs = zip(record["distances"][name], record["distances"][other], strict=True)
    return all(one > two for one, two in pairs)


def table_of(record: dict[str, Any]) -> dict[str, Any]:
    titles = {metric.name: metric.title for metric in METRICS}
    order = sorted(record["distances"], key=lambda name: mean(record["distances"][name]))
    rows: list[list[Any]] = []
    for name in order:
        found = record["distances"][name]
        rows.append([name, f"{mean(found):.2f} ({min(found):.2f} to {max(found):.2f})"])
        rows[-1] += [_middle(record["metrics"][name][metric]) for metric in SHOWN]
    people = record["people"][DEFAULT_PRESET]
    rows.insert(0, ["people, to compare with", "", *(_middle(people[metric]) for metric in SHOWN)])
    title = "Distance from people's stories, mean of the seeds with lowest and highest, and what it is made of"
    return {"title": title, "columns": ["sampling", "distance", *(titles[name] for name in SHOWN)], "rows": rows}


def _middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.3g}" if known else "none"


def goals(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The old default's distance over the new one's."""
    old, new = (record["distances"][name] for name in ("balanced", DEFAULT_PRESET))
    ratios = [one / two for one, two in zip(old, new, strict=True)]
    return [
        {
            "goal": f"the preset {DEFAULT_PRESET} is nearer to people than balanced: ratio of their distances",
            "at_least": 1,
            "ratio": mean(old) / mean(new),
            "low": min(ratios),
            "high": max(ratios),
        }
    ]


def did_not_help(record: dict[str, Any]) -> list[dict[str, str]]:
    """Every way that is told apart from the default as farther from people."""
    own = record["distances"][DEFAULT_PRESET]
    return [
        {
            "tried": name,
            "result": f"distance {mean(record['distances'][name]):.2f}, {DEFAULT_PRESET} {mean(own):.2f}; "
            f"names introduced before {_middle(record['metrics'][name]['introduced_names'])}, "
            f"{DEFAULT_PRESET} {_middle(record['metrics'][DEFAULT_PRESET]['introduced_names'])}",
        }
        for name in ranked(record)
        if farther(record, name, DEFAULT_PRESET)
    ]


def with_numbers(document: str, record: dict[str, Any]) -> str:
    """The document with the table between its marks written from the record."""
    found = record["tables"][0]
    lines = [f"| {' | '.join(found['columns'])} |", f"|---{'|---:' * (len(found['columns']) - 1)}|"]
    for name, *cells in found["rows"]:
        lines.append(f"| {f'**{name}**' if name == DEFAULT_PRESET else name} | {' | '.join(cells)} |")
    settings, stories = record["settings"], record["provenance"]["data"]["validation"]["stories"]
    lines += [
        "",
        f"{record['model']['parameters']:,} parameters; {settings['prompts']} beginnings, seeds {list(SEEDS)}, at most "
        f"{settings['max_new_tokens']} new tokens; people's stories are drawn from {stories:,} held-out ones. "
        "Mean over the seeds.",
    ]
    before, _, rest = document.partition(MARKS[0])
    return "\n".join([before + MARKS[0], "", *lines, "", MARKS[1] + rest.partition(MARKS[1])[2]])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the run folder of a trained model")
    parser.add_argument("--validation_file", help="stories of people that the model has not seen")
    parser.add_argument("--train_file", help="the stories that it was trained on")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="beginnings to continue")
    parser.add_argument("--ways", nargs="*", choices=WAYS, help="only these and the presets")
    parser.add_argument("--output_file", type=Path, default=RECORD, help="the record")
    parser.add_argument("--render", action="store_true", help="write the table of the document only")
    arguments = parser.parse_args(argv)
    if not arguments.render:
        if not arguments.model:
            raise UserError("--model is missing", "name the run folder of a trained model")
        record = measure(arguments)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        arguments.output_file.write_text(text, encoding="utf-8", newline="\n")
    record = json.loads(arguments.output_file.read_text(encoding="utf-8"))
    if arguments.output_file == RECORD:
        document = with_numbers(DOCUMENT.read_text(encoding="utf-8"), record)
        DOCUMENT.write_text(document, encoding="utf-8", newline="\n")
    order = ranked(record)
    for name in order:
        print(f"{mean(record['distances'][name]):.3f}  {name}{'  (told apart)' * farther(record, name, order[0])}")
    if farther(record, DEFAULT_PRESET, order[0]):
        raise UserError(f"{order[0]} is nearer to people than the default preset {DEFAULT_PRESET}, with every seed")


if __name__ == "__main__":
    run_command(main)
