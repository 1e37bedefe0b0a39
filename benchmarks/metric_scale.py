"""The value of every metric for an untrained network, nonsense, models, people, and people's stories damaged by code.

    python benchmarks/shifted_labels.py configs/tinystories-cpu.yaml --train_file train.txt --output_dir runs/shifted
    python run_clm.py configs/tinystories-cpu.yaml --train_file train.txt --seed 7 --output_dir runs/critic
    python benchmarks/metric_scale.py --data valid.txt --train_file train.txt --shifted runs/shifted \
        --small runs/tinystories-1m --model runs/tinystories-cpu --peer stories260K.bin --critic runs/critic \
        --checkpoints runs/tinystories-cpu/checkpoint-64 runs/tinystories-cpu/checkpoint-300
    python benchmarks/metric_scale.py --render

Writes docs/results/metric_scale.json, and from it the tables in docs/evaluation.md; --render only writes the tables. At
the end it names what a metric with a bar must not do: a floor near people, checkpoints in the wrong order, a damage
that no metric sees.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.other_damages import OTHER_DAMAGES, apply
from tinystories.checkpoint.foreign import open_model
from tinystories.config.keys import DataArguments
from tinystories.console import set_up_logging
from tinystories.data.corpus import pick_stories, read_files
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.estimates import as_json
from tinystories.evaluation.overall import overall
from tinystories.evaluation.registry import all_metrics
from tinystories.evaluation.scoring import token_nll
from tinystories.evaluation.suite import evaluate, find_stories, open_critic
from tinystories.evaluation.table import LIKE_HUMAN, Metric, Values, distance
from tinystories.evaluation.text.comparison import measure_groups
from tinystories.evaluation.text.damages import DAMAGES
from tinystories.evaluation.text.generation import write_samples
from tinystories.evaluation.text.metrics import METRICS, available_metrics
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.evaluation.text.samples import Sample, human_stories
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.provenance import Stopwatch, hash_files, provenance
from tinystories.reporting.format import cell
from tinystories.run_files import read_json


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "metric_scale.json"
DOCUMENT = ROOT / "docs" / "evaluation.md"
PENALTIES = (1.0, 1.1, 1.2, 1.3)
OF_PENALTIES = ("introduced_names", "repeated_4grams", "ended")
CHECKED = ROOT / "docs" / "results" / "minimal_pairs_checked.json"
COLUMNS = ("untrained", "nonsense", "shifted", "small", "model", "peer", "people")
HEADS = ("metric", "untrained", "nonsense", "labels shifted twice", "1M", "our model", "stories260K", "people")
MODELS = ("shifted", "small", "model", "peer")
OTHER_PEOPLE = 7  # the seed that draws the stories to be damaged; those to compare with are drawn with 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "train_file", "critic", *MODELS):
        parser.add_argument(f"--{name}")
    parser.add_argument("--checkpoints", nargs="*", default=[], help="of the run of --model, by step")
    parser.add_argument("--stories", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--output_dir", default="evaluation")
    parser.add_argument("--render", action="store_true", help="write the tables only")
    arguments = parser.parse_args()
    if not arguments.render:
        set_up_logging()
        RECORD.write_text(json.dumps(measure(arguments), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    floors = [
        {name: column[floor] for name, column in record["metrics"].items() if column.get(floor)}
        for floor in ("untrained", "nonsense")
    ]
    stand(record["undamaged"], record["damages"], floors)
    record["metrics"]["overall"]["people"] = record["undamaged"]["metrics"]["overall"]
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    DOCUMENT.write_text(with_numbers(DOCUMENT.read_text(encoding="utf-8"), record), encoding="utf-8")
    print("useless metrics:", ", ".join(useless(record)) or "none")
    print("floors near people:", ", ".join(near_people(record)) or "none")
    print("checkpoints in the wrong order:", ", ".join(disordered(record)) or "none")
    print("damages that no bar sees:", ", ".join(unseen(record)) or "none")


def measure(arguments: argparse.Namespace) -> dict:
    began = Stopwatch()
    settings = EvaluationArguments(
        data=arguments.data,
        train_file=arguments.train_file,
        stories=arguments.stories,
        pairs=arguments.pairs,
        presets=[DEFAULT_PRESET],
        seeds=[1, 2],
        output_dir=arguments.output_dir,
        critic=arguments.critic,
    )
    names = {name: getattr(arguments, name) for name in MODELS}
    every = evaluate([*names.values(), *arguments.checkpoints], settings)
    results, early = dict(zip(names, every, strict=False)), every[len(names) :]
    model = results["model"]
    if Path(arguments.critic).resolve() == Path(arguments.peer).resolve():
        for name in [*(metric.name for metric in METRICS if metric.needs_critic), "overall"]:
            results["peer"]["metrics"].pop(name, None)  # it would judge its own stories
    columns = {"untrained": model["floors"]["untrained"], "nonsense": model["floors"]["nonsense"]}
    columns |= {name: found["metrics"] for name, found in results.items()}
    people, damages = damaged(model, arguments.model, settings)
    columns["people"] = model["presets"][model["preset"]]["human"] | {"overall": people["metrics"]["overall"]}
    floors, theirs = list(model["floors"].values()), model["presets"][model["preset"]]["human"]
    columns["untrained"] |= {"overall": as_json(overall(columns["untrained"], floors, theirs))}  # not 0 by definition
    steps = {step_of(name): found for name, found in zip(arguments.checkpoints, early, strict=True)}
    steps[step_of(arguments.model)] = model
    files = {"validation": arguments.data, "train": arguments.train_file, "peer": arguments.peer}
    origin = {name: {"source": Path(path).name, **hash_files([Path(path)])} for name, path in files.items()}
    for name, folder in (names | {"critic": arguments.critic}).items():
        weights = sorted(Path(folder).glob("model*.safetensors"))
        if weights:
            origin[name] = {"source": Path(folder).name, **hash_files(weights)}
    measured = {
        "data": model["data"],
        "settings": {key: model["settings"][key] for key in ("pairs", "prompts", "seeds", "max_new_tokens", "presets")},
        "models": {name: found["model"] | trained(names[name]) for name, found in results.items()},
        "critic": {key: model["critic"][key] for key in ("model", "parameters")} | trained(arguments.critic),
        "metrics": {
            metric.name: {name: column.get(metric.name) for name, column in columns.items()} for metric in all_metrics()
        },
        "people": {name: found["presets"][found["preset"]]["human"] for name, found in results.items()},
        "checkpoints": {
            step: {"metrics": found["metrics"], "people": found["presets"][found["preset"]]["human"]}
            for step, found in steps.items()
        },
        "undamaged": people,
        "damages": damages,
        "peer_cut_at_512": cut_stories(arguments.peer, arguments.data),
        "repetition_penalties": try_penalties(arguments.model),
    }
    return {"provenance": provenance(began, [1, 2], origin, libraries=["harper-py"])} | measured


def damaged(model: dict, checkpoint: str, settings: EvaluationArguments) -> tuple[dict, dict]:
    """Other stories of people than the model is compared with, and the same damaged: {"metrics", "human"} of each.

    They are as many as the model's and cut only where the limit of tokens cut its stories.
    """
    stories, critic = find_stories(settings, checkpoint), open_critic(settings.critic, "cpu")
    held_out, samples = stories.held_out["text"], [Sample(**one) for one in model["samples"][model["preset"]]]
    whole = human_stories(samples, held_out, OTHER_PEOPLE)
    copies = human_stories(samples, pick_stories(stories.training, len(samples))["text"])
    groups = {"people": whole} | {name: damage(whole) for name, damage in DAMAGES.items()}
    groups["copies, every 7th word"] = DAMAGES["every 7th word"](copies)
    groups |= {name: apply(damage, whole) for name, damage in OTHER_DAMAGES.items()}
    measured = measure_groups(groups, held_out, stories.training, available_metrics(critic), critic)
    for found in measured.values():
        del found["copies"], found["nonsense"]
    people = measured.pop("people")
    floors = list(model["floors"].values())
    stand(people, measured, floors)
    return people, measured


def stand(people: dict, damages: dict[str, dict], floors: list[Values]) -> None:
    """Add overall numbers, all compared with whole stories: one without its end is not measured by its length."""
    for found in [people, *damages.values()]:
        found["metrics"]["overall"] = as_json(overall(found["metrics"], floors, people["human"]))


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


def step_of(folder: str) -> str:
    state = read_json(Path(folder) / "trainer_state.json")
    if state is None:
        raise SystemExit(f"{folder}: no trainer_state.json, so its step is not known")
    return str(state["global_step"])


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
        for head, model in zip(HEADS[3:-1], models.values(), strict=True)
    ]
    return [
        f"{data['stories']:,} held-out stories, {data['bytes']:,} bytes, SHA-256 {data['sha256'][:12]}; "
        f"{settings['prompts']} beginnings, preset {settings['presets'][0]}, seeds {settings['seeds']}, at most "
        f"{settings['max_new_tokens']} new tokens; at most {settings['pairs']} pairs a rule.",
        "; ".join(described) + f". Critic: {record['critic']['model']}, which does not judge itself.",
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
        ("overall", overall_lines(record)),
        ("damages", damage_table(record, other=False)),
        ("other damages", damage_table(record, other=True)),
        ("checkpoints", checkpoint_table(record)),
        ("penalties", penalties(record)),
        ("noise", noise()),
        ("peer", peer(record)),
    ):
        begin, end = f"<!-- {name}: numbers -->", f"<!-- {name}: end -->"
        before, _, rest = document.partition(begin)
        document = "\n".join([before + begin, "", *lines, "", end + rest.partition(end)[2]])
    return document


def bars() -> list[Metric]:
    return [metric for metric in all_metrics() if not metric.alarm]


def useless(record: dict) -> list[str]:
    """Metrics, without alarms, for which the model is not clearly nearer to people than all floors are."""
    found = []
    for metric in bars():
        values, people = record["metrics"][metric.name], record["metrics"][metric.name].get("people")
        floors = [values[name] for name in ("untrained", "nonsense", "shifted") if values.get(name)]
        ours = values["model"]
        nearer = all(distance(metric, ours, people) < distance(metric, floor, people) for floor in floors)
        apart = all(ours["low"] > floor["high"] or ours["high"] < floor["low"] for floor in floors)
        if not (nearer and apart):
            found.append(metric.name)
    return found


def near_people(record: dict) -> list[str]:
    """Bars on which a floor or the shifted model is within people's interval, or better than it: "metric: column"."""
    found = []
    for metric in bars():
        for column in ("untrained", "nonsense", "shifted"):
            value = record["metrics"][metric.name].get(column)
            people = record["people"].get(column, {}).get(metric.name) or record["metrics"][metric.name].get("people")
            if value and people and not worse(metric, value, people, of_value=False):
                found.append(f"{metric.name}: {column}")
    return found


