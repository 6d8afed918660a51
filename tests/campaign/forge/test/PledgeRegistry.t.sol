// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Base, IPledges, Vm} from "./Base.sol";

/// Random moves on a few receipts and keys; checks each success against who did what in which state.
contract PledgeHandler {
    Vm private constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);
    uint256 private constant KEYS = 8;
    uint256 private constant NUMBERS = 5;

    IPledges private immutable pledges;
    uint256 private immutable ownerKey;
    uint256[2] private custodianKeys;
    address[2] private banks;
    address private immutable maker;
    address private immutable regulator;
    address private immutable pauser;

    string public broken;
    bytes32[] public receipts;
    mapping(bytes32 => address) public pledgee;

    constructor(IPledges pledges_, uint256 ownerKey_, uint256[2] memory custodianKeys_, address[5] memory parties) {
        pledges = pledges_;
        ownerKey = ownerKey_;
        custodianKeys = custodianKeys_;
        (banks[0], banks[1], maker, regulator, pauser) = (parties[0], parties[1], parties[2], parties[3], parties[4]);
        for (uint256 c = 0; c < 2; c++) {
            for (uint256 n = 0; n < NUMBERS; n++) {
                receipts.push(bytes32((uint256(uint160(vm.addr(custodianKeys[c]))) << 96) | n));
            }
        }
        // A start from which few moves lead everywhere: two lots, four sealed receipts, two pledges.
        setCapacity(KEYS - 1, 19);
        setCapacity(KEYS - 2, 19);
        for (uint256 i = 0; i < 4; i++) {
            bytes32 receipt = receipts[(i % 2) * NUMBERS + i / 2];
            bytes32[] memory keys = new bytes32[](1);
            uint256[] memory amounts = new uint256[](1);
            (keys[0], amounts[0]) = (key(i), 1);
            vm.prank(custodianOf(receipt));
            pledges.register(receipt, vm.addr(ownerKey), keys, amounts);
            vm.prank(custodianOf(receipt));
            pledges.seal(receipt);
        }
        pledge(0, 0, "terms", false);
        pledge(NUMBERS, 1, "terms", false);
    }

    function key(uint256 seed) public pure returns (bytes32) {
        return keccak256(abi.encode("key", seed % KEYS));
    }

    function receiptCount() external view returns (uint256) {
        return receipts.length;
    }

    function pick(uint256 seed) private view returns (bytes32) {
        return receipts[seed % receipts.length];
    }

    function custodianOf(bytes32 receipt) private pure returns (address) {
        return address(uint160(uint256(receipt) >> 96));
    }

    function need(bool condition, string memory what) private {
        if (!condition) broken = what;
    }

    function stateOf(bytes32 receipt) private view returns (uint256 state, uint256 holds) {
        (,,, state, holds,,) = pledges.receipt_at(receipt);
    }

    /// The moves of one receipt need that nothing is paused and nobody holds it.
    function mayMove(bytes32 receipt, bool paused) private {
        (, uint256 holds) = stateOf(receipt);
        need(!paused, "moved while paused");
        need(holds == 0, "moved while held");
    }

    function setCapacity(uint256 seed, uint256 quantity) public {
        bytes32 goods = key(seed);
        uint256 before = pledges.claimed(goods);
        vm.prank(maker);
        try pledges.set_capacity(goods, 1 + quantity % 20) {
            need(before == 0, "a claimed key became a lot");
        } catch {}
    }

    function register(uint256 seed, uint256[2] calldata goods, uint256[2] calldata quantities, bool luck) public {
        bytes32 receipt = pick(seed);
        uint256 count = 1 + quantities[1] % 2;
        bytes32[] memory keys = new bytes32[](count);
        uint256[] memory amounts = new uint256[](count);
        for (uint256 i = 0; i < count; i++) {
            keys[i] = key(goods[i]);
            amounts[i] = pledges.capacity(keys[i]) == 1 ? 1 : 1 + quantities[i] % 20;
        }
        bool paused = pledges.paused();
        vm.prank(luck ? custodianOf(receipt) : vm.addr(custodianKeys[quantities[0] % 2]));
        try pledges.register(receipt, vm.addr(ownerKey), keys, amounts) {
            mayMove(receipt, paused);
        } catch {}
    }

    function seal(uint256 seed) public {
        bytes32 receipt = pick(seed);
        bool paused = pledges.paused();
        vm.prank(custodianOf(receipt));
        try pledges.seal(receipt) {
            mayMove(receipt, paused);
        } catch {}
    }

    function split(uint256 seed, uint256 to, uint256 goods, uint256 quantity) public {
        bytes32 receipt = pick(seed);
        bytes32 child = pick(to);
        bytes32[] memory keys = new bytes32[](1);
        uint256[] memory amounts = new uint256[](1);
        keys[0] = key(goods);
        uint256 left = pledges.claim_of(receipt, keys[0]);
        amounts[0] = left == 0 ? 1 : 1 + quantity % left;
        uint256 claimed = pledges.claimed(keys[0]);
        uint256 had = pledges.claim_of(child, keys[0]);
        bool paused = pledges.paused();
        (uint256 state,) = stateOf(receipt);
        vm.prank(custodianOf(receipt));
        try pledges.split(receipt, child, keys, amounts) {
            mayMove(receipt, paused);
            need(state == 2 || state == 4, "split what was not sealed");
            need(pledges.claimed(keys[0]) == claimed, "a split changed a sum");
            need(pledges.claim_of(receipt, keys[0]) == left - amounts[0], "the parent kept a claim");
            need(pledges.claim_of(child, keys[0]) == had + amounts[0], "the child lacks a claim");
        } catch {}
    }

    function end(uint256 seed, bool isDelivery, uint256 luck) public {
        if (luck % 4 != 0) return;
        bytes32 receipt = pick(seed);
        (uint256 state,) = stateOf(receipt);
        bool paused = pledges.paused();
        vm.prank(custodianOf(receipt));
        (bool done,) = address(pledges).call(
            isDelivery ? abi.encodeCall(IPledges.deliver, (receipt)) : abi.encodeCall(IPledges.cancel, (receipt))
        );
        if (done) {
            mayMove(receipt, paused);
            need(state == 2 || (state == 1 && !isDelivery), "ended what was not free");
            for (uint256 i = 0; i < KEYS; i++) need(pledges.claim_of(receipt, key(i)) == 0, "a dead claim");
        }
    }

    function pledge(uint256 seed, uint256 bank, bytes32 terms, bool isWrong) public {
        bytes32 receipt = pick(seed);
        address lender = banks[bank % 2];
        (uint256 state,) = stateOf(receipt);
        uint256 custodian = custodianOf(receipt) == vm.addr(custodianKeys[0]) ? 0 : 1;
        bytes32 digest = pledges.typed_hash(receipt, lender, terms, block.timestamp);
        bytes memory ownerSig = packed(isWrong ? custodianKeys[0] : ownerKey, digest);
        bytes memory custodianSig = packed(custodianKeys[custodian], digest);
        bool paused = pledges.paused();
        vm.prank(lender);
        try pledges.pledge(receipt, terms, block.timestamp, ownerSig, custodianSig) {
            mayMove(receipt, paused);
            need(!isWrong, "pledged by a wrong signature");
            need(state == 2, "pledged what was not free");
            need(pledgee[receipt] == address(0), "pledged twice");
            pledgee[receipt] = lender;
        } catch {}
    }

    function packed(uint256 signer, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(signer, digest);
        return abi.encodePacked(r, s, v);
    }

    function endPledge(uint256 seed, uint256 what, uint256 bank, bool luck) public {
        bytes32 receipt = pick(seed);
        address sender = luck && pledgee[receipt] != address(0) ? pledgee[receipt] : banks[bank % 2];
        bytes4[4] memory moves =
            [IPledges.release.selector, IPledges.enforce.selector, IPledges.cure.selector, IPledges.settle.selector];
        bool paused = pledges.paused();
        vm.prank(sender);
        (bool done,) = address(pledges).call(abi.encodeWithSelector(moves[what % 4], receipt));
        if (!done) return;
        need(sender == pledgee[receipt], "not the pledgee's");
        if (what % 4 == 0 || what % 4 == 3) pledgee[receipt] = address(0);
        mayMove(receipt, paused && what % 4 != 0);
    }

    function hold(uint256 seed, uint256 luck) public {
        bytes32 receipt = pick(seed);
        bool paused = pledges.paused();
        (, uint256 holds) = stateOf(receipt);
        vm.prank(regulator);
        if (holds != 0) {
            try pledges.lift(receipt) { need(!paused, "lifted while paused"); } catch {}
        } else if (luck % 4 == 0) {
            try pledges.hold(receipt, "reason") { need(!paused, "held while paused"); } catch {}
        }
    }

    function pause(uint256 luck) public {
        vm.prank(pauser);
        if (pledges.paused()) pledges.unpause();
        else if (luck % 4 == 0) pledges.pause();
    }

    function stranger(address sender, uint256 seed, uint256 what) public {
        bytes32 receipt = pick(seed);
        for (uint256 i = 0; i < 2; i++) if (sender == banks[i] || sender == vm.addr(custodianKeys[i])) return;
        if (sender == regulator || sender == pauser || sender == maker) return;
        bytes4[8] memory moves = [
            IPledges.release.selector,
            IPledges.enforce.selector,
            IPledges.settle.selector,
            IPledges.seal.selector,
            IPledges.cancel.selector,
            IPledges.deliver.selector,
            IPledges.lift.selector,
            IPledges.pause.selector
        ];
        vm.prank(sender);
        (bool done,) = address(pledges).call(abi.encodeWithSelector(moves[what % 8], receipt));
        need(!done, "a stranger moved it");
    }
}

