#pragma version 0.4.3
#pragma evm-version cancun
#pragma optimize gas
"""
@title PledgeRegistry
@license Apache-2.0
@author Tracebond
@notice Keeps warehouse receipts as claims on goods, and binds each receipt to one lender at most.
@dev Exclusivity rests on goods, not on documents: live claims on a goods key never exceed its
     capacity. A key without a capacity is one thing (a serial number or an SSCC) and names
     the receipt that claims it; it is free when that receipt is dead, so `cancel` and
     `deliver` cost the same for one key and for ten thousand. A lot has a capacity, set once by
     a maker, and a running sum of live claims.
     Kill switch: the pauser stops everything but `release` (`pause`); a regulator stops one
     receipt (`hold`), its release included; the admin of the OrganisationRegistry ends the rights of a stolen
     account. The admin of this contract chooses the pauser and can do nothing to receipts.
     The only contract called is the OrganisationRegistry, bound at deployment and by static
     calls alone, so there is nothing to re-enter.
"""

# ------------------------------------------------------------------------ interfaces

interface Organisations:
    def has_role(account: address, role: uint256) -> bool: view
    def current_account(account: address) -> address: view
    def organisation_of(account: address) -> bytes32: view

# ---------------------------------------------------------------------------- events

event CapacitySet:
    goods_key: indexed(bytes32)
    maker: indexed(address)
    quantity: uint256

event Claimed:
    receipt: indexed(bytes32)
    custodian: indexed(address)
    owner: indexed(address)
    goods: DynArray[bytes32, PART_MAX]
    quantities: DynArray[uint256, PART_MAX]

event Moved:
    receipt: indexed(bytes32)
    child: indexed(bytes32)
    goods: DynArray[bytes32, PART_MAX]
    quantities: DynArray[uint256, PART_MAX]

event Sealed:
    receipt: indexed(bytes32)

event Split:
    receipt: indexed(bytes32)

event Cancelled:
    receipt: indexed(bytes32)

event Delivered:
    receipt: indexed(bytes32)

event Pledged:
    receipt: indexed(bytes32)
    pledgee: indexed(address)
    terms_hash: bytes32
    nonce: uint256

event Released:
    receipt: indexed(bytes32)
    pledgee: indexed(address)

event EnforcementBegun:
    receipt: indexed(bytes32)
    pledgee: indexed(address)

event Cured:
    receipt: indexed(bytes32)
    pledgee: indexed(address)

event Settled:
    receipt: indexed(bytes32)
    pledgee: indexed(address)

event Held:
    receipt: indexed(bytes32)
    org: indexed(bytes32)
    reason_hash: bytes32

event Lifted:
    receipt: indexed(bytes32)
    org: indexed(bytes32)

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

# --------------------------------------------------------------------------- structs

struct Receipt:
    custodian: address
    owner: address
    parent: bytes32
    state: uint256
    holds: uint256
    # How many single things and how many different lots it claims.
    singles: uint256
    lots: uint256

# ------------------------------------------------------------------------- constants

# Role bits of the OrganisationRegistry.
MAKER: constant(uint256) = 2
CUSTODIAN: constant(uint256) = 8
LENDER: constant(uint256) = 64
REGULATOR: constant(uint256) = 128

# States of a receipt. PLEDGED is never stored: it is SEALED with a live pledge.
REGISTERING: constant(uint256) = 1
SEALED: constant(uint256) = 2
PLEDGED: constant(uint256) = 3
SPLITTING: constant(uint256) = 4
SPLIT: constant(uint256) = 5
CANCELLED: constant(uint256) = 6
DELIVERED: constant(uint256) = 7

# States of the last pledge of a receipt.
ACTIVE: constant(uint256) = 1
ENFORCING: constant(uint256) = 2
RELEASED: constant(uint256) = 3
SETTLED: constant(uint256) = 4

