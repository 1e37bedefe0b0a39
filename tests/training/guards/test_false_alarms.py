"""Honest runs that look odd: no guard stops any of them, from the first step to the final score.

Each trains and evaluates a few steps, since guards also watch the steps, the evaluations and the saved files.
"""

import json
import random

import pytest

from helpers.forked import fork_command
from helpers.runs import COUNTING, TINY, as_options, run_command


NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kit", "Lola"]
THINGS = ["boat", "kite", "lamp", "stone", "apple", "drum", "ladder", "spoon", "ribbon", "snail", "wheel", "hat"]
PLACES = ["by the sea", "on the hill", "in the barn", "under a tree", "at school", "in the snow"]
FEW_STEPS = TINY | {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "logging_steps": 2, "warmup_steps": 1}


def simple_story(number: int) -> str:
    draw = random.Random(number)
    name, thing, place, other = draw.choice(NAMES), draw.choice(THINGS), draw.choice(PLACES), draw.choice(THINGS)
    told = [
        f"{name} had a {thing} {place}.",
        f"One day the {thing} was gone, and {name} looked {draw.choice(PLACES)}.",
        f'"Is it behind the {other}?" asked {draw.choice(NAMES)}.',
        f"It was not, but there was a {draw.choice(THINGS)} {draw.choice(PLACES)}, number {number}.",
        f"They went home {draw.choice(PLACES)} and were glad.",
    ]
    return " ".join(told[: draw.randint(2, 5)])


def poem(number: int) -> str:
    draw, refrain = random.Random(number), "Row, row, over the water,\nrow till the morning comes."
    verses = (f"{draw.choice(NAMES)} took a {draw.choice(THINGS)}\nand hid it {draw.choice(PLACES)}." for _ in range(3))
    return "\n\n".join(f"{verse}\n{refrain}" for verse in verses)


def code(number: int) -> str:
    draw = random.Random(number)
    name, other = draw.choice(THINGS), draw.choice(THINGS)
    return (
        f"def {name}_{number}(items):\n    total = {draw.randint(0, 99)}\n    for {other} in items:\n"
        f"        if {other} > {draw.randint(0, 9)}:\n            total += {other}\n    return total"
    )


def chinese(number: int) -> str:
    draw = random.Random(number)
    who, what, where = (
        draw.choice("猫狗鸟鱼马"),
        draw.choice("花球书灯船"),
        draw.choice(["河边", "山上", "家里", "树下"]),
    )
    other = draw.choice("猫狗鸟鱼马")
    return (
        f"从前有一只小{who}。它住在{where}。它有一个{what}。它每天都很高兴。第{number}天来了一只{other}。它们一起玩。"
    )


def hindi(number: int) -> str:
    draw = random.Random(number)
    what = draw.choice(["किताब", "गेंद", "पतंग", "नाव"])
    return f"एक दिन {draw.choice(['राम', 'सीता', 'मीना'])} को {what} मिली। वह {number} दिन तक खेली। फिर सब घर गए।"


def stories(write, number: int = 240) -> list[str]:
    return [write(i) for i in range(number)]


