"""The rules for every input, on a few hundred generated ones; `make fuzz` runs them at length."""

import pytest

from tests.fuzz.properties import PROPERTIES, Property


@pytest.mark.parametrize("rule", PROPERTIES, ids=lambda rule: rule.__name__)
def test_rule_holds_for_generated_inputs(rule: Property) -> None:
    rule()
