"""Server start-up: loads the models, raises the limit of open files and runs uvicorn."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from searchlora.adapters.full_model import model_of
from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.events.log import EventLog
from searchlora.events.recorder import EventRecorder
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import BaseModel, public_name, resolve
from searchlora.pipelines.config import read_pipelines
from searchlora.server.api.access_log import access_logger
from searchlora.server.api.app import create_app
from searchlora.server.api.config import ServeConfig
from searchlora.server.api.encoders import ServedEncoders
from searchlora.server.api.keys import ApiKeys
from searchlora.server.api.metrics import Metrics
from searchlora.server.api.served_pipelines import ServedPipelines
from searchlora.server.api.service import Service
from searchlora.server.grading.search_grades import SearchGrades
from searchlora.server.http import uvicorn_config
from searchlora.time_limit import run_in_new_thread

#: File descriptors reserved for files, libraries and idle connections.
_RESERVED_DESCRIPTORS = 128

#: The soft limit that is requested where the hard limit is infinite.
_MAX_DESCRIPTORS = 65_536


def make_service(config: ServeConfig) -> Service:
    """Load the base model, adapters before their first request, and pipelines."""
    check_proxies(config.trusted_proxies)
    ApiKeys(config.api_keys, config.keys)  # a file that cannot be used is refused before models are loaded
    store = Store(config.store)
    log = access_logger(config.access_log) if config.access_log is not None else None
    pipelines = [pipeline for _, pipeline in read_pipelines(config.pipelines, config.parameters)]
    _check_interleaved(config, [pipeline.name for pipeline in pipelines])
    encoders = ServedEncoders(config.encoders, store)
    if (name := public_name(config.base)) in encoders.bases:
        raise UsageError(f"the base and an encoder would both be called '{name}'", fix="Rename the folder of one.")
    measures = config.grades is not None or config.topics is not None
    grades = SearchGrades(config.grades, config.topics, config.qrels) if measures else None
    metrics = Metrics(public_name(config.base), config.price_prompt, config.price_output)
    events = None
    if config.events is not None:
        event_log = EventLog(config.events, max_days=config.events_days, max_mb=config.events_mb)
        events = EventRecorder(event_log, sample=config.events_sample, dropped=metrics.dropped_searches.inc)
    cache = AnswerCache(config.cache, config.cache_mb << 20) if config.cache is not None else None

    def load() -> tuple[LocalEngine, ServedPipelines]:
        engine = LocalEngine(
            _base(config.base, store),
            store,
            config.local_engine,
            waiting=config.waiting,
            waiting_per_client=config.waiting_per_client,
        )
        for adapter in config.load:
            engine.load(adapter)
        served = ServedPipelines(store, engine, config.tasks, cache)
        for pipeline, corpus in zip(pipelines, config.corpus_of_each, strict=True):
            served.add(pipeline, corpus)
        return engine, served

    engine, served = run_in_new_thread(load).result()
    return Service(engine, store, encoders, config, served, grades, events, metrics, access_log=log)


def _check_interleaved(config: ServeConfig, names: Sequence[str]) -> None:
    """Raise `UsageError` for a pipeline that is to be interleaved and is not served."""
    for name in config.interleave.split("=", 1) if config.interleave is not None else ():
        if name not in names:
            fix = f"The server has {', '.join(names) or 'none'}."
            raise UsageError(f"there is no pipeline '{name}'", where="--interleave", fix=fix)


def _base(name: str, store: Store) -> BaseModel:
    """The base, or the whole model that a reference with an `@` names. Raises as `make_service`."""
    if "@" not in name or Path(name).exists():
        return resolve(name)
    stored = store.get(name)
    if not stored.is_full:
        raise UsageError(
            f"{stored.reference} is an adapter, not a whole model",
            where="--base",
            fix=f"Serve its base, {stored.manifest.base.name}; requests then name the adapter.",
        )
    return model_of(stored)


def check_proxies(trusted_proxies: Sequence[str]) -> None:
    """Raise `UsageError` for a proxy that is neither an address nor a network, before anything is loaded.

    Examples:
        >>> check_proxies(["10.0.0.0/8", "::1"])
    """
    for proxy in trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise UsageError(
                f"'{proxy}' is neither an address nor a network", where="--trusted-proxy", fix="For example 10.0.0.0/8."
            ) from None


class _DrainingServer(uvicorn.Server):  # type: ignore[misc]  # uvicorn is untyped here
    """A server that drains on SIGTERM: it is not ready any more, and goes on serving until proxies have noticed.

    A second SIGTERM, or Ctrl+C, ends the draining. A server that has stopped in order exits with 0.
    """

    def __init__(self, config: uvicorn.Config, draining: threading.Event, seconds: float) -> None:
        super().__init__(config)
        self._draining, self._seconds, self._stops_at = draining, seconds, math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The handler of both signals. uvicorn's own raises SIGTERM again after the shutdown, which would kill."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._draining.is_set():
            self.should_exit = True
        else:
            self._draining.set()
            self.config.encoded_headers.append((b"connection", b"close"))  # a client's next connection goes elsewhere
            self._stops_at = time.monotonic() + self._seconds

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop."""
        self.should_exit |= time.monotonic() >= self._stops_at
        stops: bool = await super().on_tick(counter)
        return stops


def make_server(service: Service) -> uvicorn.Server:
    """A uvicorn server that drains, and completes requests in progress, when it is told to stop.

    Its connections and active requests are limited to what fits into the limit of open files. `X-Forwarded-For` is
    read from trusted proxies only: any client could set it.
    """
    config = service.config
    connections = min(config.limit_concurrency, max_connections() or config.limit_concurrency)
    active = min(config.max_active_requests, connections - connections // 8)
    app = create_app(service, max_active_requests=active)
    seconds = config.shutdown_timeout
    settings = uvicorn_config(
        app,
        connections,
        log_level="warning",
        ws="none",
        proxy_headers=bool(config.trusted_proxies),
        forwarded_allow_ips=list(config.trusted_proxies),
        timeout_graceful_shutdown=None if math.isinf(seconds) else math.ceil(seconds),
    )
    return _DrainingServer(settings, service.draining, config.drain_time)


def serve(service: Service, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    server = make_server(service)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after shutdown
        server.run(sockets=[listening])


def max_connections() -> int | None:
    """Raise the soft limit of open files to the hard limit; the connections that fit below it. None: no limit.

    The usual soft limit of 1024 exists for programs that use `select`; a server at its limit accepts no connection.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < target:
        with contextlib.suppress(OSError, ValueError):  # some systems have a lower kernel limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    return None if soft == resource.RLIM_INFINITY else max(1, soft - _RESERVED_DESCRIPTORS)
