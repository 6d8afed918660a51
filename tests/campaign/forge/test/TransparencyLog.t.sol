// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Base, ITransparencyLog, Naive, Vm} from "./Base.sol";

/// Moves of two logs by right and wrong parties; remembers every root that the contract took.
contract LogHandler {
    Vm private constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);
    uint256 private constant LEAVES = 48;

    ITransparencyLog public immutable chainLog;
    address private immutable admin;
    address private immutable publisher;
    address private immutable pauser;
    bytes32[] private leaves;

    struct Head {
        uint256 id;
        uint64 size;
        bytes32 root;
    }

    Head[] public heads;
    mapping(uint256 => uint64) public tip;
    mapping(uint256 => bool) public frozen;
    mapping(uint256 => uint64) public lastGood;
    bool public broken;
    uint256 public anchored;

    constructor(ITransparencyLog chainLog_, address admin_, address publisher_, address pauser_) {
        (chainLog, admin, publisher, pauser) = (chainLog_, admin_, publisher_, pauser_);
        for (uint256 i = 0; i < LEAVES; i++) leaves.push(keccak256(abi.encode(i)));
    }

    function headCount() external view returns (uint256) {
        return heads.length;
    }

    function anchor(uint256 seed, uint64 growth, address sender, bool isRight) public {
        uint256 id = seed % chainLog.log_count();
        uint64 size = tip[id] + 1 + growth % 8;
        if (size > LEAVES) return;
        bytes32[] memory all = leaves;
        bytes32 root = Naive.root(all, 0, size);
        bytes32[] memory proof = tip[id] == 0 ? new bytes32[](0) : Naive.proof(all, tip[id], size);
        bool paused = chainLog.paused();
        if (isRight) sender = publisher;
        vm.prank(sender);
        try chainLog.anchor(id, tip[id], size, root, proof) {
            if (paused || frozen[id] || sender != publisher) broken = true;
            tip[id] = size;
            heads.push(Head(id, size, root));
            anchored++;
        } catch {
            if (!paused && !frozen[id] && sender == publisher) broken = true;
        }
    }

    /// The publisher's own key with a forged leaf before the tip and the best proof there is.
    function rewrite(uint256 seed, uint64 growth, uint256 place) public {
        uint256 id = seed % chainLog.log_count();
        uint64 size = tip[id] + 1 + growth % 8;
        if (size > LEAVES || tip[id] == 0) return;
        bytes32[] memory all = leaves;
        all[place % tip[id]] = "forged";
        bytes32 root = Naive.root(all, 0, size);
        bytes32[] memory proof = Naive.proof(all, tip[id], size);
        vm.prank(publisher);
        try chainLog.anchor(id, tip[id], size, root, proof) {
            broken = true;
        } catch {}
    }

    function anything(uint256 id, uint64 prev, uint64 size, bytes32 root, bytes32[] calldata proof) public {
        id %= chainLog.log_count();
        if (tip[id] == 0) return;
        vm.prank(publisher);
        try chainLog.anchor(id, prev, size, root, proof) {
            broken = true;
        } catch {}
    }

    function freeze(uint256 seed, uint256 which, uint256 luck) public {
        uint256 id = seed % chainLog.log_count();
        uint64 size = heads.length == 0 ? 0 : heads[which % heads.length].size;
        if (luck % 8 != 0) return;
        bool paused = chainLog.paused();
        vm.prank(admin);
        try chainLog.freeze(id, size) {
            if (paused || frozen[id]) broken = true;
            frozen[id] = true;
            lastGood[id] = size;
        } catch {}
    }

    function succeed(uint256 seed, bytes32 origin) public {
        uint256 id = seed % chainLog.log_count();
        if (chainLog.log_count() > 6) return;
        vm.prank(admin);
        try chainLog.open_log(origin, "key", id) returns (uint256 next) {
            if (!frozen[id]) broken = true;
            tip[next] = lastGood[id];
            if (lastGood[id] != 0) heads.push(Head(next, lastGood[id], chainLog.root_at(id, lastGood[id])));
        } catch {}
    }

    function pause(uint256 luck) public {
        vm.prank(pauser);
        if (chainLog.paused()) chainLog.unpause();
        else if (luck % 4 == 0) chainLog.pause();
    }

    function stranger(address sender, uint256 id) public {
        // Nobody holds the key of the zero address, which stands for "no account".
        if (sender == admin || sender == pauser || sender == address(0)) return;
        vm.prank(sender);
        try chainLog.freeze(id, 0) { broken = true; } catch {}
        vm.prank(sender);
        try chainLog.set_publisher(sender) { broken = true; } catch {}
        vm.prank(sender);
        try chainLog.open_log("stranger", "key", type(uint256).max) { broken = true; } catch {}
        vm.prank(sender);
        try chainLog.pause() { broken = true; } catch {}
        vm.prank(sender);
        try chainLog.accept_admin() { broken = true; } catch {}
    }
}

