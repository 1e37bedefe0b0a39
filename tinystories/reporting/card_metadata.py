"""What the Hub reads at the top of a model card: language, licence, data, base model, scores, examples, emissions.

Nothing is guessed: what neither the recipe states nor the data set is known for is left out, and the card says with
which key it can be stated. The scores are in `model-index`: the newer files of `.eval_results/` are for data sets that
the Hub lists as benchmarks, and no data set of stories is one.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tinystories.reporting.card_facts import CardFacts


@dataclass(frozen=True)
class KnownData:
    """What the card of a data set states itself. paper: its arXiv number."""

    license: str
    language: str
    paper: str | None = None


KNOWN_DATA = {"roneneldan/TinyStories": KnownData("cdla-sharing-1.0", "en", "2305.07759")}
SAMPLE_CORPUS = KnownData("mit", "en")  # the stories of this project
NAMED_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # the form of the Hub's identifiers


def dataset_of(recipe: dict[str, Any]) -> str | None:
    """The data set on the Hub that the training stories are from."""
    return recipe.get("dataset_name") or recipe.get("source_dataset")


def known_data(recipe: dict[str, Any]) -> KnownData | None:
    dataset = dataset_of(recipe)
    if dataset is None and not recipe.get("train_file"):
        return SAMPLE_CORPUS
    return KNOWN_DATA.get(dataset or "")


def data_license(recipe: dict[str, Any]) -> str | None:
    """The one that the recipe states, or that of a known data set, or that of the stories in this project."""
    known = known_data(recipe)
    return recipe.get("data_license") or (known.license if known else None)


def language(recipe: dict[str, Any]) -> list[str]:
    """ISO 639 codes: those that the recipe states, or that of a known data set; none if it is not known."""
    known = known_data(recipe)
    stated = recipe.get("language") or (known.language if known else "")
    return [code.strip() for code in stated.split(",") if code.strip()]


def paper_of(recipe: dict[str, Any]) -> str | None:
    known = known_data(recipe)
    return known.paper if known else None


def not_stated(recipe: dict[str, Any]) -> dict[str, str]:
    """What a card should say and does not: {"the licence of the weights": "--model_license mit"}."""
    found = {
        "the licence of the weights": (recipe.get("model_license"), "--model_license mit"),
        "the licence of the data": (data_license(recipe), "--data_license cc-by-4.0"),
        "the language": (language(recipe), "--language en"),
    }
    return {what: option for what, (value, option) in found.items() if not value}


def metadata_of(facts: CardFacts, samples: list[dict[str, Any]]) -> ModelCardData:
    """The part of a card that the Hub reads. Only the score of all validation stories is an evaluation result.

    samples: those that the card shows, which are its examples.
    """
    recipe, dataset = facts.recipe, dataset_of(facts.recipe)
    base = recipe.get("model_name_or_path")
    on_hub = base if base and not Path(base).exists() else None
    languages = language(recipe)
    return ModelCardData(
        language=languages[0] if len(languages) == 1 else languages or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        **_license(recipe.get("model_license")),
        tags=["tinystories", "custom_code"],
        datasets=[dataset] if dataset else None,
        base_model=on_hub,
        base_model_relation="finetune" if on_hub else None,
        model_name=Path(recipe.get("hub_model_id") or recipe.get("output_dir") or "model").name,
        eval_results=_results(facts, dataset) or None,
        co2_eq_emissions=emissions(facts),
        widget=_widget(facts, samples),
    )


def _license(stated: str | None) -> dict[str, Any]:
    """A licence that has no identifier goes by its name, as the Hub asks: license other, and license_name."""
    if not stated:
        return {}
    if NAMED_LICENSE.fullmatch(stated.lower()):
        return {"license": stated.lower()}
    name = re.sub(r"[^a-z0-9.]+", "-", stated.lower()).strip("-.")
    return {"license": "other", "license_name": name or "stated-on-the-card"}


def _widget(facts: CardFacts, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Beginnings to try, each with what the model wrote after it: samples of the card, never made up."""
    shown = [{"text": row["prompt"], "output": {"text": row["text"]}} for row in samples]
    return shown or [{"text": next(iter(facts.recipe.get("sample_prompts") or []), "Once upon a time")}]


def emissions(facts: CardFacts) -> dict[str, Any] | None:
    """Grams of CO2, where the energy is known and the recipe states the grams for a kWh of its electricity."""
    grams, energy = facts.recipe.get("grid_intensity"), facts.energy_kwh
    if grams is None or energy is None:
        return None
    return {
        "emissions": float(f"{grams * energy:.3g}"),
        "source": f"{facts.energy_method}; {grams:g} grams of CO2 equivalent for each kWh, as the author states",
        "training_type": "fine-tuning" if facts.recipe.get("model_name_or_path") else "pre-training",
        "hardware_used": (facts.environment or {}).get("device_name"),
    }


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
