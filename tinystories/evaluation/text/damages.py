"""People's stories damaged by code: a text metric with a bar must see them, and nobody may call them good stories.

Each damage leaves most of a text as people wrote it. Some are visible in a sentence (words replaced, capitals), others
only to a reader of the whole story (another name from half-way on, the sentences in reverse, two stories glued).
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinystories.evaluation.text.names import names_in
from tinystories.evaluation.text.samples import Sample, spliced
from tinystories.evaluation.text.words import WORD, first_words, half_way, split_sentences, split_words


Damage = Callable[[list[Sample]], list[Sample]]

GENDER = {"he": "she", "him": "her", "his": "her", "himself": "herself", "boy": "girl", "mom": "dad", "king": "queen"}
GENDER |= {"she": "he", "her": "him", "hers": "his", "herself": "himself", "girl": "boy", "dad": "mom", "queen": "king"}
ANTONYMS = (
    "big small,happy sad,good bad,hot cold,up down,in out,day night,open closed,always never,love hate,loved hated,"
    "old new,fast slow,come go,came went,give take,gave took,laughed cried,laugh cry,friend enemy,friends enemies,"
    "nice mean,beautiful ugly,yes no,first last,more less,many few,full empty,light dark,loud quiet,strong weak,"
    "found lost,find lose,liked disliked,smiled frowned,clean dirty,easy hard,early late,kind cruel,safe dangerous,"
    "everyone nobody,everything nothing,under over,with without,before after,inside outside,hungry full,won lost,"
    "brave afraid,best worst,better worse,remembered forgot,started stopped,start stop,push pull,pushed pulled"
)
OPPOSITE = {one: other for pair in ANTONYMS.split(",") for one, other in (pair.split(), reversed(pair.split()))}
SPANISH = {
    "who": "La niña,El perro,Un conejo pequeño,Mi abuela,El viejo pescador,La gata blanca,Un dragón verde,Su hermano",
    "did": "encontró,buscaba,escondió,quería mirar,perdió,cuidaba,llevó a casa,dibujó",
    "what": "una llave de oro,la pelota roja,un mapa del bosque,las flores del jardín,su sombrero,una estrella",
    "where": "cerca del río,detrás de la casa,en la montaña,debajo del árbol,junto al mar,en el mercado",
    "then": "Después todos cantaron,Por la noche llovió,Su madre sonrió,Nadie sabía por qué,Al final comieron pan",
}


def replaced(text: str, new: Callable[[str], str | None]) -> str:
    """`text` with `new` of each word in lower case, where that is not None; a capital stays one."""

    def one(match: re.Match[str]) -> str:
        word = new(match[0].lower())
        return match[0] if word is None else word.capitalize() if match[0][0].isupper() else word

    return WORD.sub(one, text)


def renamed(text: str, new: dict[str, str]) -> str:
    """`text` with other names."""
    return re.sub(r"\b[A-Z][a-z]+\b", lambda match: new.get(match[0], match[0]), text)


def other_names(samples: list[Sample]) -> list[Sample]:
    """From half-way on, each character has the name of another one, of this story or of a later one."""
    names = [sorted(names_in(sample.prompt + sample.text)) for sample in samples]
    damaged = []
    for i, sample in enumerate(samples):
        later = [name for others in names[i + 1 :] + names[:i] for name in others if name not in names[i]]
        cast = names[i] if len(names[i]) > 1 else [*names[i], *later, "Zara"][:2]
        first, second = half_way(sample.text)
        second = renamed(second, dict(zip(cast, cast[1:] + cast[:1], strict=True)))
        damaged.append(replace(sample, text=first + second))
    return damaged


def other_gender(samples: list[Sample]) -> list[Sample]:
    """He is she and she is he."""
    return [replace(sample, text=replaced(sample.text, GENDER.get)) for sample in samples]


def antonyms(samples: list[Sample]) -> list[Sample]:
    """Big is small and happy is sad."""
    return [replace(sample, text=replaced(sample.text, OPPOSITE.get)) for sample in samples]


def without_ending(samples: list[Sample]) -> list[Sample]:
    """The first 60 % of the sentences, called as whole as the text is."""
    parts = [sentences(sample.text) for sample in samples]
    cut = [_joined(part[: max(1, len(part) * 6 // 10)]) for part in parts]
    return [replace(sample, text=text) for sample, text in zip(samples, cut, strict=True)]


def reversed_sentences(samples: list[Sample]) -> list[Sample]:
    """The last sentence first."""
    return [replace(sample, text=_joined(sentences(sample.text)[::-1])) for sample in samples]


def mixed_sentences(samples: list[Sample]) -> list[Sample]:
    """As many sentences as the text has, each of another story."""
    parts, damaged = [sentences(sample.text) for sample in samples], []
    for i, own in enumerate(parts):
        others = [parts[(i + step * 7 + 1) % len(parts)] for step in range(len(own))]
        damaged.append(_joined([other[min(k, len(other) - 1)] for k, other in enumerate(others)]))
    return [replace(sample, text=text) for sample, text in zip(samples, damaged, strict=True)]


def other_prompt(samples: list[Sample]) -> list[Sample]:
    """The whole text of the next story, after this one's prompt."""
    others = samples[1:] + samples[:1]
    return [replace(sample, text=other.text, ended=other.ended) for sample, other in zip(samples, others, strict=True)]


