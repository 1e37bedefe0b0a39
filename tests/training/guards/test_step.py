"""Mutations of the training step: the rehearsal or the witness of the real steps stops the run and names the cause."""

from types import SimpleNamespace

import pytest
import torch

from helpers.forked import fork_ranks
from helpers.mutations import assert_stopped, small_run
from helpers.runs import write_counting_corpus
from tinystories.config.recipe import read_recipe
from tinystories.data.packing import IGNORED
from tinystories.training.guards.plain_step import Moments, Settings, adamw, learning_rates, targets_of
from tinystories.training.guards.updates import wrong_change, wrong_groups
from tinystories.training.muon import Muon
from tinystories.training.optimizers import make_schedule


TRAINER, OPTIMIZERS = "tinystories/training/trainer.py", "tinystories/training/optimizers.py"
LOADING, MODEL = "tinystories/checkpoint/loading.py", "modeling_tinystories.py"
CALLBACKS = "tinystories/training/callbacks.py"
STEP = "        loss = super().training_step(model, inputs, num_items_in_batch)"
MADE = "        self.recipe = recipe\n"
METHOD = "    def create_optimizer("
BUILT = "    scale_residual_projections(model, arguments.residual_init)\n"
MUON = ["--optimizer", "muon"]
WATCHED = ["--max_steps", "3"]
REHEARSAL = "a rehearsal of the first steps: "

