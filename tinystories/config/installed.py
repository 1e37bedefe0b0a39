"""Single files of an installed package, without importing the package.

`import transformers`, without any model of it, takes most of a second of processor time.
"""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def installed_file(package: str, name: str) -> Path:
    """The path of a file of an installed package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.origin).with_name(name)


def load_module(package: str, name: str) -> ModuleType:
    """The module `package`.`name`, run from its file. Should it import parts of its package, that is imported too."""
    spec = spec_from_file_location(f"{package}.{name}", installed_file(package, f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {name}.py of {package}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
