"""The demo's closing table, and the addresses to open."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show_table(summary: dict[str, Any], logins: Sequence[tuple[str, str]], url: str) -> None:
    """Print the table on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    facts = Table(title="One product's life", show_header=False, title_justify="left")
    facts.add_column()
    facts.add_column()
    rows = [
        ("organisations, devices", f"{summary['organisations']}, {summary['devices']}"),
        ("messages, events", f"{summary['messages']}, {summary['events']}"),
        ("log size", str(summary["log_size"])),
        ("root", summary["root"]),
        ("anchors on the chain", f"{summary['anchors']}, {summary['gas']} gas, {summary['gas_per_event']} an event"),
        ("log contract", summary["log_contract"]),
        ("cosigned by the mirror", summary["mirror"]),
    ]
    for name, value in rows:
        facts.add_row(name, value)
    console.print(facts)
    loans = Table("step", "what happened", title="The loan", title_justify="left")
    for step, words in summary["loan_steps"]:
        loans.add_row(step, words)
    console.print(loans)
    refused = Table("attempt", "refused with", title="What was refused", title_justify="left")
    for attempt, reason in summary["refused"]:
        refused.add_row(attempt, reason)
    console.print(refused)
    console.print("\nOpen in a browser:")
    for name, item in summary["highlights"].items():
        console.print(f"  {name.replace('_', ' '):16} {url}{item.removeprefix('https://id.gs1.org')}")
    console.print("\nSign in once, each with its own address:")
    for who, address in logins:
        console.print(f"  {who:16} {address}")
    item = next(iter(summary["highlights"].values()))
    console.print(
        "\nCheck a proof without trusting this server:\n"
        f"  curl -s '{url}/items/{item}/proof' > bundle.json\n"
        f"  python -m tracebond verify bundle.json --rpc {url}/rpc --log-contract {summary['log_contract']} "
        f"\\\n    --mirror '{summary['mirror']}'\n"
        f"What the regulator's mirror confirms: {url}/mirrors"
    )
