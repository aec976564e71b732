"""How every FastAPI application here is made: nothing is loaded from elsewhere, nothing is reported to anybody."""

from __future__ import annotations

from typing import Any

CLOSED: dict[str, Any] = {
    # No interactive documentation: its page loads scripts from elsewhere.
    "openapi_url": None,
    "docs_url": None,
    "redoc_url": None,
    # Newer FastAPI reports requests, with what stands in their path, to whatever collector the process or its
    # environment has set up; not these, whatever is set up. Older versions do not know the argument and ignore it.
    "telemetry": {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
}
