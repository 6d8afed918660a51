#!/usr/bin/env bash
# Sets up what a target needs and nothing it has already: `setup.sh run` for the product, `setup.sh test` for the tests too,
# `setup.sh cluster` for the clustered broker that `make cluster` tries.
# Debian packages are installed where we have the rights (root, or sudo without a password); else it says exactly what to install.
set -euo pipefail
cd "$(dirname "$0")/.."
goal=${1:-run}
log=${TMPDIR:-/tmp}/tracebond-setup.$$.log
trap 'rm -f "$log"' EXIT

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo -n "$@"; else return 77; fi; }

# Installs Debian packages; `may` says whether the caller can go on without them.
debian() {
  local may=$1; shift
  local names="$*"
  command -v apt-get >/dev/null || { [ "$may" = may ] && return 0; die "install these by hand: $names"; }
  say "installing Debian packages: $names"
  if ! root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1; then
    # A fresh machine has no package lists yet, or old ones.
    root apt-get update >"$log" 2>&1 && root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 && return 0
    [ "$may" = may ] && return 0
    tail -n 5 "$log" >&2 || true
    die "could not install them; as root run: apt-get update && apt-get install -y $names"
  fi
}

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || debian must python3
python3 -c 'import ensurepip, venv' 2>/dev/null || debian must python3-venv

lock=requirements.txt
case $goal in test | cluster) lock=requirements-dev.txt ;; esac
want=$(cat requirements.txt "$lock" | sha256sum | cut -d' ' -f1)
have=$(cat ".venv/.$lock.sha256" 2>/dev/null || true)
if [ "$want" != "$have" ]; then
  [ -x .venv/bin/python ] || { say "creating the virtual environment"; python3 -m venv .venv; }
  say "installing Python packages from $lock (about a minute)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$lock" >"$log" 2>&1 \
    || { tail -n 20 "$log" >&2; die "pip could not install $lock"; }
  printf '%s' "$want" >".venv/.$lock.sha256"
fi

# The command itself, so that nothing has to be built or installed: .venv/bin/tracebond runs this checkout.
cat >.venv/bin/tracebond <<'SH'
#!/bin/sh
root=$(cd "$(dirname "$0")/../.." && pwd)
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m tracebond "$@"
SH
chmod +x .venv/bin/tracebond

mosquitto() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto >/dev/null; }
# The broker is a child process of the product. Without rights it is unpacked under the data folder at start.
mosquitto || debian may mosquitto

if [ "$goal" = cluster ] && [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
  # Its own service is not wanted: the nodes of `make cluster` stand in folders of their own, on ports of their own.
  debian must rabbitmq-server
  root systemctl disable --now rabbitmq-server >/dev/null 2>&1 || true
fi

if [ "$goal" = test ]; then
  mosquitto || debian must mosquitto
  command -v softhsm2-util >/dev/null || debian must softhsm2
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || debian must postgresql
  command -v chromium >/dev/null || debian must chromium
  # Another project's client of transparency logs, to check ours with.
  { command -v go >/dev/null && [ -d /usr/share/gocode/src/golang.org/x/mod ]; } || debian must golang-go golang-golang-x-mod-dev
  fc-list ':lang=zh-cn' 2>/dev/null | grep -q . || debian must fontconfig fonts-wqy-microhei
  command -v npm >/dev/null || debian must nodejs npm
  want=$(cat package-lock.json | sha256sum | cut -d' ' -f1)
  if [ "$want" != "$(cat node_modules/.lock.sha256 2>/dev/null || true)" ]; then
    say "installing Anvil and Forge from npm"
    npm ci --no-audit --no-fund --loglevel=error >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "npm ci failed"; }
    printf '%s' "$want" >node_modules/.lock.sha256
  fi
fi
