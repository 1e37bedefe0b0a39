"""What the record of claims.py says: differences with their intervals, the tables of docs/claims.md, the figures.

Every comparison is paired: the difference between two runs with one seed, and its mean over the seeds. Of bits per byte
the spread of these differences is pooled over all comparisons in which both models are sound, since three differences
alone say little about their spread; of everything else, and where a model is broken, it is that of the three
differences. The interval is Student's. A verdict follows from the interval alone.
"""

import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from benchmarks.recipe_runs import ROOT


FIGURES = {"bits": ROOT / "docs/figures/claims.svg", "stories": ROOT / "docs/figures/claims-stories.svg"}
SAMPLE_WORDS = 60


@dataclass(frozen=True)
class Measure:
    """A number of each run. key: where it stands in the run, with dots. better: lower, higher, or neither."""

    key: str
    title: str
    better: str = "lower"
    digits: int = 4


@dataclass(frozen=True)
class Comparison:
    """headlines: for so many of the measures, the first ones, the verdict is also a sentence."""

    arm: str
    measures: tuple[Measure, ...]
    base: str = "base"
    headlines: int = 1


def written(key: str, title: str, better: str = "lower") -> Measure:
    return Measure(f"stories_written.{key}.value", title, better, 3)


BITS = Measure("bits_per_byte", "bits per byte")
TEXT_BITS = Measure("text_bits_per_byte", "bits per byte, without the ends of stories")
TOKENS = Measure("tokens", "tokens that were no padding", "neither", 0)
MISSING = written("missing_articles", "nouns without determiner, default preset")
MISSING_PLAIN = written("missing_articles_plain", "nouns without determiner, plain sampling")
DOUBLED = written("doubled_articles_plain", "doubled articles for each hundred, plain sampling")
DROPPED = written("pairs_article_dropped", "pairs: a text with its article is likelier", "higher")
OF_ARTICLES = (
    MISSING_PLAIN,
    DROPPED,
    DOUBLED,
    MISSING,
    written("pairs_article_a_an", "pairs: a or an", "higher"),
    written("pairs_article_a_the", "pairs: a or the", "higher"),
    Measure("article_loss", "loss on articles, nats"),
    Measure("other_loss", "loss on all other tokens, nats"),
)
LOSSES = (
    Measure("last_training_loss", "loss that the run logged last, nats", "neither"),
    Measure("loss", "next-token loss on held-out stories, nats"),
)
ENDED = (
    written("ended", "stories that end, default preset", "higher"),
    written("ended_plain", "stories that end, plain sampling", "higher"),
)
CLAIMS = {
    "vocabulary": [
        Comparison("vocabulary_10k", (BITS, MISSING_PLAIN, MISSING), headlines=2),
        Comparison("vocabulary_32k", (BITS, MISSING_PLAIN, MISSING), headlines=2),
    ],
    "articles": [Comparison("weighted_articles", (BITS, *OF_ARTICLES), headlines=4)],
    "rotary": [Comparison("half_rotary", (BITS,))],
    "labels": [Comparison("shifted_twice", (BITS, *LOSSES))],
    "eos": [Comparison("no_eos", (TEXT_BITS, *ENDED), headlines=2)],
    "padding": [
        Comparison("one_story_a_row", (BITS, TOKENS)),
        Comparison("first_fit_rows", (BITS, TOKENS)),
    ],
    "context": [Comparison("half_context", (BITS,))],
    "dropout": [Comparison("dropout", (BITS,)), Comparison("few_stories_dropout", (BITS,), "few_stories")],
    "tied": [Comparison("untied", (BITS,))],
}
COMPARISONS = [comparison for comparisons in CLAIMS.values() for comparison in comparisons]
LABELS = {
    "base": "base",
    "vocabulary_10k": "vocabulary of 10,000",
    "vocabulary_32k": "vocabulary of 32,000",
    "weighted_articles": "articles count ten times",
    "half_rotary": "half of each head rotated",
    "shifted_twice": "labels shifted twice",
    "no_eos": "no EOS",
    "one_story_a_row": "one story a row, padded",
    "first_fit_rows": "whole stories fitted into rows",
    "half_context": "half the context",
    "dropout": "dropout 0.1",
    "few_stories": "a hundredth of the stories",
    "few_stories_dropout": "a hundredth of the stories, dropout 0.1",
    "untied": "output layer not tied",
}