# name: file, old, new, options, what the message says.
MUTATIONS = {
    "labels shifted inside the step": (
        TRAINER,
        STEP,
        '        inputs["labels"] = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)\n' + STEP,
        [],
        "the labels are shifted twice",
    ),
    "a mean of the micro-batches' means": (
        TRAINER,
        STEP,
        STEP.replace(", num_items_in_batch)", ", None)"),
        [],
        "it is a mean of the micro-batches' means",
    ),
    "only the last micro-batch": (
        TRAINER,
        STEP,
        "        model.zero_grad()\n" + STEP,
        [],
        REHEARSAL + "the gradients are not those of the loss",
    ),
    "label smoothing in the step alone": (
        TRAINER,
        METHOD,
        "    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):\n"
        "        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)\n"
        "        if model.training:\n"
        "            logits = self.model.lm_head(outputs.hidden_states[-1])\n"
        "            loss = 0.9 * loss - 0.1 * logits.log_softmax(-1).mean()\n"
        "        return (loss, outputs) if return_outputs else loss\n\n" + METHOD,
        [],
        REHEARSAL + "the loss is",
    ),
    "half of the rows": (
        TRAINER,
        "        self.step_rows =",
        "        batches = [{name: rows[: len(rows) // 2] for name, rows in batch.items()} for batch in batches]\n"
        "        self.step_rows =",
        [],
        REHEARSAL + "the loss is",
    ),
    "weights in bfloat16": (LOADING, BUILT, BUILT + "    model.to(torch.bfloat16)\n", [], "is bfloat16"),
    "a frozen layer": (
        LOADING,
        BUILT,
        BUILT + "    model.model.layers[1].requires_grad_(False)\n",
        [],
        "model.layers.1.self_attn.q_proj.weight is frozen",
    ),
    "a layer that is not in the optimizer": (
        OPTIMIZERS,
        "named_weights if weight.requires_grad}",
        "named_weights if weight.requires_grad and 'layers.1.mlp.up' not in name}",
        MUON,
        "model.layers.1.mlp.up_proj.weight is not in the optimizer",
    ),
    "a layer cut off in the run's size only": (
        MODEL,
        "            hidden_states = layer(\n                hidden_states,",
        "            hidden_states = layer(\n"
        "                hidden_states.detach() if layer.self_attn.layer_idx == 2 else hidden_states,",
        [*WATCHED, "--num_hidden_layers", "3"],
        "model.layers.0.self_attn.q_proj.weight gets no gradient",
    ),
    "decay on norms": (
        TRAINER,
        METHOD,
        "    def get_decay_parameter_names(self, model):\n"
        "        return [name for name, _ in model.named_parameters()]\n\n" + METHOD,
        [],
        "weight decay of 0.1 acts on model.layers.0.input_layernorm.weight",
    ),
    "gradients never zeroed": (
        TRAINER,
        MADE,
        MADE + "        model.zero_grad = lambda set_to_none=True: None\n",
        [],
        "the gradients are not zeroed after a step",
    ),
    "gradients never clipped": (
        TRAINER,
        METHOD,
        "    def _clip_grad_norm(self, model):\n"
        "        return self.accelerator.clip_grad_norm_(model.parameters(), float('inf'))\n\n" + METHOD,
        [],
        "the gradients are not clipped",
    ),
    "learning rate one step late": (
        OPTIMIZERS,
        "    return schedule\n",
        "    schedule.lr_lambdas = [lambda step, f=f: f(max(0, step - 1)) for f in schedule.lr_lambdas]\n"
        "    return schedule\n",
        WATCHED,
        "the learning rate of step 2 of 3 would be 0",
    ),
    "Adam for AdamW": (OPTIMIZERS, "torch.optim.AdamW(", "torch.optim.Adam(", MUON, "is not that of AdamW"),
    "another beta": (
        OPTIMIZERS,
        "betas=(args.adam_beta1, args.adam_beta2)",
        "betas=(args.adam_beta1, 0.999)",
        MUON,
        "betas of the optimizer of model.embed_tokens.weight is (0.9, 0.999)",
    ),
    "Muon on the embedding": (
        OPTIMIZERS,
        'weight.ndim == 2 and ".layers." in name',
        "weight.ndim == 2",
        MUON,
        "model.embed_tokens.weight is trained by Muon",
    ),
    "every other step skipped": (
        OPTIMIZERS,
        "        loss = None\n        if closure",
        "        self.count = getattr(self, 'count', 0) + 1\n        if self.count % 2 == 0:\n            return None\n"
        "        loss = None\n        if closure",
        MUON,
        "did not move in the step",
    ),
    "weights averaged after each step": (
        CALLBACKS,
        "    def on_evaluate(self, args, state, control, **kwargs):\n",
        "    def on_step_end(self, args, state, control, model=None, **kwargs):\n"
        "        for weight in model.parameters():\n"
        "            weight.data.mul_(0.999)\n\n"
        "    def on_evaluate(self, args, state, control, **kwargs):\n",
        WATCHED,
        "was changed after the optimizer's step",
    ),
    "a logged loss that is a sum of steps": (
        TRAINER,
        "        super().log(logs)",
        "        if 'loss' in logs:\n            logs['loss'] *= self.args.logging_steps\n        super().log(logs)",
        [],
        "the logged loss is",
    ),
    "dropout without being asked for": (
        MODEL,
        "dropout=self.attention_dropout if self.training",
        "dropout=0.1 if self.training",
        [],
        "in training mode): the output of model.layers.0.self_attn differs",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, mutated_tree, tmp_path):
    """Each trains something else than the recipe says, and prints losses that fall."""
    file, old, new, options, reason = MUTATIONS[name]
    tree = mutated_tree(file, old, new)
    assert_stopped(small_run(tmp_path, write_counting_corpus(tmp_path), *options, tree=tree), reason)


@pytest.mark.slow
def test_resume_without_the_optimizers_state(mutated_tree, tmp_path):
    """A resumed run that begins its moments again."""
    corpus, saving = write_counting_corpus(tmp_path), ["--save_strategy", "steps", "--save_steps", "2", "--max_steps"]
    process = small_run(tmp_path, corpus, *saving, "2")
    assert process.returncode == 0, process.stderr[-2000:]
    lost = "    def _load_optimizer_and_scheduler(self, checkpoint):\n        pass\n\n" + METHOD
    process = small_run(tmp_path, corpus, *saving, "4", "--resume", tree=mutated_tree(TRAINER, METHOD, lost))
    assert_stopped(process, "the optimizer's state of model.embed_tokens.weight is lost")


RANKS = {
    "loss multiplied by the processes": (
        TRAINER,
        STEP,
        STEP + "\n        loss = loss * self.args.world_size",
        "it is multiplied by the number of processes",
    ),
    "gradients of one process": (
        TRAINER,
        MADE,
        MADE + "        self._wrap_model = lambda model, **kwargs: torch.nn.Sequential(model)[0]\n"
        "        self.accelerator.prepare_model = lambda model, **kwargs: model\n",
        "the gradients are not those of the loss",
    ),
}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", RANKS)
def test_mutation_of_two_processes(name, mutated_tree, tmp_path):
    """The rehearsal is compared with the rows of all processes, and all of them stop."""
    *mutation, reason = RANKS[name]
    tree = mutated_tree(*mutation)

    def run(*arguments, **options):
        return fork_ranks(*arguments, **options)[0]

    corpus = write_counting_corpus(tmp_path)
    assert_stopped(small_run(tmp_path, corpus, "--use_cpu", "true", tree=tree, run=run), reason)


def settings(*words: str) -> Settings:
    return Settings.of(read_recipe(["--train_file", "x", "--use_cpu", "true", *words]))


def test_plain_adamw_is_that_of_torch():
    """Three steps in float64, with decay."""
    plain, weight = (
        settings("--weight_decay", "0.3", "--adam_beta2", "0.9"),
        torch.nn.Parameter(torch.randn(5, 3).double()),
    )
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=plain.betas, eps=plain.eps, weight_decay=0.3)
    mine, moments = weight.detach().clone(), Moments(torch.zeros(5, 3), torch.zeros(5, 3))
    for step in (1, 2, 3):
        weight.grad = torch.randn(5, 3).double()
        mine = adamw(mine, weight.grad, moments, step, 0.1, 0.3, plain)
        optimizer.step()
        assert torch.allclose(mine, weight, atol=1e-12)


