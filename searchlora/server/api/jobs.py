"""Background jobs of the server: one runs at a time, with progress, and can be cancelled; searches go on beside it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from searchlora.server.api.errors import ApiError, api_error_of
from searchlora.server.api.response_schemas import JobEntry, JobResult
from searchlora.server.api.work_queue import FairThreads, JobCancelled, JobFuture

_LOG = logging.getLogger(__name__)

#: Jobs that wait or run at most, those of one client that wait, and finished ones whose results are kept.
_CAPACITY, _PER_CLIENT, _KEPT = 16, 4, 32

Status: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(eq=False)
class BackgroundJob:
    """A job of a client.

    Attributes:
        kind: What it computes.
        done, total: Progress in units; `step` says which.
        result: Set when it is done.
        error: The body of the error, when it has failed.
    """

    id: str
    kind: str
    client_id: str
    status: Status = "waiting"
    step: str = ""
    done: int = 0
    total: int = 0
    result: JobResult | None = None
    error: dict[str, Any] | None = None
    _future: JobFuture[Any] | None = None
    _on_cancel: list[Callable[[], object]] = field(default_factory=list)

    def on_cancel(self, function: Callable[[], object]) -> None:
        """Call a function when the job is cancelled, such as one that withdraws requests to an engine."""
        self._on_cancel.append(function)

    def progress(self, done: int, total: int | None, note: str = "") -> None:
        """Report progress. Raises `JobCancelled` when the job was cancelled."""
        self.check()
        self.done, self.total, self.step = done, total or 0, note or self.step

    def check(self) -> None:
        """Raise `JobCancelled` when the job was cancelled."""
        if self._future is not None:
            self._future.check()

    def json(self) -> JobEntry:
        """The job as its endpoint answers."""
        return {
            "object": "job",
            "id": self.id,
            "kind": self.kind,  # type: ignore[typeddict-item]  # one of those of `topics`
            "status": self.status,
            "step": self.step,
            "done": self.done,
            "total": self.total,
            "result": self.result,
            "error": self.error,
        }


#: What a job computes; it calls `progress` or `check` often.
Work: TypeAlias = Callable[[BackgroundJob], JobResult]


class Jobs:
    """The jobs of a server. Thread-safe. Clients take turns, and see and cancel their own jobs only."""

    def __init__(self) -> None:
        self._queue = FairThreads(1, "searchlora-background", capacity=_CAPACITY, capacity_per_client=_PER_CLIENT)
        self._jobs: OrderedDict[str, BackgroundJob] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, client_id: str, kind: str, function: Work) -> BackgroundJob:
        """Queue a job.

        Raises:
            EngineBusy: when too many jobs wait.
        """
        job = BackgroundJob(secrets.token_hex(8), kind, client_id)

        def run(future: JobFuture[None]) -> None:
            job._future = future
            _run(job, function)

        with self._lock:
            job._future = self._queue.submit(client_id, run)
            self._jobs[job.id] = job
            finished = [each for each in self._jobs.values() if each.status not in ("waiting", "running")]
            for each in finished[: max(0, len(finished) - _KEPT)]:
                del self._jobs[each.id]
        return job

    def get(self, client_id: str, id_: str) -> BackgroundJob:
        """A job of a client. Raises `ApiError` 404."""
        with self._lock:
            job = self._jobs.get(id_)
        if job is None or job.client_id != client_id:
            raise ApiError(404, "job_not_found", "This server has no such job of yours, or no longer.")
        return job

    def cancel(self, client_id: str, id_: str) -> BackgroundJob:
        """Stop a job of a client at its next step. Raises `ApiError` 404."""
        job = self.get(client_id, id_)
        self._stop(job)
        return job

    def close(self) -> None:
        """Stop all jobs."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            self._stop(job)

    def _stop(self, job: BackgroundJob) -> None:
        if job.status not in ("waiting", "running") or job._future is None:
            return
        if job._future.cancel() or job.status == "waiting":
            job.status = "cancelled"
        for function in job._on_cancel:
            function()


def _run(job: BackgroundJob, function: Work) -> None:
    if job.status == "cancelled":
        return
    job.status = "running"
    try:
        result = function(job)
        job.check()
        job.result, job.status = result, "done"
    except JobCancelled:
        job.status = "cancelled"
    except Exception as error:
        if job._future is not None and job._future.stop_requested:  # its engine requests were withdrawn
            job.status = "cancelled"
            return
        api_error = error if isinstance(error, ApiError) else api_error_of(error)
        if api_error.code == "internal_error":
            _LOG.exception("a background job failed")
        job.error, job.status = api_error.body["error"], "failed"
    finally:
        # The result of a job is kept for long; the topics and judgments that it was computed from are not.
        job._on_cancel = []
