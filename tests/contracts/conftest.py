"""Fixtures of the contract tests: each test runs on eth-tester and on Anvil, from the same fresh state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.harness import AnvilNode, EthTesterNode, Node, rolled_back
from tests.contracts.world import World, make_world

HERE = Path(__file__).parent
# Quick enough for `make check`, on the chain that needs no other program.
QUICK = {"organisation", "transparency", "pledge_split"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick contract tests on eth-tester as unit tests."""
    for item in items:
        if item.path.parent == HERE and item.path.stem.removeprefix("test_") in QUICK and "[eth-tester" in item.name:
            item.add_marker(pytest.mark.unit)


@pytest.fixture(scope="session")
def anvil_node() -> Iterator[AnvilNode]:
    """One Anvil for the session; its address is ``anvil_node.url``."""
    node = AnvilNode()
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="session", params=["eth-tester", "anvil"])
def node(request: pytest.FixtureRequest) -> Node:
    """A real chain that lives as long as the session."""
    if request.param == "anvil":
        found: Node = request.getfixturevalue("anvil_node")
        return found
    return EthTesterNode()


@pytest.fixture
def chain(node: Node) -> Iterator[Node]:
    """A real chain; what the test does to it is undone."""
    with rolled_back(node):
        yield node


@pytest.fixture(scope="session")
def session_world(node: Node) -> World:
    """The contracts, deployed once for each chain."""
    return make_world(node)


@pytest.fixture
def world(session_world: World) -> Iterator[World]:
    """The deployed contracts with their roles and organisations; what the test does is undone."""
    with rolled_back(session_world.node):
        yield session_world