# Claims of one call: about five million gas, below the limits of a block and of a transaction.
PART_MAX: constant(uint256) = 200
# Lots are freed one by one when a receipt ends, so their number is bounded too.
LOTS_MAX: constant(uint256) = 200
# Eighteen decimal digits and more: a quantity in millionths of a unit fits.
QUANTITY_MAX: constant(uint256) = 2 ** 64 - 1

# A pledge in one word: bits 0-159 the pledgee, 160-167 the state, 168 up the number of pledges.
ADDRESS_MASK: constant(uint256) = 2 ** 160 - 1
STATE_SHIFT: constant(uint256) = 160
STATE_MASK: constant(uint256) = 255
COUNT_SHIFT: constant(uint256) = 168

# EIP-712.
DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
PLEDGE_TYPEHASH: constant(bytes32) = keccak256(
    "Pledge(bytes32 receipt,address pledgee,bytes32 termsHash,uint256 nonce,uint256 deadline)"
)
NAME_HASH: constant(bytes32) = keccak256("Tracebond PledgeRegistry")
VERSION_HASH: constant(bytes32) = keccak256("1")
# Half the order of secp256k1: above it lies the twin of each signature.
LOW_S_MAX: constant(uint256) = (
    57896044618658097711785492504343953926418782139537452191302581570759080747168
)

# ------------------------------------------------------------------------ immutables

ORGANISATIONS: immutable(Organisations)
K_CHECK: immutable(bytes32)
DEPLOYED_CHAIN_ID: immutable(uint256)
DEPLOYED_SEPARATOR: immutable(bytes32)

# --------------------------------------------------------------------------- storage

admin: public(address)
admin_offered: public(address)
pauser: public(address)
paused: public(bool)
receipts: HashMap[bytes32, Receipt]
# The single thing -> the receipt that claims it, or once did.
holders: HashMap[bytes32, bytes32]
# The lot -> what its maker registered, who that was, and the sum of live claims.
capacities: HashMap[bytes32, uint256]
capacity_makers: HashMap[bytes32, address]
lot_claimed: HashMap[bytes32, uint256]
lot_claims: HashMap[bytes32, HashMap[bytes32, uint256]]
lot_keys: HashMap[bytes32, DynArray[bytes32, LOTS_MAX]]
pledge_words: HashMap[bytes32, uint256]
pledge_terms: HashMap[bytes32, bytes32]
hold_reasons: HashMap[bytes32, HashMap[bytes32, bytes32]]

# ----------------------------------------------------------------------- constructor

@deploy
def __init__(admin: address, organisations: address, k_check: bytes32):
    """
    @notice Starts with no receipt.
    @param admin The account that gives out the pauser's role.
    @param organisations The OrganisationRegistry whose roles count here.
    @param k_check `HMAC-SHA-256(K, "tracebond/k-check/1")`: tells whoever holds K that it is the one.
    """
    assert admin != empty(address), "no admin"
    assert organisations != empty(address), "no registry"
    assert k_check != empty(bytes32), "no key check"
    ORGANISATIONS = Organisations(organisations)
    K_CHECK = k_check
    DEPLOYED_CHAIN_ID = chain.id
    DEPLOYED_SEPARATOR = self._make_separator()
    self.admin = admin
    log AdminSet(account=admin)

# ----------------------------------------------------------------------------- maker

@external
def set_capacity(goods_key: bytes32, quantity: uint256):
    """
    @notice Registers once how much of a lot was made; from then on the key is a lot.
    @param goods_key The lot's goods key.
    @param quantity In the smallest unit (a millionth of the lot's unit).
    @dev Refused while the key is claimed, or one more receipt could claim a single thing.
         The contract cannot see who made a lot: lenders compare `capacity_maker` with the log.
    """
    self._check_running()
    assert staticcall ORGANISATIONS.has_role(msg.sender, MAKER), "not maker"
    assert goods_key != empty(bytes32), "no goods"
    assert quantity != 0 and quantity <= QUANTITY_MAX, "bad quantity"
    assert self.capacities[goods_key] == 0, "capacity set"
    assert not self._is_live(self.holders[goods_key]), "claimed"
    self.capacities[goods_key] = quantity
    self.capacity_makers[goods_key] = msg.sender
    log CapacitySet(goods_key=goods_key, maker=msg.sender, quantity=quantity)

