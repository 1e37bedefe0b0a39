"""Publish a checkpoint on the Hub, and turn each failure into one line that says what to do.

Everything goes up in one commit, the card with the weights that it describes: an interrupted push changes nothing on
the Hub, and the next one skips the files that had arrived. Only what a run writes is published, not optimizer state,
other checkpoints or files of the user, and records are published without the folders of this machine. A link to a file
outside the folder is refused by its name, before anything is read. A card that was edited on the Hub is not overwritten
without --overwrite_card. Exported files that an earlier push left are removed with the weights that they were made of.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # imported there without being listed
from safetensors import SafetensorError, safe_open

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.console import shell_line
from tinystories.errors import UserError, one_line
from tinystories.links import links_out_of, real_path
from tinystories.provenance import hash_files
from tinystories.reporting.model_card import CARD_MARK, HERE, is_as_written, marked
from tinystories.run_files import (
    CARD,
    EXPORT,
    EXPORTED,
    NEEDED,
    PUBLISHED,
    RECORDS,
    WRITTEN_BY_A_RUN,
    RunFileError,
    read_json,
    without_local_paths,
)


logger = logging.getLogger(__name__)

PLACEHOLDER_OF_0_1 = "THIS_REPOSITORY_OR_FOLDER"  # in the code of cards that earlier versions wrote

# The base class of the errors of the HTTP library that the installed huggingface_hub uses (httpx or httpx2).
_TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


@dataclass(frozen=True)
class Beside:
    """Exported files that are published beside a checkpoint.

    report: the content of export.json. files: by their names in the repository. section: what the card says of them in
    the repository of that name.
    """

    report: dict[str, Any]
    files: dict[str, Path]
    section: Callable[[str], str]


def push(
    folder: str | Path,
    repo_id: str,
    private: bool | None = True,
    revision: str | None = None,
    tag: str | None = None,
    message: str = "Upload the model",
    overwrite_card: bool = False,
    token: str | None = None,
    beside: Beside | None = None,
) -> CommitInfo:
    """Publish the checkpoint in `folder`; creates repository and branch where they do not exist.

    private: whether a repository that is created is private (None: the account's default); an existing one keeps its
        visibility.
    revision: the branch to commit to (default: main).
    tag: a name for the new commit.
    beside: exported files of the same weights.

    Raises:
        UserError: an incomplete checkpoint, a link out of it, no permission, a card edited on the Hub, a tag that
            exists, no connection.
    """
    folder, api = Path(folder), HfApi(token=token)
    check_complete(folder)
    check_words(repo_id, message)
    with hub_errors(repo_id):
        repo_id = create_repository(api, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if tag is not None and tag in {ref.name for ref in api.list_repo_refs(repo_id).tags}:
            raise UserError(f"{repo_id} has a tag {tag} already, and tags are not moved", "give another --tag")
        head = api.model_info(repo_id, revision=revision).sha
        section, exported = _exported(api, repo_id, head, folder, beside)
        card = _published_card(published_files(folder)[CARD], repo_id, section)
        if not overwrite_card:
            check_card_unedited(api, repo_id, head, folder, card)
        operations = _operations(folder, card, there=api.list_repo_files(repo_id, revision=head)) + exported
        # On top of the state that was checked: if somebody commits in between, this commit fails and theirs is kept.
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision, parent_commit=head)
    if tag is not None:
        with hub_errors(f"{commit.commit_url} (which is published, but has no tag {tag})"):
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit


def create_repository(api: HfApi, repo_id: str, private: bool | None) -> str:
    """Create the repository if there is none; its full name `user/name`. A public one that should be private warns."""
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(repo_id).private:
        logger.warning("%s exists and is public: what is pushed can be read by everyone", repo_id)
    return repo_id


def _operations(folder: Path, card: str, there: list[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Add every published file of the checkpoint; delete records of an earlier push that this one does not replace."""
    files = published_files(folder)
    others = [path.name for path in sorted(folder.iterdir()) if path.name not in files]
    if others:
        logger.info("not published: %s", ", ".join(others))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationAdd(CARD, card.encode())]
    operations += [CommitOperationAdd(name, _content(name, path)) for name, path in files.items() if name != CARD]
    stale = [name for name in there if name not in files and _matches(name, WRITTEN_BY_A_RUN)]
    return operations + [CommitOperationDelete(name) for name in stale]


def _exported(
    api: HfApi, repo_id: str, revision: str | None, folder: Path, beside: Beside | None
) -> tuple[str, list[CommitOperationAdd | CommitOperationDelete]]:
    """What the card says of exported files, and the operations for them.

    Those of an earlier push stay if they are of the same weights and none come now; else they are deleted.
    """
    there = set(api.list_repo_files(repo_id, revision=revision))
    earlier: dict[str, Any] = {}
    if EXPORT in there:
        with suppress(RunFileError):  # somebody edited it: what it named is not known
            earlier = read_json(Path(api.hf_hub_download(repo_id, EXPORT, revision=revision))) or {}
    if beside is None and earlier.get("weights_sha256") == weights_sha256(folder):
        return str(earlier.get("card", "")), []
    files, section = (beside.files, beside.section(repo_id)) if beside else ({}, "")
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    if beside:
        report = beside.report | {"files": sorted(files), "card": section}
        content = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        operations.append(CommitOperationAdd(EXPORT, content.encode()))
    elif EXPORT in there:
        operations.append(CommitOperationDelete(EXPORT))
    named = earlier.get("files")
    gone = there.intersection(named if isinstance(named, list) else []) - set(files)
    stale = sorted(name for name in gone if _matches(name, EXPORTED))
    if stale:
        logger.info("removed from %s, since it is of other weights or formats: %s", repo_id, ", ".join(stale))
    return section, operations + [CommitOperationDelete(name) for name in stale]


