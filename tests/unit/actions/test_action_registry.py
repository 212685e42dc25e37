"""Actions by name: ours at once, others' on first use, never two of one name."""

from importlib import metadata

import jsonschema
import pytest

from actions import clients, registry
from controlplane.domain import errors
from tests.support import runbooks
from tests.support.action_house import House

LOADED: list[str] = []


def good(targets: clients.Clients) -> runbooks.Recording:
    LOADED.append("good")
    return runbooks.Recording("theirs")


def misnamed(targets: clients.Clients) -> runbooks.Recording:
    return runbooks.Recording("other")


def broken(targets: clients.Clients) -> runbooks.Recording:
    raise ValueError("no such card")


class Point(metadata.EntryPoint):
    """An entry point whose object stands in this file."""

    def load(self) -> object:
        return globals()[self.attr]


def point(name: str, attribute: str) -> metadata.EntryPoint:
    return Point(name, f"{__name__}:{attribute}", registry.ENTRY_POINTS)


async def test_every_shipped_action_declares_itself(house: House) -> None:
    """Names match, schemas are valid JSON Schema and accept no unknown parameter."""
    assert set(house.actions) == {
        "flush_cache",
        "warm_cache",
        "drain_node",
        "set_batch",
        "degrade_node",
        "eject_node",
        "return_node",
        "restart_node",
        "scale",
        "canary_test",
        "capture_node",
        "set_rung",
    }
    for name, action in house.actions.items():
        assert action.spec.name == name
        jsonschema.Draft202012Validator.check_schema(dict(action.spec.parameters))
        assert action.spec.parameters["additionalProperties"] is False


async def test_other_distributions_are_imported_on_first_use(house: House) -> None:
    """Listing them imports nothing."""
    LOADED.clear()
    found = registry.build(house.targets, offered=[point("theirs", "good"), point("bad", "broken")])
    assert {"theirs", "bad"} <= set(found)
    assert len(found) == len(house.actions) + 2
    assert LOADED == []
    assert found["theirs"].spec.name == "theirs"
    assert found["theirs"] is found["theirs"]
    assert LOADED == ["good"]


@pytest.mark.parametrize(
    ("name", "attribute", "reason"),
    [("bad", "broken", "cannot be loaded: no such card"), ("theirs", "misnamed", "calls itself 'other'")],
)
async def test_a_broken_plug_in_names_itself(house: House, name: str, attribute: str, reason: str) -> None:
    """Only the runbook that needs it is refused."""
    found = registry.build(house.targets, offered=[point(name, attribute)])
    with pytest.raises(errors.GiveUpError, match=reason):
        found.get(name)


@pytest.mark.parametrize("names", [("flush_cache",), ("theirs", "theirs")])
async def test_two_actions_of_one_name_are_refused(house: House, names: tuple[str, ...]) -> None:
    """Which of them would act would be chance."""
    with pytest.raises(errors.InvalidInputError, match="action '"):
        registry.build(house.targets, offered=[point(name, "good") for name in names])


async def test_an_unknown_name_is_a_key_error(house: House) -> None:
    """The registry is a mapping like any other."""
    assert "nothing" not in house.actions
