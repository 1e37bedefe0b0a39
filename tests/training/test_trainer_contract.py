"""What this project needs of transformers' private methods, compared with the installed version.

`StoryTrainer` overrides and calls methods that transformers may change in any release. Here each of them is written
down with its parameters and with what relies on it, so that an update fails here, by name, and not in a run.
"""

import ast
import dataclasses
import inspect
import re
from types import SimpleNamespace

import pytest
from accelerate.utils import find_executable_batch_size
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler

from helpers.runs import ROOT
from tinystories.training.checkpointing import AtomicCheckpointTrainer
from tinystories.training.trainer import StoryTrainer


TRAINER_SOURCE = inspect.getsource(Trainer)
OUR_CLASSES = (StoryTrainer, AtomicCheckpointTrainer)
LOOP = "(self, batch_size=None, args=None, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None)"
DATALOADER = "(self, dataset, description, batch_size, sampler_fn=None, is_training=False, dataloader_key=None)"
TRAINING_STATE = "(self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial)"
LOG = "(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None)"
PUSH = "(self, commit_message='End of training', blocking=True, token=None, revision=None, private=None, **kwargs)"

# Method of Trainer: its parameters, and what our override relies on.
OVERRIDDEN = {
    "create_optimizer": ("(self, model=None)", "returns self.optimizer where that is already made (Muon)"),
    "create_scheduler": ("(self, num_training_steps, optimizer=None)", "is the one place that makes the schedule"),
    "get_batch_samples": (
        "(self, epoch_iterator, num_batches, device)",
        "takes the micro-batches of a step from the data",
    ),
    "get_train_dataloader": ("(self)", "is iterated once an epoch, and of a stream nothing else of it is used"),
    "get_eval_dataloader": ("(self, eval_dataset=None)", "reads args.dataloader_drop_last when it is called"),
    "_get_dataloader": (DATALOADER, "makes every loader, and its worker_init_fn may be replaced"),
    "_inner_training_loop": (LOOP, "is the loop that is run again with fewer rows after out of memory"),
    "_evaluate": ("(self, trial, ignore_keys_for_eval, skip_scheduler=False)", "is each evaluation of a training"),
    "_track_num_input_tokens": ("(self, inputs)", "is called once for each micro-batch, and adds to the state"),
    "_maybe_log_save_evaluate": (LOG, "logs, evaluates and saves after a step, as control says"),
    "_prepare_inputs": ("(self, inputs)", "puts a batch on the device, in each step of training and evaluating"),
    "training_step": ("(self, model, inputs, num_items_in_batch=None)", "returns the batch's share of the step's loss"),
    "_get_grad_norm": ("(self, model, grad_norm=None)", "is called once a step, before the optimizer's step"),
    "log": ("(self, logs, start_time=None)", "gets each row of the log, those of training with a `loss`"),
    "save_model": ("(self, output_dir=None, _internal_call=False)", "is each save, and pushes if not _internal_call"),
    "_save": ("(self, output_dir=None, state_dict=None)", "writes weights, config and tokenizer of each save"),
    "_save_checkpoint": ("(self, model, trial)", "writes checkpoint-N into _get_output_dir"),
    "_get_output_dir": ("(self, trial)", "names the folder that _save_checkpoint writes into"),
    "_init_training_state": (TRAINING_STATE, "restores the state of a resumed run"),
    "_load_best_model": ("(self)", "loads state.best_model_checkpoint"),
    "_determine_best_metric": ("(self, metrics, trial)", "is called between evaluation and save; True for a new best"),
    "_finalize_training": ("(self, trial, num_train_samples, start_time)", "deletes checkpoints by save_total_limit"),
    "_issue_warnings_after_load": ("(self, load_result)", "warns of load_result.missing_keys"),
    "init_hf_repo": ("(self, token=None, private=None)", "is called by __init__ with push_to_hub, sets hub_model_id"),
    "_push_from_checkpoint": ("(self, checkpoint_folder)", "is called while the checkpoint is still being written"),
    "push_to_hub": (PUSH, "publishes the run folder"),
}

# Method of Trainer that is called and not overridden: its parameters, and who calls it for what.
CALLED = {
    "_get_num_items_in_batch": (
        "(self, batch_samples, device)",
        "guards: the number of targets in the dtype of a step, or the model is compiled once more",
    ),
    "_get_learning_rate": ("(self)", "StoryTrainer._get_grad_norm: the rate of the step, for evaluations.jsonl"),
    "_load_from_checkpoint": ("(self, resume_from_checkpoint, model=None)", "StoryTrainer.restore_finished: weights"),
    "compute_loss": (
        "(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
        "guards: the loss as training computes it",
    ),
    "is_world_process_zero": ("(self)", "StoryTrainer and AtomicCheckpointTrainer: who writes"),
    "is_local_process_zero": ("(self)", "AtomicCheckpointTrainer: who writes on each machine"),
    "save_metrics": ("(self, split, metrics, combined=True)", "commands/train: all_results.json"),
    "save_state": ("(self)", "commands/train: trainer_state.json"),
}

# Private attributes of a Trainer that we read or set.
ATTRIBUTES = {
    "_created_lr_scheduler": "StoryTrainer.create_scheduler: a second loop makes a new schedule",
    "_train_batch_size": "StoryTrainer._inner_training_loop: the rows at once of a resumed run",
    "_initial_global_step": "out_of_memory: whether this session has made a step",
}

