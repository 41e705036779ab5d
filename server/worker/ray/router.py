"""The router of Ray Serve that obeys: the front names the replica, and hears which there are.

The front has chosen already, by its own rule, and never sends a replica more than it has slots: nothing queues here.
"""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class FleetRouter(RequestRouter):  # type: ignore[misc]  # Ray's types are not checked
    """Sends each request to the replica whose ID it has for its session."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Ray Serve says which replicas there are."""
        from server.worker.ray.roll import ROLL  # the class may be pickled by value, and its module's globals copied

        super().update_replicas(replicas)
        ROLL.call(frozenset(replica.replica_id.unique_id for replica in replicas))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The one that is named; none if it has gone, and the request waits until whoever sent it gives it up."""
        if pending_request is None:
            return []
        # Without it Serve asks again at once, for ever, and its thread does nothing else.
        pending_request.routing_context.should_backoff = True
        named = pending_request.metadata.session_id
        return [[replica] for replica in candidate_replicas if replica.replica_id.unique_id == named]
