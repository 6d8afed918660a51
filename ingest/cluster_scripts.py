"""The scripts and the runbook that stand beside a cluster's configuration. Plain sh; they find themselves."""

_HEAD = """#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"""

_START_NODE = (
    _HEAD
    + """# Starts one node of this cluster on this machine and waits for it: start-node.sh r1 [seconds]
[ $# -ge 1 ] || { echo "usage: start-node.sh NODE [SECONDS]" >&2; exit 2; }
. "$here/$1/env.sh"
if [ -f "$RABBITMQ_PID_FILE" ] && kill -0 "$(cat "$RABBITMQ_PID_FILE")" 2>/dev/null; then
  echo "$1 runs already"
  exit 0
fi
rm -f "$RABBITMQ_PID_FILE"
mkdir -p "$RABBITMQ_LOG_BASE"
log="$RABBITMQ_LOG_BASE/$RABBITMQ_NODENAME.log"
ups() { cat "$log" 2>/dev/null | grep -c "Server startup complete" || true; }
before=$(ups)
chmod 600 "$here/.erlang.cookie"
setsid rabbitmq-server >"$RABBITMQ_LOG_BASE/out" 2>&1 </dev/null &
server=$!
# Its log tells when it is up; asking it by rabbitmqctl takes seconds of processor time each time.
left=$((${2:-180} * 2))
while [ "$(ups)" = "$before" ]; do
  kill -0 "$server" 2>/dev/null || { echo "$1 did not start; see $RABBITMQ_LOG_BASE" >&2; exit 1; }
  left=$((left - 1))
  [ "$left" -gt 0 ] || { echo "$1 is not up yet; see $RABBITMQ_LOG_BASE" >&2; exit 3; }
  sleep 0.5
done
echo "$1 is up"
"""
)

_START = (
    _HEAD
    + """# Starts all nodes on this machine one by one (together they need up to two minutes), then declares queue and
# users. Nodes on machines of their own: run start-node.sh on each, r1 first, then declare.sh once.
for name in $(cut -d" " -f1 "$here/nodes.txt"); do
  # After a full stop the first node waits for the one that stopped last: go on, and look again below.
  seconds=180
  [ -d "$here/$name/mnesia" ] && seconds=15
  "$here/start-node.sh" "$name" "$seconds" || [ $? -eq 3 ]
done
exec "$here/declare.sh" --all-up
"""
)

_DECLARE = (
    _HEAD
    + """# Declares queue, binding and users once all nodes are there; shuts out devices that devices.txt has no more.
# The queue comes before the devices: a publish that no queue is bound for is acknowledged and dropped.
read -r name full <"$here/nodes.txt"
. "$here/$name/env.sh"
ctl() { rabbitmqctl -q -n "$RABBITMQ_NODENAME" "$@"; }
wanted=$(wc -l <"$here/nodes.txt")
# A node says in its log that it is up a moment before it takes commands.
ctl await_startup --timeout 120 >/dev/null
[ "${1:-}" = --all-up ] || ctl await_online_nodes "$wanted" --timeout 120
ctl import_definitions "$here/queue.json"
ctl import_definitions "$here/devices.json"
touch "$here/declared.txt"
LC_ALL=C sort "$here/devices.txt" >"$here/declared.new"
for gone in $(LC_ALL=C comm -23 "$here/declared.txt" "$here/declared.new"); do
  ctl delete_user "$gone" || true
  ctl close_all_user_connections "$gone" "no longer enrolled" || true
done
mv "$here/declared.new" "$here/declared.txt"
echo "queue and $(wc -l <"$here/devices.txt") devices are declared"
"""
)

_STOP = (
    _HEAD
    + """# Stops all nodes of this machine, the last one first; what is queued stays.
sort -r "$here/nodes.txt" | for name in $(cut -d" " -f1 "$here/nodes.txt"); do
  . "$here/$name/env.sh"
  [ -f "$RABBITMQ_PID_FILE" ] || continue
  rabbitmqctl -q -n "$RABBITMQ_NODENAME" stop "$RABBITMQ_PID_FILE" || echo "$name was not running"
  rm -f "$RABBITMQ_PID_FILE"
done
"""
)

