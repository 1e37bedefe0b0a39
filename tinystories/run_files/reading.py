"""One way to read the files of a run.

A file can be absent, damaged (cut off, not JSON, or with a value of the wrong type) or unreadable (for example
without permission). `read_json` and `read_lines` tell these apart. `Run` reads all files of a run in this way and
collects what is missing and what is wrong, where a single reader would fail at the first.
"""

import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tinystories.atomic import is_sealed
from tinystories.errors import UserError, one_line
from tinystories.links import leads_outside
from tinystories.run_files.names import (
    ALL_RESULTS,
    DATA_REPORT,
    ENVIRONMENT,
    EVALUATION,
    EVALUATIONS,
    RECIPE,
    SAMPLES,
    STOPPED,
    TRAINER_STATE,
    is_checkpoint,
    step_of,
)
from tinystories.run_files.records import (
    DataReport,
    Environment,
    Evaluation,
    EvaluationRow,
    Results,
    SampleRow,
    StepRow,
    StopRow,
    TrainerState,
    mismatch,
)


T = TypeVar("T")


class RunFileError(UserError):
    """A file exists but cannot be used. `reason`: "is damaged (...)" or "cannot be read (...)"."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # an error travels between the processes of a run as a pickle


def read_json(path: Path, say: Callable[[str], object] | None = None) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file.

    say: called with a message about a file that cannot be used; the file then counts as absent.

    Raises:
        RunFileError: without `say`, the file is damaged or cannot be read.
    """
    try:
        return _read_object(path)
    except RunFileError as error:
        if say is None:
            raise
        say(str(error))
        return None


def read_lines(path: Path, say: Callable[[str], object] = lambda problem: None, kind: Any = StepRow) -> list[Any]:
    """The rows of a .jsonl file, in order; none where there is no such file.

    kind: the TypedDict that a row must agree with; by default any object with a `step`. say: called with a message
    about damaged lines, such as one that was cut off by a kill. They are left out.

    Raises:
        RunFileError: the file cannot be read.
    """
    return _read_rows(path, say, kind) or []


def _read_rows(path: Path, say: Callable[[str], object], kind: Any) -> list[Any] | None:
    text = _read_text(path, errors="replace")
    if text is None:
        return None
    rows, damaged = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if mismatch(row, kind):
            damaged.append(number)
        else:
            rows.append(row)
    if len(damaged) == 1:
        say(f"{path.name}: line {damaged[0]} is damaged")
    elif damaged:
        say(f"{path.name}: {len(damaged):,} lines are damaged, the first is line {damaged[0]}")
    return rows


def _read_text(path: Path, errors: str = "strict") -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RunFileError:
    return RunFileError(path, f"cannot be read ({(error.strerror or one_line(error)).lower()})")


def _read_object(path: Path, kind: Any = dict[str, Any]) -> Any:
    try:
        text = _read_text(path)
        value = None if text is None else json.loads(text)
    except ValueError as error:  # not UTF-8 either
        raise RunFileError(path, "is damaged (not JSON, or cut off)") from error
    if text is not None and (found := mismatch(value, kind)):
        raise RunFileError(path, f"is damaged ({found})")
    return value


def evaluations_in(history: list[dict[str, Any]]) -> list[Any]:
    """The rows of evaluations.jsonl as far as trainer_state.json has them, for a run without that file."""
    rows = [row for row in history if "eval_loss" in row]
    return [{"tokens_seen": row.get("num_input_tokens_seen"), **row} for row in rows]


def checkpoints(folder: Path, complete: bool = True) -> list[Path]:
    """The checkpoint-N folders of a run, in the order of their steps; all of them, or those that are complete.

    Raises:
        RunFileError: the folder cannot be read.
    """
    found = [path for path in _content(folder) if is_checkpoint(path)]
    return sorted((path for path in found if path.is_dir() and (is_sealed(path) or not complete)), key=step_of)


def _content(folder: Path) -> list[Path]:
    """The files and folders in `folder`; none if it does not exist. Path.glob would ignore a missing permission."""
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _is_there(folder: Path) -> bool:
    """Whether a folder or file exists. One that cannot be looked at does: Path.exists differs between Pythons."""
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: not a name of a file
        return False
    except OSError:
        return True
    return True