# ------------------------------------------------------------------------- custodian

@external
def register(
    receipt: bytes32,
    owner: address,
    goods: DynArray[bytes32, PART_MAX],
    quantities: DynArray[uint256, PART_MAX],
):
    """
    @notice Opens a receipt, or adds more claims to one that is not sealed yet.
    @param receipt 20 bytes of the custodian's account, then 12 of its choice: nobody else can
           take a custodian's numbers.
    @param owner The account of the organisation that owns the goods, the same in every part.
    @param goods The goods keys of this part.
    @param quantities 1 for a single thing; of a lot the quantity in its smallest unit.
    """
    self._check_running()
    assert staticcall ORGANISATIONS.has_role(msg.sender, CUSTODIAN), "not custodian"
    state: uint256 = self.receipts[receipt].state
    if state == 0:
        assert staticcall ORGANISATIONS.current_account(owner) == owner, "unknown owner"
        assert owner != empty(address), "unknown owner"
        self._open(receipt, msg.sender, owner, empty(bytes32))
    else:
        assert state == REGISTERING, "not registering"
        self._check_custodian(receipt)
        assert self.receipts[receipt].owner == owner, "another owner"
        assert self.receipts[receipt].parent == empty(bytes32), "child of a split"
        assert self.receipts[receipt].holds == 0, "held"
    self._check_part(goods, quantities)

    singles: uint256 = 0
    for i: uint256 in range(len(goods), bound=PART_MAX):
        key: bytes32 = goods[i]
        quantity: uint256 = quantities[i]
        capacity: uint256 = self.capacities[key]
        assert key != empty(bytes32), "no goods"
        if capacity == 0:
            assert quantity == 1, "bad quantity"
            assert not self._is_live(self.holders[key]), "over capacity"
            self.holders[key] = receipt
            singles += 1
        else:
            assert quantity != 0 and quantity <= capacity, "bad quantity"
            claimed: uint256 = self.lot_claimed[key] + quantity
            assert claimed <= capacity, "over capacity"
            self.lot_claimed[key] = claimed
            self._add_lot(receipt, key, quantity)
    self.receipts[receipt].singles += singles
    log Claimed(
        receipt=receipt, custodian=msg.sender, owner=owner, goods=goods, quantities=quantities
    )

@external
def seal(receipt: bytes32):
    """
    @notice Ends registering: the claims are complete, and the receipt can be pledged.
    @param receipt A receipt that is registering; a child only once its parent is split to the end.
    """
    self._check_running()
    self._check_custodian(receipt)
    assert self.receipts[receipt].state == REGISTERING, "not registering"
    assert self.receipts[receipt].holds == 0, "held"
    self._check_parent_split(receipt)
    self.receipts[receipt].state = SEALED
    log Sealed(receipt=receipt)

