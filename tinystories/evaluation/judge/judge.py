"""Stories graded by a large language model, as in the TinyStories paper (arXiv 2305.07759), with our own prompts.

The judge reads a beginning and the model's continuation, separated by `***`. It first writes an assessment; in a second
turn it grades grammar, creativity, consistency and plot out of 10 and guesses the age of a child who might have written
the text. Any endpoint with OpenAI's chat completions API will do. The judge is optional. Grades depend on it: compare
only grades of the same judge, and name it.

Answers are kept verbatim, one JSON line each, and a story with an answer is not judged again. A reply without grades
counts as unparsed, a story without a reply as failed; neither becomes a grade of 0.
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

from tinystories.errors import UserError
from tinystories.evaluation.estimates import Z
from tinystories.evaluation.judge.chat_client import KEY_VARIABLE, Chat, ChatFailed, Endpoint
from tinystories.evaluation.text.samples import Sample
from tinystories.progress import progress_bar


GRADES = ("grammar", "creativity", "consistency", "plot")
AGE_GROUPS = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}
FAILURES_IN_A_ROW = 8  # after this many the server is taken to be down, and the other stories fail

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
    """The grades of all stories. `grades`: {name: {"value", "standard_error", "low", "high", "number"}}."""

    grades: dict[str, dict[str, float | None]]
    age_groups: dict[str, int]
    graded: int
    unparsed: int
    failed: int
    first_failure: str | None  # its message
    asked_model: str
    models: list[str]  # the names that the server gave: more than one if the model changed
    dates: tuple[str, str] | None  # first and last answer


def endpoint_from_environment(url: str, model: str, **settings: Any) -> Endpoint:
    """The endpoint of `--judge_url` and `--judge_model`, with the key from the environment, if there is one."""
    return Endpoint(url, model, key=os.environ.get(KEY_VARIABLE, "").strip() or None, **settings)


def judge(stories: Sequence[Sample], endpoint: Endpoint, answers: Path, threads: int = 4) -> Judgement:
    """Have `stories` graded. Stories with an answer in the file `answers` are not sent; new answers are added to it.

    Raises:
        UserError: the server refuses the key, the model or the request, or a line of `answers` is damaged.
    """
    known = _read_answers(answers)
    keys = [_key(story, endpoint.model) for story in stories]
    missing = {key: story for key, story in zip(keys, stories, strict=True) if key not in known}
    failures = _ask_all(missing, endpoint, answers, known, threads) if missing else {}
    return _summary(keys, known, failures, endpoint.model)


def parse_grades(reply: str) -> dict[str, int | str] | None:
    """The grades of a reply that consists of the five lines only; None for any other reply."""
    match = REPLY.fullmatch(reply.strip())
    if match is None:
        return None
    return {grade: int(match[grade]) for grade in GRADES} | {"age_group": match["age_group"].upper()}


def _key(story: Sample, model: str) -> str:
    """Identifies a question: the same story, judge and prompts give the same key."""
    parts = json.dumps([ASSESS, GRADE, model, story.prompt, story.text])
    return hashlib.sha256(parts.encode()).hexdigest()


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """The answers by key. An incomplete last line, left by an interrupted run, is removed from the file."""
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
    """Ask about `stories`, adding each answer to `answers` and to the file; returns the failures: {key: message}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chat, in_a_row = Chat(endpoint), 0
    failures: dict[str, str] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            asked = {pool.submit(_ask, chat, story): key for key, story in stories.items()}
            for done in progress_bar(as_completed(asked), total=len(asked), desc="judging"):
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
    finally:  # also after a UserError or Ctrl-C
        chat.stop()
        pool.shutdown(cancel_futures=True)
    return failures


def _ask(chat: Chat, story: Sample) -> dict[str, Any]:
    """Two turns, and a third if the second reply has no grades."""
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
    """The mean, its standard error and 95 % interval; the last two are None for a single value."""
    mean, number = statistics.fmean(values), len(values)
    error = statistics.stdev(values) / math.sqrt(number) if number > 1 else None
    low, high = (None, None) if error is None else (max(0.0, mean - Z * error), min(10.0, mean + Z * error))
    return {"value": mean, "standard_error": error, "low": low, "high": high, "number": number}
