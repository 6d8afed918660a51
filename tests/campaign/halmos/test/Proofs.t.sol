// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Artifacts} from "./Artifacts.sol";

interface Vm {
    function prank(address sender) external;
    function assume(bool condition) external pure;
}

interface ILog {
    function open_log(bytes32 origin, bytes32 key, uint256 predecessor) external returns (uint256);
    function anchor(uint256 id, uint64 prev, uint64 size, bytes32 root, bytes32[] calldata proof) external;
    function freeze(uint256 id, uint64 lastGood) external;
    function root_at(uint256 id, uint64 size) external view returns (bytes32);
    function log_at(uint256 id) external view returns (bytes32, bytes32, uint256, uint64, bytes32, bool, uint64);
    function set_publisher(address account) external;
    function set_pauser(address account) external;
    function offer_admin(address account) external;
    function accept_admin() external;
    function pause() external;
    function unpause() external;
}

interface IOrganisations {
    function set_organisation(bytes32 org, bytes32 key, address account, uint256 roles) external;
}

interface IPledges {
    function set_capacity(bytes32 goods, uint256 quantity) external;
    function capacity(bytes32 goods) external view returns (uint256);
    function claimed(bytes32 goods) external view returns (uint256);
    function register(bytes32 receipt, address owner, bytes32[] calldata goods, uint256[] calldata quantities) external;
    function seal(bytes32 receipt) external;
    function split(bytes32 receipt, bytes32 child, bytes32[] calldata goods, uint256[] calldata quantities) external;
    function cancel(bytes32 receipt) external;
    function deliver(bytes32 receipt) external;
}

abstract contract Base {
    Vm internal constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);
    address internal constant ADMIN = address(0xA1);
    address internal constant PUBLISHER = address(0xA2);
    address internal constant PAUSER = address(0xA3);
    address internal constant MAKER = address(0xA4);
    address internal constant CUSTODIAN = address(0xA5);
    address internal constant OWNER = address(0xA6);

    function made(bytes memory code, bytes memory arguments) internal returns (address found) {
        bytes memory whole = bytes.concat(code, arguments);
        assembly {
            found := create(0, add(whole, 0x20), mload(whole))
        }
        require(found != address(0), "not deployed");
    }
}

/// Append-only, and only the publisher, for all arguments and all senders.
contract LogProofs is Base {
    ILog private chainLog;
    bytes32 private constant FIRST = keccak256("first leaf");
    bytes32 private second;

    function setUp() public {
        chainLog = ILog(made(Artifacts.transparencyLog(), abi.encode(ADMIN, address(1), address(2))));
        vm.prank(ADMIN);
        chainLog.set_publisher(PUBLISHER);
        vm.prank(ADMIN);
        chainLog.set_pauser(PAUSER);
        vm.prank(ADMIN);
        chainLog.open_log("origin", "key", type(uint256).max);
        vm.prank(PUBLISHER);
        chainLog.anchor(0, 0, 1, FIRST, new bytes32[](0));
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = keccak256("second leaf");
        second = sha256(abi.encodePacked(bytes1(0x01), FIRST, proof[0]));
        vm.prank(PUBLISHER);
        chainLog.anchor(0, 1, 2, second, proof);
    }

    function tried(address sender, bytes memory data) private returns (bool done) {
        vm.prank(sender);
        (done,) = address(chainLog).call(data);
    }

    function kept() private view {
        assert(chainLog.root_at(0, 1) == FIRST);
        assert(chainLog.root_at(0, 2) == second);
    }

    function anchorData(uint64 prev, uint64 size, bytes32 root, bytes32[2] memory nodes, uint256 count)
        private pure returns (bytes memory)
    {
        bytes32[] memory proof = new bytes32[](count);
        for (uint256 i = 0; i < count; i++) proof[i] = nodes[i];
        return abi.encodeCall(ILog.anchor, (0, prev, size, root, proof));
    }

    function check_no_anchor_changes_an_anchored_root_0(address sender, uint64 prev, uint64 size, bytes32 root) public {
        bytes32[2] memory nodes;
        tried(sender, anchorData(prev, size, root, nodes, 0));
        kept();
    }

    function check_no_anchor_changes_an_anchored_root_1(
        address sender, uint64 prev, uint64 size, bytes32 root, bytes32 node
    ) public {
        vm.assume(size <= 8);
        bytes32[2] memory nodes = [node, bytes32(0)];
        tried(sender, anchorData(prev, size, root, nodes, 1));
        kept();
    }

    function check_only_the_publisher_anchors(address sender, uint64 prev, uint64 size, bytes32 root) public {
        vm.assume(sender != PUBLISHER);
        bytes32[2] memory nodes;
        assert(!tried(sender, anchorData(prev, size, root, nodes, 0)));
    }

    function check_no_proof_is_refused(uint64 size, bytes32 root) public {
        bytes32[2] memory nodes;
        assert(!tried(PUBLISHER, anchorData(2, size, root, nodes, 0)));
    }

    function check_opening_a_log_changes_no_anchored_root(address sender, bytes32 origin, bytes32 key, uint256 before)
        public
    {
        tried(sender, abi.encodeCall(ILog.open_log, (origin, key, before)));
        kept();
    }

    function check_giving_out_roles_changes_no_anchored_root(address sender, address account, address next) public {
        tried(sender, abi.encodeCall(ILog.set_publisher, (account)));
        tried(sender, abi.encodeCall(ILog.set_pauser, (account)));
        tried(sender, abi.encodeCall(ILog.offer_admin, (next)));
        tried(next, abi.encodeCall(ILog.accept_admin, ()));
        kept();
    }

    function check_a_pause_changes_no_root_and_stops_the_publisher(uint64 size, bytes32 root, bytes32 node) public {
        vm.prank(PAUSER);
        chainLog.pause();
        bytes32[2] memory nodes = [node, bytes32(0)];
        assert(!tried(PUBLISHER, anchorData(2, size, root, nodes, 1)));
        kept();
    }

    function check_a_freeze_is_the_admins_and_cuts_above_alone(address sender, uint64 lastGood) public {
        bool done = tried(sender, abi.encodeCall(ILog.freeze, (0, lastGood)));
        if (!done) {
            kept();
            return;
        }
        assert(sender == ADMIN);
        assert(lastGood <= 2);
        assert(chainLog.root_at(0, 1) == (lastGood >= 1 ? FIRST : bytes32(0)));
        assert(chainLog.root_at(0, 2) == (lastGood >= 2 ? second : bytes32(0)));
    }
}

