"""Metrics by a critic: what it finds equals what its model says, and no text changes what is found in another."""

import pytest
import torch

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.evaluation.scoring import continuation_nll
from tinystories.evaluation.text import critic as critics
from tinystories.evaluation.text.critic import Critic
from tinystories.evaluation.text.metrics import CRITIC, available_metrics
from tinystories.evaluation.text.samples import Sample


PAIRS = [
    ("Once there was a dog.", " He saw a ball. The dog ran to his ball and played."),
    ("Tom had a hat", ", and he gave it to Lily. She was happy."),
    ("", "The sun was big. Lily said that she liked it."),
]


@pytest.fixture
def critic(untrained_checkpoint) -> Critic:
    return Critic(*load_checkpoint(str(untrained_checkpoint)))


def sample(text: str, prompt: str = "", ended: bool = True) -> Sample:
    return Sample(prompt, text, ended, "balanced", 0)


def test_nats(critic):
    """The nats of a text are those of the likelihood, at any place in a batch; the halves add up to the whole."""
    contexts, texts = zip(*PAIRS, strict=True)
    expected = continuation_nll(critic.model, critic.tokenizer, contexts, texts)
    assert [one.nats for one in critic.score(PAIRS)] == pytest.approx(list(expected), rel=1e-5)
    (context, text), *_ = PAIRS
    first, second = critics.half_way(text)
    (whole,), (half,) = critic.score([(context, text)]), critic.score([(context + first, second)])
    assert whole.second == pytest.approx(half.nats, rel=1e-5) and 0 < whole.second < whole.nats


def test_expected(critic):
    """The expected nats are the entropies of the predictions, and the end is the end token after the last one."""
    context, text = PAIRS[0]
    ids = torch.tensor(
        [[critic.tokenizer.bos_token_id, *critic.tokenizer(context + text, add_special_tokens=False)["input_ids"]]]
    )
    with torch.inference_mode():
        shares = torch.softmax(critic.model(input_ids=ids).logits[0].double(), dim=-1)
    before = len(critic.tokenizer(context, add_special_tokens=False)["input_ids"])
    entropies = -(shares * shares.log()).sum(-1)
    (found,) = critic.score([(context, text)])
    assert found.expected == pytest.approx(float(entropies[before:-1].sum()), rel=1e-4, abs=1e-6)
    assert found.end == pytest.approx(float(shares[-1, critic.tokenizer.eos_token_id]), rel=1e-3)


def test_white_space(critic):
    """Paragraphs and double spaces change nothing."""
    assert critic.score([("One day,", "  he sat.\n\nThe end.")]) == critic.score([("One day,", " he sat. The end.")])


def test_longer_than_the_context(critic):
    """Of a text longer than the context, what fits is read."""
    (found,) = critic.score([("", "The dog ran. " * 2000)])
    assert found.nats > 0


def test_empty(critic):
    """An empty text has no nats; texts of which nothing can be judged have no value."""
    assert critic.score([("One day", "")])[0].nats == 0
    for metric in CRITIC:
        value = metric.measure([sample("", "One day"), sample("", "He sat")], critic=critic)
        assert value is None or value.low <= value.value <= value.high, metric.name


def test_pronouns(critic):
    """Each he or she of the text is judged against the other, not those of the prompt nor parts of words."""
    (found,) = critic.score([("He sat.", " She saw the sheet. Then he and she ate.")])
    assert len(found.pronouns) == 3 and all(0 < share < 1 for share in found.pronouns)
    he, she = (critic.score([("Then", f" {word} ran.")])[0].pronouns[0] for word in ("he", "she"))
    assert he + she == pytest.approx(1, abs=1e-5)


def test_introductions():
    """A name of the second half counts as introduced if it occurs before it."""
    text = " saw a dog named Rex. The dog ran far. Then Tom and his friend Rex met the cat of Mia."
    assert critics.introductions(sample(text, "One day Tom")) == [0.0, 1.0]
    assert critics.introductions(sample("")) == []


def test_prompt_fit(critic):
    """A text fits its own prompt or not; with one prompt only there is nothing to compare."""
    samples = [sample(text, prompt) for prompt, text in PAIRS]
    assert 0 <= critics.prompt_fit(samples, critic).value <= 1
    assert critics.prompt_fit(samples[:1], critic) is None


def test_ending(critic):
    """A text that was cut has no ending, however probable an end is there."""
    ended, cut = (critics.ending([sample(PAIRS[0][1], ended=ended)], critic).value for ended in (True, False))
    assert ended > 0 and cut == 0


def test_without_critic(caplog):
    """Without a critic, the metrics that need one are left out, and one line says so."""
    names = {metric.name for metric in CRITIC}
    assert not names & {metric.name for metric in available_metrics()}
    (line,) = [record.getMessage() for record in caplog.records if "--critic" in record.getMessage()]
    assert all(metric.title in line for metric in CRITIC)
