"""The model card of a checkpoint, its README.md: rendered from model_card.md out of JSON that lies beside the weights.

Nothing on it was typed. What was not recorded is said to be unknown, and what was not measured "not evaluated".
run_clm.py writes the card, and run_evaluation.py again when it has measured more.
"""

import hashlib
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from tinystories.reporting.format import cell
from tinystories.run_files import CARD, read_facts, spread


PLACEHOLDER = "THIS_REPOSITORY_OR_FOLDER"  # in model_card.md, where the code to copy needs a name
CARD_MARK = re.compile(r"\n<!-- written by the training run, sha256 (\w{64}) -->\n?$")


def marked(card: str) -> str:
    """`card` with an invisible last line, by which a later push can tell that nobody has edited it."""
    return f"{card}\n<!-- written by the training run, sha256 {_digest(card)} -->\n"


def is_as_written(card: str) -> bool:
    mark = CARD_MARK.search(card)
    return mark is not None and mark[1] == _digest(card[: mark.start()])


def _digest(card: str) -> str:
    return hashlib.sha256(card.rstrip().encode()).hexdigest()


SHOWN_EVALUATIONS = 10
# Licences of data sets whose own cards state them. Of other data the recipe says it (data_license), or nobody does.
DATA_LICENSES = {"roneneldan/TinyStories": "cdla-sharing-1.0"}


def write_card(folder: str | Path, model: PreTrainedModel, facts: dict[str, Any]) -> None:
    """Render model_card.md into `folder`/README.md. `facts`: see `read_facts`; what is missing was not recorded."""
    unknown = ("final", "curve", "elapsed_seconds", "environment", "samples", "evaluation", "best_step", "epoch")
    facts = dict.fromkeys(unknown) | facts
    recipe, curve = facts["recipe"], facts["curve"] or []
    base = recipe.get("model_name_or_path")
    card = ModelCard.from_template(
        _metadata(facts),
        template_path=str(_template()),
        config=model.config,
        generation=model.generation_config,
        num_parameters=model.num_parameters(),
        transformers_version=transformers.__version__,
        torch_version=torch.__version__,
        continued_from=Path(base).resolve().name if base and Path(base).exists() else base,
        data_license=data_license(recipe),
        cell=cell,
        unedited=unedited,
        **facts
        | {
            "data": _without_local_paths(facts["data"]),
            "curve": spread(curve, SHOWN_EVALUATIONS),
            "samples": [row for row in facts["samples"] or [] if row["step"] == shown_step(facts)],
        },
    )
    content = re.sub(r"\r\n?", "\n", card.content)  # what a file gives back when it is read as text
    (Path(folder) / CARD).write_text(marked(content), encoding="utf-8", newline="\n")


def refresh_card(folder: str | Path, model: PreTrainedModel) -> bool:
    """Write the card anew if a run wrote it and nobody has edited it since; whether that was so."""
    path, facts = Path(folder) / CARD, read_facts(folder)
    if facts is None or not path.exists() or not is_as_written(path.read_text(encoding="utf-8")):
        return False
    write_card(folder, model, facts)
    return True


def unedited(text: str) -> str:
    """A fenced block, which Markdown and HTML leave alone, whatever the story holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def shown_step(facts: dict[str, Any]) -> int:
    """The step of the weights that the card stands beside: a finished run has those of its best evaluation."""
    return (facts["final"] and facts["best_step"]) or facts["step"]


def data_license(recipe: dict[str, Any]) -> str | None:
    embedded = not recipe.get("dataset_name") and not recipe.get("train_file")  # the stories that this project brings
    return recipe.get("data_license") or DATA_LICENSES.get(recipe.get("dataset_name")) or ("mit" if embedded else None)


def _metadata(facts: dict[str, Any]) -> ModelCardData:
    """What the Hub reads of a card. Only the score of all validation stories is an evaluation result."""
    recipe = facts["recipe"]
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


def _results(facts: dict[str, Any], dataset: str | None) -> list[EvalResult]:
    final = facts["final"] or {}
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


def _without_local_paths(data: dict[str, Any]) -> dict[str, Any]:
    """A card is published: of a file on the author's machine it gives the name only."""
    sources = {role: data[role] for role in ("train", "validation") if role in data}
    named = {
        role: source | {"source": Path(source["source"]).name if Path(source["source"]).exists() else source["source"]}
        for role, source in sources.items()
    }
    return data | named


def _template() -> Path:
    """model_card.md: in the checkout, or where the installation put it."""
    in_checkout = Path(__file__).parent.parent.parent / "model_card.md"
    if in_checkout.exists():
        return in_checkout
    return Path(next(file.locate() for file in metadata.files("tinystories") if file.name == in_checkout.name))
