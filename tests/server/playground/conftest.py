"""Fixtures: a server with tiny pipelines, for the page in a browser."""

from __future__ import annotations

import pytest

from tests.server.api.serving import served


@pytest.fixture(scope="module")
def url(search_service):
    with served(search_service) as url:
        yield url