contract PledgeRegistryTest is Base {
    PledgeHandler private handler;

    function setUp() public {
        deployAll();
        handler = new PledgeHandler(
            pledges, OWNER_KEY, [CUSTODIAN_KEY, OTHER_KEY], [BANK_1, BANK_2, MAKER, REGULATOR, PAUSER]
        );
    }

    function targetContracts() public view returns (address[] memory found) {
        found = new address[](1);
        found[0] = address(handler);
    }

    function invariant_no_move_did_what_it_may_not() public view {
        require(bytes(handler.broken()).length == 0, handler.broken());
    }

    /// Live claims never exceed capacity, and the sum kept is the sum over receipts.
    function invariant_live_claims_never_exceed_capacity() public view {
        for (uint256 k = 0; k < 8; k++) {
            bytes32 goods = handler.key(k);
            uint256 sum = 0;
            for (uint256 i = 0; i < handler.receiptCount(); i++) sum += pledges.claim_of(handler.receipts(i), goods);
            require(sum == pledges.claimed(goods), "the sum differs");
            require(sum <= pledges.capacity(goods), "more than there is");
        }
    }

    /// One live pledge at most, and it is the one that the handler saw made.
    function invariant_one_live_pledge_per_receipt() public view {
        for (uint256 i = 0; i < handler.receiptCount(); i++) {
            bytes32 receipt = handler.receipts(i);
            (address pledgee,, uint256 state,) = pledges.pledge_of(receipt);
            bool isLive = state == 1 || state == 2;
            require(isLive == (handler.pledgee(receipt) != address(0)), "live differs");
            if (isLive) {
                require(pledgee == handler.pledgee(receipt), "the pledgee differs");
                (,,, uint256 shown,,,) = pledges.receipt_at(receipt);
                require(shown == 3, "a pledged receipt moved");
            }
        }
    }
}

