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

from tinystories.config.names import looks_local
from tinystories.reporting.card_facts import CardFacts


@dataclass(frozen=True)
class KnownData:
    """What the card of a data set states itself. paper: its arXiv number."""

    license: str
    language: str
    paper: str | None = None


KNOWN_DATA = {"roneneldan/TinyStories": KnownData("cdla-sharing-1.0", "en", "2305.07759")}
SAMPLE_CORPUS = KnownData("mit", "en")  # the stories of this project
# The licences that the Hub knows, as of May 2026; it refuses a card with any other identifier.
LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
other
"""


def on_hub(name: str | None) -> str | None:
    """`name`, if it is one of the Hub: no folder or file here, and none of another machine by its form."""
    return name if name and not looks_local(name) and not Path(name).exists() else None


def dataset_of(recipe: dict[str, Any]) -> str | None:
    """The data set on the Hub that the training stories are from."""
    return on_hub(recipe.get("dataset_name") or recipe.get("source_dataset"))


def known_data(recipe: dict[str, Any]) -> KnownData | None:
    if not recipe.get("dataset_name") and not recipe.get("train_file"):
        return SAMPLE_CORPUS
    return KNOWN_DATA.get(dataset_of(recipe) or "")


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
    base = on_hub(recipe.get("model_name_or_path"))
    return ModelCardData(
        **_language(language(recipe)),
        library_name="transformers",
        pipeline_tag="text-generation",
        **_license(recipe.get("model_license")),
        tags=["tinystories", "custom_code"],
        datasets=[dataset] if dataset else None,
        base_model=base,
        base_model_relation="finetune" if base else None,
        model_name=Path(recipe.get("hub_model_id") or recipe.get("output_dir") or "").name.strip(".") or "model",
        eval_results=_results(facts) or None,
        co2_eq_emissions=emissions(facts),
        widget=_widget(facts, samples),
    )


def _language(stated: list[str]) -> dict[str, Any]:
    """The Hub takes codes of two or three letters; a region or script stands beside them."""
    codes = list(dict.fromkeys(code.split("-")[0] for code in stated))
    found: dict[str, Any] = {"language": codes[0] if len(codes) == 1 else codes or None}
    return found | ({"language_bcp47": stated} if codes != stated else {})


def _license(stated: str | None) -> dict[str, Any]:
    """A licence that the Hub does not know goes by its name, as the Hub asks: license other, and license_name."""
    if not stated:
        return {}
    if stated.lower() in LICENSES.split():
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


def _results(facts: CardFacts) -> list[EvalResult]:
    final = facts.final or {}
    numbers = [
        (name, f"{name.replace('_', ' ')}, all validation stories", final[name])
        for name in ("perplexity", "bits_per_byte")
        if name in final
    ]
    return [
        EvalResult(
            task_type="text-generation",
            metric_type=name,
            metric_name=title,
            metric_value=round(value, 4),
            **_scored_on(facts),
        )
        for name, title, value in numbers
    ]


def _scored_on(facts: CardFacts) -> dict[str, Any]:
    """The data of a score. A split of a data set is named only if that is what was scored: stories may have been held
    out of the training split, and a validation file may be of anything."""
    recipe, dataset = facts.recipe, dataset_of(facts.recipe)
    if dataset is None or recipe.get("validation_file"):
        return {"dataset_type": "stories", "dataset_name": "held-out stories"}
    source = (facts.data.get("validation") or {}).get("source", "")
    split = re.fullmatch(rf"{re.escape(dataset)}\[(.+)\]", source)
    return {
        "dataset_type": dataset,
        "dataset_name": dataset if split else f"stories held out of {dataset}",
        "dataset_config": recipe.get("dataset_config_name"),
        "dataset_split": split[1] if split else None,
        "dataset_revision": recipe.get("dataset_revision"),
    }
