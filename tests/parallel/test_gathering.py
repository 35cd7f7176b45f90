"""Parameters on 8 virtual devices are gathered layer by layer, with the numbers of one device."""

from __future__ import annotations

import pytest

from tests.parallel.gathering import CASES
from tests.parallel.test_eight import check


@pytest.mark.slow
def test_no_device_holds_a_whole_model():
    check("memory", module="gathering")


@pytest.mark.slow
def test_nor_in_loops_over_layers_or_parts():
    check("variants", module="gathering")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_update_is_that_of_one_device(name):
    check(name, module="gathering")