def weights_sha256(folder: Path) -> str:
    """Of the weight files of a checkpoint, one after another."""
    digest: str = hash_files(sorted(folder.glob("model*.safetensors")))["sha256"]
    return digest


def published_files(folder: Path) -> dict[str, Path]:
    """The files of `folder` that are published, by name: where each really is, so that a link to another file of the
    folder is followed once, here.

    Raises:
        UserError: one of them is a link to a place outside `folder`.
    """
    if outside := links_out_of(folder, PUBLISHED):
        raise UserError(
            f"{folder}: {' and '.join(outside)} would be published, but leads out of this folder by a link",
            "remove the link, or put a copy of the file in its place",
        )
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and _matches(path.name, PUBLISHED)]
    return {path.name: real_path(path) for path in files}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def check_complete(folder: Path) -> None:
    """Refuse a folder that could not be loaded from the Hub: a file is missing, is a link out of the folder, or cannot
    be read."""
    missing = [pattern for pattern in NEEDED if not any(folder.glob(pattern))]
    if missing:
        raise UserError(f"{folder} is not a complete checkpoint: it has no {' and no '.join(missing)}")
    files = published_files(folder)
    try:
        ModelCard.load(files[CARD])
        for name, path in files.items():
            if name in RECORDS:
                read_json(path)
            elif name.endswith(".safetensors"):
                with safe_open(path, "pt") as weights:
                    weights.keys()
    except (OSError, ValueError, SafetensorError, yaml.YAMLError) as error:
        raise UserError(f"{folder} holds a file that cannot be read: {one_line(error)}") from error
    load_checkpoint(str(folder))  # what is published must open


def check_words(repo_id: str, message: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is not a repository name (USER/NAME): {one_line(error)}") from error
    if not message.strip():
        raise UserError("--message is empty: a commit needs a message")


def _content(name: str, path: Path) -> str | bytes:
    """What is uploaded: the path of a file, or the text of a record without the folders of this machine."""
    if name not in RECORDS:
        return str(path)
    content = without_local_paths(read_json(path))
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _published_card(path: Path, repo_id: str, section: str) -> str:
    """The card, whose code names the repository in place of this folder, and `section` at its end."""
    card = path.read_text(encoding="utf-8")
    named = card.replace(HERE, f'model="{repo_id}",').replace(PLACEHOLDER_OF_0_1, repo_id)
    unmarked = CARD_MARK.sub("", named).rstrip() + "\n"
    if section:
        unmarked += f"\n{section}"
    return marked(unmarked) if is_as_written(card) else (named if not section else unmarked)


def check_card_unedited(
    api: HfApi, repo_id: str, revision: str | None, folder: str | Path, ours: str | None = None
) -> None:
    """Stop if the card on the Hub was edited after a run wrote it, unless it is the same as `ours`.

    folder: what would be pushed, for the command that the message names.
    """
    try:
        path = api.hf_hub_download(repo_id, CARD, revision=revision, force_download=True)
    except (RemoteEntryNotFoundError, RevisionNotFoundError):
        return
    card = Path(path).read_text(encoding="utf-8")
    if card != ours and not is_as_written(card):
        again = shell_line("push", str(folder), repo_id, options=["--overwrite_card"])
        raise UserError(
            f"the card of {repo_id} was edited on the Hub and would be overwritten",
            f"copy what you want to keep, then push with {again}",
        )


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn every failure of a request to the Hub into one line that says what to do."""
    try:
        yield
    except HfHubHTTPError as error:
        status: int | None = error.response.status_code
        remedy = _REMEDIES.get(status, "push again: files that have arrived are not sent again")
        raise UserError(f"the Hub refused {repo_id} with status {status}: {remedy} ({one_line(error)})") from error
    except ValueError as error:  # the client refuses a name or a card before it sends anything
        raise UserError(f"cannot push to {repo_id}: {one_line(error)}") from error
    except (OSError, RuntimeError, _TRANSPORT_ERROR) as error:
        cause = error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        remedy = _REMEDIES.get(status, "check the name and the connection, then push again")
        raise UserError(f"cannot push to {repo_id}: {one_line(cause)}; {remedy}") from error


_REMEDIES: dict[int | None, str] = {  # by HTTP status
    401: "log in with a token that may write, `hf auth login`, or set HF_TOKEN",
    403: "this token may not write there; use one that may, or push under your own name",
    404: "there is no such repository or branch, or this token may not read it",
    409: "another push came first; push again",
    412: "another push came first; push again",
}
