"""Nodes with pairs, of either database."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
from ichnos.service.node import Node
from ichnos.service.partners.finder import PairFinder
from ichnos.service.settings import NodeSettings
from ichnos.service.store.database import Database
from service.partners.arriving import SETTINGS, Clock, later, study


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    settings = NodeSettings(home=tmp_path / "node", partners=SETTINGS)
    settings.home.mkdir()
    return Node(settings, database, clock=Clock())


@pytest.fixture
def paired(node: Node) -> Node:
    study(node, "1.1", "20260101")
    later(node, 50)
    study(node, "1.2", "20260102")
    later(node, 200)
    PairFinder(node).step()
    return node
