"""Train, measure, share and serve small story-writing language models.

A Python that cannot run it is named here, before any other import: too old, or another one than the project is
installed in, as where the environment is not activated.
"""

import sys
from importlib.util import find_spec


if sys.version_info < (3, 11):  # noqa: UP036  # a checkout runs without pip, which would refuse it
    raise SystemExit(f"error: Python 3.11 or later is needed, and this is {sys.version.split()[0]}, {sys.executable}")
if find_spec("torch") is None:
    raise SystemExit(
        f"error: the project is not installed for {sys.executable}; activate its environment, or type "
        "python -m pip install -c constraints.txt -e . in its folder"
    )
