"""What a front tells its replicas of its queue, for Ray Serve to scale by. Knows the fleet and time; knows no Ray."""

from __future__ import annotations

import asyncio

from server.worker.fleet import Fleet
from server.worker.ray.member import ServeMember

JOBS_S = 5.0  # between two times: Ray Serve asks the replicas every 6 s


async def tell_jobs(fleet: Fleet, every_s: float = JOBS_S) -> None:
    """Tell every replica how many jobs there are, for as long as the server runs."""
    while True:
        count = fleet.jobs()
        for member in fleet.members:
            if isinstance(member, ServeMember):
                member.tell_jobs(count)
        await asyncio.sleep(every_s)
