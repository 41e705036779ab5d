"""How many replicas there are to be: by the jobs that fronts have, of which most may wait where Ray Serve sees none.

Ray Serve's own policy goes by requests under way in the replicas, of which each front has one more on each, for as long
as it runs. Serve's controller runs this one, from a copy by value: it imports nothing of ours, and nothing of Ray.
"""

from __future__ import annotations

from typing import Any

JOBS = "darkroom_jobs"


def by_jobs(context: Any) -> tuple[float, dict[str, Any]]:
    """Replicas enough for ``target_ongoing_requests`` jobs on each. Bounds and delays are Ray Serve's own.

    Every front tells every replica how many jobs it has. So each report is of all of them, and the largest is of a
    replica that all have reached.
    """
    reports = context.raw_metrics.get(JOBS, {}).values()
    latest = [series[-1].value for series in reports if series]
    if not latest:
        return context.target_num_replicas, {}
    return max(latest) / context.config.get_target_ongoing_requests(), {}
