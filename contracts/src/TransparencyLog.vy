#pragma version 0.4.3
#pragma evm-version cancun
#pragma optimize gas
"""
@title TransparencyLog
@license Apache-2.0
@author Tracebond
@notice Keeps the anchored heads of append-only Merkle logs (RFC 9162, SHA-256).
@dev The contract itself checks the consistency proof from the last anchored root to the
     new one, so that what was anchored once cannot be rewritten even with the publisher's key.
     Kill switch: the pauser stops every change of a log (`pause`); the admin replaces the
     publisher (`set_publisher`) and cuts off what a thief anchored (`freeze`), after which a
     successor log goes on from the last good root. There is no upgrade, no delete and no money.
     No function calls another contract, so there is nothing to re-enter.
"""

# ---------------------------------------------------------------------------- events

event LogOpened:
    log_id: indexed(uint256)
    origin_hash: indexed(bytes32)
    checkpoint_key: bytes32
    predecessor: uint256
    size: uint64
    root: bytes32

event Anchored:
    log_id: indexed(uint256)
    size: indexed(uint64)
    prev_size: uint64
    root: bytes32

event Frozen:
    log_id: indexed(uint256)
    last_good: uint64

event PublisherSet:
    account: indexed(address)

event PauserSet:
    account: indexed(address)

event AdminOffered:
    account: indexed(address)

event AdminSet:
    account: indexed(address)

event Paused:
    account: indexed(address)

event Unpaused:
    account: indexed(address)

# ------------------------------------------------------------------------- constants

# At 64 nodes a proof spans every size that a 64-bit integer can name.
PROOF_MAX: constant(uint256) = 64
# The largest tree of the C2SP formats.
SIZE_MAX: constant(uint64) = 2 ** 63 - 1
NO_LOG: constant(uint256) = max_value(uint256)

# One word for each log, so that an anchor reads and writes a single slot:
# bits 0-63 the tip's size, 64-127 `last_good`, then flags.
SIZE_MASK: constant(uint256) = 2 ** 64 - 1
LAST_GOOD_SHIFT: constant(uint256) = 64
OPEN: constant(uint256) = 1 << 128
FROZEN: constant(uint256) = 1 << 129
SUCCEEDED: constant(uint256) = 1 << 130

# One word for the daily duty: bits 0-159 the publisher, then the pause flag.
ADDRESS_MASK: constant(uint256) = 2 ** 160 - 1
PAUSED: constant(uint256) = 1 << 160

# ------------------------------------------------------------------------ immutables

ORGANISATIONS: immutable(address)
PLEDGES: immutable(address)

# --------------------------------------------------------------------------- storage

duty: uint256
admin: public(address)
admin_offered: public(address)
pauser: public(address)
log_count: public(uint256)
log_words: HashMap[uint256, uint256]
log_origins: HashMap[uint256, bytes32]
log_keys: HashMap[uint256, bytes32]
log_predecessors: HashMap[uint256, uint256]
origin_taken: HashMap[bytes32, bool]
roots: HashMap[uint256, HashMap[uint64, bytes32]]

# ----------------------------------------------------------------------- constructor

@deploy
def __init__(admin: address, organisations: address, pledges: address):
    """
    @notice Binds the log to its two registries for life.
    @param admin The account that opens and freezes logs and gives out the roles.
    @param organisations The OrganisationRegistry that verifiers read.
    @param pledges The PledgeRegistry that verifiers read.
    """
    assert admin != empty(address), "no admin"
    assert organisations != empty(address), "no registry"
    assert pledges != empty(address), "no registry"
    ORGANISATIONS = organisations
    PLEDGES = pledges
    self.admin = admin
    log AdminSet(account=admin)

# ------------------------------------------------------------------------- publisher