@pytest.mark.parametrize(("shape", "rank"), [((48, 48), 48), ((24, 64), 24), ((64, 24), 1)])
@pytest.mark.parametrize("capability", ["avx2", "avx512_bf16"])
def test_muon_is_that_of_the_precision(capability, shape, rank, monkeypatch):
    """The guard follows Muon with bfloat16 and without; in a gradient of rank 1 the noise of bfloat16 is an update."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    plain, weight = settings(*MUON), torch.nn.Parameter(torch.randn(shape) / 50)  # of the size of a model's weights
    dtype = torch.bfloat16 if capability == "avx512_bf16" else torch.float32
    optimizer, moments = Muon([weight], 0.01, 0.1, 0.95, dtype), Moments(torch.zeros(shape).double())
    for step in (1, 2, 3):
        weight.grad = torch.randn(shape[0], rank) @ torch.randn(rank, shape[1])
        before = weight.detach().clone().double()
        optimizer.step()
        name, gradient = "model.layers.0.weight", weight.grad.double()
        kept = Moments(moments.first)
        assert wrong_change(name, before, weight.detach(), gradient, moments, step, 0.01, plain) is None
        other = before + 1.1 * (weight.detach().double() - before)
        assert "is not that of Muon" in wrong_change(name, before, other, gradient, kept, step, 0.01, plain)


@pytest.mark.parametrize("normalization", ["none", "before", "after"])
def test_faint_directions(normalization, monkeypatch):
    """Gradients of nearly rank 1, beside other matrices: of the rest bfloat16 makes noise, which is no mistake."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    plain = settings(*MUON, "--muon_normalization", normalization)
    random = torch.Generator().manual_seed(1)
    for _ in range(40):
        weights = [torch.nn.Parameter(torch.randn(64, 128, generator=random) / 50) for _ in range(4)]
        optimizer = Muon(weights, 0.01, 0.1, 0.95, torch.bfloat16, normalization)
        moments = Moments(*torch.zeros(2, 64, 128))
        for step in (1, 2, 3):
            for weight in weights:
                left, right = torch.randn(64, 2, generator=random), torch.randn(2, 128, generator=random)
                weight.grad = left * torch.tensor([1, 1e-3]) @ right
            before, gradient = weights[0].detach().clone().double(), weights[0].grad.double()
            optimizer.step()
            after, name, kept = weights[0].detach(), "model.layers.0.weight", Moments(moments.first, moments.second)
            assert wrong_change(name, before, after, gradient, moments, step, 0.01, plain) is None
            other = before + 1.1 * (after.double() - before)
            assert "is not that of Muon" in wrong_change(name, before, other, gradient, kept, step, 0.01, plain)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", "{}"),
        ("cosine_with_min_lr", '{"min_lr_rate": 0.1}'),
        ("warmup_stable_decay", '{"num_decay_steps": 0.3}'),
    ],
)
@pytest.mark.parametrize("warmup", ["0", "7", "0.1"])
def test_plain_schedule_is_that_of_the_run(name, options, warmup):
    words = ["--lr_scheduler_type", name, "--lr_scheduler_kwargs", options, "--warmup_steps", warmup]
    recipe = read_recipe(["--train_file", "x", "--use_cpu", "true", "--learning_rate", "0.01", *words])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule, rates = make_schedule(recipe.training, optimizer, 50), learning_rates(Settings.of(recipe), 50)
    for step in range(50):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rates(step)[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_targets():
    """The next token of each place; none for padding or after the last token; stories apart keep the row's targets."""
    row = torch.tensor([1, 5, 6, 1, 7, 0, 0])
    whole, apart = targets_of([row], pad=0, bos=None), targets_of([row], pad=0, bos=1)
    assert whole.following.tolist() == [[5, 6, 1, 7, IGNORED, IGNORED, IGNORED]]
    assert apart.ids.tolist() == [[1, 5, 6, 0], [1, 7, 0, 0]]
    assert apart.following.tolist() == [[5, 6, 1, IGNORED], [7, IGNORED, IGNORED, IGNORED]]
    assert whole.number == apart.number == 4


def test_decay_that_the_optimizer_hides():
    """Groups that look right, and an update that decays a vector, or forgets its state."""
    plain = settings("--weight_decay", "0.1")
    before, gradient = torch.ones(4).double(), torch.randn(4).double()
    moments = Moments(torch.zeros(4).double(), torch.zeros(4).double())
    decayed = adamw(before, gradient, Moments(moments.first, moments.second), 1, 1e-3, 0.1, plain).float()
    found = wrong_change("norm.weight", before, decayed, gradient, moments, 1, 1e-3, plain)
    assert found == "weight decay acts on norm.weight"
    later = Moments(torch.ones(4).double(), torch.ones(4).double())
    forgotten = adamw(before, gradient, Moments(0 * before, 0 * before), 5, 1e-3, 0.0, plain).float()
    found = wrong_change("norm.weight", before, forgotten, gradient, later, 5, 1e-3, plain)
    assert found == "the optimizer's state does not continue at norm.weight"


def test_weight_in_the_optimizer_twice():
    model, plain = torch.nn.Linear(2, 2, bias=False), settings()
    twice = SimpleNamespace(param_groups=[{"params": [model.weight]}, {"params": [model.weight]}])
    assert "twice" in wrong_groups(model, twice, plain, None)
