"""The worker, one process: the parts of its role, and what belongs to the process: its web server.

`app`, made from the environment on first use, is what `faust -A agents.worker worker` starts: the answering part.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

from agents.answer.app import AnswerApp
from agents.cluster.heartbeat import Heartbeat
from agents.cluster.registry import WorkerRegistry
from agents.cluster.shared_limits import SharedLimits
from agents.cluster.worker_status import WorkerStatus
from agents.later.app import LaterApp
from agents.routes.app import RouteApp
from agents.stats import ProcessStats, exporter_of
from agents.tables.app import TablesApp
from agents.web.api.local_rows import LocalRows
from agents.web.api.query import Query
from agents.web.api.routes import open_api
from agents.web.site import Site
from models.errors import SettingsError
from models.source import Sources
from streams import memory
from streams.app import App
from streams.config import settings as configuration
from streams.config.plugins import load_plugins
from streams.config.settings import Settings
from streams.http.limits import Bulkhead
from streams.kafka.topics import Topic, require
from streams.sources import load as load_sources
from streams.sources import route_misfits
from streams.tasks import end_tasks, keep
from streams.telemetry.loop import LoopWatch
from streams.telemetry.readiness_log import Announcer
from streams.web.probes import metrics_route
from streams.web.server import Server


class Worker:
    """Opened before its apps start and closed after they have stopped: see streams.app.run."""

    def __init__(self, settings: Settings, sources: Sources | None = None) -> None:
        self.settings = settings
        self.sources = sources or Sources()
        self.answering = None if settings.role == "tables" else AnswerApp(
            settings, self.sources, self._topics, self._share
        )  # fmt: skip
        self.tabulating = None if settings.role == "answer" else TablesApp(
            settings, self._set_partitions, self.sources.apart
        )  # fmt: skip
        self.routing = [] if self.answering is None else [
            RouteApp(settings, route, self.sources, self.answering, self._topics)
            for route in self.sources.routes.values()
        ]  # fmt: skip
        delays = self.sources.delays
        self.later = None if self.answering is None or not delays else LaterApp(
            settings, delays, self.answering, self.routing, self._topics
        )  # fmt: skip
        self.query = Query(settings.worker_id, self.answering, requests=settings.requests_topic,
                           samples={part.route.name: part.sample for part in self.routing})  # fmt: skip
        self.shared: SharedLimits | None = None
        self._found: Mapping[str, Topic] = {}

    @property
    def apps(self) -> list[App]:
        """Return the Faust apps of this worker's role."""
        return [part.app for part in (self.answering, self.tabulating, *self.routing, self.later) if part is not None]

    async def open(self, stack: AsyncExitStack) -> None:
        """Watch the loop and the memory, and open the web server. Raises SettingsError if its port cannot be had."""
        settings = self.settings
        loop_watch = await stack.enter_async_context(LoopWatch())
        means = "what a burst of records took is kept for ever"
        stack.push_async_callback(end_tasks, keep(memory.keep_level, "giving memory back", means=means))
        await self._topics()
        process = ProcessStats(settings.role, loop_watch, self.readiness)
        exporter = exporter_of(process, self.answering, self.tabulating, self.routing, self.later)
        query = await stack.enter_async_context(self.query)
        if self.tabulating is not None:
            await query.set_registry(await stack.enter_async_context(WorkerRegistry(settings)))
        api = await stack.enter_async_context(open_api(settings, self.sources, query))
        site = Site(settings, api)
        routes = [*site.routes(), metrics_route(exporter)]
        server = Server(settings.web_host, settings.web_port, self.readiness, routes,
                        token=settings.web_token, names=settings.web_names(),
                        error_page=site.error_page)  # fmt: skip
        await stack.enter_async_context(server)
        process.web = server.requests
        status = WorkerStatus(
            settings,
            self.sources,
            self.answering,
            self.tabulating,
            self.routing,
            later=self.later,
            loop=loop_watch,
            port=server.port,
            limits=lambda: [] if self.shared is None else self.shared.report(),
        )
        await stack.enter_async_context(Heartbeat(settings, status.record))
        await stack.enter_async_context(site.events)
        await stack.enter_async_context(Announcer(self.readiness, self._settings_summary))

    async def _topics(self) -> Mapping[str, Topic]:
        """Return the topics that are needed, looked up once, with what we may do with them and our groups, before
        anything is written. Raises BrokerError naming all that is missing.
        """
        if self._found:
            return self._found
        requests, results, letters = self.settings.topics()
        answering = self.answering is not None
        routes = [part.route for part in self.routing]
        later = () if self.later is None else self.later.topics
        self._found = await require(
            self.settings.kafka,
            read=[
                *([requests] if answering else ()),
                *([results] if self.tabulating is not None else ()),
                *(name for route in routes for name in route.names),
                *later,
            ],
            write=[
                *([results, letters] if answering else ()),
                *(route.results for route in routes),
                *(route.failures for route in routes if route.failures),
                *later,
            ],
            groups=[app.conf.id for app in self.apps],
        )
        return self._found

    def readiness(self) -> Mapping[str, str]:
        """Say what `/readyz` needs."""
        parts = dict(self.answering.readiness()) if self.answering is not None else {}
        if self.tabulating is not None:
            parts["tables"] = self.tabulating.readiness()
        for part in self.routing:
            parts[f"route {part.route.name}"] = part.readiness()
        if self.later is not None:
            parts["later"] = self.later.readiness()
        return parts

    def _share(self, bulkheads: Mapping[str, Bulkhead]) -> SharedLimits:
        self.shared = SharedLimits(self.settings, bulkheads)
        return self.shared

    def _settings_summary(self) -> str:
        groups = ", ".join(f"{app.conf.id} has {len(app.holder.leases)} partitions" for app in self.apps)
        return f"worker {self.settings.worker_id}, role {self.settings.role}; {groups}"

    def _set_partitions(self, partitions: int) -> None:
        assert self.tabulating is not None
        self.query.set_local_rows(LocalRows(self.tabulating.state), partitions)


def create(settings: Settings) -> Worker:
    """Make a worker that has not started. Raises SettingsError."""
    load_plugins(settings)
    sources = load_sources(settings.sources)
    check_routes(settings, sources)
    return Worker(settings, sources)


def check_routes(settings: Settings, sources: Sources) -> None:
    """Raise SettingsError for routes that do not go with the settings."""
    if problems := route_misfits(settings, sources):
        raise SettingsError("\n".join(problems))


def __getattr__(name: str) -> App:
    if name == "app":
        worker = create(replace(configuration.load(), role="answer"))
        if worker.routing or worker.later is not None:
            msg = "routes and retry_later have apps of their own: start the worker with `millrace worker`"
            raise SettingsError(msg)
        [app] = worker.apps
        app.opens(worker.open)
        globals()["app"] = app
        return app
    raise AttributeError(name)
