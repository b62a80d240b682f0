"""Whatever happens to a save, the newest checkpoint that verifies is one that was saved, to the bit."""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsys import checkpoint
from rlsys.checkpoint import CheckpointError, NonFiniteError, load, mark_best, newest, resolve, save, verify

ALL_FILES = (*checkpoint.FILES, checkpoint.MANIFEST)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    """Here only the order of the fsyncs matters: thousands of real ones take a minute on a busy disk."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def state_of(step):
    """A small state that is different for every step."""
    return {
        "policy": {
            "network": {"0.weight": torch.full((2, 3), float(step)), "0.bias": torch.zeros(3)},
            "rule": "argmax",
        },
        "agent": {"optimizer": {"lr": 3e-4, "m": torch.ones(2, 3)}, "steps": step, "betas": [0.9, 0.999]},
        "env": {"states": np.arange(4, dtype=np.uint8)},
    }


def assert_same(left, right):
    """Equal in type, shape, dtype and bits, NaN included."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (left, right)]
        assert torch.equal(*as_bytes)
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    elif isinstance(left, float):
        assert struct.pack("d", left) == struct.pack("d", right)
    else:
        assert left == right


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def reseal(path, **content):
    """Forge a checkpoint: replace files (by stem), and make the manifest agree with them."""
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    del manifest["sha256"]
    for stem, data in content.items():
        name = next(name for name in checkpoint.FILES if name.startswith(stem))
        (path / name).write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / checkpoint.MANIFEST).write_bytes(checkpoint._sealed(manifest))


# -- what goes in comes out --------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
numpy_dtypes = [d for d in checkpoint.DTYPES if d != "bfloat16"]


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    is_tensor = draw(st.booleans())
    dtype = np.dtype(draw(st.sampled_from(numpy_dtypes)))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    array = np.frombuffer(bytearray(raw), dtype).reshape(shape)
    if dtype.kind == "b":
        array = np.asarray(array.view(np.uint8) > 127)
    if is_tensor:
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if dtype == np.float16 and draw(st.booleans()) else tensor
    return array


keys = st.text(st.characters(exclude_characters="/$", exclude_categories=("C", "Z")), min_size=1, max_size=5)
leaves = scalars | arrays() | st.lists(scalars, max_size=3)
nodes = st.recursive(leaves, lambda node: st.dictionaries(keys, node, max_size=3), max_leaves=6)
trees = st.dictionaries(keys, nodes, max_size=4)


@settings(max_examples=150, deadline=None)
@given(trees)
def test_every_tree_comes_back_to_the_bit(tree):
    with tempfile.TemporaryDirectory() as folder:
        assert_same(load(save(Path(folder), 1, tree)), tree)


@pytest.mark.parametrize("dtype", checkpoint.DTYPES)
def test_every_dtype_comes_back_as_itself(folder, dtype):
    tensor = torch.tensor([[0, 1], [1, 0]]).to(getattr(torch, dtype))
    state = {"agent": {"tensor": tensor}}
    if dtype != "bfloat16":
        state["agent"]["array"] = tensor.numpy()
    assert_same(load(save(folder, 1, state)), state)


def test_floats_come_back_to_the_bit(folder):
    payload_nan = struct.unpack("d", struct.pack("Q", 0xFFF8_0000_0000_1234))[0]
    floats = [0.1, -0.0, 5e-324, 1.7976931348623157e308, float("inf"), -float("inf"), float("nan"), payload_nan]
    assert_same(load(save(folder, 1, {"floats": floats, "one": floats[-1]})), {"floats": floats, "one": floats[-1]})


def test_views_shared_storage_and_gradients_are_saved_by_value(folder):
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(base.clone())
    frozen = np.arange(6).reshape(2, 3)
    frozen.flags.writeable = False
    state = {"policy": {"a": base, "b": base, "t": base.T, "column": base[:, 1], "p": parameter}, "x": frozen.T}
    loaded = load(save(folder, 1, state))
    assert torch.equal(loaded["policy"]["t"], base.T)
    assert torch.equal(loaded["policy"]["column"], torch.tensor([1.0, 5.0, 9.0]))
    assert type(loaded["policy"]["p"]) is torch.Tensor
    assert not loaded["policy"]["p"].requires_grad
    np.testing.assert_array_equal(loaded["x"], frozen.T)
    loaded["policy"]["a"] += 1  # loaded arrays are the caller's own
    loaded["x"][:] = 0
    assert torch.equal(loaded["policy"]["b"], base)