@external
def split(
    receipt: bytes32,
    child: bytes32,
    goods: DynArray[bytes32, PART_MAX],
    quantities: DynArray[uint256, PART_MAX],
):
    """
    @notice Moves claims from a receipt to one of its children, in as many calls as it takes.
    @param receipt A sealed receipt without a live pledge, or one whose split has begun.
    @param child A new receipt number of the custodian, or a child of this split.
    @param goods Goods keys that the receipt claims.
    @param quantities 1 for a single thing; of a lot at most what is left in the receipt.
    @dev A claim is moved, never copied, so children conserve claims key by key after every
         call. With the last claim moved the parent is dead; only then can children be sealed or
         cancelled. A split that has begun can only go on.
    """
    self._check_running()
    self._check_custodian(receipt)
    state: uint256 = self.receipts[receipt].state
    assert state == SEALED or state == SPLITTING, "not sealed"
    assert self.receipts[receipt].holds == 0, "held"
    self._check_unpledged(receipt)
    assert self._pledge_state(receipt) != SETTLED, "settled"
    if self.receipts[child].state == 0:
        self._open(child, self.receipts[receipt].custodian, self.receipts[receipt].owner, receipt)
    else:
        assert self.receipts[child].state == REGISTERING, "not registering"
        assert self.receipts[child].parent == receipt, "not a child"
        assert self.receipts[child].holds == 0, "held"
    self._check_part(goods, quantities)

    singles: uint256 = 0
    for i: uint256 in range(len(goods), bound=PART_MAX):
        key: bytes32 = goods[i]
        quantity: uint256 = quantities[i]
        if self.capacities[key] == 0:
            assert quantity == 1, "bad quantity"
            assert self.holders[key] == receipt, "not in receipt"
            self.holders[key] = child
            singles += 1
        else:
            left: uint256 = self.lot_claims[receipt][key]
            assert quantity != 0, "bad quantity"
            assert quantity <= left, "not in receipt"
            self.lot_claims[receipt][key] = left - quantity
            if left == quantity:
                self.receipts[receipt].lots -= 1
            self._add_lot(child, key, quantity)
    self.receipts[child].singles += singles
    self.receipts[receipt].singles -= singles
    log Moved(receipt=receipt, child=child, goods=goods, quantities=quantities)
    if self.receipts[receipt].singles == 0 and self.receipts[receipt].lots == 0:
        self.receipts[receipt].state = SPLIT
        log Split(receipt=receipt)
    elif state == SEALED:
        self.receipts[receipt].state = SPLITTING

@external
def cancel(receipt: bytes32):
    """
    @notice Ends a receipt that was a mistake and frees its claims.
    @param receipt A receipt that is registering or sealed, without a live pledge.
    """
    self._check_running()
    self._check_custodian(receipt)
    state: uint256 = self.receipts[receipt].state
    assert state == REGISTERING or state == SEALED, "not live"
    assert self.receipts[receipt].holds == 0, "held"
    self._check_unpledged(receipt)
    self._check_parent_split(receipt)
    self._free_lots(receipt)
    self.receipts[receipt].state = CANCELLED
    log Cancelled(receipt=receipt)

@external
def deliver(receipt: bytes32):
    """
    @notice Ends a receipt whose goods left the warehouse and frees its claims.
    @param receipt A sealed receipt without a live pledge.
    """
    self._check_running()
    self._check_custodian(receipt)
    assert self.receipts[receipt].state == SEALED, "not sealed"
    assert self.receipts[receipt].holds == 0, "held"
    self._check_unpledged(receipt)
    self._free_lots(receipt)
    self.receipts[receipt].state = DELIVERED
    log Delivered(receipt=receipt)

# ---------------------------------------------------------------------------- lender

@external
def pledge(
    receipt: bytes32,
    terms_hash: bytes32,
    deadline: uint256,
    owner_sig: Bytes[65],
    custodian_sig: Bytes[65],
):
    """
    @notice Pledges a whole sealed receipt to the caller, in one step with both signatures.
    @param receipt The receipt; its number of earlier pledges is the nonce that was signed.
    @param terms_hash Hash of the pledge terms, which stay off the chain.
    @param deadline The last block time (unix seconds) at which the signatures count.
    @param owner_sig r, s, v over `typed_hash` by the account of the owner's organisation.
    @param custodian_sig The same by the account of the custodian's organisation.
    @dev The signatures name the pledgee: another lender who sees them cannot use them.
    """
    self._check_running()
    assert staticcall ORGANISATIONS.has_role(msg.sender, LENDER), "not lender"
    assert terms_hash != empty(bytes32), "no terms"
    assert block.timestamp <= deadline, "too late"
    assert self.receipts[receipt].state == SEALED, "not sealed"
    assert self.receipts[receipt].holds == 0, "held"
    word: uint256 = self.pledge_words[receipt]
    state: uint256 = (word >> STATE_SHIFT) & STATE_MASK
    assert state != ACTIVE and state != ENFORCING, "pledged"
    assert state != SETTLED, "settled"
    nonce: uint256 = word >> COUNT_SHIFT
    digest: bytes32 = self._typed_hash(receipt, msg.sender, terms_hash, nonce, deadline)
    owner: address = staticcall ORGANISATIONS.current_account(self.receipts[receipt].owner)
    assert self._is_signed(digest, owner, owner_sig), "bad owner signature"
    custodian: address = staticcall ORGANISATIONS.current_account(self.receipts[receipt].custodian)
    assert self._is_signed(digest, custodian, custodian_sig), "bad custodian signature"
    assert staticcall ORGANISATIONS.has_role(custodian, CUSTODIAN), "not custodian"

    self.pledge_words[receipt] = (
        convert(msg.sender, uint256) | (ACTIVE << STATE_SHIFT) | ((nonce + 1) << COUNT_SHIFT)
    )
    self.pledge_terms[receipt] = terms_hash
    log Pledged(receipt=receipt, pledgee=msg.sender, terms_hash=terms_hash, nonce=nonce)

