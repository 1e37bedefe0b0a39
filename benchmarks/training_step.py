"""One optimizer step: this project's against transformers' own Llama under its own Trainer, and the public run_clm.py.

    python benchmarks/training_step.py --run_clm run_clm.py --write     # about six minutes on two cores
    python benchmarks/training_step.py --device cuda --write            # about four minutes on one H100
    python benchmarks/training_step.py --sizes 1m --turns 3             # a small trial

Both sides train a network of the same sizes on the same random rows, in the same order, dtype and compilation. Each
side is a process of its own that takes a few steps and waits while the others take theirs: other load on the machine
affects all alike. A step is everything from the end of one to the end of the next: data, forward, backward, clipping,
optimizer, callbacks and guards. The first steps, which compile and which the guards watch, are not counted.

run_clm.py is transformers' examples/pytorch/language-modeling/run_clm.py: float32, without compilation, its default
batch, on a file of stories. It runs between the turns of the others.

`--profile` adds where the time of a step goes. The records are docs/results/training_step.json and
training_step_gpu.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.provenance import Stopwatch, provenance


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
BLOCK = 512
SEED = 42
WARM_UP = 3  # turns
REPORT = "turn: "  # begins the lines of a process that are for this script
RECIPES = {
    "1m": "configs/ladder/tinystories-1m.yaml",
    "5.9m": "configs/tinystories-cpu.yaml",
    "24.6m": "configs/tinystories-24m.yaml",
    "110m": "configs/ladder/tinystories-110m.yaml",
}
# The same for both sides. Of the recipes, what a Llama has: all of each head rotated, no dropout, AdamW.
OPTIONS = {
    "partial_rotary_factor": 1.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "optimizer": "adamw",
    "gradient_accumulation_steps": 1,
    "max_steps": 100_000,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-4,
    "warmup_steps": 0,
    "logging_steps": 20,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "disable_tqdm": True,
    "seed": SEED,
}
VOCABULARIES = {"1m": 1024, "5.9m": 4096, "24.6m": 10000, "110m": 10000}
GOAL_OVER_STOCK, GOAL_OVER_RUN_CLM, GOAL_DROPOUT, GOAL_MFU = 1.15, 3.0, 1.10, 0.45


# --- A process that trains: it takes a turn when it is told to -------------------------------------------------------


def train(settings: dict[str, Any]) -> None:
    """Train with one side's Trainer, as `Turns` says, in a folder that is removed."""
    import torch
    from transformers import set_seed

    with tempfile.TemporaryDirectory() as folder:
        set_seed(SEED)
        trainer = our_trainer(settings, folder) if settings["side"] == "ours" else stock_trainer(settings, folder)
        flops = flops_of(trainer.model) if settings["side"] == "ours" else 0
        trainer.add_callback(turns_callback(trainer, settings, flops))
        try:
            trainer.train()
        except EOFError:  # this script has ended
            torch.set_num_threads(1)


def flops_of(model: Any) -> float:
    from tinystories.training.environment import flops_per_token

    return flops_per_token(model, BLOCK)


def random_rows(settings: dict[str, Any]) -> Any:
    import datasets
    import numpy as np

    ids = np.random.default_rng(SEED).integers(3, settings["vocabulary"], (settings["rows"] * 150, BLOCK))
    return datasets.Dataset.from_dict({"input_ids": ids.astype(np.uint16)}).with_format("numpy")


