"""The services: what the routes work with, built once by ``server.app`` for each application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.api.credentials import Credentials
from server.api.outcome import Outcome
from server.catalog.catalog import Catalog
from server.inputs.decode import ImageLimits
from server.inputs.decoders import Decoders
from server.inputs.fetch import Fetcher
from server.jobs.accounts import Accounts
from server.jobs.admission import Admission
from server.jobs.backlog import Backlog
from server.jobs.budget import Budget
from server.jobs.feeder import Feeder
from server.jobs.limits import Payer
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry
from server.settings import Settings
from server.storage.database import Database
from server.storage.signing import Signer
from server.storage.store import Store
from server.telemetry import Metrics
from server.webhooks.secrets import WebhookSecrets
from server.webhooks.sender import WebhookSender
from server.worker.fleet import Fleet
from server.worker.served import ServedCatalog


@dataclass(frozen=True)
class Services:
    """One server's parts. Two applications in one process share none of them."""

    settings: Settings
    served: ServedCatalog
    queue: JobQueue
    jobs: JobRegistry
    admission: Admission[Outcome]
    budget: Budget
    worker: Fleet
    store: Store
    signer: Signer
    fetcher: Fetcher
    limits: ImageLimits
    metrics: Metrics
    decoders: Decoders
    backlog: Backlog
    feeder: Feeder
    webhooks: WebhookSender
    webhook_secrets: WebhookSecrets
    accounts: Accounts
    database: Database
    payer_of: Callable[[str], Payer | None]  # whose use is counted for the principal of this id; None: its key is gone
    credentials: Credentials | None = None

    @property
    def catalog(self) -> Catalog:
        """The models that are served now. It may be another at the next look: whoever looks twice may find two."""
        return self.served.current
