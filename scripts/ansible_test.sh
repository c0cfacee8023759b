#!/usr/bin/env bash
# Test what ships: build the collection, install the tarball under build/collections, and run ansible-test's sanity and
# unit tests inside the installed copy. Works without a network once the packages of those tests are in pip's reach.
#
#   scripts/ansible_test.sh [sanity|units]...     default: both
#
# MT_PROFILE=short, as in `make test`, leaves pylint of the shipped unit tests to `make prove`: half of sanity's time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
PATH=$root/.venv/bin:$PATH
export PATH
[ "$#" -gt 0 ] || set -- sanity units

# ansible-test keeps its caches and virtual environments under ~/.ansible/test: ours live in build/. pip's own settings
# are looked up under the same HOME, so the user's are named before it changes.
pip_settings=${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf
[ -f "$pip_settings" ] || pip_settings=$HOME/.pip/pip.conf
if [ -f "$pip_settings" ]; then export PIP_CONFIG_FILE=${PIP_CONFIG_FILE:-$pip_settings}; fi
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}
export HOME=$root/build/home
mkdir -p "$HOME/.ansible/test/cache" build/dist

# ansible-test downloads a get-pip script for each virtual environment it makes. Python brings a pip of its own, so this
# stand-in uses that one, whatever version was asked for, and installs what else is named.
# (24.2 is the version that ansible-core 2.19 asks for.)
cat >"$HOME/.ansible/test/cache/get_pip_24_2.py" <<'PY'
import subprocess
import sys

subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], stdout=subprocess.DEVNULL)
options = [a for a in sys.argv[1:] if a.startswith("-") and a not in ("--no-setuptools", "--no-wheel")]
packages = [a for a in sys.argv[1:] if not a.startswith("-") and not a.startswith("pip==")]
if packages:
    subprocess.check_call([sys.executable, "-m", "pip", "install", *options, *packages])
PY

rm -rf build/collections build/dist/*.tar.gz
ansible-galaxy collection build --force --output-path build/dist >/dev/null
# Never without -p: it would land in the checkout's own collections path and replace its links.
ansible-galaxy collection install --offline --no-deps --force -p build/collections build/dist/edgelab-model_trial-*.tar.gz >/dev/null
installed=$root/build/collections/ansible_collections/edgelab/model_trial
echo "installed $(basename build/dist/*.tar.gz): $(find "$installed" -type f | wc -l) files"

# ansible-test asks the nearest git repository which files there are, and the checkout's would answer "none: build/ is
# ignored". An empty repository of the copy's own makes every installed file count.
git -C "$installed" init --quiet

# Inside the copy the checkout's collections path must not answer first.
unset ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH
cd "$installed"
python_version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for what in "$@"; do
  case "$what" in
    sanity)
      run=(ansible-test sanity --local --requirements --python "$python_version" --color no)
      if [ "${MT_PROFILE:-long}" = long ]; then
        "${run[@]}" </dev/null
      else
        "${run[@]}" --skip-test pylint </dev/null
        "${run[@]}" --test pylint plugins/ </dev/null
      fi
      ;;
    units) ansible-test units --local --python "$python_version" --color no tests/unit/plugins/ </dev/null ;;
    *)
      echo "usage: scripts/ansible_test.sh [sanity|units]..." >&2
      exit 2
      ;;
  esac
done
