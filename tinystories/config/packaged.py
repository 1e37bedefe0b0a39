"""What comes with the package, by name, in any folder: the recipes and the boxed model.

The recipes are those of configs/. A wheel carries them as package data, in tinystories/recipes. The boxed model is a
checkpoint, tinystories/boxed, in a checkout as in a wheel; tools/box.py makes it.
"""

import logging
import os
from difflib import get_close_matches
from pathlib import Path

from tinystories.config.familiar import HUB_ID
from tinystories.config.names import check_local
from tinystories.errors import UserError
from tinystories.run_files import RECIPE


logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent.parent
BOXED = PACKAGE / "boxed"
FINETUNE = "to fine-tune it: finetune --model_name_or_path {} --train_file FILE"
TEXTS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")


def find_checkpoint(name: str) -> str:
    """The folder of the boxed model for the name `boxed`; any other folder or Hub id as it is.

    A folder of that name in the working directory comes first, and the log says so.

    Raises:
        UserError: it looks like a path, and nothing is there.
    """
    if name != BOXED.name:
        check_local(name)
        return name
    if os.path.isdir(name):
        logger.info("%s is the folder here, not the model that comes with tinystories", name)
        return name
    return str(BOXED)


def is_boxed(folder: str | Path) -> bool:
    """Whether `folder` is that of the boxed model, into which no command writes."""
    return Path(folder).resolve() == BOXED.resolve()


def recipes_folder() -> Path:
    """configs/ of the checkout, or its copy in the installed package."""
    packaged = PACKAGE / "recipes"
    return packaged if packaged.is_dir() else PACKAGE.parent / "configs"


def recipe_names() -> list[str]:
    """Such as `demo` and `tinystories-1m`."""
    return [path.stem for path in _recipes()]


def packaged_recipe(name: str) -> Path | None:
    """The packaged recipe that is called `name`: `demo`, `demo.yaml`, `configs/demo.yaml`; None if there is none."""
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    for path in _recipes():
        if wanted in (path.stem, path.relative_to(recipes_folder()).with_suffix("").as_posix()):
            return path
    return None


def find_recipe(name: str) -> Path:
    """The file `name` if it exists, else the packaged recipe of that name.

    Raises:
        UserError: there is neither. The message gives the nearest name, or all of them.
    """
    path = Path(name)
    try:
        if path.is_dir() and packaged_recipe(name) is None:
            raise UserError(f"{name} is a folder, and a recipe is a file", _instead_of_folder(path))
        if path.is_file() and path.suffix.lower() in TEXTS:
            raise UserError(f"{name} is a text, and a recipe a YAML file", f"write --train_file {name}")
        if path.exists() and not path.is_dir():
            return path
    except OSError as error:  # a name that is too long
        raise UserError(f"cannot read the recipe {name}: {error.strerror}") from error
    packaged = packaged_recipe(name)
    if packaged is None:
        if name == BOXED.name:
            raise UserError(f"{name} is a model, and a recipe is a file", FINETUNE.format(name))
        if HUB_ID.fullmatch(name) and not path.suffix and not path.parent.exists():
            remedy = f"a dataset of the Hub is --dataset_name {name}, a model --model_name_or_path {name}"
        else:
            near = get_close_matches(path.stem, recipe_names(), n=1)
            remedy = f"did you mean {near[0]}?" if near else _by_name()
        raise UserError(f"cannot read the recipe {name}: no such file", remedy)
    return packaged


def _instead_of_folder(path: Path) -> str:
    if (path / RECIPE).is_file():
        return f"its recipe is {path / RECIPE}"
    if (path / "config.json").is_file():
        return FINETUNE.format(path.as_posix())
    if any(inside.suffix.lower() in TEXTS for inside in path.iterdir()):
        return f"the stories of a folder are --train_file {path.as_posix()}"
    return _by_name()


def _by_name() -> str:
    return f"recipes by name: {', '.join(recipe_names())}"


def _recipes() -> list[Path]:
    folder = recipes_folder()
    return [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("ladder/*.yaml"))]
