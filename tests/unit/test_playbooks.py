"""What the playbooks refuse before they touch anything, and how they are found where the collection is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
HELPERS = {"require_hosts.yml", "require_tags.yml"}
# The name of the trial in a checkout, which no installed collection can have.
ALIAS = "benchmark-e4b.yml"
# The ground truth is no host's; the other two leave JUnit also where the inventory has no host.
ON_THE_CONTROLLER = {"ground_truth.yml", "check_host.yml", "prove_rollback.yml"}
# They leave JUnit also where a tag is asked for that no task has, so their own modules judge the tags.
JUDGED_BY_ITSELF = {"check_host.yml", "prove_rollback.yml"}
NAMES = sorted(path.name for path in PLAYBOOKS.glob("*.yml") if path.name not in {*HELPERS, ALIAS})


def plays(name: str) -> list[dict[str, Any]]:
    """The plays of a playbook."""
    found: list[dict[str, Any]] = yaml.safe_load((PLAYBOOKS / name).read_text(encoding="utf-8"))
    return found


def tags(found: Any) -> Iterator[str]:
    """Every tag that a tree of plays, blocks and tasks has; a role that is imported as a whole brings its own."""
    if isinstance(found, list):
        for one in found:
            yield from tags(one)
    elif isinstance(found, dict):
        yield from found.get("tags", [])
        for key in ("tasks", "block", "rescue", "always", "pre_tasks", "post_tasks"):
            yield from tags(found.get(key))
        for one in found.get("roles", []):
            role = one["role"].rsplit(".", 1)[-1]
            yield from tags(yaml.safe_load((ROOT / "roles" / role / "tasks" / "main.yml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(JUDGED_BY_ITSELF))
def test_a_playbook_that_leaves_junit_judges_its_tags_by_itself(name: str) -> None:
    [play] = plays(name)
    first, second = play["tasks"]
    module = f"edgelab.model_trial.{Path(name).stem}"
    # With --tags only the first is played, with --skip-tags always only the second.
    assert (first["tags"], first[module]["only_tags"]) == (["always"], True)
    assert set(tags([second])) == set()
    assert module in second
    assert {first[module].get(key) for key in ("dest", "junit")} == {
        second[module].get(key) for key in ("dest", "junit")
    }


@pytest.mark.parametrize("name", sorted(set(NAMES) - JUDGED_BY_ITSELF))
def test_each_playbook_first_names_the_tags_that_it_has(name: str) -> None:
    first = plays(name)[0]
    assert first["ansible.builtin.import_playbook"] == "require_tags.yml"
    known = first["vars"]["require_tags_known"]
    assert sorted(known) == sorted({*tags(plays(name))} - {"always", "never"})


def tool(name: str) -> str:
    """A program of the Python that runs the tests."""
    return str(Path(sys.executable).parent / name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collections path of somebody who has nothing but the tarball."""
    folder = tmp_path_factory.mktemp("installed")
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    subprocess.run([tool("ansible-galaxy"), "collection", "build", "--output-path", str(folder)], cwd=ROOT, **quiet)
    [tarball] = folder.glob("*.tar.gz")
    subprocess.run(
        [tool("ansible-galaxy"), "collection", "install", "--offline", "-p", str(folder), str(tarball)],
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(folder)},
        **quiet,
    )
    return folder


def test_the_trial_of_a_checkout_is_the_one_that_is_installed() -> None:
    [only] = plays(ALIAS)
    assert only["ansible.builtin.import_playbook"] == "benchmark_e4b.yml"
    assert set(only) == {"name", "ansible.builtin.import_playbook"}


