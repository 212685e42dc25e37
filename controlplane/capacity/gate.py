"""The forecast's gate: a forecast may act only while it beats what needs no forecast.

Asked at every tick, before the planner. Pure. Repeating the last value and repeating yesterday cost nothing, and on many
services nothing is better: there a forecast that acts only buys nodes. The forecast has to beat both, one cold start
ahead, twice: on the held-out end of its history by a margin, and, once enough forecasts that were really made have come
true, on these. The second notices a forecast that goes bad between two fits. A closed gate is not a fault: scaling is
then reactive, as it is without a forecast.
"""

from controlplane.capacity import track
from controlplane.domain import capacity, forecasts

# Held-out errors of some 140 origins waver by a few percent between two fits: a forecast that is no better than this
# may well be no better at all.
MIN_SKILL = 0.05


def gate(forecast: forecasts.Forecast | forecasts.NoForecast, live: track.LiveSkill | None) -> capacity.Gate:
    """Return whether the forecast may act, and why; `live` is None until enough forecasts have come true."""
    if isinstance(forecast, forecasts.NoForecast):
        return capacity.Gate(is_open=False, sentence=f"closed: no forecast, {forecast}")
    against = _lost(forecast.accuracy, MIN_SKILL)
    if against:
        return capacity.Gate(is_open=False, sentence=f"closed: {_on_history(forecast.accuracy)}, {against}")
    if live is None:
        return capacity.Gate(
            is_open=True, sentence=f"open: {_on_history(forecast.accuracy)}, {_won(forecast.accuracy)}"
        )
    against = _lost(live, 0.0)
    if against:
        return capacity.Gate(is_open=False, sentence=f"closed: {_on_live(live)}, {against}")
    return capacity.Gate(is_open=True, sentence=f"open: {_on_live(live)}, {_won(live)}")


def _on_history(accuracy: forecasts.Accuracy) -> str:
    return f"error at {accuracy.horizon_seconds:g} s ahead is {accuracy.wape:.3g} on held-out history"


def _on_live(live: track.LiveSkill) -> str:
    return f"error at {live.horizon_seconds:g} s ahead is {live.wape:.3g} over the last {live.num_origins} forecasts"


def _won(accuracy: forecasts.Accuracy) -> str:
    return " and ".join(f"{name} gives {naive:.3g}" for name, naive in _naive(accuracy))


def _lost(accuracy: forecasts.Accuracy, margin: float) -> str:
    """Return what of the naive forecasts is not beaten by `margin`, with its error; empty when both are."""
    better = [(name, naive) for name, naive in _naive(accuracy) if not accuracy.wape < naive * (1.0 - margin)]
    asked = f" and it must be {margin:.0%} better" if margin else ""
    return " and ".join(f"{name} gives {naive:.3g}" for name, naive in better) + asked if better else ""


def _naive(accuracy: forecasts.Accuracy) -> list[tuple[str, float]]:
    known = [("repeating the last value", accuracy.wape_last_value)]
    if accuracy.wape_seasonal_naive is not None:
        known.append(("repeating yesterday", accuracy.wape_seasonal_naive))
    return known