# name -> stories, settings beside those of FEW_STEPS. A kind of text and settings share a run: a run takes seconds.
HONEST = {
    "poems with refrains, dropout everywhere": (
        stories(poem),
        {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attention_dropout": 0.1, "max_steps": 8}
        | {"eval_steps": 4, "save_steps": 4},
    ),
    "code, initializer 0.1, untied output": (stories(code), {"initializer_range": 0.1, "tie_word_embeddings": False}),
    "Chinese, grouped queries, a quarter rotated": (
        stories(chinese),
        {"vocab_size": 600, "num_attention_heads": 4, "num_key_value_heads": 2, "partial_rotary_factor": 0.25},
    ),
    "Hindi, stories apart": (
        stories(hindi),
        {"vocab_size": 400, "isolate_stories": True, "gradient_accumulation_steps": 2},
    ),
    "three stories": ([simple_story(i) for i in (3, 6, 9)], {"block_size": 8, "per_device_train_batch_size": 2}),
    "1,000 copies, no decay, no clip, no warm-up": (
        [simple_story(0)] * 1000 + [simple_story(1)] * 30,
        {"weight_decay": 0.0, "max_grad_norm": 0.0, "warmup_steps": 0, "lr_scheduler_type": "constant"},
    ),
    "one continuation": (
        [f"Story {i}. {COUNTING}" for i in range(200)],
        {"max_steps": 60, "eval_steps": 30, "save_steps": 30},
    ),
    "stories of one word, one head of width 4": (
        [f"{thing}{i}" for thing in THINGS for i in range(40)],
        {"hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1},
    ),
    "one story of thousands of tokens, Muon, accumulated, padded rows": (
        [*stories(simple_story), " ".join(simple_story(i) for i in range(5000, 5120))],
        {
            "optimizer": "muon",
            "gradient_accumulation_steps": 4,
            "per_device_train_batch_size": 2,
            "align_to_stories": True,
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": json.dumps({"num_decay_steps": 0.2, "decay_type": "1-sqrt"}),
        },
    ),
    "white space matters, loader with workers": (
        [f"  {simple_story(i)}\n\n\t{poem(i)}  \n" for i in range(150)],
        {"dataloader_num_workers": 2, "dataloader_drop_last": True},
    ),
    "260 tokens, rows of 8 tokens": (stories(simple_story), {"vocab_size": 260, "block_size": 8}),
    "rows of 700 tokens, Muon with normalized rows": (
        stories(simple_story, 600),
        {"block_size": 700, "per_device_train_batch_size": 2, "optimizer": "muon", "muon_normalization": "after"}
        | {"muon_momentum": 0.8, "muon_cautious_decay": True},
    ),
    "24 layers of width 16, the last weights": (
        stories(simple_story),
        {"num_hidden_layers": 24, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        | {"load_best_model_at_end": False, "eval_strategy": "no"},
    ),
    "fewer rows than a batch, bf16, recomputed": (
        stories(simple_story, 24),
        {"block_size": 64, "per_device_train_batch_size": 64, "bf16": True, "gradient_checkpointing": True},
    ),
}


def honest_run(folder, texts, **settings):
    corpus = folder / "stories.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    options = FEW_STEPS | {"train_file": corpus, "data_cache_dir": folder / "cache", "output_dir": folder / "run"}
    return fork_command("run_clm.py", *as_options(options | settings))


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_honest_run_passes(name, tmp_path):
    texts, settings = HONEST[name]
    process = honest_run(tmp_path, texts, **settings)
    assert process.returncode == 0, process.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert results["eval_bits_per_byte"] > 0


@pytest.mark.slow
def test_honest_runs_of_a_model_pass(tmp_path):
    """A run that is resumed and made longer, a model that continues on stories of another kind, and a check."""
    assert honest_run(tmp_path, stories(simple_story)).returncode == 0
    longer = honest_run(tmp_path, stories(simple_story), max_steps=6, resume=True)
    assert longer.returncode == 0, longer.stderr[-3000:]
    first = tmp_path / "run"
    other = tmp_path / "other"
    other.mkdir()
    continued = dict.fromkeys(("vocab_size", "min_frequency", "hidden_size", "intermediate_size"))
    continued |= dict.fromkeys(("num_hidden_layers", "num_attention_heads"))
    settings = {name: value for name, value in FEW_STEPS.items() if name not in continued}
    corpus = other / "poems.jsonl"
    corpus.write_text("".join(json.dumps({"text": poem(i)}) + "\n" for i in range(90)), encoding="utf-8")
    settings |= {"model_name_or_path": first, "train_file": corpus, "output_dir": other / "run"}
    process = fork_command("run_clm.py", *as_options(settings | {"data_cache_dir": other / "cache"}))
    assert process.returncode == 0, process.stderr[-3000:]
    verdict = run_command("check_run.py", first)
    assert verdict.returncode in (0, 1) and "Traceback" not in verdict.stderr  # so few steps: undertrained
    assert "verdict: " in verdict.stdout