@external
def release(receipt: bytes32):
    """
    @notice Ends the caller's pledge; the receipt can be pledged anew.
    @param receipt A receipt pledged to the caller, also one in enforcement.
    @dev Works while paused, so that nobody's goods hang on the pauser.
    """
    word: uint256 = self._own_pledge(receipt)
    self._set_pledge_state(receipt, word, RELEASED)
    log Released(receipt=receipt, pledgee=msg.sender)

@external
def enforce(receipt: bytes32):
    """
    @notice Begins enforcement of the caller's pledge.
    @param receipt A receipt pledged to the caller.
    """
    self._check_running()
    word: uint256 = self._own_pledge(receipt)
    assert (word >> STATE_SHIFT) & STATE_MASK == ACTIVE, "enforcing"
    self._set_pledge_state(receipt, word, ENFORCING)
    log EnforcementBegun(receipt=receipt, pledgee=msg.sender)

@external
def cure(receipt: bytes32):
    """
    @notice Stops enforcement because the borrower paid up; the pledge goes on.
    @param receipt A receipt pledged to the caller, in enforcement.
    """
    self._check_running()
    word: uint256 = self._own_pledge(receipt)
    assert (word >> STATE_SHIFT) & STATE_MASK == ENFORCING, "not enforcing"
    self._set_pledge_state(receipt, word, ACTIVE)
    log Cured(receipt=receipt, pledgee=msg.sender)

@external
def settle(receipt: bytes32):
    """
    @notice Ends enforcement because the goods were sold; the receipt can only be delivered or cancelled.
    @param receipt A receipt pledged to the caller, in enforcement.
    @dev It is never pledged or split again: its owner has lost the goods. The claims live until then.
    """
    self._check_running()
    word: uint256 = self._own_pledge(receipt)
    assert (word >> STATE_SHIFT) & STATE_MASK == ENFORCING, "not enforcing"
    self._set_pledge_state(receipt, word, SETTLED)
    log Settled(receipt=receipt, pledgee=msg.sender)

# ------------------------------------------------------------------------- regulator

@external
def hold(receipt: bytes32, reason_hash: bytes32):
    """
    @notice Stops every move of a receipt, its release included, until this regulator lifts it.
    @param receipt A receipt that is not dead.
    @param reason_hash Hash of the written reason.
    @dev Each regulator has a hold of its own; the receipt is free when all are lifted.
    """
    self._check_running()
    assert staticcall ORGANISATIONS.has_role(msg.sender, REGULATOR), "not regulator"
    assert reason_hash != empty(bytes32), "no reason"
    assert self._is_live(receipt), "not live"
    org: bytes32 = staticcall ORGANISATIONS.organisation_of(msg.sender)
    assert self.hold_reasons[receipt][org] == empty(bytes32), "held"
    self.hold_reasons[receipt][org] = reason_hash
    self.receipts[receipt].holds += 1
    log Held(receipt=receipt, org=org, reason_hash=reason_hash)

