"""Build the CPU base image: Debian trixie (minbase) with llama-server from forky, and nothing else.

The image is made by ``mmdebstrap`` and ``docker import``, so no image registry is needed. Its name is
``edgelab/cpu-base:<tag>``, and the tag is computed from this recipe: the same recipe is never built twice, a
changed one never hides behind an old name. ``--plain`` builds ``edgelab/debian-base:<tag>``, without llama-server.

The mirror is one that this machine's own apt already uses, and only if it calls itself Debian: other sources may
sit beside Debian's. The image keeps working apt sources (trixie, and forky at priority 100), so that a Containerfile
can ``apt-get update && apt-get install python3`` on top of it.

Prints progress on stderr and, as its last act, the image's name on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

REPOSITORY = "edgelab/cpu-base"
PLAIN_REPOSITORY = "edgelab/debian-base"
RELEASE = "trixie"
# llama.cpp is not in trixie. The rest of forky is not wanted: its systemd does not boot where the host has cgroup v1.
TOOLS_RELEASE = "forky"
TOOLS = "llama.cpp-tools"
KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Documentation and translations are no use in an image; the copyright files are kept, as licenses ask.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bash-completion/*",
)
# A mirror can lag behind the clock of this machine: stale metadata is still signed metadata.
APT_OPTIONS = (
    'Acquire::Check-Valid-Until "false"',
    'Acquire::Languages "none"',
    'APT::Install-Recommends "false"',
)
# Runs outside the chroot with its path in $1 and the mirror in $MIRROR.
HOOK = f"""set -eu
root=$1
cat > "$root/etc/apt/sources.list.d/{TOOLS_RELEASE}.list" <<END
deb [signed-by={KEYRING}] $MIRROR {TOOLS_RELEASE} main
END
cat > "$root/etc/apt/preferences.d/{TOOLS_RELEASE}" <<END
Package: *
Pin: release n={TOOLS_RELEASE}
Pin-Priority: 100
END
chroot "$root" apt-get -qq update
chroot "$root" apt-get -qq -y -t {TOOLS_RELEASE} install --no-install-recommends {TOOLS}
chroot "$root" llama-server --version
if chroot "$root" sh -c 'command -v python3'; then echo "python3 must not be in this image" >&2; exit 1; fi
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt
"""


PLAIN_HOOK = """set -eu
root=$1
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt
"""


class BuildError(Exception):
    """The image can't be built; the text says why and what to do."""


def say(text: str) -> None:
    print(f"[cpu-base] {text}", file=sys.stderr, flush=True)


def recipe_tag(plain: bool = False) -> str:
    """Return the image tag: 12 hexadecimal digits of the SHA-256 of everything that decides the image's content."""
    own = (PLAIN_HOOK,) if plain else (HOOK,)
    recipe = "\0".join((RELEASE, TOOLS_RELEASE, TOOLS, str(KEYRING), *DPKG_OPTIONS, *APT_OPTIONS, *own))
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def image_name(plain: bool = False) -> str:
    return f"{PLAIN_REPOSITORY if plain else REPOSITORY}:{recipe_tag(plain)}"


