"""What all routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from searchlora.adapters.store import Store
from searchlora.inference.local import LocalEngine
from searchlora.models.catalogue import public_name
from searchlora.server.api.encoders import Encoders
from searchlora.server.api.metrics import Metrics
from searchlora.server.api.settings import Settings


@dataclass(frozen=True)
class Service:
    """An engine with a store, the encoders beside it, and what callers may do."""

    engine: LocalEngine
    store: Store
    encoders: Encoders
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)

    @cached_property
    def base(self) -> str:
        """What the bare base is called in requests: never a path."""
        return public_name(self.engine.base.name)

    def pinned(self, model: str) -> str | None:
        """The exact adapter that a request's `model` means now; None: the bare base.

        Raises:
            InvalidName: for what can be no reference, a path among it.
            NotInStore: for what is not there.
        """
        return None if model == self.base else self.engine.pin(model)
