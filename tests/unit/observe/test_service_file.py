"""services.yaml: defaults, and refusals with place and reason."""

from pathlib import Path

import pytest

from controlplane.domain import errors, services
from controlplane.observe import service_file

FULL = """
services:
  - name: chat
    profile: dsctl
    selector: {service: chat}
    objectives: {latency_p99_seconds: 2, success_ratio: 0.999}
    thresholds: {pending_requests: 7, qps: [10, 20]}
    pools: [{name: hot, actuator: local, min: 2, max: 4}, {name: cold, actuator: local, min: 0, max: 4, min_ready: 0, queue_depth_per_node: 50}]
    capacity:
      requests_per_second_per_node: 12
      headroom_ratio: 0.2
      cold_start: 5m
      shrink_after: 15m
      stages: [{above_qps: 5000, nodes: 5}, {above_qps: 8000, nodes: 4, pool: cold}]
    events:
      - {name: market-open, at: "09:30", lasts: 1h, days: [mon, tue, fri], timezone: Europe/Berlin}
      - {name: backup, at: "00:00", lasts: 1h30m}
"""
ONE = "services: [{name: chat, profile: dsctl, selector: {service: chat}}]"


def refused(text: str) -> str:
    with pytest.raises(errors.InvalidInputError) as error:
        service_file.parse(text, source="s.yaml", profiles=["dsctl", "vllm"])
    return str(error.value)


def test_what_is_written_is_what_the_house_gets() -> None:
    """Every field arrives; what is left out has the default of the domain."""
    [full] = service_file.parse(FULL, source="s.yaml")
    assert full.objectives == services.Objectives(latency_p99_seconds=2, success_ratio=0.999)
    assert full.thresholds == services.Thresholds(pending_requests=7, qps=(10, 20))
    assert full.pools[1] == services.Pool("cold", "local", 0, 4, queue_depth_per_node=50, min_ready=0)
    assert full.capacity == services.CapacityRules(
        requests_per_second_per_node=12,
        headroom_ratio=0.2,
        cold_start_seconds=300,
        stages=(services.Stage(5000, 5), services.Stage(8000, 4, "cold")),
        shrink_after_seconds=900,
    )
    opening = services.CalendarEvent("market-open", 34_200, 3600, (0, 1, 4), "Europe/Berlin")
    assert full.events == (opening, services.CalendarEvent("backup", 0, 5400))
    [one] = service_file.parse(ONE, source="s.yaml")
    assert one == services.Service("chat", "dsctl", {"service": "chat"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("profile: dsctl", "profile: dsclt"), "s.yaml:4: services[0].profile: no profile 'dsclt'; did you mean 'dsctl'?"),
        (("pending_requests", "pending_request"), "s.yaml:7: services[0].thresholds: unknown field 'pending_request'"),
        (("selector: {service: chat}", "selector: {}"), "s.yaml:5: services[0].selector"),
        (("{service: chat}", "{'ser vice': chat}"), "s.yaml:5: services[0].selector"),
        (("success_ratio: 0.999", "success_ratio: 1"), "services[0].objectives.success_ratio"),
        (("qps: [10, 20]", "qps: [20, 10]"), "the stages must rise"),
        (("pending_requests: 7", "pending_requests: '7'"), "services[0].thresholds.pending_requests"),
        (("pending_requests: 7", "pending_requests: -7"), "services[0].thresholds.pending_requests"),
        (("pending_requests: 7", "pending_requests: .nan"), "not a finite number"),
        (("min: 2, max: 4", "min: 5, max: 4"), "max 4 is below min 5"),
        (("min: 2, max: 4", "min: 2.5, max: 4"), "services[0].pools[0].min"),
        (("name: cold", "name: hot"), "services[0].pools[1].name: 'hot' is taken by services[0].pools[0]"),
        (("min_ready: 0", "min_ready: 5"), "min_ready 5 is above max 4"),
        (("pool: cold}", "pool: cald}"), "services[0].capacity.stages[1].pool: no pool 'cald'; did you mean 'cold'?"),
        (("cold_start: 5m", "cold_start: 300"), "300 is no duration"),
        (("headroom_ratio: 0.2", "headroom_ratio: -1"), "services[0].capacity.headroom_ratio"),
        (('at: "09:30"', 'at: "24:00"'), "'24:00' is no time of day"),
        (("Europe/Berlin", "Europe/Atlantis"), "'Europe/Atlantis' is no time zone"),
        (("Europe/Berlin", "../etc/passwd"), "is no time zone"),
        (("days: [mon", "days: [monday"), "'monday' is no day of the week"),
        (("name: backup", "name: market-open"), "services[0].events[1].name: 'market-open' is taken"),
        (("name: chat", "name: Chat_1"), "s.yaml:3: services[0].name"),
        (("    profile: dsctl\n", "    profile: dsctl\n    profile: vllm\n"), "s.yaml:5: key 'profile' is given twice"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_place_and_reason(change: tuple[str, str], said: str) -> None:
    """One fault each, told with line and path."""
    assert FULL.replace(*change) != FULL
    assert said in refused(FULL.replace(*change))


def test_services_must_not_share_a_name_or_targets() -> None:
    """Two services over the same nodes would act on each other's."""
    twin = "services: [{name: a, profile: dsctl, selector: {s: a}}, {name: %s, profile: dsctl, selector: %s}]"
    assert "'a' is taken by services[0]" in refused(twin % ("a", "{s: b}"))
    assert "selects the targets of service 'a' too" in refused(twin % ("b", "{s: a, zone: x}"))


@pytest.mark.parametrize("text", ["", "services: []", "services: 5", "- a", "svc: []"])
def test_a_file_without_services_is_refused(text: str) -> None:
    """Nothing to manage is a mistake, not an empty fleet."""
    assert "s.yaml" in refused(text)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """A missing file and one that is not text are told apart."""
    with pytest.raises(errors.NotFoundError, match="cannot read services"):
        service_file.load(tmp_path / "services.yaml")
    (tmp_path / "services.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(errors.InvalidInputError, match="UTF-8"):
        service_file.load(tmp_path / "services.yaml")
