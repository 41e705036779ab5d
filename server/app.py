"""The composition root: the only file that wires everything together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI

from server import __version__
from server.api import accounts, admin, files, hub, images, job_rows, jobs, kept, mcp, models, openapi, ops, upscale
from server.api.credentials import open_credentials
from server.api.outcome import Outcome
from server.api.sdapi import routes as sdapi
from server.api.services import Services
from server.catalog.load import find_models_file, load_catalog
from server.edge import stack
from server.edge.cors import require_someone_to_trust
from server.edge.keys import LOCAL, Keyring
from server.errors import ConfigError, DarkroomError, LinkRefused
from server.inputs.decode import ImageLimits
from server.inputs.decoders import Decoders
from server.inputs.fetch import Fetcher, Own
from server.jobs import usage
from server.jobs.accounts import Accounts
from server.jobs.admission import Admission
from server.jobs.backlog import Backlog
from server.jobs.budget import Budget
from server.jobs.feeder import Feeder
from server.jobs.limits import Payer
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry
from server.jobs.repeats import KEEP_S, Repeats
from server.jobs.runner import JobRunner
from server.settings import Settings
from server.storage import async_jobs
from server.storage.database import FILE_NAME as DATABASE_NAME
from server.storage.database import Database, DatabaseFailed
from server.storage.ownership import Ownership
from server.storage.signing import Signer, load_or_create_secret
from server.storage.store import Store, open_store
from server.telemetry import Metrics
from server.web import docs, page
from server.webhooks.deliveries import Deliveries
from server.webhooks.secrets import WebhookSecrets
from server.webhooks.sender import WebhookSender
from server.worker.devices import WorkerDevice, find
from server.worker.fleet import Fleet
from server.worker.idle import watch_idle
from server.worker.launch import Early
from server.worker.local import LocalWorker
from server.worker.ray.opening import open_cluster
from server.worker.served import ServedCatalog

log = logging.getLogger("darkroom.app")


def create_app(settings: Settings, early: Early | None = None) -> FastAPI:
    """Build one server's application. Raises ConfigError; opens no port and starts no worker yet.

    ``early``: the worker processes that were started for these settings before. Whoever started them ends those that
    are left where this raises.
    """
    keyring = Keyring(settings.data_dir / "keys.json")
    if not settings.this_machine_only and keyring.empty and not settings.allow_open:
        reached = f"public_url {settings.public_url}" if settings.on_loopback else f"host {settings.host}"
        raise ConfigError(
            f"{reached} is reachable from other machines, but no key is configured: make one with "
            "`darkroom keys create NAME`, or set DARKROOM_ALLOW_OPEN=1 (--allow-open) to serve anyone"
        )
    require_someone_to_trust(settings, obeys_anyone=keyring.empty and (settings.allow_open or not keyring.had_keys))

    def payer_of(principal: str) -> Payer | None:
        if principal == LOCAL.id:
            return LOCAL.payer if keyring.empty else None
        known = (entry.principal for entry in keyring.list())  # an expired one asks for nothing; what it has is drawn
        return next((found.payer for found in known if found.id == principal), None)

    services = _build(settings, find_models_file(settings.models), early, payer_of)
    deliveries = Deliveries(
        services.backlog.table,
        services.webhooks,
        services.webhook_secrets,
        is_known=lambda principal: payer_of(principal) is not None,
        body=job_rows.event_body,
        message_id=job_rows.event_id,
    )
    services.backlog.on_ended = deliveries.wake

    async def work_off() -> None:
        """The jobs and webhooks of the data folder, once it is ours."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(services.feeder.run(), name="feeder")
                if await services.feeder.opened():
                    group.create_task(deliveries.run(), name="webhooks")
        except* Exception as failed:  # requests that wait for their answers go on
            log.error("async jobs stopped", extra={"error": type(failed.exceptions[0]).__name__})

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await services.accounts.start()
        services.worker.start()
        sweep = asyncio.create_task(_sweep(services.store, settings), name="sweep")
        watch = asyncio.create_task(services.served.watch(), name="watch-models")
        idle = asyncio.create_task(watch_idle(settings, services.served, services.worker), name="idle")
        async_work = asyncio.create_task(work_off(), name="async-jobs")
        try:
            yield
        finally:
            services.queue.drain()
            async_work.cancel()
            await asyncio.wait({async_work})
            await services.feeder.stop(max(0.0, settings.drain_timeout_s - services.queue.drained_s))
            services.webhooks.close()
            sweep.cancel()
            watch.cancel()
            idle.cancel()
            services.fetcher.close()
            try:
                await services.worker.stop()
            finally:  # the worker's last words are booked
                await services.accounts.stop()
                await services.database.close()

    app = FastAPI(
        title="Darkroom",
        version=__version__,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    app.state.keyring = keyring
    for module in (images, upscale, hub, jobs, files, models, admin, accounts, ops, mcp):
        app.include_router(module.router(services))
    app.include_router(sdapi.router(services))
    app.include_router(docs.router())
    app.include_router(page.router())
    stack.install(app, settings, keyring, count=_counter(services.metrics), budget=services.budget)
    return app


def _counter(metrics: Metrics) -> Callable[[str, int], None]:
    return lambda route, status: metrics.requests.labels(route, str(status)).inc()


def _build(
    settings: Settings,
    models_file: Path,
    early: Early | None,
    payer_of: Callable[[str], Payer | None],
) -> Services:
    devices = _devices(settings) if early is None else early.devices
    # Which devices a cluster has is known when it is there.
    catalog = load_catalog(models_file, () if settings.cluster is not None else devices)
    metrics = Metrics()
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{settings.data_dir}: no data folder can be made there ({error.strerror});"
            " choose another DARKROOM_DATA_DIR (--data-dir)"
        ) from None
    if settings.signing_key is not None:
        signer = Signer(settings.signing_key.get_secret_value().encode())
    else:
        signer = Signer(load_or_create_secret(settings.data_dir / "signing_key"))
    database = Database(settings.data_dir / DATABASE_NAME, (usage.SCHEMA, async_jobs.SCHEMA))
    with contextlib.suppress(DatabaseFailed):  # said when it is read: pictures are made without it
        database.prepare()
    store = open_store(settings.store, settings.data_dir, settings.s3_endpoint)
    preload = {model.plan for model in catalog if model.entry.preload}
    roster = open_cluster(settings, devices) if settings.cluster is not None else None
    own = () if settings.cluster is not None else devices
    fleet = Fleet(settings, own, catalog.served_plans.values(), preload, metrics, LocalWorker, roster, early)
    queue = JobQueue(settings.queue_size, slots=fleet.slots, per_key=settings.key_jobs)
    fleet.on_slots = queue.grant
    fleet.jobs = lambda: queue.held
    fetcher = Fetcher(
        settings.fetch,
        timeout_s=settings.fetch_timeout_s,
        max_bytes=settings.max_image_bytes,
        own=_own_pictures(signer, store),
    )
    registry = JobRegistry(queue)
    # Half their life: what is answered again must have URLs that can still be fetched.
    keep_s = min(KEEP_S, settings.url_lifetime_s / 2)
    budget = Budget(settings.held_bytes)
    repeats = Repeats[Outcome](lambda outcome: outcome.size_bytes, keep_s=keep_s, budget=budget)
    runner = JobRunner(queue, fleet, metrics, log_prompts=settings.log_prompts)
    ledger = Accounts(database, metrics)
    fleet.on_spent = ledger.spent
    backlog = Backlog(
        async_jobs.AsyncJobs(database), registry, queue, limit=settings.async_jobs, keep_s=settings.url_lifetime_s
    )
    metrics.async_jobs.set_function(lambda: len(backlog))
    feeder = Feeder(
        backlog,
        queue,
        runner,
        Ownership(settings.data_dir / "async_jobs.lock"),
        share=settings.queue_size // 2,
        job_timeout_s=settings.job_timeout_s,
        budget=budget,
        accounts=ledger,
        payer_of=payer_of,
    )
    services = Services(
        settings=settings,
        served=ServedCatalog(models_file, catalog, fleet, own),
        queue=queue,
        jobs=registry,
        admission=Admission(
            queue, registry, repeats, runner, job_timeout_s=settings.job_timeout_s, budget=budget, accounts=ledger
        ),
        budget=budget,
        worker=fleet,
        store=store,
        signer=signer,
        fetcher=fetcher,
        limits=ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
        metrics=metrics,
        decoders=Decoders(),
        backlog=backlog,
        feeder=feeder,
        webhooks=WebhookSender(settings.webhooks, timeout_s=settings.webhook_timeout_s),
        webhook_secrets=WebhookSecrets(settings.data_dir),
        accounts=ledger,
        database=database,
        payer_of=payer_of,
        credentials=open_credentials(settings),
    )
    feeder.revive = functools.partial(kept.revive, services)
    return services


