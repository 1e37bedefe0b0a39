"""Optimizers, schedules and initial residual projections: what each weight gets, to the last bit."""

import json
import re
import shutil
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from benchmarks.recipe_runs import TokenizerOfSize
from helpers.forked import fork_command
from helpers.runs import (
    TINY,
    as_options,
    mistake,
    output_of,
    run_with_transformers_only,
    write_counting_corpus,
)
from tinystories.checkpoint.loading import new_model
from tinystories.config.arguments import RunArguments
from tinystories.config.recipe import read_recipe
from tinystories.training.finetuning import apply_checkpoint
from tinystories.training.guards.plain_step import Moments, Settings, muon
from tinystories.training.muon import Muon
from tinystories.training.optimizers import check_optimization, make_schedule, muon_and_adamw
from tinystories.training.resume import check_resumed


SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
RATES = {"learning_rate": 0.001, "muon_learning_rate": 0.02, "weight_decay": 0.1}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def read(**values):
    return read_recipe(as_options(SIZES | {"bf16": False} | values))


def model_of(recipe):
    torch.manual_seed(0)
    return new_model(recipe.model, TokenizerOfSize(97), 32)


def named_groups(model, optimizer) -> list[set[str]]:
    """The names of the weights in each group."""
    names = {weight: name for name, weight in model.named_parameters()}
    return [{names[weight] for weight in group["params"]} for group in optimizer.param_groups]


# Which weight gets what


def test_adamw_decays_matrices_only(tmp_path):
    """transformers decides it by name; norms must not decay."""
    recipe = read(output_dir=tmp_path)
    model = model_of(recipe)
    optimizer = Trainer(model, recipe.training).create_optimizer()
    decayed, spared = named_groups(model, optimizer)
    assert decayed == {name for name, weight in model.named_parameters() if weight.ndim == 2}
    assert spared == {name for name, weight in model.named_parameters() if weight.ndim == 1}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["fused"]


@pytest.mark.parametrize("tied", [True, False])
def test_muon_matrices(tied):
    """Muon gets the matrices of the layers, but neither the embedding nor the output layer, whose rows are tokens."""
    recipe = read(optimizer="muon", tie_word_embeddings=tied, **RATES)
    model = model_of(recipe)
    optimizer = muon_and_adamw(model.named_parameters(), recipe.training)
    embeddings, norms, hidden = named_groups(model, optimizer)
    assert len(hidden) == 3 * 7 and {name.split(".")[-2] for name in hidden} == PROJECTIONS
    assert embeddings == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert norms == {name for name, weight in model.named_parameters() if weight.ndim == 1}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1]
    assert [group["lr"] for group in optimizer.param_groups] == [0.001, 0.001, 0.02]


def test_settings_of_muon():
    """Each number of the recipe reaches its group; Muon's rate is learning_rate where it has none of its own."""
    recipe = read(
        optimizer="muon", learning_rate=0.003, weight_decay=0.3, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-5
    )
    model = model_of(recipe)
    model.model.norm.weight.requires_grad_(False)
    optimizer = muon_and_adamw(model.named_parameters(), recipe.training)
    embeddings, norms, hidden = optimizer.param_groups
    assert [group["lr"] for group in optimizer.param_groups] == [0.003] * 3
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.3]
    assert [(group["betas"], group["eps"]) for group in (embeddings, norms)] == [((0.8, 0.9), 1e-5)] * 2
    assert hidden["momentum"] == 0.95
    quick = muon_and_adamw(model.named_parameters(), read(optimizer="muon", muon_momentum=0.8).training)
    assert quick.param_groups[2]["momentum"] == 0.8
    assert "model.norm.weight" not in set().union(*named_groups(model, optimizer)), "a frozen weight is not trained"
    assert muon_and_adamw(model.named_parameters(), read(**RATES).training).param_groups[2]["lr"] == 0.02


