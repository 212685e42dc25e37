"""The examples in the docstrings of the capacity rooms are true."""

import doctest
import types

import pytest

from controlplane import phrases
from controlplane.capacity import cold_start, needs, pace


@pytest.mark.parametrize("module", [cold_start, needs, pace, phrases], ids=lambda module: module.__name__)
def test_examples_are_true(module: types.ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
