#!/usr/bin/env bash
# Make this checkout ready to work: Debian packages, the Python environment in .venv, a Docker engine that answers.
# Safe to run again at any time: what is there already is left alone, and a second run takes a second.
#
#   scripts/setup.sh            everything
#   scripts/setup.sh --python   only .venv (enough for `make unit` and `make lint`)
#   scripts/setup.sh --system   only Debian packages and the Docker engine
#   scripts/setup.sh --browser  .venv and a browser (for `make browser`)
#   scripts/setup.sh --which    print a Python that can run this checkout's own scripts; install one where there is none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-all}
case "$what" in
  all | --python | --system | --browser | --which) ;;
  *)
    echo "usage: scripts/setup.sh [--python | --system | --browser | --which]" >&2
    exit 2
    ;;
esac

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo && sudo -n true 2>/dev/null; then
    sudo -n -- "$@"
  elif have sudo && [ -t 0 ]; then
    sudo -- "$@"
  else
    return 126
  fi
}

# --- Debian packages -------------------------------------------------------------------------------------------------

install_packages() {
  [ "$#" -gt 0 ] || return 0
  have apt-get || die "missing: $*. This is no Debian: install what these Debian packages hold, then run this again."
  say "installing Debian packages: $*"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
  local log=build/apt.log
  as_root true || die "not root and no sudo. As root: apt-get install --no-install-recommends $*"
  # The package lists may be absent or too old; they are fetched only when the first attempt shows it. A third-party
  # source that does not answer makes `update` fail and is no reason to stop: what counts is whether the install works.
  if ! as_root "${apt[@]}" install -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null; then
    say "refreshing the package lists"
    as_root "${apt[@]}" update >>"$log" 2>&1 </dev/null || say "some package source did not answer (see $log); going on"
    as_root "${apt[@]}" install -y --no-install-recommends "$@" >>"$log" 2>&1 </dev/null ||
      die "apt-get could not install: $*. The reason is at the end of $log"
  fi
}

# An engine elsewhere (DOCKER_HOST, a context) is as good as one here; the bare client without any engine is not.
engine_answers() { have docker && timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

missing_packages() {
  have mmdebstrap || echo mmdebstrap               # builds the twin and the CPU base of the bench image
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
  have ssh && have ssh-keygen || echo openssh-client # the twin is reached over SSH
  have gcc || echo gcc                             # the twin's fake NVML is a small C library
  [ -e /usr/include/stdio.h ] || echo libc6-dev
  have ip || echo iproute2
  have curl || echo curl                           # `make pin`, and the independent checks
  have file || echo file
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  find_python >/dev/null && { "$(find_python)" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv; }
  if ! engine_answers; then
    have dockerd || echo docker.io
    have iptables || echo iptables
    # Debian 13 ships the client as a package of its own, which docker.io merely recommends.
    if ! have docker && have apt-cache && apt-cache show docker-cli >/dev/null 2>&1; then echo docker-cli; fi
  fi
}

# --- Python ----------------------------------------------------------------------------------------------------------

# ansible-core 2.19 runs on 3.11 to 3.13. A name on PATH may be a shim without a Python behind it, so each is tried.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

make_venv() {
  local python stamp wanted
  stamp=.venv/.setup-stamp
  wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)
  if [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted $PWD" ]; then
    say ".venv is up to date"
    return 0
  fi
  if ! { [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 && grep -q " $PWD\$" "$stamp" 2>/dev/null; }; then
    python=$(find_python) || {
      install_packages python3
      python=$(find_python) || die "no Python 3.11, 3.12 or 3.13 found. Install one and put it on PATH."
    }
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
  fi
  say "installing the Python packages of pyproject.toml, extra dev (the first time takes a minute)"
  # pip warns about local package folders that lack a project; nobody can act on that here.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' \
    >build/pip.log 2>&1 </dev/null || {
    tail -n 20 build/pip.log >&2
    die "pip could not install the development environment (whole log: build/pip.log)"
  }
  echo "$wanted $PWD" >"$stamp"
}

# --- Docker ----------------------------------------------------------------------------------------------------------

start_engine() {
  if engine_answers; then
    say "Docker engine $(docker version --format '{{.Server.Version}}') answers"
    return 0
  fi
  have docker || die "the docker client is missing. On Debian: apt-get install docker.io docker-cli"
  if [ -S /var/run/docker.sock ] && ! [ -w /var/run/docker.sock ]; then
    die "no permission for /var/run/docker.sock. As root: usermod -aG docker $(id -un), then log in again."
  fi
  if [ -d /run/systemd/system ]; then
    say "starting the Docker engine (systemctl start docker)"
    as_root systemctl start docker || die "systemctl start docker failed: see journalctl -u docker"
  else
    have dockerd || die "no Docker engine answers and dockerd is not installed. On Debian: apt-get install docker.io"
    # A Unix session of its own: the engine outlives this script and the terminal, as under an init system.
    say "no init system here: starting dockerd in its own Unix session (log: build/dockerd.log)"
    as_root true || die "starting dockerd needs root"
    as_root setsid --fork dockerd >build/dockerd.log 2>&1 </dev/null
  fi
  local i
  for ((i = 0; i < 120; i++)); do
    if engine_answers; then
      say "Docker engine $(docker version --format '{{.Server.Version}}') answers"
      return 0
    fi
    sleep 0.5
  done
  [ -f build/dockerd.log ] && tail -n 15 build/dockerd.log >&2
  die "the Docker engine did not answer within 60 s (log: build/dockerd.log or journalctl -u docker)"
}

# --- Browser ---------------------------------------------------------------------------------------------------------

have_browser() { [ -n "${TRIAL_BROWSER:-}" ] || have chromium || have chromium-browser || have google-chrome; }

mkdir -p build
if [ "$what" = --which ]; then
  find_python || {
    install_packages python3 >&2
    find_python || die "no Python 3.11, 3.12 or 3.13 found. Install one and put it on PATH."
  }
  exit 0
fi
if [ "$what" = --browser ] && ! have_browser; then
  install_packages chromium fonts-dejavu-core
fi
if [ "$what" = all ] || [ "$what" = --system ]; then
  # Twice: whether docker-cli is a package of its own is known only once the package lists have been fetched.
  for _ in 1 2; do
    mapfile -t missing < <(missing_packages)
    install_packages "${missing[@]}"
  done
  start_engine
fi
if [ "$what" != --system ]; then
  make_venv
fi
say "ready"
