"""The model card of a checkpoint, its README.md: rendered from model_card.md with the JSON files beside the weights.

The card is generated, and says where something was not recorded or not evaluated. run_clm.py writes the card;
run_evaluation.py writes it again with its results.
"""

import hashlib
import re
from importlib import metadata
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from tinystories.atomic import write_atomically
from tinystories.reporting.card_facts import CardFacts, read_facts, shown_samples
from tinystories.reporting.card_metadata import data_license, language, metadata_of, not_stated, on_hub, paper_of
from tinystories.reporting.format import cell, duration, energy, spread
from tinystories.run_files import CARD, CURVE, Evaluation, without_local_paths


HERE = 'model=".",  # this folder'  # in the code of a card, so that it runs where the card is; a push writes the name
SHOWN_EVALUATIONS = 10
TOKENS_TO_END = 200  # at a lower limit most stories are cut, and how many end says nothing of the model
ENDINGS = ("ended", "ending")
HELD_OUT, PAIRS, WRITTEN = "held-out stories", "minimal pairs: share right", "stories that it writes"  # tables


def write_card(folder: str | Path, model: PreTrainedModel, facts: CardFacts) -> None:
    """Render model_card.md into `folder`/README.md, with its picture of the curve where there is one."""
    recipe, samples = facts.recipe, shown_samples(facts)
    base = recipe.get("model_name_or_path")
    shown = vars(facts) | {
        "data": without_local_paths(facts.data),
        "curve": spread(facts.curve, SHOWN_EVALUATIONS),
        "samples": samples,
        "picture": draw_curve(facts, Path(folder) / CURVE),
    }
    card = ModelCard.from_template(
        metadata_of(facts, samples),
        template_path=str(_template()),
        here=HERE,
        config=model.config,
        generation=model.generation_config,
        num_parameters=model.num_parameters(),
        transformers_version=transformers.__version__,
        torch_version=torch.__version__,
        continued_from=on_hub(base) or (PureWindowsPath(Path(base).resolve()).name if base else None),
        data_license=data_license(recipe),
        language=language(recipe),
        paper=paper_of(recipe),
        not_stated=not_stated(recipe),
        tables=tables_of(facts.evaluation),
        cell=cell,
        duration=duration,
        energy=energy,
        plain=plain,
        unedited=unedited,
        **shown,
    )
    content = re.sub(r"\r\n?", "\n", card.content)  # as it is when the file is read as text, for its hash
    write_atomically(Path(folder) / CARD, marked(content))


def draw_curve(facts: CardFacts, path: Path) -> str | None:
    """Write the loss of training and of held-out stories over the steps as `path`; what it shows, in words.

    None, and no such file, where there are fewer than two evaluations.
    """
    if len(facts.curve) < 2:
        path.unlink(missing_ok=True)
        return None
    from tinystories.reporting.figures import CHARTS, describe, points_of, save_png  # matplotlib is slow to import

    loss = next(chart for chart in CHARTS if chart.name == "loss")
    points = points_of(loss, {"log": facts.log, "evaluations": facts.curve})
    save_png(loss, points, path)
    return describe(loss, points)


def tables_of(evaluation: Evaluation | None) -> list[dict[str, Any]]:
    """The rows of an evaluation in tables that can be read: [{"title", "rows", "without"}].

    Left out are alarms, endings where the limit of tokens had cut the stories, and rules without a minimal pair, which
    `without` names.
    """
    if evaluation is None:
        return []
    settings = evaluation["settings"]
    cut = settings["quick"] or settings.get("max_new_tokens", TOKENS_TO_END) < TOKENS_TO_END
    tables: dict[str, dict[str, Any]] = {}
    for row in evaluation["table"]:
        if row["alarm"] or (cut and row["name"] in ENDINGS):
            continue
        of_pairs = row["name"].startswith("pair_")
        title = PAIRS if of_pairs else WRITTEN if row["ceiling"] else HELD_OUT
        table = tables.setdefault(title, {"title": title, "rows": [], "without": []})
        if of_pairs:
            row = row | {"title": row["title"].split(": ")[-1].split(", ")[-1], "unit": ""}
        if row["value"] is None:
            table["without"].append(row["title"])
        else:
            table["rows"].append(row)
    return list(tables.values())


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


def plain(text: str) -> str:
    """A name from outside on one line, in which Markdown and HTML have no effect."""
    special = r"[\\`*<>\[\]|&~$]|(?<![^\W_])_|_(?![^\W_])"  # not the _ within my_stories.txt
    return re.sub(f"({special})", r"\\\1", " ".join(str(text).split()))


def _template() -> Path:
    """model_card.md: in the checkout, or where the installation put it."""
    in_checkout = Path(__file__).parent.parent.parent / "model_card.md"
    if in_checkout.exists():
        return in_checkout
    installed = metadata.files("tinystories") or []
    return Path(str(next(file.locate() for file in installed if file.name == in_checkout.name)))
