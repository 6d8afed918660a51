"""``tracebond simulate``: fleets of signing devices as a load generator, or the events of one document."""

import sys
from pathlib import Path

import click

from core.errors import Rejected
from simulators.fleet import Progress
from simulators.fleet_scenario import DEVICES_MAX, scenarios
from simulators.misbehaviour import faults, read_faults
from tracebond.settings import load_settings

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(epilog=f"Scenarios that come with the program: {', '.join(scenarios())}. Faults: {', '.join(faults())}.")
@click.argument("scenario", required=False)
@click.option("--data", type=_FOLDER, help="Folder that holds all state (default: ./var).")
@click.option("--devices", type=click.IntRange(1, DEVICES_MAX), help="Scale all groups to about so many devices.")
@click.option("--seed", default="1", show_default=True, help="The same seed makes the same devices and readings.")
@click.option("--duration", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds to run.")
@click.option("--speed", type=click.FloatRange(0.001), default=1.0, show_default=True, help="Simulated s per s.")
@click.option("--messages", "messages_max", type=click.IntRange(1), help="End after so many messages.")
@click.option("--fault", "wanted", multiple=True, metavar="NAME=RATE", help="A fault on demand; may be repeated.")
@click.option("--document", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An EPCIS document.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait for the last receipts.")
@click.option(
    "--device", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --document: folder of an enrolled device that sends it (tracebond device enrol --out).",
)  # fmt: skip
def simulate(
    scenario: str | None, data: Path | None, devices: int | None, seed: str, duration: float, speed: float,
    messages_max: int | None, wanted: tuple[str, ...], document: Path | None, timeout: float, device: Path | None,
) -> None:  # fmt: skip
    """Let a fleet of signing devices talk to a running server, or send the events of one EPCIS document.

    SCENARIO is a name (see below) or a TOML file of your own (simulators/fleets has examples). Organisations, devices
    and their logins are registered the first time; each device signs, keeps its messages in an outbox on disk, and
    sends them over MQTT until it holds a receipt. A server (`tracebond up`) must be running on the same data folder.

    \b
      tracebond simulate dairy --duration 30 --speed 60
      tracebond simulate copper --devices 2000 --fault duplicate=0.1 --fault drop=0.1 --fault wrong-key=0.01
      tracebond simulate --document goods.jsonld

    With --document the events travel as they are: what is wrong with them is named by the receiver, in its quarantine.
    Prints one line a message then; exits 1 if one was refused.
    """
    settings = load_settings(data=data)
    if document is not None:
        from tracebond.simulate import send_file

        sys.exit(send_file(settings, document, timeout_s=timeout, say=click.echo, folder=device))
    if scenario is None:
        raise Rejected(
            f"Name a scenario ({', '.join(scenarios())}, or a TOML file) or a --document.", code="bad_option"
        )
    from tracebond.simulate_fleet import FleetRun, simulate

    run = FleetRun(
        scenario=Path(scenario) if scenario.endswith(".toml") else scenario, seed=seed, devices=devices,
        duration_s=duration, speed=speed, messages_max=messages_max, drain_s=timeout,
        faults=read_faults(dict(_pair(text) for text in wanted)),
    )  # fmt: skip
    done = simulate(settings, run, say=_say, show=_show)
    _say("")
    click.echo(done.line())


def _pair(text: str) -> tuple[str, str]:
    name, _, rate = text.partition("=")
    return name, rate


def _say(text: str) -> None:
    click.echo(("\r\x1b[K" if sys.stderr.isatty() else "") + text, err=True)


def _show(progress: Progress) -> None:
    """One line that is written over on a terminal, a line a second elsewhere."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{progress.line()}", nl=False, err=True)
    else:
        click.echo(progress.line(), err=True)
