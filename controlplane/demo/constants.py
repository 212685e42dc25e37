"""The demo's profile in one place: a fleet that two cores can carry, and a loop quick enough to watch.

The product's clock is real here; what is shortened are the intervals and windows that anybody may set. Nodes run their
real model with a minimum time for each step, so that a node's capacity is set by that and not by the machine.
"""

SERVICE = "chat"

# One step of the tiny model takes about 2 ms of CPU; at 40 ms a step a busy node uses a tenth of a core, and a machine
# that is busy with something else hardly changes what it can do.
PACE_STEP_SECONDS = 0.04
MAX_BATCH_SIZE = 4
BATCH_WAIT_SECONDS = 0.02
# A quarter of the cache's hits is computed again and compared; 0.05 outside the demo. With 10 hits a second on a node
# that is enough for a ratio within one window.
AUDIT_RATIO = 0.25

# A node with torch holds 440 MB at rest; at 500 MB a minute it is found after some 20 s, four fifths full after 72 and dead
# after 103. A drill never takes more than 1 GiB of the machine.
NODE_MEMORY_LIMIT_BYTES = 1_300_000_000

# The queue stands in the gateway, where the levels order it, and nodes hold a little more than they compute. Places are few
# enough that a surge fills them within seconds; time limits are long enough for its long answers.
PLACES_AT_NODE = MAX_BATCH_SIZE + 2
PLACES_IN_GATEWAY_PER_NODE = 100
LEVEL_PLACES: dict[str, dict[str, float]] = {
    "premium": {"concurrency": 24, "queue": 48, "timeout_seconds": 5},
    "standard": {"concurrency": 20, "queue": 60, "timeout_seconds": 20},
    "batch": {"concurrency": 12, "queue": 90, "timeout_seconds": 30},
}
# What the service promises: twice what a request takes while nobody waits for places.
LATENCY_P99_SECONDS = 1.0
# A third of what one level may have waiting: with the batch level shed, a surge of the standard level is overload, too.
PENDING_REQUESTS = 20

# The hot pool is the fleet; repairs may leave one node of it. A spare is started for so many requests that wait.
MIN_READY = 1
COLD_QUEUE = 30
# A node computes four answers of eight tokens in 0.34 s, and has little to spare beyond ten a second.
CAPACITY = {
    "requests_per_second_per_node": 10,
    "headroom_ratio": 0.1,
    "cold_start": "60s",
    "shrink_after": "15s",
    "give_up": "120s",
}
# A minute is the shortest step a calendar knows; the model is fitted anew often enough to be watched.
FORECAST = {"step_seconds": 60, "horizon_seconds": 1800, "history_days": 5, "refit_seconds": 120}

SCRAPE_SECONDS = 1
EVALUATION_SECONDS = 1
# Shipped rules look back one or two minutes and hold for up to five; this makes ten seconds of one minute.
RATE_WINDOW_SECONDS = 10
RULE_TIME_RATIO = RATE_WINDOW_SECONDS / 60
# Error budgets are watched over hours; here the next scenario would find the last one's errors still being told of.
MAX_WINDOW_SECONDS = 3 * RATE_WINDOW_SECONDS
GROUP_WAIT_SECONDS = 1
GROUP_INTERVAL_SECONDS = 5

TICK_SECONDS = 2.0
INCIDENT_QUIET_SECONDS = 15.0
RESOLVE_GRACE_SECONDS = 30.0
# One in two hours. A demo knows minutes of past, which cannot show that something is as rare as once in days.
FALSE_ALARMS_PER_DAY = 12.0
# Twelve blocks of one sample each, which lie five seconds apart; outside the demo four hours.
LEAK_WINDOW_SECONDS = 60.0
# The ladder's steps follow the windows above: a rung shows its effect once the old requests have left them.
LADDER = {"up_after": "2s", "settle": "5s", "down_after": "12s"}
VERIFY_HOLD = "5s"
VERIFY_WITHIN = "60s"

# A returned node has its full share within one window of rates.
SLOW_START_SECONDS = 5
# A node that hangs ends nothing, so that what it was doing is lost either way; capped answers are what the ladder's
# first rung leaves of the long ones.
RUNBOOK_INPUTS = {"drain_seconds": 3, "max_tokens": 24}
NODE_STOP_SECONDS = 6.0

# Importing torch takes 10 to 17 s on a cold, busy machine with two cores, and two nodes do it at once.
READY_SECONDS = 180.0
# What a start takes here when the machine is not busy, before the first client is answered.
START_SECONDS = 45.0
# The load outlives its story by this much; the demo ends it when the story is over.
LOAD_MARGIN_SECONDS = 180.0

REPORT = "demo-report.json"