contract TransparencyLogTest is Base {
    LogHandler private handler;

    function setUp() public {
        deployAll();
        vm.prank(ADMIN);
        chainLog.open_log("origin", "key", NO_LOG);
        vm.prank(ADMIN);
        chainLog.open_log("second", "key", NO_LOG);
        handler = new LogHandler(chainLog, ADMIN, PUBLISHER, PAUSER);
    }

    function targetContracts() public view returns (address[] memory found) {
        found = new address[](1);
        found[0] = address(handler);
    }

    /// Every move ended as its party and the state allow.
    function invariant_no_move_did_what_it_may_not() public view {
        require(!handler.broken(), "a move did what it may not");
    }

    /// Roots are immutable; those above the last good size of a frozen log read zero.
    function invariant_roots_stay() public view {
        for (uint256 i = 0; i < handler.headCount(); i++) {
            (uint256 id, uint64 size, bytes32 root) = handler.heads(i);
            bool cut = handler.frozen(id) && size > handler.lastGood(id);
            require(chainLog.root_at(id, size) == (cut ? bytes32(0) : root), "a root changed");
        }
    }

    /// Sizes grow: the tip is the last anchored size, or the last good one.
    function invariant_the_tip_is_the_largest_size() public view {
        for (uint256 id = 0; id < chainLog.log_count(); id++) {
            (,,, uint64 size,, bool isFrozen, uint64 lastGood) = chainLog.log_at(id);
            require(isFrozen == handler.frozen(id), "frozen differs");
            require(size == (isFrozen ? lastGood : handler.tip(id)), "the tip differs");
        }
    }

    /// Roles are sane: admin, publisher and pauser differ.
    function invariant_roles_differ() public view {
        require(chainLog.admin() != chainLog.publisher() && chainLog.admin() != chainLog.pauser(), "roles");
        require(chainLog.publisher() != chainLog.pauser(), "roles");
    }

    function testFuzz_random_proofs_prove_nothing(
        uint64 size1, uint64 size2, bytes32[] calldata proof, bytes32 root1, bytes32 root2
    ) public view {
        vm.assume(proof.length <= 64 && size1 != size2);
        // With no node at all a power of two would need equal roots, and with one its hash.
        require(!chainLog.verify_consistency(size1, size2, proof, root1, root2), "proved");
    }

    function testFuzz_consistency_is_that_of_the_recursion(uint8 size1, uint8 size2, uint8 place, bytes32 noise) public view {
        uint256 n = 1 + uint256(size2) % 80;
        uint256 m = 1 + uint256(size1) % n;
        bytes32[] memory leaves = new bytes32[](n);
        for (uint256 i = 0; i < n; i++) leaves[i] = keccak256(abi.encode(noise, i));
        bytes32 root1 = Naive.root(leaves, 0, m);
        bytes32 root2 = Naive.root(leaves, 0, n);
        bytes32[] memory proof = Naive.proof(leaves, m, n);
        require(chainLog.verify_consistency(uint64(m), uint64(n), proof, root1, root2), "a good proof is refused");
        if (proof.length == 0) return;
        proof[place % proof.length] ^= bytes32(uint256(1) << (uint256(place) * 7 % 256));
        require(!chainLog.verify_consistency(uint64(m), uint64(n), proof, root1, root2), "a bad proof is taken");
    }

    function testFuzz_strangers_do_nothing(address sender, uint256 id, uint64 size, bytes32 root) public {
        vm.assume(sender != ADMIN && sender != PUBLISHER && sender != PAUSER && sender != address(0));
        vm.prank(sender);
        try chainLog.anchor(id, 0, size, root, new bytes32[](0)) { revert("anchored"); } catch {}
        vm.prank(sender);
        try chainLog.open_log(root, root, NO_LOG) { revert("opened"); } catch {}
        vm.prank(sender);
        try chainLog.freeze(id, size) { revert("frozen"); } catch {}
        vm.prank(sender);
        try chainLog.set_publisher(sender) { revert("set"); } catch {}
        vm.prank(sender);
        try chainLog.set_pauser(sender) { revert("set"); } catch {}
        vm.prank(sender);
        try chainLog.offer_admin(sender) { revert("offered"); } catch {}
        vm.prank(sender);
        try chainLog.unpause() { revert("unpaused"); } catch {}
    }

    function testFuzz_versions_are_only_added(bytes32 org, bytes32 key, address account, uint256 roles) public {
        vm.assume(org != 0 && key != 0 && account != ADMIN && organisations.version_count(org) == 0);
        vm.assume(organisations.organisation_of(account) == 0);
        roles &= 255;
        vm.prank(ADMIN);
        organisations.set_organisation(org, key, account, roles);
        vm.prank(ADMIN);
        organisations.set_organisation(org, "second", account, 255 - roles);
        (bytes32 key0, address account0, uint256 roles0,) = organisations.organisation_at(org, 0);
        require(key0 == key && account0 == account && roles0 == roles, "a version changed");
        require(organisations.version_count(org) == 2, "count");
        if (account != address(0)) {
            for (uint256 bit = 1; bit <= 128; bit *= 2) {
                require(organisations.has_role(account, bit) == ((255 - roles) & bit != 0), "role");
            }
        }
    }
}