_RECOVER = (
    _HEAD
    + """# After kill -9 or a power cut of ALL nodes: RabbitMQ 3.10 then refuses every MQTT client until the folder
# "coordination" is gone on every node (it holds client ids alone, no message). Refuses while a node runs.
for name in $(cut -d" " -f1 "$here/nodes.txt"); do
  . "$here/$name/env.sh"
  if [ -f "$RABBITMQ_PID_FILE" ] && kill -0 "$(cat "$RABBITMQ_PID_FILE")" 2>/dev/null; then
    echo "$name runs: this is for a cluster that is down as a whole" >&2
    exit 1
  fi
done
rm -rf "$here"/r*/mnesia/*/coordination
exec "$here/start.sh"
"""
)

SCRIPTS = {
    "start-node.sh": _START_NODE,
    "start.sh": _START,
    "declare.sh": _DECLARE,
    "stop.sh": _STOP,
    "recover.sh": _RECOVER,
}

RUNBOOK = """# Runbook of the clustered broker

Three RabbitMQ nodes, one quorum queue `tb-events`. Devices publish MQTT to any node (`@DEVICES@`), all hosts in
their configuration; workers read the queue over AMQP. A message is acknowledged to its device when a majority has
it on disk; the promise to the device is the signed receipt, and until it comes its outbox keeps the message.

| File | What it is |
| --- | --- |
| `r1` `r2` `r3` | per node: `rabbitmq.conf`, `env.sh`, then data, log and pid |
| `.erlang.cookie` | secret that the nodes share, mode 600; equal on all machines |
| `queue.json` | queue, binding, the workers' user |
| `devices.json`, `devices.txt` | users, permissions and topic permissions of every enrolled device |
| `device-passwords.json` | passwords to hand to devices, mode 600; move it to where secrets are kept |
| `secrets.json`, `source.url` | passwords of `tb-admin` and `tb-ingest`; what workers are told |

## Start, stop, look

    @FOLDER@/start.sh                      all nodes here, one by one, then queue and users
    @FOLDER@/start-node.sh r2              one node (on machines of their own: r1 first, then declare.sh once)
    @FOLDER@/declare.sh                    after `tracebond broker config --cluster` wrote new devices
    @FOLDER@/stop.sh                       all nodes here
    . @FOLDER@/r1/env.sh; rabbitmqctl -n r1@HOST cluster_status
    . @FOLDER@/r1/env.sh; rabbitmq-queues -n r1@HOST quorum_status tb-events
    TRACEBOND_SOURCE="$(cat @FOLDER@/source.url)" tracebond ingest --client-id ingest-1

Workers: `@AMQP@://tb-ingest:...@@WORKERS@`. Declare the queue before devices publish: a publish that no queue is
bound for is acknowledged and dropped. `declare.sh` keeps that order, since devices have no user before the queue.

## One node died

Nothing to do at once: the other two go on, devices and workers turn to another host. Start it again with
`start-node.sh`; it catches up by itself. Two dead nodes: the third has no majority, takes nothing and pauses
(`pause_minority`); devices keep everything. Start one of the two, and it goes on.

## All nodes died at once (power cut, kill -9)

    @FOLDER@/recover.sh

RabbitMQ 3.10 answers no MQTT client after this until `mnesia/<node>/coordination` is removed on **every** node
first; it holds client ids alone, no message. `recover.sh` does it and starts the nodes. On machines of their own:
stop what runs, remove that folder on each, then `start-node.sh` on each. A current release does not need this.

## A machine is lost for good

    rabbitmqctl -n r1@HOST forget_cluster_node r3@LOST      from a node that lives
    rabbitmq-queues -n r1@HOST grow r3@NEW all              after the new node has joined

## Upgrades

One node at a time: `rabbitmq-upgrade drain`, stop, upgrade, start, wait until `quorum_status` shows it. From 3.13 on
devices may speak MQTT 5; the queue stays as it is. From 4.0 on a quorum queue gives up a message after 20 returns:
set the policy `{"delivery-limit": -1}` for `tb-events` first, or a worker in trouble loses messages.

## Limits worth knowing

- A device subscribes with **QoS 0**. A subscription of QoS 1 is a durable queue on one node; while that node is dead
  the device can subscribe on no other (`home node ... is down`); a receipt that is lost at QoS 0 is asked for again.
- MQTT 3.1.1 alone before 3.13. `$share/...` is answered "granted" there and delivers nothing.
- A device cannot read or write for another, but one that knows another's client id and has a login of its own can
  throw it off: the client id is not bound to the user here as it is at Mosquitto. It connects again at once.
- A publish above the size limit closes the connection; one with the retain flag arrives as a plain message, and
  nothing is kept for later subscribers.
"""
