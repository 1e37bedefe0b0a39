"""The name of a checkpoint or tokenizer: a folder here, or an id on the Hub. What is said where it is neither.

A name that looks like a path is never asked for on the Hub, so a mistyped folder is answered at once and without a
network. An id is asked for once, with a short limit: the libraries' own requests are repeated for minutes, and each
repetition is logged.
"""

import logging
import os
import re
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Literal

from tinystories.errors import UserError, one_line


logger = logging.getLogger(__name__)

WEIGHTS = ".bin"  # a model of llama2.c, the only file that is opened as a checkpoint
RUNS = "runs"  # where the recipes put their run folders
MOST_NAMED = 5  # folders in a message
HUB_SECONDS = 10  # to wait for the Hub's answer whether it has a name
LOG_IN = "log in with hf auth login, or set HF_TOKEN"
FILE_OF = {"model": "config.json", "dataset": ".gitattributes"}  # that is asked for; it need not be there


def looks_local(name: str) -> bool:
    """Whether `name` can only be that of a folder or file on this machine."""
    parts = name.split("/")
    return (
        name.startswith(("/", "./", "../", "~", f"{RUNS}/"))
        or name in (".", "..", RUNS)
        or "\\" in name
        or len(parts) > 2
        or parts[-1] == ""
        or bool(re.match(r"[A-Za-z]:", name))
        or name.endswith(WEIGHTS)
        or (len(parts) == 2 and os.path.isdir(parts[0]))
    )


def check_local(name: str) -> None:
    """Raises UserError: `name` looks like a path and nothing is there, or is a file of another kind. The message offers
    what is there."""
    if address := re.match(r"(?:https?://)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", name):
        raise UserError(f"{name} is an address", f"the id of it on the Hub is {address[1]}")
    if os.path.isfile(name) and not name.endswith(WEIGHTS):
        above = Path(name).parent
        remedy = f"give the folder, {above}" if (above / "config.json").is_file() else "name a run folder"
        raise UserError(f"{name} is a file, and a checkpoint is a folder", remedy)
    if looks_local(name) and not os.path.exists(name):
        raise UserError(_nothing_here(name), _did_you_mean(name))


def check_folder(name: str) -> None:
    """For a command that takes no Hub id.

    Raises:
        UserError: `name` is not a folder.
    """
    if not os.path.isdir(name):
        wrong = f"{name} is not a folder" if os.path.exists(name) else _nothing_here(name)
        raise UserError(wrong, _did_you_mean(name) or "name a run folder, or a checkpoint-N in one")


def check_found(name: str, revision: str | None = None, kind: Literal["model", "dataset"] = "model") -> None:
    """Ask the Hub once whether it has `name`, unless that is a folder or file here.

    Raises:
        UserError: neither here nor on the Hub, or the Hub cannot be asked and this machine has no copy.
    """
    if kind == "dataset" and os.path.isfile(name):
        raise UserError(f"{name} is a file, and no dataset of the Hub", f"write --train_file {name}")
    check_local(name)
    if os.path.exists(name):
        return
    from huggingface_hub import constants  # slow to import, and needed for Hub ids alone
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not listed there

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(
            f"{_nothing_here(name)}, and the Hub has no {kind} of such a name", _did_you_mean(name)
        ) from None
    if constants.HF_HUB_OFFLINE:
        reason = None if _is_cached(name, kind) else "the Hub is not asked: HF_HUB_OFFLINE is set"
    else:
        try:
            reason = _refusal(name, revision, kind)
        except ConnectionError as error:
            reason = None if _is_cached(name, kind) else str(error)
            if reason is None and kind == "model":  # of which the libraries would ask for each file, again and again
                logger.warning("%s: %s; the copy on this machine is used", name, error)
                constants.HF_HUB_OFFLINE = True
    if reason is not None:
        raise UserError(f"{_nothing_here(name)}, and {reason}", _did_you_mean(name))


def _refusal(name: str, revision: str | None, kind: str) -> str | None:
    """Why the Hub does not give the files of `name`; None where it does.

    Raises:
        ConnectionError: there is no answer, or one that may be another later. It says why.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # not listed there
        build_hf_headers,
        hf_raise_for_status,
    )

    transport: type[Exception] = hub.HfHubHTTPError.__bases__[0]  # of the HTTP library that the client uses
    try:
        url = hf_hub_url(name, FILE_OF[kind], revision=revision, repo_type=kind)
        answer = get_session().head(url, headers=build_hf_headers(), timeout=HUB_SECONDS)
        if answer.status_code >= 400:
            hf_raise_for_status(answer)
    except hub.GatedRepoError:
        return f"on the Hub it is gated: accept its conditions on its page there, then {LOG_IN}"
    except hub.RepositoryNotFoundError:
        return f"the Hub has no such {kind}, or a private one: check the name, or {LOG_IN}"
    except hub.RevisionNotFoundError:
        return f"on the Hub it has no branch, tag or commit {revision}"
    except hub.RemoteEntryNotFoundError:  # a tokenizer alone has no config.json
        return None
    except hub.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            return f"the Hub answered with status {status}: {LOG_IN}"
        raise ConnectionError(f"the Hub answered with status {status}: try again later") from error
    except (OSError, RuntimeError, transport) as error:
        raise ConnectionError(f"the Hub cannot be reached ({one_line(error)}): check the connection") from error
    return None


def _is_cached(name: str, kind: str) -> bool:
    """Whether this machine has files of it; of data sets the library knows, whose cache is its own."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    return kind == "dataset" or folder.is_dir()


def _nothing_here(name: str) -> str:
    kind = "file" if name.endswith(WEIGHTS) else "folder"
    return f"no {kind} {name}" if PurePath(name).is_absolute() else f"no {kind} {name} here"


def _did_you_mean(name: str) -> str | None:
    if near := _near(name):
        return f"did you mean {near}?"
    above = Path(name).parent
    there = (
        sorted(path.name for path in _folders(above))
        if looks_local(name) and above not in (Path(), Path(above.anchor))
        else []
    )
    return f"in {above.as_posix()} there is {', '.join(there[:MOST_NAMED])}" if there else None


def _near(name: str) -> str | None:
    """The folder that `name` is probably meant to be: its mistyped parts replaced by what is there; else in runs/."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    found = Path("/") if name.startswith("/") else Path()
    for part in parts:
        options = [found / part] if (found / part).is_dir() else _nearest(found, part)
        if not options:
            break
        found = options[0]
    else:
        if parts and found.as_posix() != name:
            return found.as_posix()
    inside = _nearest(Path(RUNS), parts[-1]) if parts else []
    return inside[0].as_posix() if inside else None


def _nearest(folder: Path, name: str) -> list[Path]:
    return [folder / near for near in get_close_matches(name, [path.name for path in _folders(folder)], n=1)]


def _folders(folder: Path) -> list[Path]:
    """Those in `folder`, without hidden ones; none where it cannot be read."""
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []
