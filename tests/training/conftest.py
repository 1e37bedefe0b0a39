"""Fixtures of the tests of training."""

from functools import partial

import pytest

from helpers.mutations import copy_with_mutation


@pytest.fixture
def mutated_tree(tmp_path):
    return partial(copy_with_mutation, tmp_path / "tree")