def test_closure():
    """`step` computes the gradients with a given closure, and returns its loss."""
    recipe = read(optimizer="muon", **RATES)
    model, ids = model_of(recipe), torch.arange(32).view(1, 32)
    optimizer = muon_and_adamw(model.named_parameters(), recipe.training)
    before = model.model.embed_tokens.weight.clone()

    def closure():
        loss = model(ids, labels=ids).loss
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(5, abs=1)
    assert not torch.equal(before, model.model.embed_tokens.weight)
    assert optimizer.step() is None


def test_update_equals_torchs_optimizers():
    """Each weight moves as torch's own optimizer of its kind moves it; Muon's iteration rounds otherwise."""
    recipe = read(optimizer="muon", **RATES)
    ours, torchs = model_of(recipe), model_of(recipe)
    joint = muon_and_adamw(ours.named_parameters(), recipe.training)
    weights = {kind: [] for kind in ("embedding", "norms", "hidden")}
    for name, weight in torchs.named_parameters():
        weights["norms" if weight.ndim == 1 else "embedding" if "embed" in name else "hidden"].append(weight)
    adamw = {"lr": 0.001, "betas": (0.9, 0.95), "fused": True}
    separate = [
        torch.optim.AdamW(weights["embedding"], weight_decay=0.1, **adamw),
        torch.optim.AdamW(weights["norms"], weight_decay=0.0, **adamw),
        torch.optim.Muon(weights["hidden"], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    before = [weight.clone() for weight in ours.parameters()]
    ids = torch.arange(2 * 32).view(2, 32) % 97
    ours(ids, labels=ids).loss.backward()
    for mine, theirs in zip(ours.parameters(), torchs.parameters(), strict=True):
        theirs.grad = mine.grad.clone()
    for optimizer in (joint, *separate):
        optimizer.step()
    for start, (name, mine), theirs in zip(before, ours.named_parameters(), torchs.parameters(), strict=True):
        moved = (theirs - start).norm()
        assert (mine - theirs).norm() <= (0.02 if ".layers." in name and mine.ndim == 2 else 0) * moved, name


@pytest.mark.parametrize(
    ("momentum", "normalization", "cautious"),
    [(0.0, "none", False), (0.9, "none", True), (0.9, "before", False), (0.9, "after", True)],
)
def test_muon_equals_its_formula(momentum, normalization, cautious):
    """In float32, of many matrices at once, of tall ones and flat ones: as one alone in float64, for several steps."""
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 40), (40, 16), (16, 16), (16, 40), (1, 8), (8, 1)]
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    alone = [weight.detach().double() for weight in weights]
    moments = [Moments(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in alone]
    keys = {"muon_momentum": momentum, "muon_normalization": normalization, "muon_cautious_decay": cautious}
    settings = Settings.of(read(optimizer="muon", **keys))
    settings.muon_dtype = torch.float64
    optimizer = Muon(weights, 0.01, 0.3, momentum, torch.float32, normalization, cautious)
    for _ in range(3):
        for place, weight in enumerate(weights):
            weight.grad = torch.randn_like(weight)
            alone[place] = muon(alone[place], weight.grad.double(), moments[place], 0.01, 0.3, settings)
        optimizer.step()
    for weight, expected in zip(weights, alone, strict=True):
        assert torch.allclose(weight.double(), expected, rtol=1e-4, atol=1e-5), weight.shape


def test_muon_without_a_gradient():
    """A matrix without one, or with one of zeros, stays as it is but for its decay; nothing becomes NaN."""
    unused, still = (torch.nn.Parameter(torch.ones(4, 6)) for _ in range(2))
    still.grad = torch.zeros(4, 6)
    Muon([unused, still], lr=0.1, weight_decay=0.5, momentum=0.9, dtype=torch.float32).step()
    assert torch.equal(unused, torch.ones(4, 6)) and torch.allclose(still, torch.full((4, 6), 0.95))


def test_muon_without_bf16(monkeypatch):
    """On a CPU that emulates bfloat16 the iteration is in float32: torch's, and far nearer to one in float64."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    recipe = read(optimizer="muon", **RATES)
    model, ids = model_of(recipe), torch.arange(32).view(1, 32)
    optimizer = muon_and_adamw(model.named_parameters(), recipe.training)
    hidden = optimizer.param_groups[2]["params"]
    assert {weight.shape for weight in hidden} == {(64, 64), (128, 64), (64, 128)}, "square, tall and wide"
    frozen, momenta = hidden[0], [torch.zeros_like(weight).double() for weight in hidden]
    frozen.requires_grad_(False)
    for _ in range(2):
        before = [weight.detach().double() for weight in hidden]
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        assert frozen.grad is None and torch.equal(frozen.double(), before[0])
        for i, weight in enumerate(hidden[1:], 1):
            gradient = weight.grad.double()
            momenta[i] = 0.95 * momenta[i] + 0.05 * gradient
            direction = newton_schulz(0.05 * gradient + 0.95 * momenta[i]) * 0.2 * max(weight.shape) ** 0.5
            change = (weight - before[i] * (1 - 0.02 * 0.1)) / -0.02
            assert (change - direction).norm() < 1e-4 * direction.norm(), "bfloat16 is wrong by 1e-2"
        optimizer.zero_grad()


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """Muon's five steps, on the singular values of the matrix."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left * values @ right


def test_loaded_state_is_used():
    """A loaded state_dict replaces groups and state: the two optimizers inside must not use the old ones."""
    recipe = read(optimizer="muon", **RATES)
    model = model_of(recipe)
    optimizer = muon_and_adamw(model.named_parameters(), recipe.training)
    ids = torch.arange(32).view(1, 32)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    before = [weight.clone() for weight in model.parameters()]
    momentum = {
        weight: optimizer.state[weight]["momentum_buffer"].clone() for weight in optimizer.param_groups[2]["params"]
    }
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(torch.equal(optimizer.state[weight]["momentum_buffer"], old) for weight, old in momentum.items())


# The learning rate at each step


def rates_of_groups(**values) -> list[list[float]]:
    """The learning rate of each group at each step."""
    recipe = read(**values)
    optimizer = muon_and_adamw(model_of(recipe).named_parameters(), recipe.training)
    schedule = make_schedule(recipe.training, optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return list(zip(*rates, strict=True))


@pytest.mark.parametrize(
    ("schedule", "options", "shares"),
    [
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}, {5: 0.5, 10: 1.0, 55: 0.55, 99: 0.1003}),
        ("cosine_with_min_lr", {"min_lr": 0.0001}, {5: 0.5, 10: 1.0, 55: 0.55, 99: 0.1003}),
        ("linear", {}, {5: 0.5, 10: 1.0, 55: 0.5, 99: 1 / 90}),
        ("warmup_stable_decay", {"num_decay_steps": 0.2, "decay_type": "linear"}, {5: 0.5, 10: 1, 80: 1, 90: 0.5}),
        ("warmup_stable_decay", {"num_decay_steps": 20, "decay_type": "1-sqrt"}, {10: 1, 80: 1, 85: 0.5, 99: 0.0253}),
    ],
)
def test_schedule_scales_every_group(schedule, options, shares):
    """Each group by its own peak."""
    kwargs = {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": json.dumps(options), "warmup_steps": 0.1}
    embeddings, norms, hidden = rates_of_groups(optimizer="muon", **kwargs, **RATES)
    for step, share in shares.items():
        assert (embeddings[step], norms[step], hidden[step]) == pytest.approx(
            (0.001 * share, 0.001 * share, 0.02 * share), rel=2e-3
        )


# A run


@pytest.fixture(scope="module")
def muon_run(tmp_path_factory):
    """A run with Muon, a decay as a share, and zero residual projections; its guards pass."""
    folder = tmp_path_factory.mktemp("muon")
    options = TINY | {
        "train_file": write_counting_corpus(folder),
        "data_cache_dir": folder / "cache",
        "output_dir": folder / "run",
        "optimizer": "muon",
        "residual_init": "zero",
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": '{"num_decay_steps": 0.3}',
        "max_grad_norm": 0.5,
        "max_steps": 40,
        "eval_steps": 20,
        "save_steps": 20,
    }
    process = fork_command("run_clm.py", *as_options(options))
    assert process.returncode == 0, process.stderr[-3000:]
    return folder / "run"


@pytest.mark.slow
def test_resume_with_muon(muon_run, tmp_path):
    """The final weights are those of a run that was not interrupted."""
    folder = tmp_path / "run"
    shutil.copytree(muon_run, folder, ignore=shutil.ignore_patterns("checkpoint-40"))
    (folder / "model.safetensors").unlink()
    options = ("--output_dir", folder, "--resume_from_checkpoint", "true")
    process = fork_command("run_clm.py", muon_run / "recipe.json", *options)
    assert process.returncode == 0, process.stderr[-3000:]
    whole, resumed = (load_file(run / "checkpoint-40" / "model.safetensors") for run in (muon_run, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert json.loads((folder / "all_results.json").read_text())["resumed_from_step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--optimizer", "adamw"], ["--muon_learning_rate", "0.5"], ["--residual_init", "normal"]]
)
def test_resume_with_another_optimizer(options, muon_run):
    """Refused, with the key."""
    recipe = read_recipe([str(muon_run / "recipe.json"), *options])
    assert mistake(check_resumed, str(muon_run / "checkpoint-20"), recipe, {}).startswith(f"{options[0][2:]} was ")


@pytest.mark.slow
def test_logged_learning_rate(muon_run):
    """It is that of the key learning_rate, not Muon's."""
    history = json.loads((muon_run / "trainer_state.json").read_text())["log_history"]
    rates = [row["learning_rate"] for row in history if "learning_rate" in row]
    assert rates[1] == TINY["learning_rate"] and 0 < rates[-1] < TINY["learning_rate"] / 10


# The start of the residual projections


@pytest.mark.parametrize(("residual_init", "factor"), [("zero", 0.0), ("depth_scaled", 6**-0.5)])
def test_residual_init(residual_init, factor):
    """Only the two projections that add to the residual stream change, and nothing in the config."""
    normal, changed = model_of(read()), model_of(read(residual_init=residual_init))
    for (name, before), after in zip(normal.named_parameters(), changed.parameters(), strict=True):
        scale = factor if re.search(r"(o_proj|down_proj)\.weight$", name) else 1.0
        assert torch.allclose(after, before * scale), name
    assert changed.config.to_dict() == normal.config.to_dict()


@pytest.mark.slow
def test_zero_projections_are_loaded(tmp_path):
    """transformers alone must not initialize them again."""
    model_of(read(residual_init="zero")).save_pretrained(tmp_path)
    code = f"""
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
layers = model.model.layers
assert not any(layer.self_attn.o_proj.weight.any() or layer.mlp.down_proj.weight.any() for layer in layers)
assert all(layer.self_attn.q_proj.weight.any() and layer.mlp.up_proj.weight.any() for layer in layers)
print("as saved")
"""
    assert "as saved" in output_of(run_with_transformers_only(code, tmp_path))


# Mistakes


WSD = ["--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs"]
COSINE = ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--optimizer", "lion"], ["optimizer", "adamw, muon"]),
        (["--residual_init", "small"], ["residual_init", "normal, zero, depth_scaled"]),
        (["--lr_scheduler_type", "triangle"], ["lr_scheduler_type", "warmup_stable_decay"]),
        (["--muon_learning_rate", "0.1"], ["muon_learning_rate is for optimizer muon"]),
        (["--muon_momentum", "0.9"], ["muon_momentum is for optimizer muon"]),
        (["--muon_cautious_decay", "true"], ["muon_cautious_decay is for optimizer muon"]),
        (["--optimizer", "muon", "--optim", "sgd"], ["optim ", "leave them out with muon"]),
        (["--optimizer", "muon", "--muon_learning_rate=-1"], ["muon_learning_rate must be 0 or more", "-1"]),
        (["--optimizer", "muon", "--muon_momentum", "1"], ["muon_momentum must be from 0 to below 1", "1"]),
        (["--lr_scheduler_type", "cosine_with_min_lr"], ["lr_scheduler_kwargs", "min_lr_rate should be set"]),
        (["--lr_scheduler_kwargs", '{"min_lr_rat": 1}'], ["lr_scheduler_kwargs", "linear", "'min_lr_rat'"]),
        (["--lr_scheduler_kwargs", "5"], ["lr_scheduler_kwargs 5", "must be a JSON object"]),
        (["--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", '{"a": 1}'], ["constant", "takes none"]),
        ([*WSD, "{}"], ["lr_scheduler_kwargs", "num_decay_steps"]),
        ([*WSD, '{"num_decay_steps": 0}'], ["num_decay_steps must be above 0"]),
        ([*WSD, '{"num_decay_steps": true}'], ["num_decay_steps must be above 0"]),
        ([*WSD, '{"num_decay_steps": 5, "min_lr_ratio": -1}'], ["lowest learning rate must be 0 or more"]),
        ([*COSINE, '{"min_lr_rate": NaN}'], ["lowest learning rate must be 0 or more"]),
        ([*COSINE, '{"min_lr_rate": 7}', "--max_steps", "100"], ["times its peak"]),
        ([*COSINE, '{"min_lr_rate": 1.01}', "--max_steps", "100"], ["at step", "times its peak"]),
        (["--optim_args", "momentum"], ["optim_args must be name=value"]),
        (["--optimizer", "muon", "--optim_args", "a=1"], ["optim ", "leave them out with muon"]),
        ([*WSD, '{"num_decay_steps": "half"}'], ["lr_scheduler_kwargs", "half"]),
        (
            [*WSD, '{"num_decay_steps": 60}', "--max_steps", "100", "--warmup_steps", "50"],
            ["longer than the 100 steps"],
        ),
    ],
)
def test_mistake_is_one_line(argv, words):
    """Before any data is read."""
    message = mistake(lambda: check_optimization(read_recipe(argv).training))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "argv",
    [
        [*WSD, '{"num_decay_steps": 50}', "--max_steps", "100", "--warmup_steps", "50"],
        [*WSD, '{"num_decay_steps": 1, "min_lr_ratio": 0}', "--max_steps", "100"],
        [*WSD, '{"num_decay_steps": 0.5, "min_lr_ratio": 1}', "--max_steps", "100"],
        [*COSINE, '{"min_lr_rate": 1.0}', "--max_steps", "100"],
        ["--lr_scheduler_type", "constant_with_warmup"],
        ["--learning_rate", "0"],
    ],
)
def test_allowed(argv):
    """What just fits is not refused."""
    check_optimization(read_recipe(argv).training)


