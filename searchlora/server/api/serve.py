"""Server start-up: loads the models, raises the limit of open files and runs uvicorn."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from searchlora.adapters.full_model import model_of
from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.inference.engines import make_engine
from searchlora.inference.local import LocalEngine
from searchlora.inference.settings import LocalSettings
from searchlora.models.resolve import BaseModel, public_name, resolve
from searchlora.pipelines.config import PipelineConfig, read_pipelines
from searchlora.server.api.access_log import AccessLog
from searchlora.server.api.app import create_app
from searchlora.server.api.encoders import Encoders
from searchlora.server.api.http_protocol import MAX_HEAD_BYTES, HttpProtocol
from searchlora.server.api.served_pipelines import ServedPipelines
from searchlora.server.api.service import Service, Settings
from searchlora.server.api.work_queue import run_in_new_thread
from searchlora.server.grading.search_grades import SearchGrades
from searchlora.server.http import QUIET_SERVER

if TYPE_CHECKING:
    from searchlora.inference.answer_cache import AnswerCache

#: Settings of a server's engine: it prefers speed, see `LocalEngine`.
DEFAULT_ENGINE = LocalSettings(batch_invariant=False)

#: File descriptors reserved for files, libraries and idle connections.
_RESERVED_DESCRIPTORS = 128

#: The soft limit that is requested where the hard limit is infinite.
_MAX_DESCRIPTORS = 65_536


def make_service(
    base: str,
    store: Store,
    settings: Settings,
    *,
    encoders: Sequence[str] = (),
    load: Sequence[str] = (),
    tasks: Path | None = None,
    access_log: AccessLog | None = None,
    engine: LocalSettings | None = None,
    waiting_per_caller: int | None = None,
    pipelines: Sequence[tuple[str, Path | None]] = (),
    overrides: Sequence[str] = (),
    cache: AnswerCache | None = None,
    grades: SearchGrades | None = None,
) -> Service:
    """Load the base model, adapters before their first request, and pipelines.

    Args:
        base: The base model, as `resolve` takes it, or `NAME@VERSION` of a stored version that is a whole model.
        store: The adapter store.
        settings: Limits of the server.
        encoders: Encoders, as `resolve` takes them.
        load: References of adapters to load.
        tasks: A folder of further task plugins.
        access_log: Where requests are logged; None: nowhere.
        engine: Settings of the engine; None: the defaults, not batch invariant.
        waiting_per_caller: See `LocalEngine`.
        pipelines: Pipelines to serve, each with its corpus or None, see `ServedPipelines.add`.
        overrides: Parameters, `name=value`, each for the pipelines that have it.
        cache: Answers of the adapter stages of pipelines; None: every answer is computed.
        grades: Where grades of hits are saved.

    Raises:
        BaseModelError, InvalidName, NotInStore, LoadCheckFailed: for models that do not exist or fail their load check.
        UsageError: for two models or two pipelines with one name.
        PipelineError, DataError, StaleIndex: for a pipeline or a corpus that cannot be loaded.
    """
    configs = _configs([pipeline for pipeline, _ in pipelines], overrides)
    loaded_encoders = Encoders(encoders, store)
    if (name := public_name(base)) in loaded_encoders.bases:
        raise UsageError(f"the base and an encoder would both be called '{name}'", fix="Rename the folder of one.")

    def loaded() -> tuple[LocalEngine, ServedPipelines]:
        local = make_engine(
            engine or DEFAULT_ENGINE,
            _base(base, store),
            store,
            waiting=settings.max_waiting,
            waiting_per_client=waiting_per_caller,
        )
        assert isinstance(local, LocalEngine)
        for adapter in load:
            local.load(adapter)
        served = ServedPipelines(store, local, tasks, cache)
        for config, (_, corpus) in zip(configs, pipelines, strict=True):
            served.add(config, corpus)
        return local, served

    local, served = run_in_new_thread(loaded).result()
    service = Service(
        local, store, loaded_encoders, settings, served, grades=grades, tasks=tasks, access_log=access_log
    )
    service.grammar_trial.start()
    return service


def _configs(pipelines: Sequence[str], overrides: Sequence[str]) -> list[PipelineConfig]:
    """The pipelines with their parameters. Raises `UsageError` for parameters without a pipeline."""
    if overrides and not pipelines:
        raise UsageError(
            f"there is no pipeline whose parameter '{overrides[0].partition('=')[0]}' could be set",
            where="--set",
            fix="Give --pipeline, too.",
        )
    return [config for _, config in read_pipelines(pipelines, overrides)]


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
    """Check the addresses of reverse proxies before anything is loaded.

    Raises:
        UsageError: for a proxy that is neither an address nor a network.

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


def make_server(service: Service, *, grace: float = 60.0, trusted_proxies: Sequence[str] = ()) -> uvicorn.Server:
    """A uvicorn server that completes requests in progress when it is told to stop.

    Args:
        service: What is served.
        grace: Seconds for requests in progress; longer ones are aborted. Infinity: none is.
        trusted_proxies: Addresses or networks of reverse proxies whose `X-Forwarded-For` names the client. Without
            them the header is ignored: any client could set it.

    Raises:
        UsageError: for a proxy that is neither an address nor a network.
    """
    check_proxies(trusted_proxies)
    config = uvicorn.Config(
        create_app(service),
        **QUIET_SERVER,
        log_level="warning",
        http=HttpProtocol,
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=service.settings.max_connections + 1,  # uvicorn refuses at that number
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        timeout_graceful_shutdown=None if math.isinf(grace) else math.ceil(grace),
    )
    return uvicorn.Server(config)


def serve(
    service: Service, listening: socket.socket, *, grace: float = 60.0, trusted_proxies: Sequence[str] = ()
) -> None:
    """Serve until SIGINT or SIGTERM. Arguments and errors as `make_server`."""
    server = make_server(service, grace=grace, trusted_proxies=trusted_proxies)
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
