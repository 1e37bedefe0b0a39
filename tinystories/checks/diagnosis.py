"""What is wrong with a model, if anything: one verdict, the numbers it rests on, and what to do.

    python check_run.py runs/demo
    python check_run.py someone/model --data my-stories.txt

The first rule that holds is the verdict. V is the size of the vocabulary, losses are nats per token of held-out text:

- **wrong tokenizer**: its ids go beyond V, its BOS or EOS are not the model's, or its size is not that on record.
- **too little text**: fewer than 100 tokens were read, and what follows rests on them.
- **wrong tokenizer**: the model's average prediction gives the tokens of the text less than an even share would (above
  ln V), and it has not less than 0.9 ln V on the stories it was trained on either; or bits per byte are half as high
  again as the run recorded for its validation stories.
- **broken weights**: the loss is not a number.
- **labels shifted**: the token just read, easily learned, has less than 0.1 ln V, and the next one more; or
  the one after the next has less than 0.9 ln V, and 0.1 less than the next.
- **untrained**: the loss, on training text too, is at least 0.9 ln V; ln V is that of a model that knows nothing.
- **another kind of text**: the same on a text that is not its run's, but it has learned something: its loss is below
  0.9 ln V on the stories it was trained on, or, where these are not known, 0.75 ln V on what it writes itself.
- **no EOS**: where stories end, EOS gets less than a tenth of its share of all tokens, which needs no reading to know.
- **overfit**: the loss is a quarter and 0.1 above that of the training text, where that can be read again.
- **undertrained**: a model that only counts pairs of tokens does better; or the run stopped before nine tenths of its
  steps, and its last evaluation was its best.
- **sampling too hot**: what the model writes under its own generation_config is, by its own probabilities, less likely
  than human text by 1 nat per token. Drawn at temperature 1 and without cuts, it would be as likely.
- **fine**: none of these.

A foreign model, without the records of a run, is measured the same way; what only the records say is "not known".
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint.loading import describe_model, load_checkpoint
from tinystories.checks.measurements import (
    Reading,
    Writing,
    gives_text_back,
    human_repeated_share,
    next_tokens,
    read_stories,
    write_stories,
)
from tinystories.data.held_out import Texts, find_texts
from tinystories.errors import UserError
from tinystories.run_files import Records, read_records


ENOUGH_TOKENS = 100


@dataclass
class Symptoms:
    """Everything that the verdict rests on. `reading` is None where the tokenizer has ids that the model has not."""

    vocab_size: int
    tokenizer_size: int
    special_ids: dict[str, tuple]  # name -> (of the model, of the tokenizer), where they differ
    records: Records
    own_text: bool
    reading: Reading | None = None
    training_loss: float | None = None
    writings: dict[str, Writing] = field(default_factory=dict)
    human_repeated: float | None = None


def _does_not_fit(s: Symptoms) -> str | None:
    if s.tokenizer_size > s.vocab_size:
        return f"the tokenizer has {s.tokenizer_size:,} tokens and the model knows {s.vocab_size:,}"
    for name, (of_model, of_tokenizer) in s.special_ids.items():
        return f"{name} is {of_model} for the model and {of_tokenizer} for the tokenizer"
    if s.records.tokenizer_size not in (None, s.tokenizer_size):
        return f"it was trained with {s.records.tokenizer_size:,} tokens, and this tokenizer has {s.tokenizer_size:,}"
    return None


def _too_little_text(s: Symptoms) -> str | None:
    found = f"the text has {s.reading.tokens:,} tokens, and no verdict rests on fewer than {ENOUGH_TOKENS}"
    return found if s.reading.tokens < ENOUGH_TOKENS else None


def _other_tokens_expected(s: Symptoms) -> str | None:
    share, even = s.reading.mean_prediction_loss, math.log(s.vocab_size)
    if share > even and not _is_unlike_training(s):
        other = "" if s.own_text else "; or this text is nothing like what it learned"
        found = f"on average it expects other tokens than the text has ({share:.2f} nats, an even share is {even:.2f})"
        return found + other
    measured, recorded = s.reading.bits_per_byte, s.records.bits_per_byte
    if s.own_text and recorded is not None and measured > 1.5 * recorded:
        here = f"on {s.reading.stories:,} of them it has {measured:.3f}"
        return f"its run recorded {recorded:.3f} bits per byte on its validation stories, and {here}"
    return None


def _is_unlike_training(s: Symptoms) -> bool:
    """What it was trained on it can read, with this tokenizer, and this text it cannot."""
    return s.training_loss is not None and s.training_loss < 0.9 * math.log(s.vocab_size) <= s.reading.loss


def _broken_weights(s: Symptoms) -> str | None:
    return None if math.isfinite(s.reading.loss) else f"the loss is {s.reading.loss}"


def _labels_shifted(s: Symptoms) -> str | None:
    if _is_unlike_training(s):
        return None
    (same, following, second), nothing = s.reading.by_distance, math.log(s.vocab_size)
    found = f"the next token has a loss of {following:.2f}"
    if same < 0.1 * nothing < following:
        return f"{found}, the token it has just read {same:.2f}: it was taught to repeat its input"
    if second < min(following - 0.1, 0.9 * nothing):
        return f"{found}, the one after it {second:.2f}: it was taught the token after the next"
    return None


def _untrained(s: Symptoms) -> str | None:
    loss, nothing = min(s.reading.loss, s.training_loss or math.inf), math.log(s.vocab_size)
    if loss < 0.9 * nothing or _writes_what_it_learned(s):
        return None
    return f"the loss is {loss:.2f}, and knowing nothing is {nothing:.2f}"


def _writes_what_it_learned(s: Symptoms) -> bool:
    """Sure of what it writes itself, as no fresh model is, where its own text is not known."""
    written = min((writing.loss for writing in s.writings.values()), default=math.inf)
    return not s.own_text and s.training_loss is None and written < 0.75 * math.log(s.vocab_size)


def _another_text(s: Symptoms) -> str | None:
    if s.own_text or s.reading.loss < 0.9 * math.log(s.vocab_size):
        return None
    if s.training_loss is not None:
        return f"the loss is {s.reading.loss:.2f} on it, and {s.training_loss:.2f} on stories it was trained on"
    written = min(writing.loss for writing in s.writings.values())  # else it would be untrained
    return f"the loss is {s.reading.loss:.2f} on it, and {written:.2f} on what the model writes itself"


def _no_eos(s: Symptoms) -> str | None:
    r = s.reading
    if r.end_probability >= r.end_frequency / 10:
        return None
    share = f"its share of all tokens is {r.end_frequency:.2g}"
    return f"where stories end, EOS has a probability of {r.end_probability:.2g}, and {share}"


def _overfit(s: Symptoms) -> str | None:
    if s.training_loss is None or s.reading.loss < max(1.25 * s.training_loss, s.training_loss + 0.1):
        return None
    other = "held-out ones" if s.own_text else "this text, unless that is of another kind"
    return f"the loss is {s.training_loss:.2f} on stories it was trained on and {s.reading.loss:.2f} on {other}"


def _undertrained(s: Symptoms) -> str | None:
    loss, pairs, records = s.reading.loss, s.reading.pairs_loss, s.records
    if loss > pairs:
        return f"the loss is {loss:.2f}, and counting pairs of tokens gives {pairs:.2f}"
    stopped = records.step is not None and records.planned_steps and records.step < 0.9 * records.planned_steps
    if stopped and (not records.evaluations or records.evaluations[-1] == min(records.evaluations)):
        return (
            f"it was stopped at step {records.step:,} of {records.planned_steps:,}, while it was still getting better"
        )
    return None


def _too_hot(s: Symptoms) -> str | None:
    own = next(iter(s.writings.values()), None)
    if own is None or own.loss < s.reading.loss + 1:
        return None
    return f"what it writes has a loss of {own.loss:.2f} by its own probabilities, human text has {s.reading.loss:.2f}"


@dataclass
class Rule:
    verdict: str
    reason: Callable[[Symptoms], str | None]
    remedy: str


RIGHT_TOKENIZER = "put back the tokenizer files of the run that made these weights"
LIKE_TRAINING = "name more stories, like those it was trained on, with --data"
RULES = (
    Rule("wrong tokenizer", _does_not_fit, RIGHT_TOKENIZER),
    Rule("too little text", _too_little_text, LIKE_TRAINING),
    Rule("wrong tokenizer", _other_tokens_expected, RIGHT_TOKENIZER),
    Rule("broken weights", _broken_weights, "go back to an earlier checkpoint; lower the learning_rate"),
    Rule("labels shifted", _labels_shifted, "train again with labels equal to input_ids: the model shifts them itself"),
    Rule("untrained", _untrained, "train it: python run_clm.py RECIPE; or these are not the weights you mean"),
    Rule("another kind of text", _another_text, LIKE_TRAINING),
    Rule("no EOS", _no_eos, "train with EOS after every story and in the loss; its id must not be that of padding"),
    Rule("overfit", _overfit, "train fewer epochs, on more stories, or keep the best checkpoint"),
    Rule(
        "undertrained",
        _undertrained,
        "train longer (--resume_from_checkpoint true, more steps), or check the learning_rate",
    ),
    Rule("sampling too hot", _too_hot, "lower temperature, top_k, top_p or repetition_penalty (--preset balanced)"),
)


def verdict(symptoms: Symptoms) -> dict[str, str | None]:
    """{"verdict", "reason", "remedy"} by the first rule that holds."""
    for rule in RULES:
        reason = rule.reason(symptoms)
        if reason is not None:
            return {"verdict": rule.verdict, "reason": reason, "remedy": rule.remedy}
    return {"verdict": "fine", "reason": "no rule of tinystories/checks/diagnosis.py found anything", "remedy": None}


def diagnose(
    checkpoint: str,
    revision: str | None = None,
    data: str | None = None,
    prompt: str | None = None,
    stories: int = 200,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure a checkpoint (a folder or Hub id) on at most so many stories. Everything found, ready for JSON."""
    model, tokenizer = load_checkpoint(checkpoint, device, revision)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(f"{checkpoint}: its tokenizer has neither BOS nor EOS, so a story has no beginning and no end")
    records = read_records(checkpoint, revision)
    texts = find_texts(records, data, stories)
    symptoms = measure(model, tokenizer, records, texts)
    known = symptoms.reading is not None
    prompt = prompt or next(iter((records.recipe or {}).get("sample_prompts") or []), "Once upon a time")
    return verdict(symptoms) | {
        "checkpoint": checkpoint,
        "model": describe_model(model).removeprefix("model: "),
        "gives_text_back": gives_text_back(tokenizer),
        "held_out": texts.source,
        "own_text": texts.own,
        "prompt": prompt,
        "next_tokens": next_tokens(model, tokenizer, prompt) if known else [],
        "symptoms": asdict(symptoms),
    }


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Records, texts: Texts) -> Symptoms:
    symptoms = Symptoms(
        vocab_size=model.get_input_embeddings().num_embeddings,
        tokenizer_size=len(tokenizer),
        special_ids=_special_ids_that_differ(model, tokenizer),
        records=records,
        own_text=texts.own,
    )
    if symptoms.tokenizer_size > symptoms.vocab_size:
        return symptoms
    symptoms.reading = read_stories(model, tokenizer, texts.held_out, texts.training)
    if math.isfinite(symptoms.reading.loss):
        if texts.training is not None:
            symptoms.training_loss = read_stories(model, tokenizer, texts.training).loss
        symptoms.writings = write_stories(model, tokenizer, texts.held_out)
        symptoms.human_repeated = human_repeated_share(tokenizer, texts.held_out)
    return symptoms