@pytest.mark.parametrize(("steps", "warns"), [(9, True), (10, True), (11, False), (-1, False)])
def test_run_ends_in_its_warmup(steps, warns, caplog):
    check_optimization(read_recipe(["--max_steps", str(steps), "--warmup_steps", "10"]).training)
    assert ("ends before its warm-up does" in caplog.text) == warns


def test_decay_in_steps_of_a_run_in_epochs():
    """Accepted: how many steps the epochs have is known later."""
    options = [*WSD, '{"num_decay_steps": 5000}', "--num_train_epochs", "3"]
    assert read_recipe(options).training.lr_scheduler_kwargs == {"num_decay_steps": 5000}


def test_residual_init_of_a_checkpoint():
    """Refused: its weights are not fresh."""
    recipe = read_recipe(["--model_name_or_path", "somebody/mine", "--residual_init", "zero"])
    assert mistake(apply_checkpoint, recipe).startswith("residual_init: it applies to fresh weights only")


@pytest.mark.parametrize(
    ("key", "value", "package"),
    [
        ("optim", "adamw_bnb_8bit", "bitsandbytes"),
        ("optim", "galore_adamw", "galore_torch"),
        ("optim", "grokadamw", "grokadamw"),
        ("optim", "schedule_free_adamw", "schedulefree"),
        ("use_liger_kernel", True, "liger-kernel"),
    ],
)
def test_package_that_is_missing(key, value, package, tmp_path):
    """One line that names it, before any data is prepared; the Trainer would raise at the first step."""
    if find_spec(package.replace("-", "_")):
        pytest.skip(f"{package} is installed")
    arguments = RunArguments(output_dir=str(tmp_path / "run"), **{key: value})
    assert package in mistake(check_optimization, arguments)
