"""Stories graded by a large language model, the exercise of the TinyStories paper (arXiv 2305.07759) in our own words.

The judge reads a beginning and the story that a model wrote on, apart by `***`. It first writes an assessment, then, in
a second turn, grades for grammar, creativity, consistency and plot out of 10, and the age of a child who might have
written it. Any endpoint that speaks OpenAI's chat completions will do. It is optional: grades depend on the judge, so
compare only grades of the same judge, and say which it was.

Answers are kept word for word, one JSON line each; a story that has one is not asked about again. A reply without
grades is counted as unparsed and a story without a reply as failed: neither is ever a grade of 0.
"""

import hashlib
import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from tinystories.errors import UserError
from tinystories.evaluation.estimates import Z
from tinystories.evaluation.judge.chat_client import KEY_VARIABLE, Chat, ChatFailed, Endpoint
from tinystories.evaluation.text.samples import Sample


GRADES = ("grammar", "creativity", "consistency", "plot")
AGE_GROUPS = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}
FAILURES_IN_A_ROW = 8  # after so many the rest is not asked: the server is down

ASSESS = """\
Below is a writing exercise. A student was given the beginning of a story and asked to write the rest. The sign *** \
stands where the beginning ends and the student's own text starts.

{prompt}***{text}

Assess only what the student wrote, after the sign ***. Is the grammar right? Does it follow from the beginning and \
agree with itself, with the same people and things throughout? Does something happen that makes sense? Is there an \
idea of the student's own? If the beginning ends within a sentence, say how well the student finished it. \
Answer in one paragraph, without grades."""
FORMAT = (
    "\n".join(f"{grade.capitalize()}: N/10" for grade in GRADES)
    + "\nAge group: X\n\nwhere each N is a whole number from 0 to 10, and X is one letter: "
    + ", ".join(f"{letter} for {years} years" for letter, years in AGE_GROUPS.items())
    + "."
)
GRADE = f"Now grade the student's text, and guess the student's age. Reply with these five lines alone:\n\n{FORMAT}"
AGAIN = f"These are not the five lines that were asked for. Reply with these five lines and nothing else:\n\n{FORMAT}"
REPLY = re.compile(
    r"\s*".join(rf"{grade}: *(?P<{grade}>10|[0-9]) */ *10\b" for grade in GRADES)
    + r"\s*age group: *(?P<age_group>[A-F])\.?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Judgement:
    """What a judge said of stories. `grades`: {name: {"value", "standard_error", "low", "high", "number"}}."""

    grades: dict[str, dict[str, float | None]]
    age_groups: dict[str, int]
    graded: int
    unparsed: int
    failed: int
    first_failure: str | None  # in words
    asked_model: str
    models: list[str]  # as the server names them: more than one if it changed
    dates: tuple[str, str] | None  # first and last answer


def endpoint_from_environment(url: str, model: str, **settings: Any) -> Endpoint:
    """The endpoint of `--judge_url` and `--judge_model`, with the key that the environment holds, if any."""
    return Endpoint(url, model, key=os.environ.get(KEY_VARIABLE, "").strip() or None, **settings)


def judge(stories: Sequence[Sample], endpoint: Endpoint, answers: Path, threads: int = 4) -> Judgement:
    """Have `stories` graded; what is in the file `answers` already is not asked again, and what is new is added to it.

    Raises:
        UserError: the server refuses the key, the model or the request, or `answers` holds a damaged line.
    """
    known = _read_answers(answers)
    keys = [_key(story, endpoint.model) for story in stories]
    missing = {key: story for key, story in zip(keys, stories, strict=True) if key not in known}
    failures = _ask_all(missing, endpoint, answers, known, threads) if missing else {}
    return _summary(keys, known, failures, endpoint.model)


def parse_grades(reply: str) -> dict[str, int | str] | None:
    """The grades of a reply that is the five lines and nothing else; None of any other."""
    match = REPLY.fullmatch(reply.strip())
    if match is None:
        return None
    return {grade: int(match[grade]) for grade in GRADES} | {"age_group": match["age_group"].upper()}


def _key(story: Sample, model: str) -> str:
    """One exercise: the same story, asked of the same judge in the same words, is asked once."""
    parts = json.dumps([ASSESS, GRADE, model, story.prompt, story.text])
    return hashlib.sha256(parts.encode()).hexdigest()


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """The answers by key. A last line that a stop cut off is taken out of the file."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    answers = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            answer = json.loads(line)
            answers[answer["key"]] = {name: answer[name] for name in ("key", "grades", "model", "date")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: not an answer of the judge; remove the line to ask again") from error
    return answers


def _ask_all(
    stories: dict[str, Sample], endpoint: Endpoint, path: Path, answers: dict[str, dict], threads: int
) -> dict[str, str]:
    """Ask about `stories`, add each answer to `answers` and to the file; returns why others have none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chat, failures, in_a_row = Chat(endpoint), {}, 0
    pool = ThreadPoolExecutor(threads)
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            asked = {pool.submit(_ask, chat, story): key for key, story in stories.items()}
            for done in tqdm(as_completed(asked), total=len(asked), desc="judging", delay=2):
                key = asked[done]
                try:
                    answers[key] = {"key": key} | done.result()
                except ChatFailed as error:
                    failures[key], in_a_row = str(error), in_a_row + 1
                    if in_a_row == FAILURES_IN_A_ROW:
                        chat.stop()
                else:
                    in_a_row = 0
                    file.write(json.dumps(answers[key]) + "\n")
                    file.flush()
    finally:  # also when the key is wrong, or on Ctrl-C
        chat.stop()
        pool.shutdown(cancel_futures=True)
    return failures


def _ask(chat: Chat, story: Sample) -> dict[str, Any]:
    """The two turns, and a third one where the second brought no grades."""
    messages = [{"role": "user", "content": ASSESS.format(prompt=story.prompt, text=story.text)}]
    replies = [chat.reply(messages)]
    for question in (GRADE, AGAIN):
        messages += [{"role": "assistant", "content": replies[-1].text}, {"role": "user", "content": question}]
        replies.append(chat.reply(messages))
        grades = parse_grades(replies[-1].text)
        if grades is not None:
            break
    return {
        "prompt": story.prompt,
        "story_sha256": hashlib.sha256(story.text.encode()).hexdigest(),
        "preset": story.preset,
        "seed": story.seed,
        "replies": [reply.text for reply in replies],
        "grades": grades,
        "model": replies[-1].model,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _summary(keys: list[str], answers: dict[str, dict], failures: dict[str, str], model: str) -> Judgement:
    answered = [answers[key] for key in keys if key in answers]
    graded = [answer["grades"] for answer in answered if answer["grades"] is not None]
    dates = sorted(answer["date"] for answer in answered)
    return Judgement(
        grades={name: _mean([grades[name] for grades in graded]) for name in GRADES if graded},
        age_groups=dict(sorted(Counter(grades["age_group"] for grades in graded).items())),
        graded=len(graded),
        unparsed=len(answered) - len(graded),
        failed=len(keys) - len(answered),
        first_failure=next(iter(failures.values()), None),
        asked_model=model,
        models=sorted({answer["model"] for answer in answered}),
        dates=(dates[0], dates[-1]) if dates else None,
    )


def _mean(values: list[int]) -> dict[str, float | None]:
    """Mean, its standard error and 95 % interval; of one value neither is known."""
    mean, number = statistics.fmean(values), len(values)
    error = statistics.stdev(values) / math.sqrt(number) if number > 1 else None
    low, high = (None, None) if error is None else (max(0.0, mean - Z * error), min(10.0, mean + Z * error))
    return {"value": mean, "standard_error": error, "low": low, "high": high, "number": number}