def test_tensors_are_loaded_onto_the_device_that_is_asked_for(folder):
    path = save(folder, 1, state_of(1))
    loaded = load(path, device="meta")
    assert loaded["policy"]["network"]["0.weight"].device.type == "meta"
    assert isinstance(loaded["env"]["states"], np.ndarray)


def test_the_policy_is_an_ordinary_safetensors_file(folder):
    path = save(folder, 1, state_of(7))
    policy = safetensors.torch.load_file(path / "policy.safetensors")
    assert sorted(policy) == ["policy/network/0.bias", "policy/network/0.weight"]
    assert torch.equal(policy["policy/network/0.weight"], torch.full((2, 3), 7.0))
    assert sorted(safetensors.torch.load_file(path / "agent.safetensors")) == ["agent/optimizer/m", "env/states"]


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        ((1, 2), "builtins.tuple"),
        ({1}, "builtins.set"),
        (b"raw", "builtins.bytes"),
        (1j, "builtins.complex"),
        (np.float64(1), "numpy.float64"),
        (np.array(["text"]), "numpy.ndarray and dtype <U4"),
        (np.array([None]), "numpy.ndarray and dtype object"),
        (np.zeros(2, ">f4"), "numpy.ndarray and dtype >f4"),
        (np.zeros(2, [("x", "f4")]), "numpy.ndarray and dtype"),
        (np.zeros(2, "datetime64[s]"), "numpy.ndarray and dtype datetime64"),
        (np.zeros(2, "f4").view(np.recarray), "numpy.rec.recarray and dtype"),
        (torch.zeros(2, dtype=torch.complex64), "torch.Tensor and dtype torch.complex64"),
        (torch.zeros(2, device="meta"), "torch.Tensor"),
        (torch.eye(2).to_sparse(), "torch.Tensor"),
        (torch.float32, "torch.dtype"),
        (print, "builtins.builtin_function_or_method"),
    ],
)
def test_a_leaf_of_another_type_is_refused_by_its_path(folder, leaf, kind):
    with pytest.raises(TypeError, match=f"^agent/optimizer/foo has type {kind}"):
        save(folder, 1, {"agent": {"optimizer": {"foo": leaf}}})
    assert not folder.exists()


def test_lists_hold_scalars_only(folder):
    with pytest.raises(TypeError, match=r"^agent/x/1 has type builtins.list"):
        save(folder, 1, {"agent": {"x": [1, [2]]}})
    with pytest.raises(TypeError, match=r"^agent/x/0 has type torch.Tensor"):
        save(folder, 1, {"agent": {"x": [torch.zeros(1)]}})


def test_keys_are_plain_names(folder):
    with pytest.raises(TypeError, match=r"^agent/state has a key 0 of type int"):
        save(folder, 1, {"agent": {"state": {0: 1}}})
    for key in ("", "a/b", "$", "a\n", "\ud800", "__metadata__"):
        with pytest.raises(ValueError, match=r"^agent has a key"):
            save(folder, 1, {"agent": {key: 1}})


@pytest.mark.parametrize("step", [-1, 10**12, 1.0, True, np.int64(3)])
def test_a_step_is_an_integer_of_at_most_twelve_digits(folder, step):
    with pytest.raises(ValueError, match="step="):
        save(folder, step, {})


def test_keeping_none_is_refused(folder):
    with pytest.raises(ValueError, match="keep=0"):
        save(folder, 1, {}, keep=0)


def test_a_run_folder_that_has_vanished_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "gone" / "checkpoints", 1, {})


# -- a policy that has diverged never becomes a checkpoint -------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_policy_that_is_not_finite_is_refused_by_name(folder, bad, dtype):
    save(folder, 1, state_of(1))
    state = state_of(2)
    state["policy"]["network"]["0.weight"] = torch.tensor([1.0, bad]).to(getattr(torch, dtype))
    with pytest.raises(NonFiniteError, match=r"^policy/network/0.weight is not finite at step 2"):
        save(folder, 2, state)
    assert names(folder) == ["last", "step_000000000001"]
    assert_same(load(folder / "last"), state_of(1))