@external
def anchor(
    log_id: uint256,
    prev_size: uint64,
    size: uint64,
    root: bytes32,
    consistency_proof: DynArray[bytes32, PROOF_MAX],
):
    """
    @notice Anchors a new head that extends the last anchored one.
    @param log_id The log, counted from 0.
    @param prev_size The size of the last anchored head; 0 for the first anchor.
    @param size The size of the new head, above `prev_size`.
    @param root The RFC 9162 tree head at `size`.
    @param consistency_proof The proof from `prev_size` to `size`, lowest node first; empty
           for the first anchor.
    @dev Source of the check: RFC 9162, section 2.1.4.2. `prev_size` must be the tip, so that
         two anchorers cannot anchor twice and a late one changes nothing.
    """
    duty: uint256 = self.duty
    assert duty & PAUSED == 0, "paused"
    assert duty & ADDRESS_MASK == convert(msg.sender, uint256), "not publisher"
    word: uint256 = self.log_words[log_id]
    assert word & OPEN != 0, "no such log"
    assert word & FROZEN == 0, "frozen"
    assert word & SIZE_MASK == convert(prev_size, uint256), "not the tip"
    assert size > prev_size, "size must grow"
    assert size <= SIZE_MAX, "size too large"
    assert root != empty(bytes32), "no root"
    if prev_size == 0:
        assert len(consistency_proof) == 0, "bad consistency proof"
    else:
        assert self._is_consistent(
            prev_size, size, consistency_proof, self.roots[log_id][prev_size], root
        ), "bad consistency proof"

    self.roots[log_id][size] = root
    self.log_words[log_id] = (word & ~SIZE_MASK) | convert(size, uint256)
    log Anchored(log_id=log_id, size=size, prev_size=prev_size, root=root)

# ----------------------------------------------------------------------------- admin

@external
def open_log(origin_hash: bytes32, checkpoint_key: bytes32, predecessor: uint256) -> uint256:
    """
    @notice Opens a log; a successor starts at its predecessor's last good root and must extend it.
    @param origin_hash SHA-256 of the log's origin line; no two logs share one, save a
           successor that keeps its predecessor's.
    @param checkpoint_key The Ed25519 public key that signs the log's checkpoints.
    @param predecessor The frozen log that is continued, or the largest uint256 for none.
    @return The new log's number.
    @dev A log has one successor at most: two would be two versions of one history.
    """
    assert msg.sender == self.admin, "not admin"
    assert self.duty & PAUSED == 0, "paused"
    assert origin_hash != empty(bytes32), "no origin"
    assert checkpoint_key != empty(bytes32), "no key"
    log_id: uint256 = self.log_count
    word: uint256 = OPEN
    size: uint64 = 0
    root: bytes32 = empty(bytes32)
    if predecessor == NO_LOG:
        assert not self.origin_taken[origin_hash], "origin taken"
    else:
        before: uint256 = self.log_words[predecessor]
        assert before & OPEN != 0, "no such log"
        assert before & FROZEN != 0, "predecessor not frozen"
        assert before & SUCCEEDED == 0, "has a successor"
        if self.origin_taken[origin_hash]:
            assert self.log_origins[predecessor] == origin_hash, "origin taken"
        size = self._last_good(before)
        root = self.roots[predecessor][size]
        self.log_words[predecessor] = before | SUCCEEDED
        if size != 0:
            self.roots[log_id][size] = root

    self.log_words[log_id] = word | convert(size, uint256)
    self.log_origins[log_id] = origin_hash
    self.log_keys[log_id] = checkpoint_key
    self.log_predecessors[log_id] = predecessor
    self.origin_taken[origin_hash] = True
    self.log_count = log_id + 1
    log LogOpened(
        log_id=log_id,
        origin_hash=origin_hash,
        checkpoint_key=checkpoint_key,
        predecessor=predecessor,
        size=size,
        root=root,
    )
    return log_id

@external
def freeze(log_id: uint256, last_good: uint64):
    """
    @notice Ends a log for ever; above `last_good` its roots read zero from now on.
    @param log_id The log to end.
    @param last_good An anchored size of this log, or 0 when no root is good.
    @dev A successor keeps no root that its predecessor had before the freeze but the copied one.
    """
    assert msg.sender == self.admin, "not admin"
    assert self.duty & PAUSED == 0, "paused"
    word: uint256 = self.log_words[log_id]
    assert word & OPEN != 0, "no such log"
    assert word & FROZEN == 0, "frozen"
    if last_good != 0:
        assert self.roots[log_id][last_good] != empty(bytes32), "size not anchored"

    self.log_words[log_id] = word | FROZEN | (convert(last_good, uint256) << LAST_GOOD_SHIFT)
    log Frozen(log_id=log_id, last_good=last_good)

