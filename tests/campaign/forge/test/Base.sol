// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

interface Vm {
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function prank(address sender) external;
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function assume(bool condition) external pure;
    function warp(uint256 time) external;
    function chainId(uint256 id) external;
}

interface ITransparencyLog {
    function open_log(bytes32 origin, bytes32 key, uint256 predecessor) external returns (uint256);
    function anchor(uint256 id, uint64 prev, uint64 size, bytes32 root, bytes32[] calldata proof) external;
    function freeze(uint256 id, uint64 lastGood) external;
    function root_at(uint256 id, uint64 size) external view returns (bytes32);
    function log_at(uint256 id) external view returns (bytes32, bytes32, uint256, uint64, bytes32, bool, uint64);
    function log_count() external view returns (uint256);
    function verify_consistency(uint64 size1, uint64 size2, bytes32[] calldata proof, bytes32 root1, bytes32 root2)
        external view returns (bool);
    function check_inclusion(uint256 id, uint64 size, uint64 index, bytes32 leaf, bytes32[] calldata proof)
        external view returns (bool);
    function set_publisher(address account) external;
    function set_pauser(address account) external;
    function offer_admin(address account) external;
    function accept_admin() external;
    function publisher() external view returns (address);
    function pauser() external view returns (address);
    function admin() external view returns (address);
    function paused() external view returns (bool);
    function pause() external;
    function unpause() external;
}

interface IOrganisations {
    function set_organisation(bytes32 org, bytes32 key, address account, uint256 roles) external;
    function version_count(bytes32 org) external view returns (uint256);
    function organisation_at(bytes32 org, uint256 version) external view returns (bytes32, address, uint256, uint64);
    function current(bytes32 org) external view returns (bytes32, address, uint256, uint64);
    function organisation_of(address account) external view returns (bytes32);
    function has_role(address account, uint256 role) external view returns (bool);
}

interface IPledges {
    function set_capacity(bytes32 goods, uint256 quantity) external;
    function capacity(bytes32 goods) external view returns (uint256);
    function claimed(bytes32 goods) external view returns (uint256);
    function claim_of(bytes32 receipt, bytes32 goods) external view returns (uint256);
    function holder(bytes32 goods) external view returns (bytes32);
    function register(bytes32 receipt, address owner, bytes32[] calldata goods, uint256[] calldata quantities) external;
    function seal(bytes32 receipt) external;
    function split(bytes32 receipt, bytes32 child, bytes32[] calldata goods, uint256[] calldata quantities) external;
    function cancel(bytes32 receipt) external;
    function deliver(bytes32 receipt) external;
    function pledge(bytes32 receipt, bytes32 terms, uint256 deadline, bytes calldata ownerSig, bytes calldata custodianSig)
        external;
    function release(bytes32 receipt) external;
    function enforce(bytes32 receipt) external;
    function cure(bytes32 receipt) external;
    function settle(bytes32 receipt) external;
    function hold(bytes32 receipt, bytes32 reason) external;
    function lift(bytes32 receipt) external;
    function receipt_at(bytes32 receipt)
        external view returns (address, address, bytes32, uint256, uint256, uint256, uint256);
    function pledge_of(bytes32 receipt) external view returns (address, bytes32, uint256, uint256);
    function typed_hash(bytes32 receipt, address pledgee, bytes32 terms, uint256 deadline) external view returns (bytes32);
    function DOMAIN_SEPARATOR() external view returns (bytes32);
    function nonce_of(bytes32 receipt) external view returns (uint256);
    function set_pauser(address account) external;
    function paused() external view returns (bool);
    function pause() external;
    function unpause() external;
}

