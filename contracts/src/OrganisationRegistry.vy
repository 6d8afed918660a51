#pragma version 0.4.3
#pragma evm-version cancun
#pragma optimize gas
"""
@title OrganisationRegistry
@license Apache-2.0
@author Tracebond
@notice Says which key signs an organisation's records, which account acts for it, and in what roles.
@dev Append-only: a change adds a version, and every old one can be read for ever. Each change
     also enters the log as an `org` record; verifiers compare the two.
     Kill switch: the pauser stops every change (`pause`); the admin takes an organisation's
     rights away with one new version (roles 0 or another account), which the PledgeRegistry
     sees in the same block. No function calls another contract.
"""

# ---------------------------------------------------------------------------- events

event OrganisationSet:
    org: indexed(bytes32)
    version: indexed(uint256)
    record_key: bytes32
    account: indexed(address)
    roles: uint256

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

struct Version:
    record_key: bytes32
    # Bits 0-159 the account, 160-191 the roles, 192-255 the block number.
    word: uint256

# ------------------------------------------------------------------------- constants

# operator 1, maker 2, inspector 4, custodian 8, carrier 16, retailer 32, lender 64, regulator 128
ROLES_ALL: constant(uint256) = 255
REGULATOR: constant(uint256) = 128
ADDRESS_MASK: constant(uint256) = 2 ** 160 - 1
ROLES_SHIFT: constant(uint256) = 160
ROLES_MASK: constant(uint256) = 2 ** 32 - 1
BLOCK_SHIFT: constant(uint256) = 192

# --------------------------------------------------------------------------- storage

admin: public(address)
admin_offered: public(address)
pauser: public(address)
paused: public(bool)
version_count: public(HashMap[bytes32, uint256])
organisation_of: public(HashMap[address, bytes32])
versions: HashMap[bytes32, HashMap[uint256, Version]]

# ----------------------------------------------------------------------- constructor

@deploy
def __init__(admin: address):
    """
    @notice Starts with no organisation.
    @param admin The account that sets organisations and gives out the roles.
    """
    assert admin != empty(address), "no admin"
    self.admin = admin
    log AdminSet(account=admin)

# ----------------------------------------------------------------------------- admin

@external
def set_organisation(org: bytes32, record_key: bytes32, account: address, roles: uint256):
    """
    @notice Adds a version of an organisation; it counts from this block on.
    @param org The organisation's map key, `SHA-256("tracebond/org/1" || 0x00 || Digital Link)`.
    @param record_key RFC 7638 thumbprint of the key that signs the organisation's records.
    @param account The account that acts for it, or the zero address for none. An account
           belongs to one organisation for ever.
    @param roles The sum of its role bits.
    """
    assert msg.sender == self.admin, "not admin"
    assert not self.paused, "paused"
    assert org != empty(bytes32), "no organisation"
    assert record_key != empty(bytes32), "no key"
    assert roles <= ROLES_ALL, "unknown role"
    if account != empty(address):
        owner: bytes32 = self.organisation_of[account]
        assert owner == empty(bytes32) or owner == org, "account taken"
        if roles & REGULATOR != 0:
            # A regulator that is also the admin or the pauser would watch itself.
            assert account not in [self.admin, self.pauser], "role taken"
        self.organisation_of[account] = org

    version: uint256 = self.version_count[org]
    self.versions[org][version] = Version(
        record_key=record_key,
        word=convert(account, uint256) | (roles << ROLES_SHIFT) | (block.number << BLOCK_SHIFT),
    )
    self.version_count[org] = version + 1
    log OrganisationSet(org=org, version=version, record_key=record_key, account=account, roles=roles)

@external
def set_pauser(account: address):
    """
    @notice Gives the right to pause and unpause to one account and takes it from the last one.
    @param account The pauser; the zero address for nobody.
    """
    assert msg.sender == self.admin, "not admin"
    if account != empty(address):
        assert account != self.admin, "role taken"
        assert not self._has_role(account, REGULATOR), "role taken"
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
    assert not self._has_role(msg.sender, REGULATOR), "role taken"
    self.admin = msg.sender
    self.admin_offered = empty(address)
    log AdminSet(account=msg.sender)

# ---------------------------------------------------------------------------- pauser

@external
def pause():
    """
    @notice Stops every change of organisations until `unpause`; reading goes on.
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
def organisation_at(org: bytes32, version: uint256) -> (bytes32, address, uint256, uint64):
    """
    @notice One version of an organisation.
    @param org The organisation's map key.
    @param version Counted from 0.
    @return record_key, account, roles, number of the block that set it.
    """
    assert version < self.version_count[org], "no such version"
    return self._version(org, version)

@external
@view
def current(org: bytes32) -> (bytes32, address, uint256, uint64):
    """
    @notice The version of an organisation that counts now.
    @param org The organisation's map key.
    @return record_key, account, roles, number of the block that set it.
    """
    count: uint256 = self.version_count[org]
    assert count != 0, "no such organisation"
    return self._version(org, count - 1)

@external
@view
def current_account(account: address) -> address:
    """
    @notice The account that acts now for the organisation that this account belongs to.
    @param account Any account that acts or once acted for an organisation.
    @return The zero address when the account is unknown or its organisation has none now.
    """
    return convert(self._word(account) & ADDRESS_MASK, address)

@external
@view
def has_role(account: address, role: uint256) -> bool:
    """
    @notice Whether an account acts now for an organisation that has all these role bits.
    @param account The account; one that was replaced has no role.
    @param role One role bit, or a sum of them.
    """
    return self._has_role(account, role)

# -------------------------------------------------------------------------- internal

@internal
@view
def _version(org: bytes32, version: uint256) -> (bytes32, address, uint256, uint64):
    """
    @notice One stored version, unpacked.
    """
    stored: Version = self.versions[org][version]
    return (
        stored.record_key,
        convert(stored.word & ADDRESS_MASK, address),
        (stored.word >> ROLES_SHIFT) & ROLES_MASK,
        convert(stored.word >> BLOCK_SHIFT, uint64),
    )

@internal
@view
def _word(account: address) -> uint256:
    """
    @notice The packed word of the current version of an account's organisation; 0 if unknown.
    """
    org: bytes32 = self.organisation_of[account]
    count: uint256 = self.version_count[org]
    if org == empty(bytes32) or count == 0:
        return 0
    return self.versions[org][count - 1].word

@internal
@view
def _has_role(account: address, role: uint256) -> bool:
    """
    @notice Whether the account is the current one of its organisation, with all the role bits.
    """
    word: uint256 = self._word(account)
    if role == 0 or account == empty(address):
        return False
    if word & ADDRESS_MASK != convert(account, uint256):
        return False
    return (word >> ROLES_SHIFT) & ROLES_MASK & role == role
