"""The model card of a checkpoint, its README.md: rendered from model_card.md with the JSON files beside the weights.

The card is generated, and says where something was not recorded or not evaluated. run_clm.py writes the card;
run_evaluation.py writes it again with its results.
"""

import hashlib
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from tinystories.atomic import write_atomically
from tinystories.reporting.format import cell, spread
from tinystories.run_files import (
    CARD,
    Environment,
    Evaluation,
    EvaluationRow,
    Run,
    SampleRow,
    read_json,
    without_local_paths,
)


logger = logging.getLogger(__name__)

PLACEHOLDER = "THIS_REPOSITORY_OR_FOLDER"  # in model_card.md, where the code to copy needs a name
SHOWN_EVALUATIONS = 10
# Licences of data sets whose own cards state them. For other data the recipe's data_license states it, or nothing does.
DATA_LICENSES = {"roneneldan/TinyStories": "cdla-sharing-1.0"}


@dataclass
class CardFacts:
    """What a card says about a checkpoint, beside what the model itself says; None or empty where it is not known.

    recipe, data: as in recipe.json and data_report.json. step: of the last optimizer step. best_step: of the weights
    that a finished run has kept, where load_best_model_at_end chose them. final: the scores of all validation stories,
    by the names of all_results.json without "eval_". evaluation: as in evaluation.json. stored: number format of the
    weights.
    """

    recipe: dict[str, Any]
    data: Mapping[str, Any]
    step: int
    epoch: float | None = None
    best_step: int | None = None
    tokens_seen: int | None = None
    training_flops: int | None = None
    elapsed_seconds: float | None = None
    evaluated_stories: int = 0
    last_evaluation: dict[str, Any] | None = None
    curve: list[EvaluationRow] = field(default_factory=list)
    final: dict[str, Any] | None = None
    environment: Environment | None = None
    samples: list[SampleRow] = field(default_factory=list)
    evaluation: Evaluation | None = None
    stored: str = "float32"


def read_facts(folder: str | Path) -> CardFacts | None:
    """What the files of a checkpoint, and of the run folder above it, say about it; None if no run made it.

    A damaged file is named in the log, and counts as absent.
    """
    run = Run(folder)
    recipe, data, state = run.recipe, run.data, run.state
    facts = None
    if recipe is not None and data is not None and state is not None:
        results, step = run.results or {}, state["global_step"]
        final = {key.removeprefix("eval_"): value for key, value in results.items() if key.startswith("eval_")}
        history = [row for row in state.get("log_history", []) if "eval_bits_per_byte" in row]
        facts = CardFacts(
            recipe=recipe,
            data=data,
            step=step,
            epoch=state.get("epoch"),
            best_step=state.get("best_global_step") if recipe.get("load_best_model_at_end") else None,
            tokens_seen=state.get("num_input_tokens_seen"),
            training_flops=results.get("training_flops"),
            elapsed_seconds=results.get("elapsed_seconds"),
            evaluated_stories=int(min(data["validation_stories"], recipe.get("max_eval_samples") or math.inf)),
            last_evaluation=history[-1] if history else None,
            curve=[row for row in run.evaluations if row["step"] <= step and _has_numbers(row)],
            final=final if "bits_per_byte" in final else None,
            environment=run.environment,
            samples=[row for row in run.samples if row["step"] <= step],
            evaluation=run.evaluation,
            stored=str((read_json(Path(folder) / CONFIG_NAME, logger.warning) or {}).get("dtype") or "float32"),
        )
    for problem in run.problems:
        logger.warning("%s: %s", folder, problem)
    return facts


def _has_numbers(row: EvaluationRow) -> bool:
    """Whether all that the card shows of an evaluation is known: a number that was not finite is null."""
    return None not in (row.get("tokens_seen"), row.get("eval_loss"), row.get("eval_bits_per_byte"))