def a_tokenizer(vocabulary: int) -> Any:
    """Words of one number each; nothing is tokenized in a step."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    words = [*special.values(), *map(str, range(3, vocabulary))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="3"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def recipe_of(settings: dict[str, Any], folder: str) -> Any:
    from tinystories.config.recipe import read_recipe

    options = OPTIONS | {
        "output_dir": folder,
        "bf16": settings["dtype"] == "bf16",
        "torch_compile": settings["compile"],
        "attention_dropout": settings["attention_dropout"],
        "per_device_train_batch_size": settings["rows"],
        "use_cpu": settings["device"] == "cpu",
        "dataloader_num_workers": 0 if settings["device"] == "cpu" else 2,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value).lower())]
    words[words.index("--output_dir") + 1] = folder
    return read_recipe([str(ROOT / RECIPES[settings["size"]]), *words])


def our_trainer(settings: dict[str, Any], folder: str) -> Any:
    from tinystories.checkpoint.loading import new_model
    from tinystories.data.packing import PackedRows
    from tinystories.evaluation.scoring import ScoringRows
    from tinystories.training.trainer import StoryTrainer

    recipe, tokenizer = recipe_of(settings, folder), a_tokenizer(settings["vocabulary"])
    model = new_model(recipe.model, tokenizer, BLOCK)
    packed = PackedRows(random_rows(settings), report={}, key="")
    nothing = ScoringRows([], 0, 0)
    return StoryTrainer(model, tokenizer, recipe, packed, nothing, nothing, data_report={})


def stock_trainer(settings: dict[str, Any], folder: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

    recipe = recipe_of(settings, folder)
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = LlamaConfig(
        **{name: getattr(recipe.model, name) for name in sizes},
        vocab_size=settings["vocabulary"],
        max_position_embeddings=BLOCK,
        tie_word_embeddings=True,
        attention_dropout=settings["attention_dropout"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    same = ("output_dir", "bf16", "torch_compile", "per_device_train_batch_size", "use_cpu", "max_steps", "seed")
    same += ("lr_scheduler_type", "learning_rate", "logging_steps", "eval_strategy", "save_strategy", "disable_tqdm")
    same += ("adam_beta2", "weight_decay", "max_grad_norm", "dataloader_num_workers")
    arguments = TrainingArguments(**{name: getattr(recipe.training, name) for name in same}, report_to="none")
    rows = random_rows(settings).map(lambda batch: {"labels": batch["input_ids"]}, batched=True).with_format("torch")
    return Trainer(LlamaForCausalLM(config), arguments, default_data_collator, rows)


def turns_callback(trainer: Any, settings: dict[str, Any], flops: float) -> Any:
    """Waits for a line on stdin before each turn: `go`, `profile`, `syncs`; ends the training at the end of stdin."""
    import torch
    from transformers import TrainerCallback

    on_gpu = settings["device"] == "cuda"

    class Turns(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.left, self.stack = 0, ExitStack()
            self.parameters = sum(weight.numel() for weight in trainer.model.parameters())
            self.begin(control)

        def begin(self, control):
            word = sys.stdin.readline().strip()
            if not word:
                control.should_training_stop = True
                return
            self.left, self.found, self.stack = settings["steps"], {}, ExitStack()
            if word == "syncs" and on_gpu:
                self.stack.enter_context(counted_syncs(self.found))
            if word == "profile":
                self.stack.enter_context(profiled(self.found, settings["steps"], on_gpu))
            self.clock, self.own = time.perf_counter(), time.process_time()

        def on_step_end(self, args, state, control, **kwargs):
            self.left -= 1
            if self.left > 0:
                return
            if on_gpu:
                torch.cuda.synchronize()
            steps = settings["steps"]
            seconds = (time.perf_counter() - self.clock) / steps
            own = (time.process_time() - self.own) / steps
            self.stack.close()
            report = {"seconds": seconds, "processor_seconds": own, "peak_bytes": peak_memory(on_gpu)}
            report |= {"parameters": self.parameters, "flops_per_token": flops} | self.found
            print(REPORT + json.dumps(report), flush=True)
            self.begin(control)

    return Turns()


def peak_memory(on_gpu: bool) -> int:
    """Bytes: the most of tensors on a GPU so far; elsewhere what the process holds at the end of a turn."""
    import torch

    if on_gpu:
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


class counted_syncs(ExitStack):
    """Count where the host waits for the GPU, by the line of Python that does."""

    def __init__(self, found: dict[str, Any]):
        super().__init__()
        self.found = found

    def __enter__(self):
        import torch

        caught = self.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

        def done() -> None:
            torch.cuda.set_sync_debug_mode("default")
            places = Counter(
                f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)
            )
            self.found["syncs"] = dict(places)

        self.callback(done)
        return self


class profiled(ExitStack):
    """The operators that take the most time, in milliseconds of a step."""

    def __init__(self, found: dict[str, Any], steps: int, on_gpu: bool):
        super().__init__()
        self.found, self.steps, self.on_gpu = found, steps, on_gpu

    def __enter__(self):
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CUDA] if self.on_gpu else []
        profiler = profile(activities=[ProfilerActivity.CPU, *kinds])
        self.callback(lambda: self.found.update(profile=self.rows(profiler)))
        self.enter_context(profiler)
        return self

    def rows(self, profiler: Any) -> list[dict[str, Any]]:
        name = "self_device_time_total" if self.on_gpu else "self_cpu_time_total"
        events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, name))
        total = sum(getattr(event, name) for event in events) or 1.0
        return [
            {
                "operator": plain_name(event.key),
                "milliseconds": round(getattr(event, name) / self.steps / 1e3, 3),
                "share": round(getattr(event, name) / total, 4),
                "calls": round(event.count / self.steps, 1),
            }
            for event in events[:12]
        ]


def plain_name(operator: str) -> str:
    """Without the hash in the name of a compiled graph."""
    return "compiled kernels" if operator.startswith("## Call CompiledFxGraph") else operator[:70]


# --- The script that gives the turns ---------------------------------------------------------------------------------


class Side:
    """A process that trains, between turns stopped."""

    def __init__(self, name: str, settings: dict[str, Any]):
        self.name, self.settings, self.turns = name, settings, []
        command = [sys.executable, __file__, "--train", json.dumps(settings)]
        environment = os.environ | {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
        self.log = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            encoding="utf-8",
            env=environment,
        )

    def begin(self, word: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(REPORT):
                return json.loads(line.removeprefix(REPORT))
        self.log.seek(0)
        sys.exit(f"{self.name} ended: {self.log.read()[-3000:]}")

    def turn(self, word: str = "go") -> dict[str, Any]:
        self.begin(word)
        return self.end()

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()

    @property
    def tokens(self) -> int:
        return self.settings["rows"] * BLOCK

    def seconds(self) -> list[float]:
        return [turn["seconds"] for turn in self.turns]


def measure(given: argparse.Namespace, size: str, variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Turns of all variants of a size, and between them run_clm.py."""
    with ExitStack() as stack:
        sides = []
        for name, variant in variants.items():
            side = Side(f"{name} at {size}", variant)
            stack.callback(side.close)
            sides.append((name, side))
        for _, side in sides:  # all compile at the same time
            side.begin()
        for _, side in sides:
            side.end()
        for _ in range(WARM_UP - 1):
            for _, side in sides:
                side.turn()
        clm: list[float] = []
        for turn in range(given.turns):
            for _, side in sides if turn % 2 == 0 else reversed(sides):
                side.turns.append(side.turn())
            if turn == given.turns // 2 and given.run_clm:
                clm = run_clm(given, size)
        found = {name: describe(side) for name, side in sides}
        for name, side in sides:
            if given.device == "cuda":
                found[name]["syncs_in_a_turn"] = side.turn("syncs").get("syncs")
            if given.profile:
                found[name]["profile"] = side.turn("profile").get("profile")
    if clm:
        rows = given.rows or 8
        found["run_clm.py"] = {"rows": rows, "seconds": clm, "tokens_per_second": rows * BLOCK / statistics.median(clm)}
    return found


