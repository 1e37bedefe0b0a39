"""The value of every metric for an untrained network, nonsense, a model with shifted labels, models, and people.

    python benchmarks/shifted_labels.py configs/tinystories-cpu.yaml --train_file train.txt --output_dir runs/shifted
    python benchmarks/metric_scale.py --data valid.txt --train_file train.txt \
        --shifted runs/shifted --model runs/tinystories-cpu --peer stories260K.bin
    python benchmarks/metric_scale.py --render

Writes docs/results/metric_scale.json, and from it the tables in docs/evaluation.md; --render only writes the tables. At
the end it names the metrics for which the model is not clearly nearer to people than all floors: they are useless.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.checkpoint.foreign import open_model
from tinystories.config.keys import DataArguments
from tinystories.console import set_up_logging
from tinystories.data.corpus import read_files
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.estimates import as_json
from tinystories.evaluation.registry import all_metrics
from tinystories.evaluation.scoring import token_nll
from tinystories.evaluation.suite import evaluate
from tinystories.evaluation.table import Metric, distance
from tinystories.evaluation.text.generation import write_samples
from tinystories.evaluation.text.metrics import METRICS
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.generation.presets import PRESETS
from tinystories.provenance import Stopwatch, hash_files, provenance
from tinystories.reporting.format import cell
from tinystories.run_files import read_json


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "metric_scale.json"
DOCUMENT = ROOT / "docs" / "evaluation.md"
PENALTIES = (1.0, 1.1, 1.2, 1.3)
OF_PENALTIES = ("introduced_names", "repeated_4grams", "ended")
CHECKED = ROOT / "docs" / "results" / "minimal_pairs_checked.json"
COLUMNS = ("untrained", "nonsense", "shifted", "model", "peer", "people")
HEADS = ("metric", "untrained", "nonsense", "labels shifted twice", "our model", "stories260K", "people")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "train_file", "shifted", "model", "peer"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--stories", type=int, default=1000)
    parser.add_argument("--output_dir", default="evaluation")
    parser.add_argument("--render", action="store_true", help="write the tables only")
    arguments = parser.parse_args()
    if not arguments.render:
        set_up_logging()
        RECORD.write_text(json.dumps(measure(arguments), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    DOCUMENT.write_text(with_numbers(DOCUMENT.read_text(encoding="utf-8"), record), encoding="utf-8")
    print("useless metrics:", ", ".join(useless(record)) or "none")


def measure(arguments: argparse.Namespace) -> dict:
    began = Stopwatch()
    settings = EvaluationArguments(
        data=arguments.data,
        train_file=arguments.train_file,
        stories=arguments.stories,
        presets=["balanced"],
        seeds=[1, 2],
        output_dir=arguments.output_dir,
    )
    names = {"shifted": arguments.shifted, "model": arguments.model, "peer": arguments.peer}
    results = dict(zip(names, evaluate(list(names.values()), settings), strict=True))
    model = results["model"]
    columns = {"untrained": model["floors"]["untrained"], "nonsense": model["floors"]["nonsense"]}
    columns |= {name: found["metrics"] for name, found in results.items()}
    columns["people"] = model["presets"][model["preset"]]["human"]
    files = {"validation": arguments.data, "train": arguments.train_file, "peer": arguments.peer}
    origin = {name: {"source": Path(path).name, **hash_files([Path(path)])} for name, path in files.items()}
    for name in ("shifted", "model"):
        weights = sorted(Path(names[name]).glob("model*.safetensors"))
        origin[name] = {"source": Path(names[name]).name, **hash_files(weights)}
    found = {
        "data": model["data"],
        "settings": {key: model["settings"][key] for key in ("pairs", "prompts", "seeds", "max_new_tokens", "presets")},
        "models": {name: found["model"] | trained(names[name]) for name, found in results.items()},
        "metrics": {
            metric.name: {name: column.get(metric.name) for name, column in columns.items()} for metric in all_metrics()
        },
        "people": {name: found["presets"][found["preset"]]["human"] for name, found in results.items()},
        "peer_cut_at_512": cut_stories(arguments.peer, arguments.data),
        "repetition_penalties": try_penalties(arguments.model),
    }
    return {"provenance": provenance(began, [1, 2], origin, libraries=["harper-py"])} | found


@torch.inference_mode()
def cut_stories(peer: str, data: str, tokens: int = 512) -> dict:
    """The peer on the text of stories 2 to 121, each cut at 512 tokens, as others have measured it."""
    model, tokenizer, _ = open_model(peer)
    stories, _ = read_files(data, DataArguments())
    nats, num_tokens, num_bytes, in_names = 0.0, 0, 0, 0
    for text in stories["text"][1:121]:
        ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][:tokens])
        nats += token_nll(model(input_ids=ids[None]).logits, ids[None]).double().sum().item()
        num_tokens += len(ids) - 1
        num_bytes += len(tokenizer.decode(ids[1:]).encode())
        in_names += sum(len(name.replace("\u2581", " ").encode()) for name in tokenizer.convert_ids_to_tokens(ids[1:]))
    bits = nats / math.log(2)
    return {
        "loss": nats / num_tokens,
        "bits_per_byte": bits / num_bytes,
        "tokens": num_tokens,
        "bytes": num_bytes,
        "bits_per_byte_of_token_names": bits / in_names,
        "bytes_of_token_names": in_names,
    }


def try_penalties(checkpoint: str) -> dict[str, dict]:
    """The balanced preset with other repetition penalties: do characters keep their names?"""
    model, tokenizer, _ = open_model(checkpoint)
    found = {}
    for penalty in PENALTIES:
        PRESETS["tried"] = PRESETS["balanced"] | {"repetition_penalty": penalty}
        samples = write_samples(model, tokenizer, list(PROMPTS.values()), "tried", [1, 2], batch_size=16)
        measured = {metric.name: metric.measure(samples) for metric in METRICS if metric.name in OF_PENALTIES}
        found[str(penalty)] = {name: as_json(value) for name, value in measured.items()}
    return found


def trained(folder: str) -> dict:
    """Tokens, steps and seed of the run that made a checkpoint; empty if it is not from a run."""
    state, recipe = read_json(Path(folder) / "trainer_state.json"), read_json(Path(folder) / "recipe.json")
    if state is None or recipe is None:
        return {}
    return {"tokens_seen": state["num_input_tokens_seen"], "steps": state["global_step"], "seed": recipe["seed"]}


def table(record: dict, alarms: bool) -> list[str]:
    metrics = {metric.name: metric for metric in all_metrics()}
    lines = [f"| {' | '.join(HEADS)} |", f"|---{'|---:' * len(COLUMNS)}|"]
    for name in record["metrics"]:
        metric = metrics[name]
        if metric.alarm != alarms:
            continue
        good = {"lower": "lower", "higher": "higher", "like human": "as people"}[metric.good]
        title = f"{metric.title}{f', {metric.unit}' if metric.unit else ''} ({good})"
        cells = [text_of(metric, column, record) for column in COLUMNS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def text_of(metric: Metric, column: str, record: dict) -> str:
    """A value; if it should be like people's, theirs at the lengths of this column in brackets."""
    value = record["metrics"][metric.name].get(column)
    people = record["people"].get(column, {}).get(metric.name) if metric.good == "like human" else None
    return (f"{value['value']:.3g}" if value else "") + (f" ({people['value']:.3g})" if people else "")


