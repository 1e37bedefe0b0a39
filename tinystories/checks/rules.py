"""The rules that name what is wrong with a model.

The first rule that holds gives the verdict. V is the size of the vocabulary; losses are in nats per token of held-out
text; ln V is the loss of a uniform guess.

- **wrong tokenizer**: it has more tokens than the model, its BOS or EOS are not the model's, or its size is not the one
  that the run recorded.
- **too little text**: fewer than 100 tokens were read, too few for the rules below.
- **wrong tokenizer**: the average of the model's predictions fits the token frequencies of the text worse than equal
  probabilities do (its cross-entropy is above ln V), unless the loss on stories it was trained on is below 0.9 ln V; or
  bits per byte are more than 1.5 times what the run recorded for its validation stories.
- **broken weights**: the loss is not a finite number.
- **labels shifted**: the loss for the token just read, which is easily learned, is below 0.1 ln V, and that for the
  next token is above; or the loss for the token after the next is below 0.9 ln V, and by 0.1 below that for the next.
- **untrained**: the loss is at least 0.9 ln V, on stories it was trained on too.
- **another kind of text**: the same, on a text that is not its run's, but the model has learned something: its loss is
  below 0.9 ln V on stories it was trained on or, where these are not known, below 0.75 ln V on what it writes itself.
- **no EOS**: where stories end, EOS has less than a tenth of the probability that its frequency alone would give it.
- **overfit**: the loss is more than 1.25 times that on stories it was trained on, and more than 0.1 above it; only
  where these can be read again.
- **undertrained**: a model that only counts pairs of tokens has a lower loss; or the run stopped before 90 % of its
  steps, and its last evaluation was its best.
- **sampling too hot**: what the model writes under its own generation_config has a loss, by its own probabilities, that
  is at least 1 nat per token above that of human text. Sampled at temperature 1 and without
  cuts, it would have about the same.
- **fine**: none of these.

After the first rule come the invariants of a finished run (invariants.py): **broken weights**, **wrong code**,
**wrong settings**, **wrong tokenizer**, **wrong best**, **wrong weights**, **wrong numbers**, **broken generation**,
**broken network**. A failed one names the file or the two numbers that disagree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tinystories.checks.invariants import Invariants, in_words
from tinystories.checks.measurements import Reading, Writing


ENOUGH_TOKENS = 100


@dataclass
class Records:
    """What the run wrote down beside the weights; None where it is not known."""

    recipe: dict[str, Any] | None = None
    step: int | None = None
    planned_steps: int | None = None
    tokens_seen: int | None = None
    dataset: str | None = None
    tokenizer_size: int | None = None
    bits_per_byte: float | None = None
    validation_key: str | None = None  # of its validation stories, see corpus.dataset_key
    evaluations: list[float] = field(default_factory=list)  # losses, in the order of the steps


@dataclass
class Measurements:
    """Everything that the verdict rests on. `reading` is None where the tokenizer has more tokens than the model."""

    vocab_size: int
    tokenizer_size: int
    special_ids: dict[str, tuple[Any, int]]  # name -> (of the model, of the tokenizer), where they differ
    records: Records
    own_text: bool
    reading: Reading | None = None
    training_loss: float | None = None
    writings: dict[str, Writing] = field(default_factory=dict)
    human_repeated: float | None = None
    invariants: Invariants = field(default_factory=Invariants)

    @property
    def measured(self) -> Reading:
        """The reading, for rules after the one that holds where there is none."""
        if self.reading is None:
            raise ValueError("no text was read: the tokenizer has more tokens than the model")
        return self.reading


def _does_not_fit(s: Measurements) -> str | None:
    if s.tokenizer_size > s.vocab_size:
        return f"the tokenizer has {s.tokenizer_size:,} tokens and the model knows {s.vocab_size:,}"
    for name, (of_model, of_tokenizer) in s.special_ids.items():
        return f"{name} is {of_model} for the model and {of_tokenizer} for the tokenizer"
    if s.records.tokenizer_size not in (None, s.tokenizer_size):
        return f"it was trained with {s.records.tokenizer_size:,} tokens, and this tokenizer has {s.tokenizer_size:,}"
    return None


def _too_little_text(s: Measurements) -> str | None:
    found = f"the text has {s.measured.tokens:,} tokens, and a verdict needs at least {ENOUGH_TOKENS}"
    return found if s.measured.tokens < ENOUGH_TOKENS else None


def _other_tokens_expected(s: Measurements) -> str | None:
    share, even = s.measured.mean_prediction_loss, math.log(s.vocab_size)
    if share > even and not _is_unlike_training(s):
        found = (
            f"on average it expects other tokens than those of the text ({share:.2f} nats; equal probabilities give "
            f"{even:.2f})"
        )
        return found if s.own_text else f"{found}; or this text is nothing like what it learned"
    measured, recorded = s.measured.bits_per_byte, s.records.bits_per_byte
    if s.own_text and recorded is not None and measured > 1.5 * recorded:
        here = f"on {s.measured.stories:,} of them it has {measured:.3f}"
        return f"its run recorded {recorded:.3f} bits per byte on its validation stories, and {here}"
    return None


def _is_unlike_training(s: Measurements) -> bool:
    """Whether it predicts, with this tokenizer, the stories it was trained on, but not this text."""
    return s.training_loss is not None and s.training_loss < 0.9 * math.log(s.vocab_size) <= s.measured.loss


def _broken_weights(s: Measurements) -> str | None:
    return None if math.isfinite(s.measured.loss) else f"the loss is {s.measured.loss}"


def _labels_shifted(s: Measurements) -> str | None:
    if _is_unlike_training(s):
        return None
    (same, following, second), nothing = s.measured.by_distance, math.log(s.vocab_size)
    found = f"the next token has a loss of {following:.2f}"
    if same < 0.1 * nothing < following:
        return f"{found}, the token it has just read {same:.2f}: it was trained to repeat its input"
    if second < min(following - 0.1, 0.9 * nothing):
        return f"{found}, the one after it {second:.2f}: it was trained on the token after the next"
    return None


def _untrained(s: Measurements) -> str | None:
    loss, nothing = min(s.measured.loss, s.training_loss or math.inf), math.log(s.vocab_size)
    if loss < 0.9 * nothing or _writes_what_it_learned(s):
        return None
    return f"the loss is {loss:.2f}, and that of a uniform guess is {nothing:.2f}"


def _writes_what_it_learned(s: Measurements) -> bool:
    """Whether its loss is low on what it writes itself, unlike a fresh model; where no text of its run is known."""
    written = min((writing.loss for writing in s.writings.values()), default=math.inf)
    return not s.own_text and s.training_loss is None and written < 0.75 * math.log(s.vocab_size)


def _another_text(s: Measurements) -> str | None:
    if s.own_text or s.measured.loss < 0.9 * math.log(s.vocab_size):
        return None
    if s.training_loss is not None:
        return f"the loss is {s.measured.loss:.2f} on it, and {s.training_loss:.2f} on stories it was trained on"
    written = min(writing.loss for writing in s.writings.values())  # else it would be untrained
    return f"the loss is {s.measured.loss:.2f} on it, and {written:.2f} on what the model writes itself"


def _no_eos(s: Measurements) -> str | None:
    r = s.measured
    if r.end_probability >= r.end_frequency / 10:
        return None
    frequency = f"its frequency among all tokens is {r.end_frequency:.2g}"
    return f"where stories end, EOS has a probability of {r.end_probability:.2g}, and {frequency}"


def _overfit(s: Measurements) -> str | None:
    if s.training_loss is None or s.measured.loss < max(1.25 * s.training_loss, s.training_loss + 0.1):
        return None
    held_out = "1 held-out story" if s.measured.stories == 1 else f"{s.measured.stories:,} held-out ones"
    other = held_out if s.own_text else "this text, unless that is of another kind"
    return f"the loss is {s.training_loss:.2f} on stories it was trained on and {s.measured.loss:.2f} on {other}"


def _against_overfitting(s: Measurements) -> str:
    """What can still be done: where the weights are of the best evaluation, a shorter run has none better."""
    records, recipe = s.records, s.records.recipe or {}
    if not records.evaluations:
        return "train on more stories or for fewer epochs, with evaluations and load_best_model_at_end"
    best, last, keeps_best = min(records.evaluations), records.evaluations[-1], recipe.get("load_best_model_at_end")
    if best == last or (keeps_best and records.bits_per_byte is not None):  # a checkpoint-N has no final score
        return "train on more stories: these weights are of the run's best evaluation, so fewer epochs would not help"
    remedy = "use the checkpoint of the best" if keeps_best else "train again with --load_best_model_at_end true"
    return f"its best evaluation had a loss of {best:.2f}, its last {last:.2f}: {remedy}; more stories help further"


def _undertrained(s: Measurements) -> str | None:
    loss, pairs, records = s.measured.loss, s.measured.pairs_loss, s.records
    if loss > pairs:
        return f"the loss is {loss:.2f}, and counting pairs of tokens gives {pairs:.2f}"
    stopped = records.step is not None and records.planned_steps and records.step < 0.9 * records.planned_steps
    if stopped and (not records.evaluations or records.evaluations[-1] == min(records.evaluations)):
        return (
            f"it was stopped at step {records.step:,} of {records.planned_steps:,}, while it was still getting better"
        )
    return None


def _too_hot(s: Measurements) -> str | None:
    own = next(iter(s.writings.values()), None)
    if own is None or own.loss < s.measured.loss + 1:
        return None
    return f"what it writes has a loss of {own.loss:.2f} by its own probabilities, human text has {s.measured.loss:.2f}"


@dataclass
class Rule:
    verdict: str
    reason: Callable[[Measurements], str | None]
    remedy: str | Callable[[Measurements], str]


RIGHT_TOKENIZER = "restore the tokenizer files of the run that made these weights"
LIKE_TRAINING = "give more stories like those it was trained on, with --data"
RULES = (
    Rule("wrong tokenizer", _does_not_fit, RIGHT_TOKENIZER),
    Rule("too little text", _too_little_text, LIKE_TRAINING),
    Rule("wrong tokenizer", _other_tokens_expected, RIGHT_TOKENIZER),
    Rule("broken weights", _broken_weights, "go back to an earlier checkpoint; lower the learning_rate"),
    Rule("labels shifted", _labels_shifted, "train again with labels equal to input_ids: the model shifts them itself"),
    Rule("untrained", _untrained, "train it from a recipe, or give the folder of the trained weights"),
    Rule("another kind of text", _another_text, LIKE_TRAINING),
    Rule("no EOS", _no_eos, "train with EOS after every story and in the loss; its id must not be that of padding"),
    Rule("overfit", _overfit, _against_overfitting),
    Rule(
        "undertrained",
        _undertrained,
        "train longer (--resume, more steps), or check the learning_rate",
    ),
    Rule("sampling too hot", _too_hot, "lower temperature, top_k, top_p or repetition_penalty (--preset natural)"),
)

AFTER_INVARIANTS = RULES[1]  # a tokenizer that does not fit explains most of what an invariant may find


def verdict(symptoms: Measurements) -> dict[str, str | None]:
    """{"verdict", "reason", "remedy"} of the first rule that holds."""
    for rule in RULES:
        if rule is AFTER_INVARIANTS and symptoms.invariants.broken is not None:
            return symptoms.invariants.broken
        reason = rule.reason(symptoms)
        if reason is not None:
            remedy = rule.remedy if isinstance(rule.remedy, str) else rule.remedy(symptoms)
            return {"verdict": rule.verdict, "reason": reason, "remedy": remedy}
    return {"verdict": "fine", "reason": f"no rule holds; {in_words(symptoms.invariants)}", "remedy": None}
