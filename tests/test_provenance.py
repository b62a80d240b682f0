"""A run's provenance says how it was made, says nothing about who made it, and costs next to nothing."""

import getpass
import json
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from rlsys import provenance as module
from rlsys.provenance import git_diff, provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one commit, as the working directory."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "src").mkdir()
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Neither the working directory nor the package is in a checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))


def test_it_has_versions_machine_and_time():
    facts = provenance()
    assert json.loads(json.dumps(facts)) == facts
    assert abs((datetime.now(UTC) - datetime.fromisoformat(facts["time"])).total_seconds()) < 10
    assert facts["python"].endswith(platform.python_version())
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["packages"]["torch"]
    assert facts["cpu"]
    assert 1 <= facts["usable_cores"] <= facts["cores"]
    assert 0.1 < facts["memory_gib"] < 1e5


def test_it_takes_less_than_a_tenth_of_a_second():
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        provenance()
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.1


def test_it_names_neither_user_nor_host_nor_any_environment_variable(monkeypatch):
    monkeypatch.setenv("RLSYS_API_TOKEN", "hunter2-secret")
    text = json.dumps(provenance())
    assert "hunter2" not in text
    assert "RLSYS_API_TOKEN" not in text
    assert f'"{getpass.getuser()}"' not in text
    assert f'"{platform.node()}"' not in text


def test_a_clean_checkout_has_a_commit_and_no_diff(repository, monkeypatch):
    head = git(repository, "rev-parse", "HEAD")
    assert provenance()["git"] == {"commit": head, "dirty": False}
    assert git_diff() == ""
    monkeypatch.chdir(repository / "src")  # from any folder inside
    assert provenance()["git"]["commit"] == head


def test_an_edit_makes_it_dirty_and_is_in_the_diff(repository):
    (repository / "a.py").write_text("x = 2 # é\n")
    assert provenance()["git"]["dirty"] is True
    assert "-x = 1\n+x = 2 # é\n" in git_diff()


def test_a_new_file_makes_it_dirty(repository):
    (repository / "new.py").write_text("")
    assert provenance()["git"]["dirty"] is True
    assert git_diff() == ""


def test_ignored_files_do_not_make_it_dirty(repository):
    (repository / ".git" / "info" / "exclude").write_text("runs/\n")
    (repository / "runs").mkdir()
    (repository / "runs" / "x").write_text("")
    assert provenance()["git"]["dirty"] is False


def test_a_repository_without_a_commit_has_none(repository):
    shutil.rmtree(repository / ".git")
    git(repository, "init", "-q")
    assert provenance()["git"] == {"commit": None, "dirty": True}
    assert git_diff() is None


def test_a_huge_diff_is_cut(repository, monkeypatch):
    monkeypatch.setattr(module, "MAX_DIFF_CHARACTERS", 100)
    (repository / "a.py").write_text("y = 2\n" * 1000)
    diff = git_diff()
    assert len(diff) < 200
    assert diff.endswith("characters in all]\n")


def test_outside_a_checkout_there_is_no_commit(nowhere):
    assert provenance()["git"] is None
    assert git_diff() is None


def test_without_git_there_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    assert provenance()["git"] is None
    assert git_diff() is None


def test_a_broken_checkout_is_no_error(repository):
    (repository / ".git" / "HEAD").write_text("nonsense")
    assert provenance()["git"] is None
    assert git_diff() is None


def test_a_working_directory_that_is_gone_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert provenance()["git"] is None


def test_a_repository_cannot_make_it_run_a_program(repository):
    marker = repository / ".git" / "executed"
    for key in ("core.fsmonitor", "diff.external", "diff.x.textconv"):
        git(repository, "config", key, f"touch {marker};")
    (repository / ".git" / "info" / "attributes").write_text("*.py diff=x\n")
    (repository / "a.py").write_text("x = 3\n")
    assert provenance()["git"]["dirty"] is True
    assert "+x = 3" in git_diff()
    assert not marker.exists()


def test_gpus_are_named_if_torch_is_loaded(monkeypatch):
    cuda = SimpleNamespace(device_count=lambda: 2, get_device_name=lambda i: f"GPU {i}")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert provenance()["gpus"] == ["GPU 0", "GPU 1"]


def test_it_does_not_load_torch():
    check = "import sys, rlsys.provenance as p; assert p.provenance()['gpus'] is None and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True)