def facts(record: dict) -> list[str]:
    data, settings, models = record["data"], record["settings"], record["models"]
    described = [
        f"{head}: {model['parameters']:,} parameters"
        + (f", {model['tokens_seen']:,} tokens, seed {model['seed']}" if "tokens_seen" in model else "")
        for head, model in zip(HEADS[3:6], models.values(), strict=True)
    ]
    return [
        f"{data['stories']:,} held-out stories, {data['bytes']:,} bytes, SHA-256 {data['sha256'][:12]}; "
        f"{settings['prompts']} beginnings, preset {settings['presets'][0]}, seeds {settings['seeds']}, at most "
        f"{settings['max_new_tokens']} new tokens; at most {settings['pairs']} pairs a rule.",
        "; ".join(described) + ".",
    ]


def noise() -> list[str]:
    """A table: how many pairs of each rule the reader of the sample found bad."""
    found: dict[str, list[bool]] = {}
    for verdict in json.loads(CHECKED.read_text(encoding="utf-8"))["pairs"]:
        found.setdefault(verdict["rule"], []).append(not verdict["good_is_better"])
    lines = [f"| {rule.replace('_', ' ')} | {sum(bad)} | {len(bad)} |" for rule, bad in found.items()]
    return ["| rule | bad pairs | read |", "|---|---:|---:|", *lines]


def penalties(record: dict) -> list[str]:
    titles = [metric.title for metric in METRICS if metric.name in OF_PENALTIES]
    lines = [f"| repetition penalty | {' | '.join(titles)} |", f"|---{'|---:' * len(titles)}|"]
    for penalty, measured in record["repetition_penalties"].items():
        lines.append(f"| {penalty} | {' | '.join(cell(value) for value in measured.values())} |")
    return lines


def peer(record: dict) -> list[str]:
    cut = record["peer_cut_at_512"]
    return [
        f"Each of stories 2 to 121 cut at 512 tokens, text alone: {cut['bits_per_byte']:.4f} bits per byte, "
        f"{cut['loss']:.4f} nats per token",
        f"({cut['tokens']:,} tokens, {cut['bytes']:,} bytes). Counting the bytes of the tokens' names instead, six "
        "for each line break (`<0x0A>`) and one for the space that the tokenizer puts before a story, gives "
        f"{cut['bytes_of_token_names']:,} bytes and {cut['bits_per_byte_of_token_names']:.4f}; the nats are the same.",
    ]


def with_numbers(document: str, record: dict) -> str:
    """The document with the text between its marks written from the record."""
    for name, lines in (
        ("scale", [*table(record, alarms=False), "", *facts(record)]),
        ("alarms", table(record, alarms=True)),
        ("penalties", penalties(record)),
        ("noise", noise()),
        ("peer", peer(record)),
    ):
        begin, end = f"<!-- {name}: numbers -->", f"<!-- {name}: end -->"
        before, _, rest = document.partition(begin)
        document = "\n".join([before + begin, "", *lines, "", end + rest.partition(end)[2]])
    return document


def useless(record: dict) -> list[str]:
    """Metrics, without alarms, for which the model is not clearly nearer to people than all floors are."""
    found = []
    for metric in all_metrics():
        values, people = record["metrics"][metric.name], record["metrics"][metric.name].get("people")
        floors = [values[name] for name in ("untrained", "nonsense", "shifted") if values.get(name)]
        if metric.alarm:
            continue
        ours = values["model"]
        nearer = all(distance(metric, ours, people) < distance(metric, floor, people) for floor in floors)
        apart = all(ours["low"] > floor["high"] or ours["high"] < floor["low"] for floor in floors)
        if not (nearer and apart):
            found.append(metric.name)
    return found


if __name__ == "__main__":
    main()