def capitals(samples: list[Sample]) -> list[Sample]:
    """ALL CAPS."""
    return [replace(sample, text=sample.text.upper()) for sample in samples]


def one_sentence(samples: list[Sample]) -> list[Sample]:
    """The first sentence, called a whole story."""
    return [replace(sample, text=_joined(sentences(sample.text)[:1]), ended=True) for sample in samples]


def every_seventh_word(samples: list[Sample], seed: int = 0) -> list[Sample]:
    """Each seventh word is one of another text. Made of copies of training stories, it must not pass as new."""
    random = np.random.default_rng(seed)
    pool = [word for sample in samples for word in split_words(sample.text)]

    def damaged(text: str) -> str:
        places = iter(range(1, len(text) + 1))
        return replaced(text, lambda _: None if next(places) % 7 else str(random.choice(pool)))

    return [replace(sample, text=damaged(sample.text)) for sample in samples]


def spanish(samples: list[Sample], seed: int = 0) -> list[Sample]:
    """Spanish sentences made of parts written for this purpose, as many words as the text has."""
    random, parts = np.random.default_rng(seed), {name: text.split(",") for name, text in SPANISH.items()}
    texts = []
    for sample in samples:
        length, text = len(split_words(sample.text)), ""
        while len(split_words(text)) < length:
            pick = {name: str(random.choice(known)) for name, known in parts.items()}
            text += " {who} {did} {what} {where}. {then}.".format(**pick)
        texts.append(first_words(text, length))
    return [replace(sample, text=text) for sample, text in zip(samples, texts, strict=True)]


def sentences(text: str) -> list[str]:
    """The sentences of `text`, each with its closing marks."""
    parts, begin = [], 0
    for sentence in split_sentences(text):
        end = text.index(sentence, begin) + len(sentence)
        end += len(re.match(r"[\"'\u201d\u2019)]*", text[end:])[0])  # type: ignore[index]
        parts.append(text[begin:end].strip())
        begin = end
    return parts or [text]


def _joined(parts: list[str]) -> str:
    return " " + " ".join(parts)


DAMAGES: dict[str, Damage] = {
    "other names": other_names,
    "other gender": other_gender,
    "antonyms": antonyms,
    "no ending": without_ending,
    "two stories": spliced,
    "reversed": reversed_sentences,
    "mixed": mixed_sentences,
    "other prompt": other_prompt,
    "capitals": capitals,
    "one sentence": one_sentence,
    "every 7th word": every_seventh_word,
    "Spanish": spanish,
}