def _special_ids_that_differ(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple]:
    """A model may have several EOS; what one of the two does not say is not compared."""
    differ = {}
    for name in ("bos_token_id", "eos_token_id"):
        of_model, of_tokenizer = getattr(model.config, name, None), getattr(tokenizer, name)
        several = of_model if isinstance(of_model, list) else [of_model]
        if of_model is not None and of_tokenizer is not None and of_tokenizer not in several:
            differ[name] = (of_model, of_tokenizer)
    return differ


def describe(result: dict[str, Any]) -> Iterator[str]:
    """The diagnosis in lines for people; the verdict last."""
    s = result["symptoms"]
    yield f"model: {result['model']}"
    yield from _describe_training(s["records"])
    back = "gives text back as it was" if result["gives_text_back"] else "DOES NOT GIVE TEXT BACK as it was"
    differ = "".join(f"; {name} {a} in the model, {b} here" for name, (a, b) in s["special_ids"].items())
    yield f"tokenizer: {s['tokenizer_size']:,} tokens for a vocabulary of {s['vocab_size']:,}, {back}{differ}"
    if s["reading"] is not None:
        yield from _describe_reading(result["held_out"], s["reading"], s["training_loss"])
        yield f"after {result['prompt']!r}: " + ", ".join(f"{token!r} {p:.3f}" for token, p in result["next_tokens"])
        for name, writing in s["writings"].items():
            yield (
                f"written by {name}: loss {writing['loss']:.2f} by its own probabilities, {writing['repeated']:.1%} of "
                f"four words repeated (human text {s['human_repeated']:.1%}), {writing['ended']:.0%} ended"
            )
    yield f"verdict: {result['verdict'].upper()}: {result['reason']}" + (
        f" — {result['remedy']}" * bool(result["remedy"])
    )