def _devices(settings: Settings) -> tuple[WorkerDevice, ...]:
    """Those of this machine; of a cluster's front, those on the CPU that are named."""
    if settings.cluster in (None, "local"):
        return find(settings)
    if any(word not in ("auto", "cuda", "cpu") for word in settings.device_words):
        raise ConfigError(
            f"{settings.devices_as_set}: with DARKROOM_CLUSTER (--cluster) the machines' own devices are taken; it can"
            " be auto or cuda (every GPU), or cpu as often as there are to be replicas without one"
        )
    named = [word for word in settings.device_words if word == "cpu"]
    return tuple(WorkerDevice(f"cpu:{number}", "cpu") for number, _ in enumerate(named))


def _own_pictures(signer: Signer, store: Store) -> Own:
    """Reads our own signed picture URLs from the store, whatever name of ours they were written with."""

    async def read(url: str) -> bytes | None:
        try:
            parts = urlsplit(url)
        except ValueError:  # no URL of ours; the fetcher refuses it like any other that cannot be read
            return None
        query = parse_qs(parts.query)
        _, _, name = parts.path.rpartition("/files/")
        expires = query.get("expires", [""])[0]
        if not name or not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            return None
        try:
            signer.verify(name, int(expires), query.get("signature", [""])[0], time.time())
        except LinkRefused:
            return None
        stored = await store.get(name)
        return None if stored is None else stored.data

    return read


async def _sweep(store: Store, settings: Settings) -> None:
    """Delete pictures whose URLs have expired, for as long as the server runs."""
    while True:  # at once, too: a server that was killed may have left something half written
        try:
            deleted = await store.sweep(time.time() - settings.url_lifetime_s)
        except (OSError, DarkroomError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            log.error("sweep failed", extra={"error": type(error).__name__, "reason": reason})
        else:
            if deleted:
                log.info("expired pictures deleted", extra={"pictures": deleted})
        await asyncio.sleep(settings.sweep_interval_s)
