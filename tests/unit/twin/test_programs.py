"""The programs that build and start the twin: their decisions, without Docker."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType

import pytest


def test_mirrors_are_debian_s_and_each_once(base: ModuleType) -> None:
    listing = "http://a/debian/|Debian\nhttp://a/debian/|Debian\nhttps://b/repo|Somebody\nhttp://c/debian/|\nfile:/m|\n"
    assert base.candidate_mirrors(listing) == ["http://a/debian", "http://c/debian"]


def test_the_tag_of_the_base_follows_its_recipe(base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = base.image_name()
    assert base.image_name() == before
    monkeypatch.setattr(base, "HOOK", base.HOOK + "true\n")
    assert base.image_name() != before


@pytest.mark.prove
def test_a_machine_without_a_debian_mirror_is_told_so(base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "is_debian_archive", lambda _: False)
    with pytest.raises(base.BuildError, match="apt source"):
        base.find_mirror()


def models(folder: Path) -> Path:
    for model in ("baseline", "candidate", "poor", "violating"):
        for kind in ("", "mmproj-"):
            (folder / f"{kind}{model}-f16.gguf").write_bytes(f"{kind}{model}".encode())
    (folder / "camera").mkdir()
    (folder / "camera" / "car-view.jpg").write_bytes(b"jpeg")
    (folder / "scenes").mkdir()
    (folder / "scenes" / "clear-01.png").write_bytes(b"png")
    (folder / "scenes" / "labels.csv").write_bytes(b"image\nclear-01.png\n")
    return folder


@pytest.fixture
def staged(twin: ModuleType, gpu_programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The context that the twin's image is built from, laid out from small files."""
    build = tmp_path / "build"
    build.mkdir()
    for name in ("id_ed25519.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
        (build / name).write_text(f"ssh-ed25519 {name} comment\n")
    monkeypatch.setattr(twin, "BUILD", build)
    monkeypatch.setattr(twin, "compile_programs", lambda folder: folder.mkdir())
    source = tmp_path / "models"
    source.mkdir()
    twin.stage(tmp_path / "context", models(source))
    return tmp_path / "context"


def test_the_context_holds_what_the_twin_is_made_of(twin: ModuleType, staged: Path) -> None:
    root = staged / "stage"
    for name in (
        "home/panda/car-view.jpg",
        "home/panda/scenes/clear-01.png",
        "home/panda/scenes/labels.csv",
        "home/panda/models/mmproj-baseline-f16.gguf",
        "home/panda/.ssh/authorized_keys",
        "home/panda/workplace/her/her-os/services/annie-voice/phone_call.py",
        "srv/hub/twin/tiny-e4b-GGUF/candidate-f16.gguf",
        "srv/hub/twin/tiny-poor-GGUF/mmproj-poor-f16.gguf",
        "usr/local/lib/twin/observer.py",
        "usr/local/lib/twin/hub.py",
    ):
        assert (root / name).is_file(), name
    assert (root / twin.CHECKOUT / "services/chatterbox/start.sh").stat().st_mode & 0o777 == 0o755
    for name in ("car-view.jpg", "scenes/clear-01.png"):
        assert (root / "home/panda" / name).stat().st_mode & 0o777 == 0o644


def test_nvfp4_is_the_candidate_with_a_footprint_of_its_own(twin: ModuleType, staged: Path) -> None:
    content = (staged / "stage/srv/hub/twin/tiny-nvfp4-GGUF/tiny-nvfp4.gguf").read_bytes()
    assert content.startswith(b"candidate")
    table = json.loads((staged / "stage/etc/twin-gpu/settings.json").read_text())["models"]
    assert table[hashlib.sha256(content).hexdigest()] == twin.NVFP4_MIB
    assert table[hashlib.sha256(b"candidate").hexdigest()] == twin.CANDIDATE_MIB
    assert table[hashlib.sha256(b"baseline").hexdigest()] == twin.BASELINE_MIB
    assert table[hashlib.sha256(b"mmproj-candidate").hexdigest()] == 0


def test_the_observer_can_read_the_settings_it_is_given(observer: ModuleType, staged: Path) -> None:
    settings = observer.Settings.load(staged / "stage/etc/twin-gpu/settings.json")
    assert settings.ramp_s >= 0.5
    assert settings.linger_s >= 0.5
    assert settings.programs["phone_call.py auto"] == 3900


def test_missing_models_are_all_named(twin: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(twin.TwinError, match=r"(?s)baseline-f16.*mmproj-violating-f16.*labels.*make_scenes"):
        twin.stage(tmp_path / "context", tmp_path)


def test_known_hosts_has_one_line_for_each_twin(twin: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    twin.update_known_hosts(path, "1000", "[127.0.0.1]:1000 key")
    twin.update_known_hosts(path, "10001", "[127.0.0.1]:10001 key")
    twin.update_known_hosts(path, "1000", "[127.0.0.1]:1000 other")
    assert path.read_text() == "[127.0.0.1]:10001 key\n[127.0.0.1]:1000 other\n"
    twin.update_known_hosts(path, "1000", None)
    assert path.read_text() == "[127.0.0.1]:10001 key\n"


def test_a_twin_s_name_is_plain(twin: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(twin.TwinError, match="no name"):
        twin.up("../x", tmp_path)