@dataclass(frozen=True)
class Difference:
    """`values`: arm less base, for each seed. The interval is `mean` ± `half`."""

    values: list[float]
    mean: float
    half: float

    def verdict(self, measure: Measure) -> str:
        if measure.better == "neither":
            return ""
        if abs(self.mean) <= self.half:
            return f"no difference that {len(self.values)} seeds show"
        return "better" if (self.mean < 0) == (measure.better == "lower") else "worse"


def numbers(record: dict[str, Any], arm: str, measure: Measure) -> list[float]:
    """The measure of each run of the arm, by seed; none where it was not measured."""
    found = []
    for run in sorted((run for run in record["runs"] if run["arm"] == arm), key=lambda run: run["seed"]):
        value: Any = run
        for key in measure.key.split("."):
            value = value.get(key) if value is not None else None
        found.append(value)
    return [] if None in found else found


def paired(record: dict[str, Any], comparison: Comparison, measure: Measure) -> list[float]:
    arm, base = (numbers(record, name, measure) for name in (comparison.arm, comparison.base))
    return [a - b for a, b in zip(arm, base, strict=True)] if arm and base else []


def difference(record: dict[str, Any], comparison: Comparison, measure: Measure) -> Difference | None:
    """None where the measure is missing."""
    values = paired(record, comparison, measure)
    if not values:
        return None
    pool = [values]
    if measure is BITS and comparison.arm not in record["refused"]:
        sound = [other for other in COMPARISONS if other.arm not in record["refused"]]
        pool = [paired(record, other, BITS) for other in sound]
    freedom = sum(len(group) - 1 for group in pool)
    spread = math.sqrt(sum((len(group) - 1) * variance(group) for group in pool) / freedom)
    return Difference(values, fmean(values), t95(freedom) * spread / math.sqrt(len(values)))


def t95(freedom: int) -> float:
    """Student's t with this many degrees of freedom is within ± this value in 95 of 100 cases."""
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    place, below, step = 0.0, 0.5, 1e-3
    while below < 0.975:
        below += step * scale * (1 + (place + step / 2) ** 2 / freedom) ** (-(freedom + 1) / 2)
        place += step
    return place


def with_blocks(document: str, record: dict[str, Any]) -> str:
    """The document with new blocks between its markers."""
    blocks = {"claims: setting": setting(record), "claims: runs": table_of_runs(record)}
    blocks |= {f"claim: {name}": block(record, name) for name in CLAIMS}
    for mark, text in blocks.items():
        begin, end = f"<!-- {mark} -->\n", f"<!-- {mark.split(':')[0]}: end -->"
        before, rest = document.split(begin)
        document = f"{before}{begin}\n{text}\n\n{end}{rest.split(end, 1)[1]}"
    return document


def setting(record: dict[str, Any]) -> str:
    base, arm, first = record["base"], record["arms"]["base"], record["runs"][0]
    data, machine = record["provenance"]["data"], record["provenance"]["machine"]
    budget = f"{record['budget']:.3g}".replace("e+", "e")
    steps = f"{arm['steps']:,} steps of {base['per_device_train_batch_size']} rows of {base['block_size']} tokens"
    text = (
        f"The base has {arm['parameters']:,} parameters: {base['num_hidden_layers']} layers, width "
        f"{base['hidden_size']}, {base['num_attention_heads']} heads, vocabulary {arm['vocabulary']:,}, context "
        f"{base['block_size']}. Every run may spend {budget} floating-point operations; of the base "
        f"these are {steps}, {arm['places']:,} tokens. The text is {data['train']['bytes'] / 1e6:.1f} MB of "
        f"TinyStories; bits per byte are measured on all {first['stories']:,} stories of another file. Seeds "
        f"{', '.join(map(str, record['seeds']))}; {machine['accelerator'] or machine['processor']}."
    )
    return "\n".join(textwrap.wrap(text, 120, break_on_hyphens=False))