@external
def lift(receipt: bytes32):
    """
    @notice Ends the caller's hold.
    @param receipt A receipt that the caller's organisation holds.
    """
    self._check_running()
    assert staticcall ORGANISATIONS.has_role(msg.sender, REGULATOR), "not regulator"
    org: bytes32 = staticcall ORGANISATIONS.organisation_of(msg.sender)
    assert self.hold_reasons[receipt][org] != empty(bytes32), "not held"
    self.hold_reasons[receipt][org] = empty(bytes32)
    self.receipts[receipt].holds -= 1
    log Lifted(receipt=receipt, org=org)

# ----------------------------------------------------------------------------- admin

@external
def set_pauser(account: address):
    """
    @notice Gives the right to pause and unpause to one account and takes it from the last one.
    @param account The pauser; the zero address for nobody.
    """
    assert msg.sender == self.admin, "not admin"
    if account != empty(address):
        assert account != self.admin, "role taken"
        assert not staticcall ORGANISATIONS.has_role(account, REGULATOR), "role taken"
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
    assert msg.sender != self.pauser, "role taken"
    assert not staticcall ORGANISATIONS.has_role(msg.sender, REGULATOR), "role taken"
    self.admin = msg.sender
    self.admin_offered = empty(address)
    log AdminSet(account=msg.sender)

# ---------------------------------------------------------------------------- pauser

@external
def pause():
    """
    @notice Stops everything but `release` and reading until `unpause`.
    """
    assert msg.sender == self.pauser, "not pauser"
    assert not self.paused, "paused"
    self.paused = True
    log Paused(account=msg.sender)

@external
def unpause():
    """
    @notice Ends a pause.
    """
    assert msg.sender == self.pauser, "not pauser"
    assert self.paused, "not paused"
    self.paused = False
    log Unpaused(account=msg.sender)

# ----------------------------------------------------------------------------- views

@external
@view
def organisations() -> address:
    """
    @notice The OrganisationRegistry, bound at deployment.
    """
    return ORGANISATIONS.address

@external
@view
def k_check() -> bytes32:
    """
    @notice The check value of the key K that hides goods keys.
    """
    return K_CHECK

@external
@view
def capacity(goods_key: bytes32) -> uint256:
    """
    @notice How much of a goods key can be claimed: 1 for a single thing, of a lot what was registered.
    @param goods_key Any goods key.
    """
    return max(self.capacities[goods_key], 1)

@external
@view
def capacity_maker(goods_key: bytes32) -> address:
    """
    @notice The account that registered a lot's capacity; the zero address for a single thing.
    @param goods_key Any goods key.
    """
    return self.capacity_makers[goods_key]

@external
@view
def claimed(goods_key: bytes32) -> uint256:
    """
    @notice The sum of live claims on a goods key.
    @param goods_key Any goods key.
    """
    if self.capacities[goods_key] != 0:
        return self.lot_claimed[goods_key]
    return 1 if self._is_live(self.holders[goods_key]) else 0

@external
@view
def claim_of(receipt: bytes32, goods_key: bytes32) -> uint256:
    """
    @notice How much of a goods key a receipt claims now; 0 when the receipt is dead.
    @param receipt Any receipt.
    @param goods_key Any goods key.
    """
    if not self._is_live(receipt):
        return 0
    if self.capacities[goods_key] != 0:
        return self.lot_claims[receipt][goods_key]
    return 1 if self.holders[goods_key] == receipt else 0

@external
@view
def holder(goods_key: bytes32) -> bytes32:
    """
    @notice The live receipt that claims a single thing; zero for none, and for a lot.
    @param goods_key Any goods key.
    """
    receipt: bytes32 = self.holders[goods_key]
    if self.capacities[goods_key] != 0 or not self._is_live(receipt):
        return empty(bytes32)
    return receipt

@external
@view
def receipt_at(receipt: bytes32) -> (address, address, bytes32, uint256, uint256, uint256, uint256):
    """
    @notice What is recorded of a receipt; all zero when there is none.
    @param receipt Any receipt.
    @return custodian, owner, parent (zero for none), state (1 registering, 2 sealed, 3 pledged,
            4 splitting, 5 split, 6 cancelled, 7 delivered), number of holds, number of single
            things, number of lots that it claims.
    """
    stored: Receipt = self.receipts[receipt]
    state: uint256 = stored.state
    if state == SEALED and self._is_pledged(receipt):
        state = PLEDGED
    return (
        stored.custodian,
        stored.owner,
        stored.parent,
        state,
        stored.holds,
        stored.singles,
        stored.lots,
    )