def describe(side: Side) -> dict[str, Any]:
    last = side.turns[-1]
    return {
        **{name: side.settings[name] for name in ("rows", "dtype", "compile", "attention_dropout")},
        "seconds": side.seconds(),
        "processor_seconds": [turn["processor_seconds"] for turn in side.turns],
        "tokens_per_second": side.tokens / statistics.median(side.seconds()),
        "peak_bytes": last["peak_bytes"],
        "parameters": last["parameters"],
        "flops_per_token": last["flops_per_token"],
    }


def run_clm(given: argparse.Namespace, size: str) -> list[float]:
    """Seconds of the steps of the public script, without its first two."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "stories.txt")
        text.write_text("12 34 56 78 90 11 13 15 17 19 21 23\n" * (BLOCK * 4 * given.clm_steps), encoding="utf-8")
        a_tokenizer(VOCABULARIES[size]).save_pretrained(folder)
        recipe = recipe_of(variant_of(given, size, "stock"), folder)
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        model = {name: getattr(recipe.model, name) for name in sizes}
        model |= {"num_key_value_heads": recipe.model.num_attention_heads, "vocab_size": VOCABULARIES[size]}
        options = {
            "model_type": "llama",
            "config_overrides": ",".join(f"{name}={value}" for name, value in model.items()) + ",tie_word_embeddings=1",
            "tokenizer_name": folder,
            "train_file": text,
            "output_dir": Path(folder, "run"),
            "block_size": BLOCK,
            "max_steps": given.clm_steps,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
        } | ({"per_device_train_batch_size": given.rows} if given.rows else {})
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        command = [sys.executable, given.run_clm, *words, "--do_train"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", env=environment
        )
        assert process.stdout is not None
        lines, times = [], []
        for line in process.stdout:
            lines.append(line)
            if "'loss': " in line or '"loss": ' in line:
                times.append(time.perf_counter())
        if process.wait() or len(times) < 4:
            sys.exit(f"{given.run_clm} ended with {process.returncode}: {''.join(lines)[-3000:]}")
    return [later - earlier for earlier, later in pairwise(times[1:])]


def variant_of(given: argparse.Namespace, size: str, side: str, **changes: Any) -> dict[str, Any]:
    on_gpu = given.device == "cuda"
    rows = given.rows or ({"1m": 256, "5.9m": 256, "24.6m": 128, "110m": 64}[size] if on_gpu else 8)
    return {
        "side": side,
        "size": size,
        "device": given.device,
        "vocabulary": VOCABULARIES[size],
        "rows": rows,
        "steps": given.steps or (10 if on_gpu else 1),
        "dtype": "bf16",
        "compile": True,
        "attention_dropout": 0.0,
    } | changes


def variants_of(given: argparse.Namespace, size: str) -> dict[str, dict[str, Any]]:
    plain = {"dtype": given.dtype, "compile": not given.eager}
    return {
        "ours": variant_of(given, size, "ours", **plain),
        "stock": variant_of(given, size, "stock", **plain),
        "ours, attention dropout": variant_of(given, size, "ours", **plain, attention_dropout=0.1),
    }


def ratio(faster: list[float], slower: list[float]) -> dict[str, float]:
    """Of the medians, and the quartiles of the ratios turn by turn. Seconds."""
    pairs = [one / other for one, other in zip(slower, faster, strict=True)]
    low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else (pairs[0],) * 3
    return with_spread(statistics.median(slower) / statistics.median(faster), low, high)


def with_spread(middle: float, low: float, high: float) -> dict[str, float]:
    """The ratio of two medians may lie outside of the quartiles of the turns, which then reach up to it."""
    return {"ratio": round(middle, 3), "low": round(min(low, middle), 3), "high": round(max(high, middle), 3)}


def goals_of(size: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    ours, goals = found["ours"], []
    if "stock" in found:
        seconds = found["stock"]["seconds"]
        goal = f"training step at {size} parameters: times stock Llama under the stock Trainer"
        goals.append({"goal": goal, "at_least": GOAL_OVER_STOCK} | ratio(ours["seconds"], seconds))
    if "ours, attention dropout" in found:
        slower = found["ours, attention dropout"]["seconds"]
        goal = f"training step at {size} parameters: attention dropout 0.1, times the step without"
        goals.append({"goal": goal, "at_most": GOAL_DROPOUT} | ratio(ours["seconds"], slower))
    if "run_clm.py" in found:
        clm = found["run_clm.py"]
        a_token = [seconds / clm["rows"] for seconds in clm["seconds"]]
        mine = [seconds / ours["rows"] for seconds in ours["seconds"]]
        middle = statistics.median(mine)
        low, _, high = statistics.quantiles([one / middle for one in a_token], n=4)
        times = with_spread(statistics.median(a_token) / middle, low, high)
        goal = f"training at {size} parameters: times the public run_clm.py as a user runs it"
        goals.append({"goal": goal, "at_least": GOAL_OVER_RUN_CLM} | times)
    return goals


def mfu(one: dict[str, Any], flops: float, peak: float) -> float:
    return one["tokens_per_second"] * flops / peak


def mfu_goal(size: str, ours: dict[str, Any], peak: float) -> dict[str, Any]:
    shares = [ours["rows"] * BLOCK / seconds * ours["flops_per_token"] / peak for seconds in ours["seconds"]]
    low, middle, high = statistics.quantiles(shares, n=4)
    numbers = {"ratio": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}
    return {"goal": f"MFU at {size} parameters, of the measured peak", "at_least": GOAL_MFU} | numbers


def tables_of(sizes: dict[str, Any], peaks: dict[str, float]) -> list[dict[str, Any]]:
    columns = ["parameters", "variant", "rows", "dtype", "compiled", "ms a step", "tokens/s", "MFU", "peak memory, GB"]
    rows, profile = [], []
    for size, found in sizes.items():
        flops = found["ours"]["flops_per_token"]
        for name, one in found.items():
            kind = one.get("dtype", "float32")
            rows.append(
                [
                    found["ours"]["parameters"],
                    name,
                    one["rows"],
                    kind,
                    "yes" if one.get("compile") else "no",
                    round(1e3 * statistics.median(one["seconds"]), 1),
                    round(one["tokens_per_second"]),
                    round(mfu(one, flops, peaks["bf16" if kind == "bf16" else "float32"]), 3),
                    round(one["peak_bytes"] / 1e9, 2) if one.get("peak_bytes") else "",
                ]
            )
            profile += [
                [size, name, row["operator"], row["milliseconds"], row["share"], row["calls"]]
                for row in one.get("profile") or []
            ]
    tables = [{"title": f"One training step, rows of {BLOCK} tokens", "columns": columns, "rows": rows}]
    if profile:
        columns = ["size", "variant", "operator", "ms a step", "share", "calls a step"]
        tables.append({"title": "Where the time of a step goes", "columns": columns, "rows": profile})
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=list(RECIPES), help="default: all that the device is made for")
    parser.add_argument("--rows", type=int, help="of a batch (default: 8 on a CPU, what fills a card of 80 GB)")
    parser.add_argument("--dtype", choices=["bf16", "float32"], default="bf16")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--turns", type=int, default=9, help="of each variant")
    parser.add_argument("--steps", type=int, help="of a turn (default: 1 on a CPU, 10 on a GPU)")
    parser.add_argument("--run_clm", help="the public script")
    parser.add_argument("--clm_steps", type=int, default=7, help="of the public script")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--write", action="store_true", help="write the record into docs/results")
    given = parser.parse_args()
    if given.train:
        train(given.train)
        return
    import torch

    from tinystories.training.environment import measured_peak

    began, device = Stopwatch(), torch.device(given.device)
    peaks = {name: measured_peak(device, getattr(torch, kind), 1.0) for name, kind in DTYPES.items()}
    sizes, goals = {}, []
    for size in given.sizes or (["24.6m", "110m"] if given.device == "cuda" else ["1m", "5.9m", "24.6m"]):
        sizes[size] = found = measure(given, size, variants_of(given, size))
        goals += goals_of(size, found)
        if given.device == "cuda":
            goals.append(mfu_goal(size, found["ours"], peaks[given.dtype]))
        for goal in goals[-4:]:
            print(json.dumps(goal), file=sys.stderr)
    record = {
        "provenance": provenance(began, SEED, {}),
        "peak_flops": peaks,
        "sizes": sizes,
        "tables": tables_of(sizes, peaks),
        "goals": goals,
        "did_not_help": [],
    }
    print(json.dumps(record, indent=1))
    if given.write:
        name = "training_step_gpu.json" if given.device == "cuda" else "training_step.json"
        (RESULTS / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


DTYPES = {"bf16": "bfloat16", "float32": "float32"}


if __name__ == "__main__":
    main()