class Run:
    """What the files of a run say, or those of any checkpoint: a run folder, a checkpoint-N in it, or a Hub id.

    Each file is read on first access. One that is absent, damaged or unreadable is None, or has no rows:
    `missing` names the absent ones, and `problems` says what is wrong with the others, without the folders of this
    machine.
    """

    def __init__(self, checkpoint: str | Path, revision: str | None = None):
        self.checkpoint, self.revision = str(checkpoint), revision
        self.folder = Path(checkpoint)
        self.missing: list[str] = []
        self.problems: list[str] = []

    @property
    def run_folder(self) -> Path:
        """The folder itself, or the one above a checkpoint-N."""
        return self.folder.parent if is_checkpoint(self.folder) else self.folder

    @cached_property
    def recipe(self) -> dict[str, Any] | None:
        return self._object(self.run_folder / RECIPE, dict[str, Any])

    @cached_property
    def data(self) -> DataReport | None:
        return self._object(self.run_folder / DATA_REPORT, DataReport)

    @cached_property
    def environment(self) -> Environment | None:
        return self._object(self.run_folder / ENVIRONMENT, Environment)

    @cached_property
    def state(self) -> TrainerState | None:
        return self._object(self.folder / TRAINER_STATE, TrainerState)

    @cached_property
    def results(self) -> Results | None:
        return self._object(self.folder / ALL_RESULTS, Results)

    @cached_property
    def evaluation(self) -> Evaluation | None:
        return self._object(self.folder / EVALUATION, Evaluation)

    @cached_property
    def evaluations(self) -> list[EvaluationRow]:
        return self._rows(self.run_folder / EVALUATIONS, EvaluationRow)

    @cached_property
    def samples(self) -> list[SampleRow]:
        return self._rows(self.run_folder / SAMPLES, SampleRow)

    @cached_property
    def stops(self) -> list[StopRow]:
        """The worst row of each step at which a guard stopped the run."""
        try:
            found = [path for path in _content(self.run_folder) if path.match(STOPPED)]
        except RunFileError as error:
            self.problems.append(f"{STOPPED} {error.reason}")
            return []
        return [row for path in found for row in self._rows(path, StopRow)[:1]]

    def _object(self, path: Path, kind: type[T]) -> T | None:
        try:
            found = self._on_this_machine(path)
            value: T | None = _read_object(found, kind) if found is not None else None
        except RunFileError as error:
            self.problems.append(f"{path.name} {error.reason}")
            return None
        if value is None:
            self.missing.append(path.name)
        return value

    def _rows(self, path: Path, kind: type[T]) -> list[T]:
        try:
            found = self._on_this_machine(path)
            rows = _read_rows(found, self.problems.append, kind) if found is not None else None
        except RunFileError as error:
            self.problems.append(f"{path.name} {error.reason}")
            return []
        if rows is None:
            self.missing.append(path.name)
        return rows or []

    def _on_this_machine(self, path: Path) -> Path | None:
        """`path`, or that of the same file of the Hub id in the cache; None where the Hub has no such file.

        A link out of the run folder is not followed: what is read here is shown on pages and published in the card.
        """
        if _is_there(self.folder):
            if leads_outside(path, self.folder) and leads_outside(path, self.run_folder):
                raise RunFileError(path, "is a link that leads out of this folder, and is not followed")
            return path
        from huggingface_hub import constants, hf_hub_download  # slow to import, and needed for Hub ids alone
        from huggingface_hub import errors as hub

        try:
            return Path(hf_hub_download(self.checkpoint, path.name, revision=self.revision))
        except (hub.RemoteEntryNotFoundError, hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
            return None
        except hub.HFValidationError:  # the name is neither a folder nor a Hub id
            return None
        except Exception as error:  # the HTTP library has many
            if constants.HF_HUB_OFFLINE:
                return None
            raise RunFileError(path, f"cannot be read from the Hub ({one_line(error)})") from error