@external
@view
def pledge_of(receipt: bytes32) -> (address, bytes32, uint256, uint256):
    """
    @notice The last pledge of a receipt.
    @param receipt Any receipt.
    @return pledgee, terms_hash, state (0 none, 1 active, 2 enforcing, 3 released, 4 settled),
            number of pledges so far.
    """
    word: uint256 = self.pledge_words[receipt]
    return (
        convert(word & ADDRESS_MASK, address),
        self.pledge_terms[receipt],
        (word >> STATE_SHIFT) & STATE_MASK,
        word >> COUNT_SHIFT,
    )

@external
@view
def nonce_of(receipt: bytes32) -> uint256:
    """
    @notice The nonce of a receipt's next pledge: the number of its earlier ones.
    @param receipt Any receipt.
    """
    return self.pledge_words[receipt] >> COUNT_SHIFT

@external
@view
def hold_of(receipt: bytes32, org: bytes32) -> bytes32:
    """
    @notice The reason hash of one regulator's hold; zero when it has none.
    @param receipt Any receipt.
    @param org The regulator's organisation.
    """
    return self.hold_reasons[receipt][org]

@external
@view
def typed_hash(receipt: bytes32, pledgee: address, terms_hash: bytes32, deadline: uint256) -> bytes32:
    """
    @notice The EIP-712 hash that owner and custodian sign for a receipt's next pledge.
    @param receipt The receipt to pledge.
    @param pledgee The lender's account.
    @param terms_hash Hash of the pledge terms.
    @param deadline The last block time at which the signatures count.
    """
    nonce: uint256 = self.pledge_words[receipt] >> COUNT_SHIFT
    return self._typed_hash(receipt, pledgee, terms_hash, nonce, deadline)

@external
@view
def DOMAIN_SEPARATOR() -> bytes32:
    """
    @notice The EIP-712 domain of this contract on this chain.
    """
    return self._separator()

# -------------------------------------------------------------------------- internal

@internal
@view
def _check_running():
    """
    @notice Refuse while a pause is on.
    """
    assert not self.paused, "paused"

@internal
@view
def _check_custodian(receipt: bytes32):
    """
    @notice Refuse all but the account that acts now for the organisation of the receipt's custodian.
    @dev By organisation and not by account alone, so that a lost or stolen key can be replaced.
    """
    custodian: address = self.receipts[receipt].custodian
    assert custodian != empty(address), "no such receipt"
    assert staticcall ORGANISATIONS.current_account(custodian) == msg.sender, "not custodian"
    assert staticcall ORGANISATIONS.has_role(msg.sender, CUSTODIAN), "not custodian"

@internal
@pure
def _check_part(goods: DynArray[bytes32, PART_MAX], quantities: DynArray[uint256, PART_MAX]):
    """
    @notice Refuse an empty part, and lists of different lengths.
    """
    assert len(goods) != 0, "no goods"
    assert len(goods) == len(quantities), "lengths differ"

@internal
@view
def _check_unpledged(receipt: bytes32):
    """
    @notice Refuse while a lender has the receipt.
    """
    assert not self._is_pledged(receipt), "pledged"

@internal
@view
def _check_parent_split(receipt: bytes32):
    """
    @notice Refuse a child whose parent still has claims to move.
    """
    parent: bytes32 = self.receipts[receipt].parent
    if parent != empty(bytes32):
        assert self.receipts[parent].state == SPLIT, "parent not split"

@internal
@view
def _is_live(receipt: bytes32) -> bool:
    """
    @notice Whether a receipt's claims count.
    """
    state: uint256 = self.receipts[receipt].state
    return state != 0 and state <= SPLITTING