def test_a_numpy_array_of_the_policy_must_be_finite_too(folder):
    with pytest.raises(NonFiniteError, match=r"^policy/mean "):
        save(folder, 1, {"policy": {"mean": np.array([0.0, np.nan])}})


def test_what_is_not_the_policy_may_be_infinite(folder):
    inf, nan = float("inf"), float("nan")
    state = {"agent": {"best": -inf, "seen": torch.tensor([inf])}, "policy_target": torch.tensor(nan)}
    assert_same(load(save(folder, 1, state)), state)


# -- pointers, pruning -------------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(folder):
    for step in (10, 20, 30, 40, 50):
        save(folder, step, state_of(step), keep=2)
        if step == 10:
            mark_best(folder, 10)
    assert names(folder) == ["best", "last", "step_000000000010", "step_000000000040", "step_000000000050"]
    assert os.readlink(folder / "last") == "step_000000000050"  # relative: a run folder can be moved
    assert_same(load(folder / "best"), state_of(10))
    mark_best(folder, 50)
    save(folder, 60, state_of(60), keep=2)
    assert names(folder) == ["best", "last", "step_000000000050", "step_000000000060"]


def test_the_one_just_written_is_never_pruned(folder):
    for step in (5, 6, 7, 1):
        save(folder, step, state_of(step), keep=1)
    assert names(folder) == ["last", "step_000000000001", "step_000000000007"]
    assert_same(load(folder / "last"), state_of(1))


def test_a_valid_checkpoint_of_the_same_step_is_kept_as_it_is(folder):
    first = save(folder, 1, state_of(1))
    inode = first.stat().st_ino
    assert save(folder, 1, state_of(2)) == first
    assert first.stat().st_ino == inode
    assert_same(load(first), state_of(1))


@pytest.mark.parametrize("damage", ["truncated", "empty folder", "a file", "a dangling link"])
def test_a_damaged_checkpoint_of_the_same_step_is_replaced(folder, damage):
    path = save(folder, 1, state_of(1))
    if damage == "truncated":
        (path / "state.json").write_bytes(b"")
    else:
        shutil.rmtree(path)
        if damage == "empty folder":
            path.mkdir()
        elif damage == "a file":
            path.write_bytes(b"x")
        else:
            path.symlink_to("nowhere")
    save(folder, 1, state_of(2))
    assert_same(load(path), state_of(2))
    assert names(folder) == ["last", "step_000000000001"]


def test_best_must_exist(folder):
    save(folder, 1, {})
    with pytest.raises(CheckpointError, match="step_000000000002: there is no such checkpoint"):
        mark_best(folder, 2)