@external
def set_publisher(account: address):
    """
    @notice Gives the right to anchor to one account and takes it from the last one.
    @param account The publisher; the zero address for nobody.
    @dev Works while paused, so that a stolen key can be replaced before the pause ends.
    """
    assert msg.sender == self.admin, "not admin"
    if account != empty(address):
        assert account not in [self.admin, self.pauser], "role taken"
    self.duty = (self.duty & PAUSED) | convert(account, uint256)
    log PublisherSet(account=account)

@external
def set_pauser(account: address):
    """
    @notice Gives the right to pause and unpause to one account and takes it from the last one.
    @param account The pauser; the zero address for nobody.
    """
    assert msg.sender == self.admin, "not admin"
    if account != empty(address):
        assert account not in [self.admin, self._publisher()], "role taken"
    self.pauser = account
    log PauserSet(account=account)

@external
def offer_admin(account: address):
    """
    @notice First step of handing the admin role over; nothing changes until it is accepted.
    @param account The next admin; the zero address withdraws an offer.
    """
    assert msg.sender == self.admin, "not admin"
    self.admin_offered = account
    log AdminOffered(account=account)

@external
def accept_admin():
    """
    @notice Second step: the offered account becomes the admin.
    """
    assert msg.sender == self.admin_offered, "not offered"
    assert msg.sender not in [self.pauser, self._publisher()], "role taken"
    self.admin = msg.sender
    self.admin_offered = empty(address)
    log AdminSet(account=msg.sender)

# ---------------------------------------------------------------------------- pauser

@external
def pause():
    """
    @notice Stops every change of a log until `unpause`; reading goes on.
    """
    assert msg.sender == self.pauser, "not pauser"
    assert self.duty & PAUSED == 0, "paused"
    self.duty |= PAUSED
    log Paused(account=msg.sender)

@external
def unpause():
    """
    @notice Ends a pause.
    """
    assert msg.sender == self.pauser, "not pauser"
    assert self.duty & PAUSED != 0, "not paused"
    self.duty &= ADDRESS_MASK
    log Unpaused(account=msg.sender)

# ----------------------------------------------------------------------------- views

@external
@view
def organisations() -> address:
    """
    @notice The OrganisationRegistry, bound at deployment.
    """
    return ORGANISATIONS

@external
@view
def pledges() -> address:
    """
    @notice The PledgeRegistry, bound at deployment.
    """
    return PLEDGES

@external
@view
def publisher() -> address:
    """
    @notice The account that may anchor; the zero address when there is none.
    """
    return self._publisher()

@external
@view
def paused() -> bool:
    """
    @notice Whether a pause is on.
    """
    return self.duty & PAUSED != 0

@external
@view
def log_at(log_id: uint256) -> (bytes32, bytes32, uint256, uint64, bytes32, bool, uint64):
    """
    @notice What is recorded of a log.
    @param log_id The log, counted from 0.
    @return origin_hash, checkpoint_key, predecessor (the largest uint256 for none), size and
            root of the head that counts, is_frozen, last_good.
    @dev Of a frozen log size and root are those of `last_good`; of an empty log they are zero.
    """
    word: uint256 = self.log_words[log_id]
    assert word & OPEN != 0, "no such log"
    is_frozen: bool = word & FROZEN != 0
    last_good: uint64 = self._last_good(word)
    size: uint64 = convert(word & SIZE_MASK, uint64)
    if is_frozen:
        size = last_good
    return (
        self.log_origins[log_id],
        self.log_keys[log_id],
        self.log_predecessors[log_id],
        size,
        self.roots[log_id][size],
        is_frozen,
        last_good,
    )

@external
@view
def root_at(log_id: uint256, size: uint64) -> bytes32:
    """
    @notice The root that was anchored at this size; zero when none was, or when it is above
            the last good size of a frozen log.
    @param log_id The log, counted from 0.
    @param size The size of the tree.
    """
    return self._root_at(log_id, size)