@internal
@view
def _pledge_state(receipt: bytes32) -> uint256:
    """
    @notice The state of the receipt's last pledge.
    """
    return (self.pledge_words[receipt] >> STATE_SHIFT) & STATE_MASK

@internal
@view
def _is_pledged(receipt: bytes32) -> bool:
    """
    @notice Whether a lender has the receipt.
    """
    state: uint256 = self._pledge_state(receipt)
    return state == ACTIVE or state == ENFORCING

@internal
def _open(receipt: bytes32, custodian: address, owner: address, parent: bytes32):
    """
    @notice Write a new receipt under a number of the caller's own.
    """
    assert convert(receipt, uint256) >> 96 == convert(msg.sender, uint256), "not your number"
    self.receipts[receipt] = Receipt(
        custodian=custodian, owner=owner, parent=parent, state=REGISTERING, holds=0, singles=0, lots=0
    )

@internal
def _add_lot(receipt: bytes32, goods_key: bytes32, quantity: uint256):
    """
    @notice Add to what a receipt claims of a lot.
    """
    had: uint256 = self.lot_claims[receipt][goods_key]
    if had == 0:
        assert self.receipts[receipt].lots < LOTS_MAX, "too many lots"
        self.lot_keys[receipt].append(goods_key)
        self.receipts[receipt].lots += 1
    self.lot_claims[receipt][goods_key] = had + quantity

@internal
def _free_lots(receipt: bytes32):
    """
    @notice Take an ending receipt's quantities out of the sums; its single things are freed by its death.
    """
    for key: bytes32 in self.lot_keys[receipt]:
        self.lot_claimed[key] -= self.lot_claims[receipt][key]

@internal
@view
def _own_pledge(receipt: bytes32) -> uint256:
    """
    @notice The word of a live pledge that the caller has and that no regulator holds.
    @dev By account and not by organisation: not even the registry's admin can put somebody
         else in a lender's place. A lender that must change keys uses a multi-signature account.
    """
    word: uint256 = self.pledge_words[receipt]
    state: uint256 = (word >> STATE_SHIFT) & STATE_MASK
    assert state == ACTIVE or state == ENFORCING, "not pledged"
    assert word & ADDRESS_MASK == convert(msg.sender, uint256), "not pledgee"
    assert self.receipts[receipt].holds == 0, "held"
    return word

@internal
def _set_pledge_state(receipt: bytes32, word: uint256, state: uint256):
    """
    @notice Write another state into a pledge's word.
    """
    self.pledge_words[receipt] = (word & ~(STATE_MASK << STATE_SHIFT)) | (state << STATE_SHIFT)

@internal
@view
def _make_separator() -> bytes32:
    """
    @notice The EIP-712 domain separator for the present chain id.
    """
    return keccak256(abi_encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, chain.id, self))

@internal
@view
def _separator() -> bytes32:
    """
    @notice The separator made at deployment, or a new one when the chain has split since.
    """
    if chain.id == DEPLOYED_CHAIN_ID:
        return DEPLOYED_SEPARATOR
    return self._make_separator()

@internal
@view
def _typed_hash(
    receipt: bytes32, pledgee: address, terms_hash: bytes32, nonce: uint256, deadline: uint256
) -> bytes32:
    """
    @notice The EIP-712 hash of one Pledge.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(PLEDGE_TYPEHASH, receipt, pledgee, terms_hash, nonce, deadline)
    )
    return keccak256(concat(0x1901, self._separator(), struct_hash))

@internal
@pure
def _is_signed(digest: bytes32, account: address, signature: Bytes[65]) -> bool:
    """
    @notice Whether a 65-byte r, s, v signature with low s and v 27 or 28 is this account's.
    """
    if len(signature) != 65 or account == empty(address):
        return False
    r: uint256 = extract32(signature, 0, output_type=uint256)
    s: uint256 = extract32(signature, 32, output_type=uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    if s > LOW_S_MAX or (v != 27 and v != 28):
        return False
    return ecrecover(digest, v, r, s) == account