def test_leftovers_of_dead_writers_are_removed_and_nothing_else(folder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder.mkdir()
    mine = f".step_000000000001.{os.getpid()}-00000000"
    stale = [f".step_000000000001.{dead.pid}-0123abcd", f".step_000000000002.{2**70}-0123abcd", mine]
    others = [f".step_000000000003.{os.getppid()}-0123abcd", ".notes", "step_7", "step_000000000009.bak"]
    for name in stale + others:
        (folder / name).mkdir()
        (folder / name / "half").write_bytes(b"x")
    (folder / f".last.{dead.pid}-0123abcd").symlink_to("step_000000000001")
    save(folder, 10, {})
    assert names(folder) == sorted([*others, "last", "step_000000000010"])


def test_without_links_pointers_are_files(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    for step in (1, 2, 3):
        save(folder, step, state_of(step), keep=1)
        if step == 1:
            mark_best(folder, 1)
    assert (folder / "last").read_text() == "step_000000000003"
    assert names(folder) == ["best", "last", "step_000000000001", "step_000000000003"]
    assert_same(load(folder / "best"), state_of(1))
    assert resolve(folder.parent, "last") == folder / "step_000000000003"


def test_a_copy_that_followed_the_links_can_be_gone_on_with(folder):
    save(folder, 1, state_of(1))
    shutil.copytree(folder, folder.parent / "copy", symlinks=False)
    copy = folder.parent / "copy"
    assert not (copy / "last").is_symlink()
    assert_same(load(copy / "last"), state_of(1))
    save(copy, 2, state_of(2))
    assert_same(load(copy / "last"), state_of(2))


def test_resolve_falls_back_from_best_to_last_to_newest(folder):
    run = folder.parent
    with pytest.raises(CheckpointError, match="there are no checkpoints"):
        resolve(run)
    for step in (1, 2, 3):
        save(folder, step, state_of(step))
    mark_best(folder, 1)
    assert resolve(run) == resolve(run, "best") == folder / "step_000000000001"
    shutil.rmtree(folder / "step_000000000001")  # best dangles
    assert resolve(run) == resolve(run, "last") == folder / "step_000000000003"
    (folder / "last").unlink()
    assert resolve(run) == folder / "step_000000000003"
    (folder / "step_000000000003" / "state.json").unlink()
    assert resolve(run) == folder / "step_000000000002"
    assert resolve(run, "step_2") == resolve(run, "step_000000000002") == folder / "step_000000000002"
    with pytest.raises(CheckpointError, match="There are: step_000000000002, step_000000000003"):
        resolve(run, "step_9")
    with pytest.raises(ValueError, match="which='first'"):
        resolve(run, "first")


def test_a_damaged_best_is_not_passed_over(folder):
    for step in (1, 2):
        save(folder, step, state_of(step))
    mark_best(folder, 1)
    (folder / "step_000000000001" / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"step_000000000001: state.json has 2 bytes instead of"):
        load(resolve(folder.parent, "best"))


# -- damage is found ---------------------------------------------------------------------------------------------------


def assert_rejected(path, reason):
    for function in (verify, load):
        with pytest.raises(CheckpointError, match=reason) as info:
            function(path)
        assert str(info.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_flipped_bit_is_found(folder, name):
    path = save(folder, 1, state_of(1))
    file, rng = path / name, random.Random(0)
    whole = file.read_bytes()
    for i in range(len(whole)):
        for bit in range(8) if name == checkpoint.MANIFEST else [rng.randrange(8)]:
            damaged = bytearray(whole)
            damaged[i] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                verify(path)
    with pytest.raises(CheckpointError, match=name):
        load(path)
    file.write_bytes(whole)
    assert_same(load(path), state_of(1))


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_truncation_is_found(folder, name):
    path = save(folder, 1, state_of(1))
    whole = (path / name).read_bytes()
    for size in range(len(whole)):
        (path / name).write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=name):
            verify(path)
    (path / name).write_bytes(whole + b"\n")
    assert_rejected(path, name)


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file_is_named(folder, name):
    path = save(folder, 1, state_of(1))
    (path / name).unlink()
    assert_rejected(path, f"{name} is missing")


def test_a_file_too_many_is_named(folder):
    path = save(folder, 1, state_of(1))
    (path / "extra.pkl").write_bytes(b"")
    assert_rejected(path, "extra.pkl does not belong here")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_regular_files_are_opened(folder, kind):
    path = save(folder, 1, state_of(1))
    file = path / "state.json"
    file.rename(folder / "elsewhere.json")
    if kind == "link":
        file.symlink_to(folder / "elsewhere.json")
    elif kind == "pipe":
        os.mkfifo(file)  # reading it would wait for ever
    else:
        file.mkdir()
    assert_rejected(path, "state.json is not a regular file")


def test_a_newer_format_is_called_so(folder):
    path = save(folder, 1, state_of(1))
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    (path / checkpoint.MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    (path / "novelty.bin").write_bytes(b"x")
    assert_rejected(path, "has format 2; this rlsys reads formats up to 1")


def test_a_checkpoint_under_the_name_of_another_step_is_found(folder):
    path = save(folder, 1, state_of(1))
    moved = path.rename(folder / "step_000000000002")
    assert_rejected(moved, "MANIFEST.json is of step 1")
    assert_same(load(moved.rename(folder / "my-favourite")), state_of(1))  # any other name is fine


def test_what_is_not_there_is_called_so(folder):
    assert_rejected(folder / "step_000000000001", "there is no such folder")


def test_newest_passes_over_the_damaged_and_says_why(folder):
    for step in (1, 2, 3):
        save(folder, step, state_of(step))
    (folder / "step_000000000003" / "state.json").unlink()
    (folder / "step_000000000002" / "agent.safetensors").write_bytes(b"")
    path, rejected = newest(folder)
    assert path == folder / "step_000000000001"
    assert [reason.removeprefix(f"{folder}/") for reason in rejected] == [
        "step_000000000003: state.json is missing",
        "step_000000000002: agent.safetensors has 0 bytes instead of 172",
    ]


def test_when_none_verifies_all_reasons_are_given(folder):
    for step in (1, 2):
        (save(folder, step, state_of(step)) / "state.json").unlink()
    with pytest.raises(CheckpointError) as info:
        newest(folder)
    assert "none of the 2 checkpoints can be loaded" in str(info.value)
    assert str(info.value).count("state.json is missing") == 2


@pytest.mark.parametrize("made", [True, False])
def test_when_there_is_none_newest_says_so(folder, made):
    if made:
        folder.mkdir()
        (folder / ".step_000000000001.1-00000000").mkdir()
    with pytest.raises(CheckpointError, match="there are no checkpoints"):
        newest(folder)


# -- forgery: the sums agree, the content is hostile -------------------------------------------------------------------


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("place", ["policy", "agent", "state", "extra"])
def test_a_planted_pickle_is_never_executed(folder, tmp_path, place):
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb).close()
    assert marker.exists()  # the bomb is live
    marker.unlink()

    path = save(folder, 1, state_of(1))
    if place == "extra":
        (path / "data.pkl").write_bytes(bomb)
    else:
        reseal(path, **{place: bomb})
    with pytest.raises(CheckpointError):
        load(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state": b"{"}, "Expecting"),
        ({"state": b"[" * 100_000}, "recursion"),
        ({"state": b'{"x": ' + b"9" * 5000 + b"}"}, "Exceeds the limit"),
        ({"state": b'{"x": {"$": "tensor"}}'}, "agent.safetensors lacks 'x'"),
        ({"state": b'{"policy": {"$": "array"}}'}, "policy.safetensors lacks 'policy'"),
        ({"state": b'{"x": {"$": "os.system"}}'}, "non-hexadecimal"),
        ({"state": b'{"x": {"$": 5}}'}, "fromhex"),
        ({"state": b"{}"}, "state.json does not know 'agent/optimizer/m'"),
        ({"agent": b""}, "Safetensor|header"),
        ({"agent": struct.pack("<Q", 2**62) + b"{}"}, "header"),
        ({"agent": struct.pack("<Q", 2) + b"{}" + b"tail"}, "not fully covered"),
    ],
)
def test_a_forged_file_is_an_error_like_any_other(folder, content, reason):
    path = save(folder, 1, state_of(1))
    reseal(path, **content)
    verify(path)  # the sums do agree
    with pytest.raises(CheckpointError, match=reason) as info:
        load(path)
    assert str(info.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"null", b"{}", b'{"format": 1}', b"\xff\xfe", b"[" * 60_000, b" " * 70_000]
)
def test_a_forged_manifest_is_an_error_like_any_other(folder, manifest):
    path = save(folder, 1, state_of(1))
    (path / checkpoint.MANIFEST).write_bytes(manifest)
    assert_rejected(path, "MANIFEST.json")
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(manifest)
        if isinstance(body, dict):
            (path / checkpoint.MANIFEST).write_bytes(checkpoint._sealed({**body, "format": 1}))
            assert_rejected(path, "step")


# -- crashes -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: not even clean-up may run after it."""


class FailingDisk:
    """Lets `budget` file operations pass; then fails one with OSError, or (`kills`) all from there on with Killed."""

    def __init__(self, monkeypatch, budget, kills):
        self.budget, self.kills, self.has_failed = budget, kills, False
        for module, name in [(os, n) for n in ("mkdir", "rename", "replace", "symlink", "fsync", "unlink", "rmdir")]:
            monkeypatch.setattr(module, name, self.guard(getattr(module, name)))
        monkeypatch.setattr(checkpoint, "open", self.open, raising=False)

    def spend(self):
        if self.has_failed:
            if self.kills:
                raise Killed
            return
        self.budget -= 1
        if self.budget < 0:
            self.has_failed = True
            raise Killed if self.kills else OSError(errno.ENOSPC, "disk full")

    def guard(self, operation):
        def guarded(*arguments, **keywords):
            self.spend()
            return operation(*arguments, **keywords)

        return guarded

    def open(self, path, mode):
        self.spend()
        file = open(path, mode)  # noqa: SIM115
        write = file.raw.write

        class Raw:
            """The buffered file, which writes half a piece when the disk fails."""

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(_, piece, disk=self):
                try:
                    disk.spend()
                except BaseException:
                    write(bytes(piece)[: len(piece) // 2])
                    raise
                return file.write(piece)

            flush, fileno = file.flush, file.fileno

        return Raw()


@pytest.mark.parametrize("kills", [False, True], ids=["disk full", "killed"])
@pytest.mark.parametrize("damaged", [False, True], ids=["new step", "over a damaged one"])
def test_a_failure_at_any_file_operation_leaves_the_previous_or_the_new_checkpoint(tmp_path, kills, damaged):
    failures = 0
    for budget in range(1000):
        folder = tmp_path / str(budget) / "checkpoints"
        folder.parent.mkdir()
        for step in (1, 2, 3):
            save(folder, step, state_of(step), keep=3)
            if step == 1:
                mark_best(folder, 1)
        if damaged:
            (save(folder, 4, state_of(4), keep=4) / "state.json").unlink()

        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = FailingDisk(monkeypatch, budget, kills)
            with contextlib.suppress(Killed, OSError):
                save(folder, 4, state_of(4), keep=1)
        path, rejected = newest(folder)
        step = int(path.name.removeprefix("step_"))
        assert step in (3, 4)
        assert_same(load(path), state_of(step))
        assert_same(load(folder / "best"), state_of(1))
        if not damaged:
            load(folder / "last")
        assert len(rejected) <= int(damaged)  # the damaged one, if it is still there: never half of a new one

        save(folder, 4, state_of(4), keep=1)  # and all is well again
        assert names(folder) == ["best", "last", "step_000000000001", "step_000000000004"]
        assert_same(load(folder / "last"), state_of(4))
        if not disk.has_failed:
            break
        failures += 1
    assert failures > 25  # every operation had its turn


def test_everything_is_on_the_disk_before_it_gets_its_name_and_before_anything_is_deleted(folder, monkeypatch):
    save(folder, 1, state_of(1))
    events = []
    fsync, rename, replace = os.fsync, os.rename, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_ino), fsync(fd))[1])

    def rename_and_note(source, target):
        events.append("deleted" if target.name.startswith(".") else target.name)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_and_note)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(b.name), replace(a, b)))
    path = save(folder, 2, state_of(2), keep=1)
    inode = {name: (path / name).stat().st_ino for name in ALL_FILES}  # a rename keeps it
    expected = [inode[name] for name in ALL_FILES]
    expected += [
        path.stat().st_ino,
        "step_000000000002",
        folder.stat().st_ino,
    ]  # the folder, its name, the name's folder
    assert events == [*expected, "last", folder.stat().st_ino, "deleted"]


KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from rlsys import checkpoint

folder, rng, last, killed_inside = Path(sys.argv[1]), random.Random(int(sys.argv[2])), 1, 0
begun = time.perf_counter()
checkpoint.save(folder, 1, {"policy": {"w": torch.full((20_000,), 1.0)}, "step": 1})
seconds = time.perf_counter() - begun  # a save takes so long here and now
for _ in range(25):
    child = os.fork()
    if child == 0:
        step = last
        while True:
            step += 1
            checkpoint.save(folder, step, {"policy": {"w": torch.full((20_000,), float(step))}, "step": step}, keep=2)
    time.sleep(rng.uniform(0, 3 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed_inside += any(folder.glob(".*"))
    path, rejected = checkpoint.newest(folder)
    state = checkpoint.load(path)
    assert not rejected, rejected
    assert (state["policy"]["w"] == state["step"]).all() and state["step"] >= last
    last = state["step"]
checkpoint.save(folder, last + 1, {}, keep=2)
assert not any(folder.glob(".*")), list(folder.glob(".*"))
print(last, killed_inside)
"""


def test_kills_at_random_times_lose_nothing(folder):
    done = subprocess.run([sys.executable, "-c", KILL_LOOP, folder, "1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    steps, killed_inside = map(int, done.stdout.split())
    assert steps > 3  # saves did succeed
    assert killed_inside > 3  # and kills did hit others