/// The contracts as they are checked in, with one account for each role.
abstract contract Base {
    Vm internal constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

    address internal constant ADMIN = address(0xA1);
    address internal constant PUBLISHER = address(0xA2);
    address internal constant PAUSER = address(0xA3);
    address internal constant MAKER = address(0xA4);
    address internal constant BANK_1 = address(0xA5);
    address internal constant BANK_2 = address(0xA6);
    address internal constant REGULATOR = address(0xA7);
    uint256 internal constant OWNER_KEY = 0xB1;
    uint256 internal constant CUSTODIAN_KEY = 0xB2;
    uint256 internal constant OTHER_KEY = 0xB3;
    uint256 internal constant NO_LOG = type(uint256).max;

    ITransparencyLog internal chainLog;
    IOrganisations internal organisations;
    IPledges internal pledges;

    function made(string memory name, bytes memory arguments) internal returns (address found) {
        string memory path = string.concat("../../../contracts/artifacts/", name, ".json");
        bytes memory code = bytes.concat(vm.parseJsonBytes(vm.readFile(path), ".bytecode"), arguments);
        assembly {
            found := create(0, add(code, 0x20), mload(code))
        }
        require(found != address(0), "not deployed");
    }

    function deployAll() internal {
        organisations = IOrganisations(made("OrganisationRegistry", abi.encode(ADMIN)));
        pledges = IPledges(made("PledgeRegistry", abi.encode(ADMIN, address(organisations), bytes32("check"))));
        chainLog = ITransparencyLog(made("TransparencyLog", abi.encode(ADMIN, address(organisations), address(pledges))));
        vm.prank(ADMIN);
        chainLog.set_publisher(PUBLISHER);
        vm.prank(ADMIN);
        chainLog.set_pauser(PAUSER);
        vm.prank(ADMIN);
        pledges.set_pauser(PAUSER);
        organisation("maker", MAKER, 2);
        organisation("bank 1", BANK_1, 64);
        organisation("bank 2", BANK_2, 64);
        organisation("regulator", REGULATOR, 128);
        organisation("owner", vm.addr(OWNER_KEY), 32);
        organisation("custodian", vm.addr(CUSTODIAN_KEY), 8);
        organisation("other", vm.addr(OTHER_KEY), 8);
    }

    function organisation(bytes32 org, address account, uint256 roles) internal {
        vm.prank(ADMIN);
        organisations.set_organisation(org, "key", account, roles);
    }

    function number(address custodian, uint256 count) internal pure returns (bytes32) {
        return bytes32((uint256(uint160(custodian)) << 96) | (count & type(uint96).max));
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}

/// RFC 9162 by plain recursion, over a list of leaf hashes.
library Naive {
    function node(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x01), left, right));
    }

    function half(uint256 count) private pure returns (uint256 k) {
        k = 1;
        while (k * 2 < count) k *= 2;
    }

    function root(bytes32[] memory leaves, uint256 start, uint256 end) internal pure returns (bytes32) {
        if (end - start == 1) return leaves[start];
        uint256 k = half(end - start);
        return node(root(leaves, start, start + k), root(leaves, start + k, end));
    }

    function proof(bytes32[] memory leaves, uint256 size1, uint256 size2) internal pure returns (bytes32[] memory) {
        bytes32[] memory nodes = new bytes32[](64);
        uint256 count = sub(leaves, size1, 0, size2, true, nodes, 0);
        assembly {
            mstore(nodes, count)
        }
        return nodes;
    }

    function sub(
        bytes32[] memory leaves, uint256 size1, uint256 start, uint256 end, bool whole, bytes32[] memory nodes, uint256 used
    ) private pure returns (uint256) {
        if (size1 == end - start) {
            if (whole) return used;
            nodes[used] = root(leaves, start, end);
            return used + 1;
        }
        uint256 k = half(end - start);
        if (size1 <= k) {
            used = sub(leaves, size1, start, start + k, whole, nodes, used);
            nodes[used] = root(leaves, start + k, end);
        } else {
            used = sub(leaves, size1 - k, start + k, end, false, nodes, used);
            nodes[used] = root(leaves, start, start + k);
        }
        return used + 1;
    }
}
