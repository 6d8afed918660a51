#pragma version 0.4.3
#pragma evm-version cancun
#pragma optimize gas
"""
@title Baselines
@license Apache-2.0
@author Tracebond
@notice What `tracebond bench anchor` compares with: a root stored after a role check and nothing else, and one
        transaction per event. Never deployed outside that benchmark.
"""

event Stored:
    size: indexed(uint64)
    root: bytes32

event Noted:
    leaf: indexed(bytes32)

publisher: address
roots: HashMap[uint64, bytes32]

@deploy
def __init__():
    """
    @notice The account that deploys is the publisher.
    """
    self.publisher = msg.sender

@external
def store(size: uint64, root: bytes32):
    """
    @notice Stores a root with no proof of anything.
    @param size The size of the tree.
    @param root Its root, taken on trust.
    """
    assert msg.sender == self.publisher, "not publisher"
    self.roots[size] = root
    log Stored(size=size, root=root)

@external
def note(leaf: bytes32):
    """
    @notice The least that one transaction per event can do: a role check and an emitted hash.
    @param leaf The event's leaf hash.
    """
    assert msg.sender == self.publisher, "not publisher"
    log Noted(leaf=leaf)