def _describe_training(records: dict[str, Any]) -> Iterator[str]:
    known = {
        "step": records["step"] and f"{records['step']:,} of {records['planned_steps'] or 0:,}",
        "tokens": records["tokens_seen"] and f"{records['tokens_seen']:,}",
        "trained on": records["dataset"],
    }
    yield "training: " + ", ".join(f"{name} {value or 'not known'}" for name, value in known.items())
    if losses := records["evaluations"]:
        yield f"  loss at its evaluations: first {losses[0]:.3f}, best {min(losses):.3f}, last {losses[-1]:.3f}"


def _describe_reading(source: str, r: dict[str, Any], training_loss: float | None) -> Iterator[str]:
    yield f"held-out text: {r['stories']} stories, {r['tokens']:,} tokens ({source})"
    yield (
        f"  loss {r['loss']:.3f} nats per token, {r['bits_per_byte']:.3f} bits per byte (token frequencies "
        f"{r['unigram_entropy']:.2f}, pairs of tokens {r['pairs_loss']:.2f})"
    )
    same, following, second = r["by_distance"]
    yield f"  token just read {same:.2f}, next token {following:.2f}, the one after it {second:.2f}"
    yield (
        f"  EOS where stories end: probability {r['end_probability']:.2g}, median rank {r['end_median_rank']}; "
        f"elsewhere {r['elsewhere_end_probability']:.2g}"
    )
    if r["article_loss"] is not None:
        yield f"  articles {r['article_loss']:.2f}, other tokens {r['other_loss']:.2f}"
    seen = "not known (its training text cannot be read)" if training_loss is None else f"{training_loss:.3f}"
    yield f"  loss on stories it was trained on: {seen}"
