"""The JSON of capacity plans and forecasts, apart from the domain like all of `wire`. Used by the fleet routes. Values only."""

from collections.abc import Mapping
from datetime import UTC, datetime

from controlplane.api import wire
from controlplane.domain import capacity, forecasts


class Need(wire.Told):
    """One reason for a number of nodes."""

    name: str
    nodes: int
    sentence: str
    numbers: wire.JsonMap


class PoolPlan(wire.Told):
    """What one pool has and should have."""

    pool: str
    present: int
    desired: int
    minimum: int
    maximum: int
    placeable: int


class ForecastGate(wire.Told):
    """Whether the forecast may act."""

    is_open: bool
    sentence: str


class CapacityPlan(wire.Told):
    """How many nodes a service should have, and why."""

    at: datetime
    present: int
    ready: int
    desired: int
    reactive: int
    predicted: int | None
    unmet: int
    pools: list[PoolPlan]
    needs: list[Need]
    gate: ForecastGate
    horizon_seconds: float
    node_rps: float
    demand_rps: float


class ForecastPoint(wire.Told):
    """One step: when it begins, and the rate between which bounds, in requests per second."""

    at: datetime
    p10: float
    p50: float
    p90: float


class Accuracy(wire.Told):
    """How forecasts did on the newest part of the past that the model had not seen."""

    horizon_seconds: float
    num_origins: int
    wape: float
    bias: float
    coverage: float
    wape_last_value: float
    wape_seasonal_naive: float | None
    skill_last_value: float
    skill_seasonal_naive: float | None


class Forecast(wire.Told):
    """What is expected to arrive."""

    made_at: datetime
    fitted_at: datetime
    step_seconds: float
    last: float
    weights: Mapping[str, float]
    accuracy: Accuracy
    points: list[ForecastPoint]

    @classmethod
    def of(cls, forecast: forecasts.Forecast) -> "Forecast":
        """Give each step its time."""
        steps = enumerate(zip(forecast.p10, forecast.p50, forecast.p90, strict=True))
        return cls(
            made_at=forecast.made_at,
            fitted_at=forecast.fitted_at,
            step_seconds=forecast.step_seconds,
            last=forecast.last,
            weights=forecast.weights,
            accuracy=Accuracy.model_validate(forecast.accuracy),
            points=[
                ForecastPoint(
                    at=datetime.fromtimestamp(forecast.start + number * forecast.step_seconds, tz=UTC),
                    p10=low,
                    p50=middle,
                    p90=high,
                )
                for number, (low, middle, high) in steps
            ],
        )


class Outlook(wire.Versioned):
    """What is foretold and planned for one service; `plan` and `forecast` are null where the sentences say why."""

    service: str
    sentence: str
    plan: CapacityPlan | None
    forecast: Forecast | None
    no_forecast: str | None

    @classmethod
    def of(cls, outlook: capacity.Outlook) -> "Outlook":
        """Read off an outlook."""
        plan, forecast = outlook.plan, outlook.forecast
        is_known = isinstance(forecast, forecasts.Forecast)
        return cls(
            service=outlook.service,
            sentence=plan.sentence,
            plan=CapacityPlan.model_validate(plan) if isinstance(plan, capacity.CapacityPlan) else None,
            forecast=Forecast.of(forecast) if is_known else None,
            no_forecast=None if is_known else str(forecast),
        )
