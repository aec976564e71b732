"""Rollouts of a running server: the guardrails of its pipelines' adapters are looked at every few seconds."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, get_args

from searchlora.adapters.audit import actor, who
from searchlora.adapters.references import parse_reference
from searchlora.errors import StoreError
from searchlora.experiments.rollout import Outcome, look

if TYPE_CHECKING:
    from searchlora.server.api.service import Service

_LOG = logging.getLogger(__name__)

#: Seconds between two looks, and how many times as long as a look takes: looks use 2% of a CPU at most.
_INTERVAL_S, _RATIO = 2.0, 50.0


class RolloutWatch:
    """Looks at each rollout that is under way. With several servers on one store, each looks, and the first acts."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="searchlora-rollouts", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Stop looking."""
        self._closed.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        actor.set(f"server of {who()}")  # of this thread, for the audit log
        wait = _INTERVAL_S
        while not self._closed.wait(wait):
            began = time.monotonic()
            for reference in self._service.pipelines.followed:
                self._look(reference)
            wait = max(_INTERVAL_S, _RATIO * (time.monotonic() - began))

    def _look(self, reference: str) -> None:
        service, parsed = self._service, parse_reference(reference)
        assert service.events is not None and parsed.alias is not None
        for outcome in get_args(Outcome):
            service.metrics.rollout_looks.labels(reference, outcome)  # from 0 on, so that the first one is an increase
        try:
            if service.store.alias_history(parsed.name).rollout(parsed.alias) is None:
                return
            found = look(service.store, parsed.name, parsed.alias, service.events.log)
        except StoreError as error:  # another server was first, or a user has moved the alias
            _LOG.info("the rollout of %s: %s", reference, error)
        except Exception as error:  # the thread must outlive whatever a policy or an event holds
            _LOG.error("the rollout of %s cannot be looked at: %s", reference, error)
        else:
            service.metrics.rollout_looks.labels(reference, found.outcome).inc()
            service.metrics.rollout_share.labels(reference).set(found.share)
            if found.move is not None:
                _LOG.warning("%s: %s", parsed.name, found.move)