def test_each_playbook_is_found_by_its_full_name(installed: Path, tmp_path: Path) -> None:
    """A hyphen in a name is enough that Ansible finds none."""
    names = [f"edgelab.model_trial.{Path(name).stem}" for name in NAMES]
    done = subprocess.run(
        [tool("ansible-playbook"), "--syntax-check", "-i", "localhost,", *names],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(installed)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [line.removeprefix("playbook: ") for line in done.stdout.splitlines() if line.startswith("playbook: ")]
    home = installed / "ansible_collections/edgelab/model_trial/playbooks"
    assert found == [str(home / name) for name in NAMES]
    # What holds for a checkout alone does not ship.
    assert not (home / "group_vars").exists()


def test_a_playbook_of_the_installed_collection_writes_where_it_was_started(installed: Path, tmp_path: Path) -> None:
    """The worker's program is packed first; the role then refuses a service without the hash of its binary."""
    home = installed / "ansible_collections/edgelab/model_trial"
    before = sorted(home.rglob("*"))
    done = subprocess.run(
        [
            *(tool("ansible-playbook"), "edgelab.model_trial.gemma_worker", "--check", "--limit", "here"),
            *("-i", "here,", "-c", "local", "-e", "trial_group=here"),
        ],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(installed)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "missing required arguments: gemma_cpp_binary_sha256" in in_words(done)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["build", "build/trialbench-worker"]
    assert [path for path in sorted(home.rglob("*")) if path not in before and "__pycache__" not in path.parts] == []


def in_words(done: subprocess.CompletedProcess[str]) -> str:
    """What was printed, without its line breaks."""
    return " ".join(done.stdout.split()) + done.stderr


def played(
    *words: str, program: str = "ansible-playbook", folder: Path = PLAYBOOKS
) -> subprocess.CompletedProcess[str]:
    """A run of the real Ansible from a folder, by default one of the checkout's playbooks."""
    return subprocess.run(
        [tool(program), *words],
        cwd=folder,
        env={**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("known", "options", "found"),
    [
        (["preflight", "acquire"], ["--tags", "typo"], "typo"),
        (["preflight", "acquire"], ["--tags", "preflight,measure"], "measure"),
        (["preflight", "acquire"], ["--skip-tags", "measure"], "measure"),
        (["preflight", "acquire"], ["--tags", "typo", "--limit", "two"], "typo"),
        # Molecule skips these in every play.
        ([], ["--skip-tags", "molecule-notest,notest"], ""),
        ([], ["--skip-tags", "molecule-notest,notest,molecule-idempotence-notest"], ""),
        (["preflight", "acquire"], ["--skip-tags", "all"], "all"),
        ([], ["--tags", "always"], "always"),
        # These skip whatever a task could say.
        (["preflight", "acquire"], ["--skip-tags", "always"], "always"),
        (["preflight", "acquire"], ["--tags", "preflight", "--skip-tags", "always"], "always"),
        (["preflight", "acquire"], ["--skip-tags", "tagged"], "tagged"),
        (["preflight", "acquire"], ["--skip-tags", "untagged"], "untagged"),
        ([], ["--skip-tags", "all,always"], "all, always"),
        (["preflight", "acquire"], ["--tags", "acquire", "--skip-tags", "preflight"], ""),
        ([], [], ""),
    ],
)
def test_tags_that_no_task_has_are_refused(known: list[str], options: list[str], found: str) -> None:
    """Ansible alone would do nothing, or all, and end with 0."""
    done = played("require_tags.yml", "-i", "one,two", "-e", json.dumps({"require_tags_known": known}), *options)
    assert (done.returncode != 0) is bool(found), done.stdout + done.stderr
    if found:
        words = in_words(done)
        assert ("Expected tags of acquire, preflight" if known else "Expected no tags: this playbook has none") in words
        named = words.split("found ")[1].split(".")[0]
        assert sorted(found.split(", ")) == sorted(named.split(", "))
        assert "Nothing was done." in words


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--skip-tags", "preflight"], "preflight"),
        (["--skip-tags", "acquire"], "acquire"),
        (["--tags", "all", "--skip-tags", "preflight"], "preflight"),
        (["--tags", "all,acquire", "--skip-tags", "preflight"], "preflight"),
        (["--tags", "preflight"], ""),
        (["--tags", "acquire", "--skip-tags", "preflight"], ""),
    ],
)
def test_who_plays_the_window_plays_what_comes_before_it(options: list[str], refused: str) -> None:
    parts = {"require_tags_known": ["preflight", "acquire"], "require_tags_needed": ["preflight", "acquire"]}
    done = played("require_tags.yml", "-i", "one,two", "-e", json.dumps(parts), *options)
    assert (done.returncode != 0) is bool(refused), done.stdout + done.stderr
    if refused:
        assert f"found one that is to be skipped: {refused}. To play some parts alone" in in_words(done)


def test_both_playbooks_with_a_window_need_the_parts_before_it() -> None:
    for name in NAMES:
        text = (PLAYBOOKS / name).read_text()
        if "edgelab.model_trial.window" in text:
            assert "require_tags_needed: [preflight, acquire]" in text, name


@pytest.mark.parametrize("options", [["--tags", "typo"], ["--skip-tags", "always"]])
def test_tags_that_are_refused_are_in_junit(tmp_path: Path, options: list[str]) -> None:
    place = tmp_path / "proof"
    done = played("prove_rollback.yml", "-i", "one,", "-e", f"prove_rollback_dir={place}", *options)
    assert done.returncode != 0, done.stdout + done.stderr
    assert f"expected no tags: this playbook has none, found {options[1]}" in (place / "junit.xml").read_text()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An inventory with a group of another name."""
    (tmp_path / "hosts.yml").write_text("shop: {hosts: {till: {}, scale: {}}}\noffice: {hosts: {desk: {}}}\n")
    (tmp_path / "group_vars").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("group", "options", "refused"),
    [
        ("", [], "group trial_hosts, found none. The inventory has shop (till, scale), office (desk). Name"),
        ("", ["-e", "trial_group=shop"], ""),
        # Set, but to nothing: that is not the default group.
        ("", ["-e", "trial_group={{ forgotten }}"], "'forgotten' is undefined"),
        ("shop", [], ""),
        ("shop", ["-e", "trial_group=shpo"], "in the group shpo, found none."),
        ("shop", ["--limit", "till"], ""),
        ("shop", ["--limit", "desk"], "in the group shop, found none within --limit desk."),
        ("", ["--limit", "till"], "in the group trial_hosts, found none within --limit till."),
    ],
)
def test_an_inventory_without_hosts_to_try_is_refused(shop: Path, group: str, options: list[str], refused: str) -> None:
    """Ansible alone would find no hosts, do nothing and end with 0."""
    if group:
        (shop / "group_vars" / "all.yml").write_text(f"trial_group: {group}\n")
    done = played("require_hosts.yml", "-i", str(shop), *options)
    assert (done.returncode != 0) is bool(refused), in_words(done)
    assert refused in in_words(done)


def test_each_playbook_plays_on_the_group_that_the_inventory_names(shop: Path) -> None:
    [hosts] = {plays(name)[-1]["hosts"] for name in NAMES if name not in ON_THE_CONTROLLER}
    (shop / "group_vars" / "all.yml").write_text("trial_group: shop\n")
    task = {"ansible.builtin.debug": {"msg": "tried: {{ inventory_hostname }}"}}
    # As in each of them: Ansible knows a variable of localhost only after a first play.
    first = {"ansible.builtin.import_playbook": str(PLAYBOOKS / "require_hosts.yml")}
    (shop / "play.yml").write_text(json.dumps([first, {"hosts": hosts, "gather_facts": False, "tasks": [task]}]))
    done = played(str(shop / "play.yml"), "-i", str(shop / "hosts.yml"))
    assert done.returncode == 0, in_words(done)
    assert set(re.findall(r"tried: (\w+)", done.stdout)) == {"till", "scale"}


OURS = {
    "acquire_build_dir": "build",
    "preflight_build_dir": "build",
    "trial_image_file": "build/bench-image.json",
    "ground_truth_work": "build/ground-truth",
    "gemma_cpp_program": "build/trialbench-worker",
    "gemma_cpp_results_dir": "benchmark-results/proofs",
    "verdict_results_dir": "benchmark-results",
}


@pytest.mark.parametrize(
    ("playbooks", "given", "below"),
    [
        # Of an installed collection or of a project: what is not set lies where ansible-playbook was started.
        ("installed", [], "{started}"),
        ("project", [], "{started}"),
        ("project", ["-e", "model_trial_dir=../elsewhere"], "{started}/../elsewhere"),
        ("project", ["-e", "model_trial_dir={{ inventory_dir }}/out"], "{inventory}/out"),
        # `cd playbooks && ansible-playbook ...`: what `make` built, and results beside it.
        ("checkout", [], str(ROOT)),
    ],
)
def test_what_is_built_and_measured_lies_in_a_folder_of_the_user(
    request: pytest.FixtureRequest, tmp_path: Path, playbooks: str, given: list[str], below: str
) -> None:
    started, project, inventory = (tmp_path / name for name in ("started", "project", "inventory"))
    for folder in (started, project, inventory):
        folder.mkdir()
    (inventory / "hosts.yml").write_text("trial_hosts: {hosts: {one: {}}}\n")
    places = {"project": lambda: project, "checkout": lambda: PLAYBOOKS}
    installed_at = "ansible_collections/edgelab/model_trial/playbooks"
    places["installed"] = lambda: request.getfixturevalue("installed") / installed_at
    roles = ("acquire", "preflight", "trial", "ground_truth", "gemma_cpp", "verdict")
    defaults = [word for role in roles for word in ("-e", f"@{ROOT}/roles/{role}/defaults/main.yml")]
    asked = "{{ {" + ", ".join(f"'{name}': {name}" for name in OURS) + "} | to_json }}"
    done = played(
        *("one", "-i", str(inventory), "--playbook-dir", str(places[playbooks]()), *defaults, *given),
        *("-m", "ansible.builtin.debug", "-a", f"msg={asked}"),
        program="ansible",
        folder=started,
    )
    assert done.returncode == 0, in_words(done)
    folder = Path(below.format(started=started, inventory=inventory)).resolve()
    found = json.loads(json.loads(done.stdout.partition("=>")[2])["msg"])
    assert found == {name: str(folder / path) for name, path in OURS.items()}
