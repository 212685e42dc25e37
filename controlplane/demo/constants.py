"""The demo's profile in one place: a fleet that two cores can carry, and a loop quick enough to watch.

The product's clock is real here; what is shortened are the intervals and windows that anybody may set. Nodes run their
real model with a minimum time for each step, so that a node's capacity is set by that and not by the machine.
"""

SERVICE = "chat"
NODES = ("node-1", "node-2")

# One step of the tiny model takes about 2 ms of CPU; at 20 ms a step a busy node uses a tenth of a core.
PACE_STEP_SECONDS = 0.02
MAX_BATCH_SIZE = 8
BATCH_WAIT_SECONDS = 0.02
# A quarter of the cache's hits is computed again and compared; 0.05 outside the demo. With 10 hits a second on a node
# that is enough for a ratio within one window.
AUDIT_RATIO = 0.25

SCRAPE_SECONDS = 1
EVALUATION_SECONDS = 1
# Shipped rules look back one or two minutes and hold for up to five; this makes ten seconds of one minute.
RATE_WINDOW_SECONDS = 10
RULE_TIME_RATIO = RATE_WINDOW_SECONDS / 60
GROUP_WAIT_SECONDS = 1
GROUP_INTERVAL_SECONDS = 5

TICK_SECONDS = 2.0
INCIDENT_QUIET_SECONDS = 15.0
RESOLVE_GRACE_SECONDS = 30.0
VERIFY_HOLD = "5s"
VERIFY_WITHIN = "60s"

# Importing torch takes 10 to 17 s on a cold, busy machine with two cores, and two nodes do it at once.
READY_SECONDS = 180.0
# The load outlives its story by this much; the demo ends it when the story is over.
LOAD_MARGIN_SECONDS = 180.0

REPORT = "demo-report.json"