def worse(metric: Metric, value: dict, people: dict, of_value: bool = True) -> bool:
    """Whether a value is outside people's interval in the bad direction; with `of_value`, its whole interval is."""
    low, high = (value["low"], value["high"]) if of_value else (value["value"], value["value"])
    above, below = low > people["high"], high < people["low"]
    return above or below if metric.good == LIKE_HUMAN else above if metric.good == "lower" else below


def disordered(record: dict) -> list[str]:
    """Bars on which the first, the middle and the last checkpoint of the run are not in this order.

    The last must be nearer to people than the first. Neighbours may be equal, or apart by less than their intervals
    say, where both have reached the end of the scale.
    """
    steps = sorted(record["checkpoints"], key=int)
    chosen = [record["checkpoints"][steps[i]] for i in (0, len(steps) // 2, -1)]
    found = []
    for metric in bars():
        values = [(one["metrics"][metric.name], one) for one in chosen if one["metrics"].get(metric.name)]
        far = [distance(metric, value, one["people"].get(metric.name)) for value, one in values]
        backwards = [
            later > earlier and (last["low"] > first["high"] or last["high"] < first["low"])
            for (first, _), (last, _), earlier, later in zip(values, values[1:], far, far[1:], strict=False)
        ]
        if any(backwards) or (far and far[-1] >= far[0]):
            found.append(metric.name)
    return found


def seen(record: dict) -> dict[str, list[str]]:
    """By damage: the bars whose interval is apart from people's, in the bad direction. The overall number is apart."""
    bars_of_texts = [metric for metric in METRICS if not metric.alarm]
    return {
        name: [
            metric.name for metric in bars_of_texts if sees(metric, found["metrics"], record["undamaged"]["metrics"])
        ]
        for name, found in record["damages"].items()
    }


def unseen(record: dict) -> list[str]:
    return [name for name, by in seen(record).items() if not by]


def sees(metric: Metric, damaged: Values, people: Values) -> bool:
    value, theirs = damaged.get(metric.name), people.get(metric.name)
    return value is None or (theirs is not None and worse(metric, value, theirs))


def damage_table(record: dict, other: bool) -> list[str]:
    """A row for each damage and a column for each bar of texts; bold where people's undamaged stories are apart.

    other: the damages that no metric was made for.
    """
    metrics = [
        metric for metric in all_metrics() if metric.name == "overall" or (metric in METRICS and not metric.alarm)
    ]
    people = record["undamaged"]["metrics"]
    lines = [f"| damage | {' | '.join(metric.title for metric in metrics)} |", f"|---{'|---:' * len(metrics)}|"]
    for name, found in {"none": record["undamaged"], **record["damages"]}.items():
        if name != "none" and (name in OTHER_DAMAGES) != other:
            continue
        values = [(metric, found["metrics"].get(metric.name)) for metric in metrics]
        texts = [f"{value['value']:.3g}" if value else "none" for _, value in values]
        bold = [name != "none" and sees(metric, found["metrics"], people) for metric in metrics]
        cells = [f"**{text}**" if apart else text for text, apart in zip(texts, bold, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def checkpoint_table(record: dict) -> list[str]:
    """A row for each bar and a column for each checkpoint of one run; people's value at its lengths in brackets."""
    steps = sorted(record["checkpoints"], key=int)
    lines = [f"| metric | {' | '.join(f'step {step}' for step in steps)} |", f"|---{'|---:' * len(steps)}|"]
    for metric in bars():
        cells = []
        for step in steps:
            one = record["checkpoints"][step]
            value, people = one["metrics"].get(metric.name), one["people"].get(metric.name)
            brackets = f" ({people['value']:.3g})" if people and metric.good == LIKE_HUMAN else ""
            cells.append((f"{value['value']:.3g}" if value else "none") + brackets)
        lines.append(f"| {metric.title} | {' | '.join(cells)} |")
    return lines


def overall_lines(record: dict) -> list[str]:
    names = dict(zip(COLUMNS, HEADS[1:], strict=True))
    values = {names[name]: value for name, value in record["metrics"]["overall"].items() if value}
    lines = [f"| {name} | {cell(value)} |" for name, value in sorted(values.items(), key=lambda one: one[1]["value"])]
    return ["| texts of | overall |", "|---|---:|", *lines]


if __name__ == "__main__":
    main()
