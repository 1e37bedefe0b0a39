"""How much a text repeats itself and other texts, and how it ends.

All of these depend on the length of the text, so they mean something only beside human texts of the same lengths
(samples.human_samples). Both directions are bad: a loop repeats too much, shuffled words too little.

- distinct-n: share of different word n-grams among all n-grams of all texts (Li et al., 2016);
- repeated 4-grams: share of 4-grams that occurred before in the same text (Welleck et al., 2020);
- self-BLEU: BLEU-4 of each text against all others, over texts cut to one length (Zhu et al., 2018), with the
  geometric smoothing of Chen and Cherry (2014, their third method);
- zlib ratio: bytes of the compressed text over its bytes.
"""

import math
import zlib
from collections import Counter

from tinystories.evaluation.estimates import Estimate, jackknife, mean, ratio, share
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import ngrams, split_words


SELF_BLEU_TEXTS = 100
SELF_BLEU_WORDS = 50
BLEU_ORDER = 4
LOOP_ROUNDS = 3
LOOP_WORDS = 12


def distinct(samples: list[Sample], n: int) -> Estimate | None:
    """Different n-grams over all n-grams, in [0, 1]; None if no text has n words."""
    counts = [Counter(ngrams(split_words(sample.text), n)) for sample in samples]
    counts = [count for count in counts if count]
    if not counts:
        return None
    total = sum(count.total() for count in counts)
    in_texts: Counter[tuple[str, ...]] = Counter()  # number of texts that have an n-gram
    for count in counts:
        in_texts.update(count.keys())

    def without(count: Counter[tuple[str, ...]]) -> float:
        own = sum(in_texts[ngram] == 1 for ngram in count)
        return (len(in_texts) - own) / max(1, total - count.total())

    return jackknife(len(in_texts) / total, [without(count) for count in counts])


def repeated_fourgrams(samples: list[Sample]) -> Estimate | None:
    """Share of the 4-grams that occurred before in the same text, in [0, 1]."""
    counts = [Counter(ngrams(split_words(sample.text), 4)) for sample in samples]
    return ratio([count.total() - len(count) for count in counts], [count.total() for count in counts])


def self_bleu(samples: list[Sample]) -> Estimate | None:
    """Mean BLEU-4 of each text against the others, in [0, 1], over the first 50 words of at most 100 texts.

    Shorter texts are left out; None if fewer than two remain. No brevity penalty: all texts have the same length.
    """
    texts = [split_words(sample.text)[:SELF_BLEU_WORDS] for sample in samples]
    texts = [text for text in texts if len(text) == SELF_BLEU_WORDS][:SELF_BLEU_TEXTS]
    if len(texts) < 2:
        return None
    logs = [0.0] * len(texts)
    halvings = [0] * len(texts)
    for n in range(1, BLEU_ORDER + 1):
        for i, (matches, total) in enumerate(_matches_with_others([Counter(ngrams(text, n)) for text in texts])):
            halvings[i] += not matches  # the first order without a match counts as half a match, the next as a quarter
            logs[i] += math.log((matches or 2.0 ** -halvings[i]) / total) / BLEU_ORDER
    return mean([math.exp(log) for log in logs])


def _matches_with_others(counts: list[Counter[tuple[str, ...]]]) -> list[tuple[int, int]]:
    """For each text, how many of its n-grams match another text (clipped counts of BLEU), and how many it has."""
    most: Counter[tuple[str, ...]] = Counter()  # the largest count of an n-gram in one text
    second: Counter[tuple[str, ...]] = Counter()  # the second largest
    for count in counts:
        for ngram, times in count.items():
            second[ngram] = max(second[ngram], min(times, most[ngram]))
            most[ngram] = max(most[ngram], times)
    return [
        (sum(min(times, second[g] if times == most[g] else most[g]) for g, times in count.items()), count.total())
        for count in counts
    ]


def ends_in_loop(text: str) -> bool:
    """Whether the text ends with the same words repeated at least three times, for at least 12 words."""
    sequence = split_words(text)
    for period in range(1, len(sequence) // LOOP_ROUNDS + 1):
        span = max(LOOP_ROUNDS * period, LOOP_WORDS)
        tail = sequence[-span:]
        if len(tail) == span and tail[period:] == tail[:-period]:
            return True
    return False


def looping(samples: list[Sample]) -> Estimate | None:
    """Share of the texts that end in a loop."""
    return share(sum(ends_in_loop(sample.text) for sample in samples), len(samples))


def compressed(samples: list[Sample]) -> Estimate | None:
    """Mean of compressed bytes over bytes; empty texts are left out."""
    texts = [text.encode() for sample in samples if (text := sample.text.strip())]
    return mean([len(zlib.compress(text, 9)) / len(text) for text in texts])


def ended(samples: list[Sample]) -> Estimate | None:
    """Share of the stories that the model ended itself."""
    return share(sum(sample.ended for sample in samples), len(samples))


def length(samples: list[Sample]) -> Estimate | None:
    """Mean number of words."""
    return mean([len(split_words(sample.text)) for sample in samples])