def table_of_runs(record: dict[str, Any]) -> str:
    heads = ["", "parameters", "steps", "tokens", *(f"seed {seed}" for seed in record["seeds"])]
    lines = [row(heads), "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name, arm in record["arms"].items():
        tokens = round(fmean(numbers(record, name, TOKENS)))
        scores = [f"{score:.4f}" for score in numbers(record, name, BITS)]
        lines.append(row([LABELS[name], f"{arm['parameters']:,}", f"{arm['steps']:,}", f"{tokens:,}", *scores]))
    return "\n".join(lines)


def block(record: dict[str, Any], claim: str) -> str:
    """Verdict, table and evidence."""
    comparisons = CLAIMS[claim]
    lines = [line for comparison in comparisons for line in sentences(record, comparison)] + [""]
    lines += [row(["", "measured", "base", "here", "difference", ""]), "|---|---|---:|---:|---:|---|"]
    for comparison in comparisons:
        for measure in comparison.measures:
            found = difference(record, comparison, measure)
            if found is not None:
                lines.append(table_line(record, comparison, measure, found))
    return "\n".join([*lines, *evidence(record, claim)])


def sentences(record: dict[str, Any], comparison: Comparison) -> list[str]:
    """A verdict for each headline, in words."""
    name, lines = LABELS[comparison.arm], []
    for measure in comparison.measures[: comparison.headlines]:
        found = difference(record, comparison, measure)
        if found is not None:
            number = signed(found, measure.digits)
            lines.append(f"- {name[0].upper()}{name[1:]}: **{found.verdict(measure)}** in {measure.title} ({number}).")
    return lines


def table_line(record: dict[str, Any], comparison: Comparison, measure: Measure, found: Difference) -> str:
    means = [fmean(numbers(record, name, measure)) for name in (comparison.base, comparison.arm)]
    cells = [LABELS[comparison.arm], measure.title, *(f"{mean:,.{measure.digits}f}" for mean in means)]
    return row([*cells, signed(found, measure.digits), found.verdict(measure)])


def signed(found: Difference, digits: int) -> str:
    return f"{found.mean:+,.{digits}f} ± {found.half:,.{digits}f}"


def evidence(record: dict[str, Any], claim: str) -> list[str]:
    """What the guards say to a faulty arm; and how people, or the model, write."""
    lines: list[str] = []
    if claim in ("vocabulary", "articles"):
        share = record["people"]["missing_articles"]["value"]
        lines += ["", f"People leave out the determiner of {100 * share:.2f} % of such nouns, in the held-out stories."]
    if claim == "eos":
        shares = numbers(record, "no_eos", written("ended_at_bos", ""))
        lines += ["", f"Where BOS counts as the end too, {100 * fmean(shares):.0f} % end, plain sampling."]
    if claim == "labels":
        lines += ["", "Its first story:", "", *sample(record, "shifted_twice")]
    for comparison in CLAIMS[claim]:
        if comparison.arm in record["refused"]:
            refused = record["refused"][comparison.arm]
            lines += ["", f"With the guards the run ends before its first step, exit status {refused['exit_status']}:"]
            lines += ["", "```text", *textwrap.wrap(refused["message"], 118, break_on_hyphens=False), "```"]
    return lines


def sample(record: dict[str, Any], arm: str) -> list[str]:
    story = next(run for run in record["runs"] if run["arm"] == arm)["stories_written"]["sample"]
    words = (story["prompt"] + story["text"]).replace("`", "'").split()[:SAMPLE_WORDS]
    return ["```text", *textwrap.wrap(" ".join(words), 118, break_on_hyphens=False), "```"]


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(record: dict[str, Any], files: dict[str, Path]) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        sys.exit("no figure: matplotlib is missing (python -m pip install matplotlib)")
    from tinystories.reporting.figures import STYLE

    with plt.rc_context(STYLE | {"svg.hashsalt": "claims"}):  # equal data give an identical file
        for name, drawn in (("bits", draw_bits(record)), ("stories", draw_stories(record))):
            drawn.savefig(files[name], metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
            plt.close(drawn)


COLOURS = {"better": "#0b6e99", "worse": "#bf4f0b"}
GREY = "#8a939c"


def draw_bits(record: dict[str, Any]) -> Any:
    """A line for each comparison: the differences of the seeds as dots, mean and interval as a bar.

    Labels shifted twice are far outside, and only named.
    """
    import matplotlib.pyplot as plt

    (outside,) = (comparison for comparison in COMPARISONS if comparison.arm == "shifted_twice")
    shown = [comparison for comparison in COMPARISONS if comparison is not outside]
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    axes.axvline(0, color="black", linewidth=0.8)
    for place, comparison in enumerate(shown):
        measure = comparison.measures[0]
        found = difference(record, comparison, measure)
        assert found is not None
        colour = COLOURS.get(found.verdict(measure), GREY)
        axes.errorbar(found.mean, place, xerr=found.half, fmt="|", color=colour, markersize=12, capsize=4, linewidth=2)
        axes.plot(found.values, [place] * len(found.values), "o", color=colour, alpha=0.45, markersize=5)
    axes.set_yticks(range(len(shown)), [LABELS[comparison.arm] for comparison in shown])
    axes.invert_yaxis()
    axes.set_xlabel("bits per byte more than the base (lower is better): seeds, mean, 95 % interval")
    far = difference(record, outside, BITS)
    assert far is not None
    axes.set_title(f"not shown: {LABELS[outside.arm]}, {far.mean:+.2f}", fontsize="small", loc="right", color=GREY)
    return figure


def draw_stories(record: dict[str, Any]) -> Any:
    """What bits per byte do not show: articles, ends of stories, and a loss that looks right."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(8, 5.5), layout="constrained")
    articles = ("base", "vocabulary_10k", "vocabulary_32k", "weighted_articles")
    missing, pairs, ends, losses = panels.flatten()
    dots(missing, record, [(LABELS[arm], arm, MISSING_PLAIN) for arm in articles], "nouns without determiner")
    missing.axvline(record["people"]["missing_articles"]["value"], color=GREY, linestyle="--", label="people")
    missing.legend(fontsize="small")
    dots(pairs, record, [(LABELS[arm], arm, DROPPED) for arm in articles], "pairs with the article right")
    at_bos = written("ended_at_bos", "")
    rows = [("base", "base", ENDED[1]), ("no EOS", "no_eos", ENDED[1]), ("no EOS, BOS ends it", "no_eos", at_bos)]
    dots(ends, record, rows, "stories that end")
    kinds = tuple(zip(("logged", "true"), LOSSES, strict=True))
    rows = [(f"{LABELS[arm]}: {kind}", arm, loss) for arm in ("base", "shifted_twice") for kind, loss in kinds]
    dots(losses, record, rows, "loss, nats")
    return figure


def dots(axes: Any, record: dict[str, Any], rows: list[tuple[str, str, Measure]], title: str) -> None:
    for place, (_, arm, measure) in enumerate(rows):
        values = numbers(record, arm, measure)
        axes.plot(values, [place] * len(values), "o", color=COLOURS["better"], alpha=0.5, markersize=5, clip_on=False)
        if values:
            axes.plot(fmean(values), place, "|", color="black", markersize=14)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.05 * axes.get_xlim()[1])
    axes.set_title(title, fontsize="medium", loc="left")
