"""The random places that guards look at: other ones in each run, so that no mistake can lie where no guard ever looks.

The random state of the run is not used. A guard that fails after looking at a sample says the seed of the sample;
`TINYSTORIES_GUARD_SEED=seed` in the environment repeats it.
"""

import os
import secrets

import datasets
import numpy as np

from tinystories.errors import UserError


SEED_VARIABLE = "TINYSTORIES_GUARD_SEED"


class Sample:
    """A generator of random places, and its seed."""

    def __init__(self, seed: int | None = None):
        given = os.environ.get(SEED_VARIABLE)
        if given is not None and not given.isdecimal():
            raise UserError(f"{SEED_VARIABLE} is {given!r}", "give a whole number, or unset it")
        self.seed = seed if seed is not None else int(given) if given is not None else secrets.randbits(32)
        self.rng = np.random.default_rng(self.seed)

    def places(self, length: int, number: int) -> np.ndarray:
        """At most `number` different places below `length`, in order."""
        return np.sort(self.rng.choice(length, min(number, length), replace=False))

    def texts(self, stories: datasets.Dataset, number: int) -> list[str]:
        """At most `number` random stories, in order."""
        return stories.select(self.places(len(stories), number))["text"][:]

    def __str__(self) -> str:
        return f"random sample, {SEED_VARIABLE}={self.seed}"
