"""Test what others say about training on TinyStories: each claim against one base recipe, three seeds, equal FLOPs.

    python benchmarks/claims.py --train_file train.txt --validation_file valid.txt --jobs 8
    python benchmarks/claims.py --train_file train.txt --validation_file valid.txt --quick --record quick.json
    python benchmarks/claims.py --render

Each run is a process of claims_run.py and trains for the same number of floating-point operations. The record is
written after each run, and what it holds is not trained again, so that the command can be stopped and started again.
--quick trains tiny models for a few steps, to see that everything works; its numbers say nothing. --render trains
nothing: it writes the tables of docs/claims.md and, with matplotlib, the figures from the record.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

from transformers import PreTrainedTokenizerBase

from benchmarks.claims_report import FIGURES, draw, with_blocks
from benchmarks.claims_run import MEASURES
from benchmarks.recipe_runs import ROOT, Run, as_option, first_stories, train
from tinystories.atomic import write_atomically
from tinystories.checkpoint.loading import new_model
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.config.recipe import read_recipe
from tinystories.console import set_up_logging
from tinystories.data.corpus import Corpus, load_corpus
from tinystories.data.tokenizer import load_tokenizer, train_tokenizer
from tinystories.evaluation.estimates import as_json
from tinystories.evaluation.text import determiners
from tinystories.evaluation.text.samples import Sample
from tinystories.provenance import Stopwatch, hash_files, provenance
from tinystories.training.environment import flops_per_token


RECORD = ROOT / "docs" / "results" / "claims.json"
DOCUMENT = ROOT / "docs" / "claims.md"
SCRIPT = ROOT / "benchmarks" / "claims_run.py"
SEEDS = (1, 2, 3)
BUDGET = 1e12  # FLOPs of a run: about a quarter of a minute of one core
STORIES_EACH = 3  # for each of the evaluation's prompts
FEW_STORIES = 143  # a hundredth of the text, for what is said about repeated text
VALIDATION = 500  # stories, the first, on which every run is scored
RECIPE = {
    "block_size": 512,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 16,
    "optimizer": "muon",
    "muon_momentum": 0.9,
    "learning_rate": 6.5e-3,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": {"num_decay_steps": 0.2, "decay_type": "1-sqrt"},
    "warmup_steps": 0.05,
    "max_grad_norm": 1.0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 20,
    "max_loss_spike": 0,
    "dataloader_drop_last": True,  # every step costs the same
}
QUICK = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
QUICK_BUDGET, QUICK_STORIES, QUICK_VALIDATION = 1.5e11, 2_000, 200
VOCABULARY = 4096
DROPOUT = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attention_dropout"), 0.1)


@dataclass(frozen=True)
class Arm:
    """What a run does otherwise than the base.

    keys: of its recipe. halves: keys of the base that it halves (True) or doubles (False), so that a step keeps its
    tokens. writes: its stories are measured. faulty: the guards stop it.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    vocabulary: int = VOCABULARY
    halves: dict[str, bool] = field(default_factory=dict)
    writes: bool = False
    faulty: bool = False

    def recipe(self, base: dict[str, Any]) -> dict[str, Any]:
        changed = {key: base[key] // 2 if half else base[key] * 2 for key, half in self.halves.items()}
        return base | changed | self.keys


ARMS = {
    "base": Arm(writes=True),
    "vocabulary_10k": Arm(vocabulary=10_000, writes=True),
    "vocabulary_32k": Arm(vocabulary=32_000, writes=True),
    "weighted_articles": Arm({"variant": "weighted_articles"}, writes=True, faulty=True),
    "half_rotary": Arm({"partial_rotary_factor": 0.5}),
    "shifted_twice": Arm({"variant": "shifted_twice"}, writes=True, faulty=True),
    "no_eos": Arm({"variant": "no_eos"}, writes=True, faulty=True),
    "one_story_a_row": Arm({"variant": "one_story_a_row", "align_to_stories": True}),
    "first_fit_rows": Arm({"align_to_stories": True}),
    "half_context": Arm(halves={"block_size": True, "per_device_train_batch_size": False}),
    "dropout": Arm(DROPOUT),
    "few_stories": Arm({"max_train_samples": FEW_STORIES}),
    "few_stories_dropout": Arm({"max_train_samples": FEW_STORIES} | DROPOUT),
    "untied": Arm({"tie_word_embeddings": False}),
}


@dataclass
class Experiment:
    """The settings of all runs, and the tokenizers that they share. guarded: seeds whose runs have the guards."""

    data: dict[str, Any]
    work_dir: Path
    budget: float
    base: dict[str, Any]
    stories_each: int
    seeds: tuple[int, ...] = SEEDS
    guarded: tuple[int, ...] = SEEDS[:1]
    corpus: Corpus = field(init=False)
    tokenizers: dict[int, PreTrainedTokenizerBase] = field(init=False)

    def __post_init__(self) -> None:
        self.data["data_cache_dir"] = str(self.work_dir / "cache")
        self.corpus = load_corpus(DataArguments(**self.data))
        sizes = sorted({arm.vocabulary for arm in ARMS.values()})
        self.tokenizers = {size: tokenizer_of_size(size, self.corpus, self.work_dir) for size in sizes}

    def plan(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keys of the recipe without a seed, and `facts_of` the arm."""
        arm = ARMS[name]
        facts = facts_of(arm, self.base, self.tokenizers[arm.vocabulary], self.budget)
        keys = arm.recipe(self.base) | self.data | {"tokenizer_name": tokenizer_folder(self.work_dir, arm.vocabulary)}
        return keys | {"max_steps": facts["steps"]}, facts

    def run(self, name: str, seed: int, keys: dict[str, Any], compiled: bool) -> Run:
        """The guards look at one seed of each arm that they let through; a run without them is the same run."""
        arm = ARMS[name]
        skipped = arm.faulty or seed not in self.guarded
        keys = keys | {"seed": seed, "skip_guards": skipped, "torch_compile": compiled}
        return Run(f"{name}-{seed}", keys | ({"stories_each": self.stories_each} if arm.writes else {}))


def facts_of(arm: Arm, base: dict[str, Any], tokenizer: PreTrainedTokenizerBase, budget: float) -> dict[str, Any]:
    """How large the model is, what it costs, and how many steps fit into the budget. A padded place costs as much as a
    token."""
    keys = arm.recipe(base)
    recipe = read_recipe(options({key: value for key, value in keys.items() if key != "variant"}))
    model = new_model(recipe.model, tokenizer, recipe.data.block_size)
    cost = flops_per_token(model, recipe.data.block_size)
    places = keys["block_size"] * keys["per_device_train_batch_size"]
    steps = int(budget // (cost * places))
    if not steps:
        sys.exit(f"a budget of {budget:g} does not pay for one step of {cost * places:g} floating-point operations")
    return {
        "keys": {key: value for key, value in keys.items() if base.get(key) != value},
        "vocabulary": arm.vocabulary,
        "parameters": model.num_parameters(),
        "flops_per_token": cost,
        "steps": steps,
        "places": steps * places,
        "flops": steps * places * cost,
    }


def options(keys: dict[str, Any]) -> list[str]:
    return [word for key, value in keys.items() for word in (f"--{key}", as_option(value))]


def tokenizer_folder(work_dir: Path, size: int) -> str:
    return str(work_dir / f"tokenizer-{size}")


def tokenizer_of_size(size: int, corpus: Corpus, work_dir: Path) -> PreTrainedTokenizerBase:
    """Trained on the training stories. Where these give fewer tokens, the others are never used, as most of a
    vocabulary that was made for other texts."""
    folder = tokenizer_folder(work_dir, size)
    train_tokenizer(corpus.train, TokenizerArguments(vocab_size=size)).save_pretrained(folder)
    file = Path(folder, "tokenizer.json")
    contents = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = contents["model"]["vocab"]
    vocabulary |= {f"<unused {number}>": number for number in range(len(vocabulary), size)}
    file.write_text(json.dumps(contents, ensure_ascii=False), encoding="utf-8")
    return load_tokenizer(folder)


def read_measures(work_dir: Path, name: str) -> dict[str, Any]:
    """What a run folder says beside what recipe_runs.py reads."""
    folder = work_dir / name
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    scores = ("loss", "text_bits_per_byte", "article_loss", "other_loss")
    read = {score: results[f"eval_{score}"] for score in scores}
    logged = [row["loss"] for row in history if "loss" in row]
    read["last_training_loss"] = logged[-1] if logged else None
    if (folder / MEASURES).exists():
        read["stories_written"] = json.loads((folder / MEASURES).read_text(encoding="utf-8"))
    return read


def refusal(name: str, keys: dict[str, Any], work_dir: Path) -> dict[str, Any]:
    """How a run of a faulty arm ends with the guards, on few stories."""
    keys = keys | {"seed": SEEDS[0], "max_train_samples": 300, "output_dir": work_dir / f"{name}-with-guards"}
    command = [sys.executable, str(SCRIPT), *options(keys), "--overwrite_output_dir", "--disable_tqdm", "true"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    return {"exit_status": process.returncode, "message": process.stderr.strip().splitlines()[-1]}


def measure(experiment: Experiment, record: dict[str, Any], path: Path, jobs: int, compiled: bool) -> None:
    """Train what the record lacks, and write the record after each run."""
    work_dir = experiment.work_dir
    plans = {name: experiment.plan(name) for name in ARMS}
    settings = json.loads(json.dumps({"budget": experiment.budget, "base": experiment.base, "seeds": experiment.seeds}))
    settings["arms"] = {name: facts for name, (_, facts) in plans.items()}
    files = {role: Path(experiment.data[f"{role}_file"]) for role in ("train", "validation")}
    data = {role: {"source": file.name, **hash_files([file])} for role, file in files.items()}
    began, fresh = Stopwatch(), "provenance" not in record
    if not fresh and {key: record[key] for key in settings} | record["provenance"]["data"] != settings | data:
        sys.exit(f"{path} was made with other settings or texts: name another --record, or move it away")
    record |= settings | {"runs": record.get("runs", []), "refused": record.get("refused", {})}

    def write() -> None:
        if fresh:  # one session so far: its time is that of all runs
            record["provenance"] = provenance(began, list(experiment.seeds), data)
        record["runs"].sort(key=lambda run: (list(ARMS).index(run["arm"]), run["seed"]))
        write_atomically(path, as_text(record))

    def keep(name: str, result: dict[str, Any]) -> None:
        arm, seed = name.rsplit("-", 1)
        record["runs"].append({"arm": arm, "seed": int(seed)} | result | read_measures(work_dir, name))
        write()

    record["people"] = people(experiment.corpus)
    refused = [name for name, arm in ARMS.items() if arm.faulty and name not in record["refused"]]
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda name: refusal(name, plans[name][0], work_dir), refused)
        record["refused"] |= dict(zip(refused, found, strict=True))
    write()
    done = {(run["arm"], run["seed"]) for run in record["runs"]}
    wanted = [(name, seed) for seed in experiment.seeds for name in ARMS if (name, seed) not in done]
    runs = [experiment.run(name, seed, plans[name][0], compiled) for name, seed in wanted]
    train(runs, work_dir, jobs, SCRIPT, keep)


def people(corpus: Corpus) -> dict[str, Any]:
    """How people use articles, in the held-out stories."""
    stories = [Sample("", text, True, "people", 0) for text in corpus.validation["text"]]
    return {
        "missing_articles": as_json(determiners.missing(stories)),
        "doubled_articles": as_json(determiners.doubled(stories)),
    }


def as_text(record: dict[str, Any]) -> str:
    """One run and one arm on each line, for readable diffs."""
    heads = {key: value for key, value in record.items() if key not in ("arms", "runs")}
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in heads.items()]
    arms = ",\n".join(f"    {json.dumps(name)}: {json.dumps(facts)}" for name, facts in record["arms"].items())
    runs = ",\n".join(f"    {json.dumps(run, ensure_ascii=False)}" for run in record["runs"])
    return "{\n" + ",\n".join([*lines, f'  "arms": {{\n{arms}\n  }}', f'  "runs": [\n{runs}\n  ]']) + "\n}\n"


def read_record(path: Path = RECORD) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def render(path: Path) -> None:
    record = read_record(path)
    DOCUMENT.write_text(with_blocks(DOCUMENT.read_text(encoding="utf-8"), record), encoding="utf-8", newline="\n")
    draw(record, FIGURES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_file", type=Path, help="a .txt file in which each story ends with <|endoftext|>")
    parser.add_argument("--validation_file", type=Path, help="the same format, held-out stories")
    parser.add_argument("--budget", type=float, default=BUDGET, help="floating-point operations of a run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--torch_compile", action="store_true", help="compile each model; pays for long runs only")
    parser.add_argument("--skip_guards", action="store_true", help="no run with the guards; else one of each sound arm")
    parser.add_argument("--quick", action="store_true", help="tiny models, a few steps: does everything work?")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / "claims", help="run folders and logs")
    parser.add_argument("--render", action="store_true", help="train nothing: write tables and figures from the record")
    given = parser.parse_args()
    if given.render:
        return render(given.record)
    if not (given.train_file and given.validation_file):
        parser.error("--train_file and --validation_file are needed")
    set_up_logging()
    work_dir = given.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    files = {"train_file": given.train_file.resolve(), "validation_file": given.validation_file.resolve()}
    files["validation_file"] = first_stories(
        files["validation_file"], VALIDATION, work_dir / f"first-{VALIDATION}-stories.txt"
    )
    settings = {"budget": given.budget, "base": RECIPE, "stories_each": STORIES_EACH}
    if given.quick:
        settings = {"budget": QUICK_BUDGET, "base": RECIPE | QUICK, "stories_each": 1}
        settings |= {"seeds": SEEDS[:2], "guarded": ()}
        settings["base"]["per_device_train_batch_size"] = 4
        for role, number in (("train_file", QUICK_STORIES), ("validation_file", QUICK_VALIDATION)):
            files[role] = first_stories(files[role], number, work_dir / files[role].name)
    if given.skip_guards:
        settings["guarded"] = ()
    experiment = Experiment({role: str(file) for role, file in files.items()}, work_dir, **settings)
    measure(experiment, read_record(given.record), given.record, given.jobs, given.torch_compile)


if __name__ == "__main__":
    main()