/// Claims never exceed capacity, for all keys and quantities.
contract PledgeProofs is Base {
    IPledges private pledges;

    function setUp() public {
        address organisations = made(Artifacts.organisationRegistry(), abi.encode(ADMIN));
        pledges = IPledges(made(Artifacts.pledgeRegistry(), abi.encode(ADMIN, organisations, bytes32("check"))));
        member(organisations, "maker", MAKER, 2);
        member(organisations, "custodian", CUSTODIAN, 8);
        member(organisations, "owner", OWNER, 32);
    }

    function member(address organisations, bytes32 org, address account, uint256 roles) private {
        vm.prank(ADMIN);
        IOrganisations(organisations).set_organisation(org, "key", account, roles);
    }

    function number(uint256 count) private pure returns (bytes32) {
        return bytes32((uint256(uint160(CUSTODIAN)) << 96) | count);
    }

    function registered(uint256 count, bytes32 goods, uint256 quantity) private returns (bool done) {
        bytes32[] memory keys = new bytes32[](1);
        uint256[] memory amounts = new uint256[](1);
        (keys[0], amounts[0]) = (goods, quantity);
        vm.prank(CUSTODIAN);
        (done,) = address(pledges).call(abi.encodeCall(IPledges.register, (number(count), OWNER, keys, amounts)));
    }

    function check_lots_are_never_claimed_beyond_capacity(uint256 capacity, uint256 first, uint256 second) public {
        vm.prank(MAKER);
        (bool done,) = address(pledges).call(abi.encodeCall(IPledges.set_capacity, (bytes32("lot"), capacity)));
        if (!done) return;
        registered(1, "lot", first);
        registered(2, "lot", second);
        assert(pledges.claimed("lot") <= pledges.capacity("lot"));
        assert(pledges.capacity("lot") == capacity);
    }

    function check_a_thing_is_claimed_once(bytes32 first, bytes32 second, uint256 quantity) public {
        bool one = registered(1, first, quantity);
        bool two = registered(2, second, quantity);
        assert(!(one && two && first == second));
        assert(pledges.claimed(first) <= 1);
        assert(pledges.claimed(second) <= 1);
    }

    function check_cancelling_frees_exactly_its_own_claims(uint256 first, uint256 second) public {
        vm.prank(MAKER);
        pledges.set_capacity("lot", 1000);
        bool one = registered(1, "lot", first);
        bool two = registered(2, "lot", second);
        if (!one || !two) return;
        vm.prank(CUSTODIAN);
        pledges.cancel(number(1));
        assert(pledges.claimed("lot") == second);
    }

    function check_a_split_changes_no_sum(uint256 whole, uint256 part) public {
        vm.prank(MAKER);
        pledges.set_capacity("lot", 1000);
        if (!registered(1, "lot", whole)) return;
        vm.prank(CUSTODIAN);
        pledges.seal(number(1));
        bytes32[] memory keys = new bytes32[](1);
        uint256[] memory amounts = new uint256[](1);
        (keys[0], amounts[0]) = (bytes32("lot"), part);
        vm.prank(CUSTODIAN);
        (bool done,) = address(pledges).call(abi.encodeCall(IPledges.split, (number(1), number(2), keys, amounts)));
        if (done) assert(part <= whole);
        assert(pledges.claimed("lot") == whole);
    }
}