@external
@view
def check_inclusion(
    log_id: uint256,
    size: uint64,
    index: uint64,
    leaf_hash: bytes32,
    proof: DynArray[bytes32, PROOF_MAX],
) -> bool:
    """
    @notice Whether a leaf stands at an index of an anchored tree.
    @param log_id The log, counted from 0.
    @param size An anchored size; the root comes from this contract, never from the caller.
    @param index The leaf's position from 0.
    @param leaf_hash SHA-256 of 0x00 and the entry's bytes.
    @param proof The sibling hashes, lowest first.
    @dev Source: RFC 9162, section 2.1.3.2.
    """
    root: bytes32 = self._root_at(log_id, size)
    if root == empty(bytes32) or index >= size:
        return False
    fn: uint256 = convert(index, uint256)
    sn: uint256 = convert(size, uint256) - 1
    node: bytes32 = leaf_hash
    for sibling: bytes32 in proof:
        if sn == 0:
            return False
        if fn & 1 == 1 or fn == sn:
            node = sha256(concat(0x01, sibling, node))
            # Levels at which the right edge has no sibling are skipped.
            for _: uint256 in range(PROOF_MAX):
                if fn & 1 == 1 or fn == 0:
                    break
                fn >>= 1
                sn >>= 1
        else:
            node = sha256(concat(0x01, node, sibling))
        fn >>= 1
        sn >>= 1
    return sn == 0 and node == root

@external
@pure
def verify_consistency(
    size1: uint64,
    size2: uint64,
    proof: DynArray[bytes32, PROOF_MAX],
    root1: bytes32,
    root2: bytes32,
) -> bool:
    """
    @notice Whether the tree of `size2` extends the tree of `size1`; the check that `anchor` makes.
    @param size1 The smaller size, at least 1: from an empty tree there is nothing to prove.
    @param size2 The larger size; when equal the proof is empty and the roots are the same.
    @param proof The consistency proof, lowest node first.
    @param root1 The tree head at `size1`.
    @param root2 The tree head at `size2`.
    @dev Source: RFC 9162, section 2.1.4.2.
    """
    if size1 == 0 or size1 > size2 or size2 > SIZE_MAX:
        return False
    if size1 == size2:
        return len(proof) == 0 and root1 == root2
    return self._is_consistent(size1, size2, proof, root1, root2)

# -------------------------------------------------------------------------- internal

@internal
@view
def _publisher() -> address:
    """
    @notice The publisher's part of the duty word.
    """
    return convert(self.duty & ADDRESS_MASK, address)

@internal
@pure
def _last_good(word: uint256) -> uint64:
    """
    @notice The last good size in a log's word.
    """
    return convert((word >> LAST_GOOD_SHIFT) & SIZE_MASK, uint64)

@internal
@view
def _root_at(log_id: uint256, size: uint64) -> bytes32:
    """
    @notice The anchored root, with what a freeze cut off read as zero.
    """
    word: uint256 = self.log_words[log_id]
    if word & FROZEN != 0 and size > self._last_good(word):
        return empty(bytes32)
    return self.roots[log_id][size]

@internal
@pure
def _is_consistent(
    size1: uint64,
    size2: uint64,
    proof: DynArray[bytes32, PROOF_MAX],
    root1: bytes32,
    root2: bytes32,
) -> bool:
    """
    @notice RFC 9162, section 2.1.4.2, for 0 < size1 < size2.
    @dev `old` and `new` are the RFC's fr and sr. Until the first right sibling they are equal,
         so one hash serves both.
    """
    fn: uint256 = convert(size1, uint256) - 1
    sn: uint256 = convert(size2, uint256) - 1
    for _: uint256 in range(PROOF_MAX):
        if fn & 1 == 0:
            break
        fn >>= 1
        sn >>= 1
    # A power of two is a whole subtree of the new tree: its root is the first node.
    start: uint256 = 0
    old: bytes32 = root1
    if fn != 0:
        if len(proof) == 0:
            return False
        start = 1
        old = proof[0]
    new: bytes32 = old
    for i: uint256 in range(start, len(proof), bound=PROOF_MAX):
        if sn == 0:
            return False
        node: bytes32 = proof[i]
        if fn & 1 == 1 or fn == sn:
            is_same: bool = old == new
            old = sha256(concat(0x01, node, old))
            if is_same:
                new = old
            else:
                new = sha256(concat(0x01, node, new))
            for _: uint256 in range(PROOF_MAX):
                if fn & 1 == 1 or fn == 0:
                    break
                fn >>= 1
                sn >>= 1
        else:
            new = sha256(concat(0x01, new, node))
        fn >>= 1
        sn >>= 1
    return sn == 0 and old == root1 and new == root2