def image_exists(name: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0


def candidate_mirrors(index_targets: str) -> list[str]:
    """Return the archive addresses of ``apt-get indextargets`` output, each once, in the order of apt's sources.

    Args:
        index_targets: lines ``URI|ORIGIN`` as printed with ``--format '$(REPO_URI)|$(ORIGIN)'``. The origin is
            empty when apt has not fetched the lists yet.
    """
    mirrors: list[str] = []
    for line in index_targets.splitlines():
        uri, _bar, origin = line.partition("|")
        # "copy:" and "file:" archives would not be reachable from inside an image.
        if urllib.parse.urlsplit(uri).scheme in {"http", "https"} and origin.strip() in {"", "Debian"}:
            uri = uri.rstrip("/")
            if uri not in mirrors:
                mirrors.append(uri)
    return mirrors


def is_debian_archive(mirror: str) -> bool:
    """Tell whether the mirror carries both releases and calls itself Debian (asked with apt's own settings)."""
    with tempfile.TemporaryDirectory() as folder:
        for release in (RELEASE, TOOLS_RELEASE):
            target = pathlib.Path(folder, release)
            url = f"{mirror}/dists/{release}/InRelease"
            helper = ["/usr/lib/apt/apt-helper", "download-file", url, str(target)]
            if subprocess.run(helper, capture_output=True, check=False).returncode != 0:
                return False
            head = target.read_text(errors="replace")[:2000].splitlines()
            if "Origin: Debian" not in head or f"Codename: {release}" not in head:
                return False
    return True


def find_mirror() -> str:
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    mirrors = candidate_mirrors(listing.stdout)
    for mirror in mirrors:
        if is_debian_archive(mirror):
            return mirror
    raise BuildError(
        f"expected an apt source of this machine that carries Debian {RELEASE} and {TOOLS_RELEASE}; "
        f"looked at {mirrors or 'none'}. Add a full Debian mirror to /etc/apt/sources.list.d and run apt-get update."
    )


def build(name: str, plain: bool = False) -> None:
    for tool in ("mmdebstrap", "docker"):
        if shutil.which(tool) is None:
            raise BuildError(f"expected the program {tool}, not found. `make setup` installs it.")
    if not KEYRING.exists():
        raise BuildError(f"expected {KEYRING}. Install the package debian-archive-keyring.")
    mirror = find_mirror()
    say(f"building {name} from {mirror}")
    options = [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    options += [f"--aptopt={option}" for option in APT_OPTIONS]
    if mirror.startswith("https:"):
        options.append("--include=ca-certificates")
    with tempfile.TemporaryDirectory(prefix="cpu-base-") as folder:
        hook = pathlib.Path(folder, "hook.sh")
        hook.write_text(f"MIRROR={mirror}\n{PLAIN_HOOK if plain else HOOK}")
        source = f"deb [signed-by={KEYRING}] {mirror} {RELEASE} main"
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", *options]
        command += [f'--customize-hook=sh {hook} "$1"', RELEASE, "-", source]
        log = pathlib.Path(folder, "mmdebstrap.log")
        with log.open("wb") as errors:
            bootstrap = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=None)
            changes = ["--change", f"LABEL edgelab.model_trial.recipe={recipe_tag(plain)}", "--change", 'CMD ["bash"]']
            imported = subprocess.run(
                ["docker", "import", *changes, "-", f"{name}-part"],
                stdin=bootstrap.stdout,
                capture_output=True,
                text=True,
                check=False,
            )
            if bootstrap.stdout is not None:
                bootstrap.stdout.close()
            status = bootstrap.wait()
        if status != 0:
            with contextlib.suppress(OSError):
                sys.stderr.write("\n".join(log.read_text(errors="replace").splitlines()[-40:]) + "\n")
            subprocess.run(["docker", "rmi", f"{name}-part"], capture_output=True, check=False)
            raise BuildError(f"mmdebstrap ended with {status}; its last lines are above.")
        if imported.returncode != 0:
            raise BuildError(f"docker import failed: {imported.stderr.strip()}")
    # The name appears only when the content is complete: a half image must never look finished.
    subprocess.run(["docker", "tag", f"{name}-part", name], check=True)
    subprocess.run(["docker", "rmi", f"{name}-part"], capture_output=True, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the CPU base image (Debian trixie + llama-server).")
    parser.add_argument("--print-name", action="store_true", help="print the image's name and build nothing")
    parser.add_argument("--plain", action="store_true", help="Debian alone, without llama-server")
    parser.add_argument("--force", action="store_true", help="build even if the image exists")
    arguments = parser.parse_args()
    name = image_name(arguments.plain)
    try:
        if not arguments.print_name and (arguments.force or not image_exists(name)):
            started = time.monotonic()
            build(name, arguments.plain)
            say(f"built {name} in {time.monotonic() - started:.0f} s")
    except BuildError as error:
        say(f"error: {error}")
        return 1
    print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
