"""``tracebond verify``: the offline auditor; of this project it needs ``core`` and ``contracts.rpc`` only."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from contracts import rpc
from core.proofs import Policy, Report, questions, verify


def check_bundle(
    data: bytes, url: str, log_contract: str, *, mirrors: Sequence[str] = (), mirrors_min: int = 1
) -> Report:
    """The report of a bundle, checked against the node at ``url`` and the pinned contract.

    Raises:
        Rejected: the bundle does not verify. Unavailable: the node does not answer.
    """
    answers = rpc.ask(url, questions(data))
    return verify(data, answers, Policy(log_contract, tuple(mirrors), mirrors_min))


def render(report: Report, *, as_json: bool) -> str:
    """The report for a reader, or as JSON."""
    when = datetime.fromtimestamp(report.time, UTC).isoformat().replace("+00:00", "Z")
    complete = {
        "cosigned": f"complete as of {when}, cosigned by {', '.join(report.mirrors)}",
        "operator": f"complete according to the operator, as of {when}",
    }[report.completeness]
    coverage = {
        "whole": "whole history: containers, lots and inputs included",
        "partial": f"partial history: {report.uncovered} related histories are not in the bundle",
        "own": "own events only: related histories are not in the bundle",
    }[report.coverage]
    if as_json:
        return json.dumps(
            {
                "item": report.item,
                "verified": True,
                "log": report.origin,
                "size": report.size,
                "root": report.root.hex(),
                "as_of": when,
                "events": len(report.events),
                "suspect": sum(event.is_suspect for event in report.events),
                "coverage": report.coverage,
                "completeness": report.completeness,
                "mirrors": list(report.mirrors),
                "cosigners": list(report.cosigners),
                "not_covered": report.uncovered,
                "not_shown": report.hidden,
                "not_shown_related": report.hidden_related,
                "not_named": report.unnamed,
                "other_logs": report.other_logs,
                "predecessors": [{"log": number, "up_to": size} for number, size in report.predecessors],
            },
            indent=2,
            ensure_ascii=False,
        )
    lines = [
        f"verified: {report.item}",
        f"  log {report.origin}, size {report.size}, root {report.root.hex()}",
        f"  {complete}",
        f"  {coverage}",
        f"  {len(report.events)} events of its own",
        *not_shown(report),
    ]
    suspects = sum(event.is_suspect for event in report.events)
    if suspects:
        lines.append(f"  {suspects} of them are suspect: their key ended or forked")
    strangers = [name for name in report.cosigners if name not in report.mirrors]
    if strangers:
        lines.append(f"  also cosigned by {', '.join(strangers)}, whom you do not pin (--mirror)")
    for number, size in report.predecessors:
        lines.append(f"  goes on from log {number}, which was frozen: its history is covered up to size {size}")
    if report.other_logs:
        lines.append(f"  not covered: {report.other_logs} other logs on the contract")
    for event in report.events:
        step = str(event.event.get("bizStep", event.event.get("type", "")))
        lines.append(f"  {event.event.get('eventTime', ''):30} {step.rsplit('-', 1)[-1]:24} leaf {event.leaf}")
    return "\n".join(lines)


def not_shown(report: Report) -> list[str]:
    """What is proven to be in the log but kept from this reader, and which fields of each event are shown at all."""
    lines = [
        f"  not shown to this reader: {report.hidden} fields of its events, {report.hidden_related} of events of its "
        f"containers, lots and inputs, and the codes of {report.unnamed} of these"
    ]
    for event in report.events:
        if event.hidden:
            lines.append(f"    leaf {event.leaf} event {event.number}: {event.hidden} fields not shown")
    return lines