contract PledgeRegistryFuzz is Base {
    function setUp() public {
        deployAll();
    }

    function testFuzz_the_typed_hash_is_eip712(bytes32 receipt, address pledgee, bytes32 terms, uint256 deadline, uint64 id)
        public
    {
        vm.assume(id != 0);
        vm.chainId(id);
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tracebond PledgeRegistry"),
                keccak256("1"),
                id,
                address(pledges)
            )
        );
        bytes32 body = keccak256(
            abi.encode(
                keccak256("Pledge(bytes32 receipt,address pledgee,bytes32 termsHash,uint256 nonce,uint256 deadline)"),
                receipt,
                pledgee,
                terms,
                0,
                deadline
            )
        );
        require(pledges.DOMAIN_SEPARATOR() == domain, "domain");
        require(
            pledges.typed_hash(receipt, pledgee, terms, deadline) == keccak256(abi.encodePacked("\x19\x01", domain, body)),
            "hash"
        );
    }

    function sealedReceipt(uint96 count, bytes32 goods) private returns (bytes32 receipt) {
        address custodian = vm.addr(CUSTODIAN_KEY);
        receipt = number(custodian, count);
        bytes32[] memory keys = new bytes32[](1);
        uint256[] memory amounts = new uint256[](1);
        (keys[0], amounts[0]) = (goods, 1);
        vm.prank(custodian);
        pledges.register(receipt, vm.addr(OWNER_KEY), keys, amounts);
        vm.prank(custodian);
        pledges.seal(receipt);
    }

    function testFuzz_only_the_two_right_keys_make_a_pledge(uint96 count, bytes32 goods, uint256 a, uint256 b, bytes32 terms)
        public
    {
        vm.assume(goods != 0 && terms != 0);
        bytes32 receipt = sealedReceipt(count, goods);
        uint256[4] memory keys = [OWNER_KEY, CUSTODIAN_KEY, OTHER_KEY, 1 + (a >> 8) % 1e18];
        (uint256 first, uint256 second) = (keys[a % 4], keys[b % 4]);
        bytes32 digest = pledges.typed_hash(receipt, BANK_1, terms, block.timestamp);
        vm.prank(BANK_1);
        try pledges.pledge(receipt, terms, block.timestamp, signature(first, digest), signature(second, digest)) {
            require(first == OWNER_KEY && second == CUSTODIAN_KEY, "wrong keys");
        } catch {
            require(first != OWNER_KEY || second != CUSTODIAN_KEY, "right keys");
        }
    }

    function testFuzz_random_signatures_make_no_pledge(bytes calldata first, bytes calldata second) public {
        bytes32 receipt = sealedReceipt(1, "goods");
        vm.prank(BANK_1);
        try pledges.pledge(receipt, "terms", block.timestamp, first, second) { revert("pledged"); } catch {}
    }

    function testFuzz_the_twin_of_a_signature_is_refused(bytes32 terms, bool isOwner) public {
        vm.assume(terms != 0);
        bytes32 receipt = sealedReceipt(1, "goods");
        bytes32 digest = pledges.typed_hash(receipt, BANK_1, terms, block.timestamp);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(isOwner ? OWNER_KEY : CUSTODIAN_KEY, digest);
        bytes32 other = bytes32(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - uint256(s));
        bytes memory twin = abi.encodePacked(r, other, uint8(55 - v));
        bytes memory first = isOwner ? twin : signature(OWNER_KEY, digest);
        bytes memory second = isOwner ? signature(CUSTODIAN_KEY, digest) : twin;
        vm.prank(BANK_1);
        try pledges.pledge(receipt, terms, block.timestamp, first, second) { revert("pledged"); } catch {}
    }

    function testFuzz_lots_are_claimed_up_to_capacity(uint64 capacity, uint64 a, uint64 b) public {
        vm.assume(capacity != 0);
        vm.prank(MAKER);
        pledges.set_capacity("lot", capacity);
        bytes32[] memory keys = new bytes32[](1);
        uint256[] memory amounts = new uint256[](1);
        keys[0] = "lot";
        uint256 sum = 0;
        uint64[2] memory parts = [a, b];
        for (uint256 i = 0; i < 2; i++) {
            amounts[0] = parts[i];
            bool fits = parts[i] != 0 && sum + parts[i] <= capacity;
            vm.prank(vm.addr(CUSTODIAN_KEY));
            try pledges.register(number(vm.addr(CUSTODIAN_KEY), i), vm.addr(OWNER_KEY), keys, amounts) {
                require(fits, "over capacity");
                sum += parts[i];
            } catch {
                require(!fits, "refused what fits");
            }
        }
        require(pledges.claimed("lot") == sum, "sum");
    }

    function testFuzz_nobody_takes_the_numbers_of_another(bytes32 receipt) public {
        vm.assume(address(uint160(uint256(receipt) >> 96)) != vm.addr(CUSTODIAN_KEY));
        bytes32[] memory keys = new bytes32[](1);
        uint256[] memory amounts = new uint256[](1);
        (keys[0], amounts[0]) = (bytes32("goods"), 1);
        vm.prank(vm.addr(CUSTODIAN_KEY));
        try pledges.register(receipt, vm.addr(OWNER_KEY), keys, amounts) { revert("taken"); } catch {}
    }
}
