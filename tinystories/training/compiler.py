"""torch.compile: whether it works here, and a cache of its kernels that no killed run has left half-written.

torch keeps what it compiled for later runs and trusts every file that it finds: with the half of a kernel that a killed
run leaves, every later run ends. Here a run has the cache to itself and seals it at its end (atomic.py); a cache
without its seal, or of which a byte differs, is compiled anew.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import torch

from tinystories.atomic import SEAL, damage, seal
from tinystories.config.arguments import RunArguments
from tinystories.data.cache import cache_root, in_cache
from tinystories.errors import Interrupted, UserError, one_line
from tinystories.lock import HeldError, held


logger = logging.getLogger(__name__)

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # set by torch when it is imported, and read whenever it compiles
MESSAGE_END = 150  # characters kept of each end of a compiler's message


@contextmanager
def compiler_cache(training: RunArguments) -> Iterator[None]:
    """Inside the `with` block torch compiles into a cache of this run alone, in the folder that it would use anyway.

    Runs at the same time have one each. Nothing happens without torch_compile.
    """
    if not training.torch_compile:
        yield
        return
    given = os.environ.get(CACHE_VARIABLE)
    with ExitStack() as stack:
        folder = _free_cache(Path(given) if given else cache_root(None), stack)
        os.environ[CACHE_VARIABLE] = str(folder)
        try:
            yield
        except (UserError, Interrupted):  # the compiler was not interrupted
            _keep(folder)
            raise
        else:
            _keep(folder)
        finally:
            del os.environ[CACHE_VARIABLE]
            if given:
                os.environ[CACHE_VARIABLE] = given


def _free_cache(base: Path, stack: ExitStack) -> Path:
    """The first cache that no other process uses, whole or empty, and without its seal as long as it is used."""
    with in_cache(base, f"set {CACHE_VARIABLE} to a folder that may be written to"):
        base.mkdir(parents=True, exist_ok=True)
        for number in count():
            folder = base / f"compiled-{torch.__version__}-{number}"
            try:
                stack.enter_context(held(folder.with_name(folder.name + ".lock")))
                break
            except HeldError:
                continue
        if folder.exists() and (found := damage(folder)):
            logger.warning(
                "the compiler's cache %s is damaged, or was left by a killed run (%s): everything is compiled again",
                folder,
                found,
            )
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        (folder / SEAL).unlink(missing_ok=True)
    return folder


def _keep(folder: Path) -> None:
    """For later runs, if anything was compiled."""
    if any(folder.iterdir()):
        seal(folder)
    else:
        folder.rmdir()


def use_compiler_if_it_works(training: RunArguments) -> str | None:
    """Switch torch_compile off where it does not work: it needs a C++ compiler on a CPU, and Triton on a GPU.

    Returns why it does not work, in one line; None where it works or was not requested.
    """
    if not training.torch_compile:
        return None
    try:
        compiled = torch.compile(lambda x: x.sin() + 1, backend=training.torch_compile_backend or "inductor")
        compiled(torch.ones(8, device=training.device))
    except Exception as error:  # whatever a missing or broken compiler raises
        reason = _compiler_message(error)
        logger.warning("torch.compile does not work here (%s): training continues without it", reason)
        training.torch_compile, training.torch_compile_backend, training.torch_compile_mode = False, None, None
        os.environ.pop("ACCELERATE_DYNAMO_BACKEND", None)  # set by TrainingArguments to make accelerate compile
        os.environ.pop("ACCELERATE_DYNAMO_MODE", None)
        return reason
    return None


def _compiler_message(error: Exception) -> str:
    """Kind and message of what torch.compile raised, without its advice on debugging.

    Of a long message both ends are kept: it begins with what failed and ends with what the compiler printed.
    """
    message = one_line(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]) or "no message"
    if len(message) > 2 * MESSAGE_END:
        message = f"{message[:MESSAGE_END]} ... {message[-MESSAGE_END:]}"
    return f"{type(error).__name__}: {message}"