# Event of a callback: arguments that our callbacks take beside args, state and control.
EVENTS = {
    "on_train_begin": {"model", "optimizer"},
    "on_step_begin": {"model"},
    "on_pre_optimizer_step": {"model", "optimizer"},
    "on_optimizer_step": {"model", "optimizer"},
    "on_step_end": {"model"},
    "on_log": {"logs"},
    "on_epoch_end": set(),
    "on_evaluate": {"model", "processing_class", "metrics"},
    "on_prediction_step": {"eval_dataloader"},
    "on_save": set(),
    "on_train_end": {"model"},
}

STATE = {
    "best_global_step",
    "best_metric",
    "best_model_checkpoint",
    "epoch",
    "global_step",
    "log_history",
    "max_steps",
    "num_input_tokens_seen",
    "save_steps",
    "stateful_callbacks",
}


def parameters(function) -> str:
    """The parameters of `function` as they are written, without annotations."""
    signature = inspect.signature(function)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def override_of(name: str) -> str:
    return f"{next(kind for kind in OUR_CLASSES if name in vars(kind)).__name__}.{name}, because it"


def changes(trainer_class: type) -> list[str]:
    """A line for each method that is not as written above, and what of ours relies on it."""
    expected = {name: (written, f"{override_of(name)} {why}") for name, (written, why) in OVERRIDDEN.items()}
    lines = []
    for name, (written, who) in (expected | CALLED).items():
        method = getattr(trainer_class, name, None)
        now = parameters(method) if callable(method) else "gone"
        if now != written:
            lines.append(f"Trainer.{name} was {written} and is {now}; look at {who}")
    return lines


def test_methods_are_as_written():
    """An update of transformers that changes a method we override or call is named, with what to look at."""
    assert not changes(Trainer), "\n".join(changes(Trainer))


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_changed_method_is_named(name):
    """The comparison sees one more parameter and a missing method, and names the method and what relies on it."""
    method = getattr(Trainer, name)

    def longer(*args, **kwargs):
        return method(*args, **kwargs)

    first, *rest = inspect.signature(method).parameters.values()
    added = inspect.Parameter("added", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    longer.__signature__ = inspect.Signature([first, added, *rest])
    for changed in (longer, None):
        (line,) = changes(type("Changed", (Trainer,), {name: changed}))
        assert line.startswith(f"Trainer.{name} was (self")
        assert ("is gone" if changed is None else "is (self, added") in line
        who = override_of(name) if name in OVERRIDDEN else CALLED[name][1]
        assert line.endswith(f"look at {who} {OVERRIDDEN[name][1]}" if name in OVERRIDDEN else f"look at {who}")


def test_table_is_complete():
    """A new override or call of a private method must be added to the tables."""
    overrides = {name for kind in OUR_CLASSES for name in vars(kind) if callable(getattr(Trainer, name, None))}
    assert {name for name in overrides if not name.startswith("__")} == OVERRIDDEN.keys()
    private = set()
    for path in (ROOT / "tinystories" / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                private.add(node.attr)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("_initial"):
                private.add(node.value)
    of_trainer = private & set(re.findall(r"self\.(_\w+)", TRAINER_SOURCE))
    assert of_trainer - OVERRIDDEN.keys() - CALLED.keys() == ATTRIBUTES.keys()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attribute_is_used(name):
    """An attribute that the Trainer no longer sets would be read as nothing, or set without effect."""
    assert f"self.{name} = " in TRAINER_SOURCE, f"Trainer no longer sets {name}; {ATTRIBUTES[name]}"


def test_order_of_a_step():
    """The gradient norm is asked for before the optimizer's step, and after it nothing could be stopped in time."""
    (loop,) = [
        text
        for _, method in inspect.getmembers(Trainer, inspect.isfunction)
        if "self.optimizer.step()" in (text := inspect.getsource(method))
    ]
    places = [loop.index(f"self.{call}(") for call in ("training_step", "_get_grad_norm", "optimizer.step")]
    assert places == sorted(places)


def test_printers_of_the_trainer():
    """It adds one of these two, which are taken out: another one would print every row a second time, as Python."""
    assert "PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK" in TRAINER_SOURCE


@pytest.mark.parametrize("event", EVENTS)
def test_events_pass_their_arguments(event):
    """The callbacks of this project name these arguments; the handler must pass them."""
    seen = {}

    class Recorder(TrainerCallback):
        pass

    setattr(Recorder, event, lambda self, args, state, control, **kwargs: seen.update(kwargs))
    handler = CallbackHandler([Recorder()], "model", "tokenizer", "optimizer", "schedule")
    extra = {"on_evaluate": {"metrics": {}}, "on_log": {"logs": {}}}.get(event, {})
    getattr(handler, event)(SimpleNamespace(), TrainerState(), TrainerControl(), **extra)
    assert EVENTS[event] <= seen.keys()


def test_events_are_complete():
    """A callback of this project that takes another event or argument must be added to the table."""
    for path in (ROOT / "tinystories" / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("on_") and node.args.args[0].arg == "self":
                ours = {argument.arg for argument in node.args.args[4:]}
                assert ours <= EVENTS[node.name], f"{path.name}: {node.name}"


def test_state_and_early_stopping():
    """Fields of the Trainer's state, and the count that tells that a run stopped early."""
    assert not STATE - {field.name for field in dataclasses.fields(TrainerState)}
    assert "early_stopping_patience_counter" in EarlyStoppingCallback(3).state()["attributes"]
    assert isinstance(TrainerState().is_world_process_zero, bool)


def test_batch_size_is_passed_first():
    """`_inner_training_loop` gets its rows from accelerate as the first argument, and the rest by name."""
    called = find_executable_batch_size(lambda rows, **kwargs: (rows, kwargs), 8)(args=1, trial=None)
    assert called == (8, {"args": 1, "trial": None})