def write_card(folder: str | Path, model: PreTrainedModel, facts: CardFacts) -> None:
    """Render model_card.md into `folder`/README.md."""
    base = facts.recipe.get("model_name_or_path")
    shown = vars(facts) | {
        "data": without_local_paths(facts.data),
        "curve": spread(facts.curve, SHOWN_EVALUATIONS),
        "samples": [row for row in facts.samples if row["step"] == shown_step(facts)],
    }
    card = ModelCard.from_template(
        _metadata(facts),
        template_path=str(_template()),
        config=model.config,
        generation=model.generation_config,
        num_parameters=model.num_parameters(),
        transformers_version=transformers.__version__,
        torch_version=torch.__version__,
        continued_from=Path(base).resolve().name if base and Path(base).exists() else base,
        data_license=data_license(facts.recipe),
        cell=cell,
        unedited=unedited,
        **shown,
    )
    content = re.sub(r"\r\n?", "\n", card.content)  # as it is when the file is read as text, for its hash
    write_atomically(Path(folder) / CARD, marked(content))


def refresh_card(folder: str | Path, model: PreTrainedModel) -> bool:
    """Write the card again if a run wrote it and it was not edited since; returns whether that was so."""
    path, facts = Path(folder) / CARD, read_facts(folder)
    if facts is None or not path.exists() or not is_as_written(path.read_text(encoding="utf-8")):
        return False
    write_card(folder, model, facts)
    return True


CARD_MARK = re.compile(r"\n<!-- written by the training run, sha256 (\w{64}) -->\n?$")


def marked(card: str) -> str:
    """`card` with an invisible last line, which shows later whether it was edited."""
    return f"{card}\n<!-- written by the training run, sha256 {_digest(card)} -->\n"


def is_as_written(card: str) -> bool:
    """Whether a run wrote this card and it was not edited since."""
    mark = CARD_MARK.search(card)
    return mark is not None and mark[1] == _digest(card[: mark.start()])


def _digest(card: str) -> str:
    return hashlib.sha256(card.rstrip().encode()).hexdigest()


def unedited(text: str) -> str:
    """A fenced block, in which Markdown and HTML of a story have no effect."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def shown_step(facts: CardFacts) -> int:
    """The step of the weights that the card describes: those of a finished run may be of its best evaluation."""
    return (facts.best_step if facts.final else None) or facts.step


def data_license(recipe: dict[str, Any]) -> str | None:
    """The one that the recipe states, or that of a known data set, or that of the stories in this project."""
    dataset = recipe.get("dataset_name")
    embedded = not dataset and not recipe.get("train_file")
    return recipe.get("data_license") or DATA_LICENSES.get(dataset or "") or ("mit" if embedded else None)


def _metadata(facts: CardFacts) -> ModelCardData:
    """The part of a card that the Hub reads. Only the score of all validation stories is an evaluation result."""
    recipe = facts.recipe
    dataset, base = recipe.get("dataset_name"), recipe.get("model_name_or_path")
    prompt = next(iter(recipe.get("sample_prompts") or []), "Once upon a time")
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=recipe.get("model_license"),
        tags=["tinystories", "custom_code"],
        datasets=[dataset] if dataset else None,
        base_model=base if base and not Path(base).exists() else None,
        model_name=Path(recipe.get("hub_model_id") or recipe.get("output_dir") or "model").name,
        eval_results=_results(facts, dataset) or None,
        widget=[{"text": prompt}],
    )


def _results(facts: CardFacts, dataset: str | None) -> list[EvalResult]:
    final = facts.final or {}
    numbers = [
        (name, f"{name.replace('_', ' ')}, all validation stories", final[name])
        for name in ("perplexity", "bits_per_byte")
        if name in final
    ]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset or "stories",
            dataset_name=dataset or "held-out stories",
            dataset_split="validation",
            metric_type=name,
            metric_name=title,
            metric_value=round(value, 4),
        )
        for name, title, value in numbers
    ]


def _template() -> Path:
    """model_card.md: in the checkout, or where the installation put it."""
    in_checkout = Path(__file__).parent.parent.parent / "model_card.md"
    if in_checkout.exists():
        return in_checkout
    installed = metadata.files("tinystories") or []
    return Path(str(next(file.locate() for file in installed if file.name == in_checkout.name)))
