"""Read-only JSON-RPC over any chain: what a browser or an auditor asks to check a proof, and nothing else."""

import re
from collections.abc import Callable
from typing import Any

from contracts.chain import Block, BlockTag, Chain, Reverted
from core.canonical import dump_json, parse_json
from core.errors import Rejected, TracebondError, Unavailable

REQUEST_BYTES_MAX = 256 * 1024
BATCH_MAX = 100
DATA_BYTES_MAX = 16 * 1024

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
SERVER_ERROR, REVERTED = -32000, 3

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}\Z")
_QUANTITY = re.compile(r"0x(0|[1-9a-f][0-9a-f]{0,15})\Z")
_HEX = re.compile(r"0x([0-9a-fA-F]{2})*\Z")
_CALL_MEMBERS = {"to", "data", "input", "from", "gas"}


def answer_bytes(chain: Chain, body: bytes) -> bytes:
    """The response body for a request body, a batch or a single request; b"" when nothing is to be answered."""
    try:
        request = parse_json(body, bytes_max=REQUEST_BYTES_MAX, depth_max=8)
    except Rejected as error:
        return dump_json(_error(None, PARSE_ERROR, error.message))
    if not isinstance(request, list):
        single = answer(chain, request)
        return b"" if single is None else dump_json(single)
    if not request or len(request) > BATCH_MAX:
        return dump_json(_error(None, INVALID_REQUEST, f"A batch holds 1 to {BATCH_MAX} requests."))
    answers = [one for one in (answer(chain, each) for each in request) if one is not None]
    return dump_json(answers) if answers else b""


def answer(chain: Chain, request: Any) -> dict[str, Any] | None:
    """The response to one request; None for a notification, which has no id."""
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0" or not isinstance(request.get("method"), str):
        return _error(None, INVALID_REQUEST, "This is no JSON-RPC 2.0 request.")
    ident = request.get("id")
    if isinstance(ident, bool) or not (ident is None or isinstance(ident, int | str)):
        return _error(None, INVALID_REQUEST, "An id is a string or an integer.")
    if "id" not in request:
        return None
    method = _METHODS.get(request["method"])
    if method is None:
        return _error(ident, METHOD_NOT_FOUND, "This node only reads: " + ", ".join(sorted(_METHODS)) + ".")
    params = request.get("params", [])
    if not isinstance(params, list):
        return _error(ident, INVALID_PARAMS, "Parameters are a list.")
    try:
        return {"jsonrpc": "2.0", "id": ident, "result": method(chain, params)}
    except Reverted as error:
        return _error(ident, REVERTED, f"execution reverted: {error.reason}")
    except Rejected as error:
        return _error(ident, INVALID_PARAMS, error.message)
    except Unavailable as error:
        return _error(ident, SERVER_ERROR, error.message)
    except TracebondError as error:
        return _error(ident, SERVER_ERROR, error.message)


def _chain_id(chain: Chain, params: list[Any]) -> str:
    _count(params, 0, 0)
    return hex(chain.chain_id)


def _block_number(chain: Chain, params: list[Any]) -> str:
    _count(params, 0, 0)
    return hex(chain.block_number())


def _get_block(chain: Chain, params: list[Any]) -> dict[str, Any] | None:
    _count(params, 1, 2)
    if len(params) == 2 and not isinstance(params[1], bool):
        raise _bad("The second parameter is true or false.")
    block = chain.block(_tag(chain, params[0]))
    return None if block is None else _block(block)


def _get_code(chain: Chain, params: list[Any]) -> str:
    _count(params, 1, 2)
    if len(params) == 2 and _tag(chain, params[1]) != "latest" and params[1] not in ("finalized", "safe"):
        raise _bad("Code is answered at latest, safe or finalized only; it never changes here.")
    return "0x" + chain.code(_address(params[0])).hex()


def _call(chain: Chain, params: list[Any]) -> str:
    _count(params, 1, 2)
    call = params[0]
    if not isinstance(call, dict) or not set(call) <= _CALL_MEMBERS:
        raise _bad("A call has to, data and, if need be, from.")
    data = call.get("data", call.get("input", "0x"))
    if not isinstance(data, str) or len(data) > 2 + 2 * DATA_BYTES_MAX or not _HEX.match(data):
        raise _bad(f"data is 0x and at most {DATA_BYTES_MAX} bytes of hexadecimal digits.")
    tag = _tag(chain, params[1]) if len(params) == 2 else "latest"
    to = _address(call.get("to"))
    if "from" in call:
        return "0x" + chain.call(to, bytes.fromhex(data[2:]), tag, sender=_address(call["from"])).hex()
    return "0x" + chain.call(to, bytes.fromhex(data[2:]), tag).hex()


_METHODS: dict[str, Callable[[Chain, list[Any]], Any]] = {
    "eth_chainId": _chain_id,
    "eth_blockNumber": _block_number,
    "eth_getBlockByNumber": _get_block,
    "eth_getCode": _get_code,
    "eth_call": _call,
}


def _tag(chain: Chain, value: Any) -> BlockTag:
    if value in ("finalized", "safe"):
        # By depth or by tag, what we call final is for the chain's settings to say.
        return chain.final_block_number()
    if value in ("latest", "earliest"):
        return 0 if value == "earliest" else "latest"
    if isinstance(value, str) and _QUANTITY.match(value):
        return int(value, 16)
    raise _bad("A block is latest, finalized, safe, earliest or a 0x number.")


def _address(value: Any) -> str:
    if not isinstance(value, str) or not _ADDRESS.match(value):
        raise _bad("An address is 0x and 40 hexadecimal digits.")
    return value.lower()


def _count(params: list[Any], least: int, most: int) -> None:
    if not least <= len(params) <= most:
        raise _bad(f"This method takes {least} to {most} parameters.")


def _block(block: Block) -> dict[str, Any]:
    return {
        "number": hex(block.number),
        "hash": block.hash,
        "parentHash": block.parent_hash,
        "timestamp": hex(block.time_s),
        "transactions": [],
    }


def _bad(text: str) -> Rejected:
    return Rejected(text, code="bad_params")


def _error(ident: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": message}}
