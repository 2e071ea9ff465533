"""One running node for every test that drives it from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.web.living import Living, living_node

# locust's own program loads it; imported here, it would put gevent in the place of threads and sockets
collect_ignore = ["crowd.py"]


@pytest.fixture(scope="session")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    """Run a node: receiver, worker, sender, pages."""
    with living_node(tmp_path_factory.mktemp("living")) as running:
        yield running
