"""Checkpoints: a tree of plain values and arrays, on disk whole or not at all.

    checkpoints/
        step_000000200000/
            policy.safetensors    the arrays under state["policy"]: all that evaluation, replay and export need
            agent.safetensors     every other array: optimiser, buffers, environments
            state.json            everything else, and the shape of the tree
            MANIFEST.json         format, step, versions, and each file's size and SHA-256; written last
        last -> step_…            hints, for people and shells: recovery believes only what verifies
        best -> step_…

A checkpoint is written into a hidden folder, each file and then the folder itself is fsynced, and one rename gives it
its name. So a crash at any moment, power loss included, leaves the older checkpoints as they were and the new one
absent or whole. Nothing valid is ever overwritten, and pruning comes last.

No file can hold code: all that is read is JSON and safetensors. The sums guard against damage, not against an author
who means harm: he can choose the numbers, and nothing else.

One process at a time may write to a folder (the run's lock sees to it). Any number may read.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from rlsys import __version__

FORMAT = 1
POLICY, AGENT, STATE, MANIFEST = "policy.safetensors", "agent.safetensors", "state.json", "MANIFEST.json"
FILES = (POLICY, AGENT, STATE)
STEP = re.compile(r"step_(\d{12})")
HIDDEN = re.compile(r"\.(?:step_\d{12}|last|best)\.(\d+)-[0-9a-f]{8}")  # .<what>.<pid of the writer>-<random>
MAX_MANIFEST_BYTES = 2**16
MAX_JSON_BYTES = 2**26
DTYPES = {  # NumPy's and torch's name: safetensors' name
    "bool": "BOOL", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip

Array = torch.Tensor | np.ndarray


class CheckpointError(RuntimeError):
    """A checkpoint is not there, or is not what was written."""


class NonFiniteError(ValueError):
    """A policy has NaN or infinity in it, and must not replace one that has not."""


def save(folder: Path, step: int, state: Mapping[str, Any], *, keep: int = 3) -> Path:
    """Write `state` as the checkpoint of `step`, point `last` at it, prune the older ones; returns its folder.

    folder: a run's `checkpoints/`, made if need be; the run's folder must be there.
    state: nested dicts with str keys; leaves are torch tensors (on any device), NumPy arrays, int, float, bool, str,
        None, or lists of these scalars. All come back as they were, to the bit; tensors and arrays in C order.
    keep: how many of the newest checkpoints stay, besides `best` and the one just written.

    A valid checkpoint of the same step is kept as it is. Raises TypeError naming the path of a leaf of another type,
    NonFiniteError naming an array under state["policy"] with NaN or infinity in it, OSError if the disk refuses.
    """
    folder = Path(folder)
    if type(step) is not int or not 0 <= step < 10**12:
        raise ValueError(f"step={step!r} must be an integer between 0 and 10^12 - 1.")
    if keep < 1:
        raise ValueError(f"keep={keep} must be at least 1.")
    arrays: dict[str, Array] = {}
    text = json.dumps(_encode(state, "", arrays), indent=1, allow_nan=False).encode()
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{STATE} would have {len(text)} bytes, over {MAX_JSON_BYTES}: make arrays of its long lists.")
    for path, array in arrays.items():
        if _file_of(path) == POLICY and not _is_finite(array):
            raise NonFiniteError(f"{path} is not finite at step {step}; no checkpoint was written.")

    folder.mkdir(exist_ok=True)  # not its parents: a run's folder that has vanished is an error
    final = folder / f"step_{step:012d}"
    if not _is_valid(final):
        _publish(final, step, text, arrays)
    _point(folder, "last", final.name)
    _prune(folder, keep, final.name)
    return final


def mark_best(folder: Path, step: int) -> None:
    """Point `best` at the checkpoint of `step`, which pruning then spares."""
    name = f"step_{step:012d}"
    if not (Path(folder) / name).is_dir():
        raise CheckpointError(f"{Path(folder) / name}: there is no such checkpoint to mark as best.")
    _point(Path(folder), "best", name)


def load(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state that `save` was given, tensors on `device`.

    path: a checkpoint's folder, or a pointer to one (`last`, `best`).
    Raises CheckpointError("<path>: <reason>") unless every byte of every file is as it was written.
    """
    path = _follow(Path(path))
    with _rejecting(path):
        manifest = _manifest(path)
        content = {name: _read(path, name, manifest) for name in FILES}
        arrays = safetensors.torch.load(content[POLICY]) | safetensors.torch.load(content[AGENT])
        state = _decode(json.loads(content[STATE]), "", arrays, device)
        if arrays:
            raise CheckpointError(f"{path}: {STATE} does not know {sorted(arrays)[0]!r}")
    return state


def verify(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint at `path`; raises CheckpointError("<path>: <reason>") if any byte is amiss."""
    path = _follow(Path(path))
    with _rejecting(path):
        manifest = _manifest(path)
        for name in FILES:
            _read(path, name, manifest)
    return manifest


def newest(folder: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint that verifies, and why each newer one does not.

    Raises CheckpointError if there is none, or none that verifies: a run never starts afresh on top of damaged work.
    """
    rejected = []
    for name in reversed(_steps(Path(folder))):
        try:
            verify(Path(folder) / name)
        except CheckpointError as error:
            rejected.append(str(error))
        else:
            return Path(folder) / name, rejected
    if rejected:
        reasons = "\n  ".join(rejected)
        raise CheckpointError(f"{folder}: none of the {len(rejected)} checkpoints can be loaded:\n  {reasons}")
    raise CheckpointError(f"{folder}: there are no checkpoints.")


def resolve(run: Path, which: str = "best") -> Path:
    """The checkpoint folder that `which` names in the run folder `run`: "best", "last", or "step_<n>".

    Where there is no `best` this is `last`, and where there is no `last`, the newest that verifies. A `best` that is
    there but damaged is not passed over: `load` will say so.
    """
    folder = Path(run) / "checkpoints"
    if match := re.fullmatch(r"step_(\d{1,12})", which):
        path = folder / f"step_{int(match[1]):012d}"
        if not path.is_dir():
            there_are = ", ".join(_steps(folder)) or "none"
            raise CheckpointError(f"{path}: there is no such checkpoint. There are: {there_are}.")
        return path
    if which not in ("best", "last"):
        raise ValueError(f"which={which!r} is not 'best', 'last' or 'step_<n>'.")
    for pointer in ("best", "last") if which == "best" else ("last",):
        path = _follow(folder / pointer)
        if path.is_dir():
            return path
    return newest(folder)[0]


# -- the tree: JSON for its shape and its scalars, {"$": "tensor"} or {"$": "array"} where an array hangs --------------


def _encode(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    """`value` as JSON; puts the arrays in it into `arrays`, by path ("policy/network/0.weight")."""
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{path or 'state'} has a key {key!r} of type {type(key).__name__}; keys are str.")
            if not key.isprintable() or "/" in key or key in ("", "$", "__metadata__"):
                raise ValueError(f"{path or 'state'} has a key {key!r}; keys are printable, without '/', and not '$'.")
        return {key: _encode(child, f"{path}/{key}" if path else key, arrays) for key, child in value.items()}
    if kind := _kind(value):
        arrays[path] = value
        return {"$": kind}
    if type(value) is list:
        return [_encode_scalar(item, f"{path}/{i}") for i, item in enumerate(value)]
    return _encode_scalar(value, path)


def _encode_scalar(value: Any, path: str) -> Any:
    if type(value) is float and not math.isfinite(value):
        return {"$": struct.pack(">d", value).hex()}  # JSON has no NaN; these are its bits
    if type(value) in (bool, int, float, str, type(None)):  # exactly: a subclass would come back as another type
        return value
    dtype = f" and dtype {value.dtype}" if hasattr(value, "dtype") else ""
    raise TypeError(
        f"{path or 'state'} has type {type(value).__module__}.{type(value).__qualname__}{dtype}; a checkpoint holds "
        "dicts, torch tensors, NumPy arrays, int, float, bool, str, None and lists of these scalars."
    )


def _decode(node: Any, path: str, arrays: dict[str, torch.Tensor], device: torch.device | str) -> Any:
    """What `_encode` was given; takes the arrays out of `arrays`."""
    if isinstance(node, list):
        return [_decode(item, f"{path}/{i}", {}, device) for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    kind = node.get("$")
    if kind is None:
        return {key: _decode(child, f"{path}/{key}" if path else key, arrays, device) for key, child in node.items()}
    if kind not in ("tensor", "array"):
        return struct.unpack(">d", bytes.fromhex(kind))[0]
    if path not in arrays:
        raise ValueError(f"{_file_of(path)} lacks {path!r}")
    array = arrays.pop(path)
    return array.to(device) if kind == "tensor" else array.numpy()


def _kind(value: Any) -> str | None:
    """ "tensor" or "array" for one that safetensors can hold."""
    if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta:
        return "tensor" if _dtype(value) in DTYPES else None
    if type(value) is np.ndarray and value.dtype.isnative:
        return "array" if _dtype(value) in DTYPES else None
    return None


def _file_of(path: str) -> str:
    return POLICY if path.split("/", 1)[0] == "policy" else AGENT


def _dtype(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.")


def _is_finite(array: Array) -> bool:
    if isinstance(array, torch.Tensor):
        return not array.is_floating_point() or bool(torch.isfinite(array).all())  # waits for the device
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


# -- writing ---------------------------------------------------------------------------------------------------------


def _publish(final: Path, step: int, text: bytes, arrays: dict[str, Array]) -> None:
    """Make the folder `final`, in one rename."""
    hidden = _hidden(final)
    os.mkdir(hidden)
    try:
        content: dict[str, Iterable] = {STATE: [text]}
        for name in (POLICY, AGENT):
            content[name] = _safetensors({path: array for path, array in arrays.items() if _file_of(path) == name})
        versions = {"rlsys": __version__, "torch": torch.__version__, "numpy": np.__version__}
        files = {name: _write(hidden / name, content[name]) for name in FILES}
        body = {"format": FORMAT, "step": step, "versions": versions, "files": files}
        _write(hidden / MANIFEST, [_sealed(body)])
        _fsync_folder(hidden)
        if os.path.lexists(final):  # not a valid one, or we would not be here
            _discard(final)
        os.rename(hidden, final)
        _fsync_folder(final.parent)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def _safetensors(arrays: dict[str, Array]) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces: 8 bytes of header length, a JSON header, the arrays' bytes.

    The library's writer wants all of it in memory, twice, and no two tensors that share storage; this takes one array
    at a time, so a replay buffer is never copied whole. Wide types go first, which aligns every array.
    """
    if sys.byteorder != "little":
        raise NotImplementedError("checkpoints are written on little-endian machines only.")
    header, offset = {}, 0
    order = sorted(arrays, key=lambda path: (-arrays[path].dtype.itemsize, path))
    for path in order:
        array = arrays[path]
        size = math.prod(array.shape) * array.dtype.itemsize
        header[path] = {
            "dtype": DTYPES[_dtype(array)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for path in order:
        array = arrays[path]
        if isinstance(array, torch.Tensor):
            yield array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        else:
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a new file, down to the disk; returns its entry in the manifest."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _sealed(body: Mapping[str, Any]) -> bytes:
    """The text of a manifest: `body`, closed by the SHA-256 of its own text. Equal bodies have equal texts."""
    seal = hashlib.sha256(json.dumps(body, indent=2).encode()).hexdigest()
    return json.dumps({**body, "sha256": seal}, indent=2).encode() + b"\n"


def _point(folder: Path, pointer: str, name: str) -> None:
    """Make `folder/pointer` point at its sibling `name`, in one rename."""
    hidden = _hidden(folder / pointer)
    try:
        os.symlink(name, hidden)
    except OSError:  # a file system without links: a file that holds the name
        _write(hidden, [name.encode()])
    if (folder / pointer).is_dir() and not (folder / pointer).is_symlink():
        _discard(folder / pointer)  # a copying tool followed the link
    os.replace(hidden, folder / pointer)
    _fsync_folder(folder)


def _prune(folder: Path, keep: int, just_written: str) -> None:
    """Remove all but the `keep` newest checkpoints, the best and `just_written`; and what dead writers left behind."""
    spared = {just_written, _follow(folder / "best").name}
    for name in _steps(folder)[:-keep]:
        if name not in spared:
            with contextlib.suppress(OSError):  # the new checkpoint is safe, and the next save will try again
                _discard(folder / name)
    for path in list(folder.iterdir()):
        match = HIDDEN.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _discard(path: Path) -> None:
    """Delete a folder that is out of sight already, so that nobody sees half of it."""
    hidden = _hidden(path)
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _hidden(path: Path) -> Path:
    """A new name for `path` that no reader looks at."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


def _is_alive(pid: int) -> bool:
    """Is `pid` another process that runs? (Our own leftovers are of saves that failed.)"""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- reading -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _rejecting(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a fault of the checkpoint at `path`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # files come from anywhere: any parser's error may surface here
        raise CheckpointError(f"{path}: {error}") from error


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint at `path`, after a check of everything but the files' content."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such folder")
    found = {entry.name: entry for entry in os.scandir(path)}
    for name, entry in found.items():  # links and pipes included
        if not entry.is_file(follow_symlinks=False):
            raise CheckpointError(f"{path}: {name} is not a regular file")
    if MANIFEST not in found:
        raise CheckpointError(f"{path}: {MANIFEST} is missing")
    if (size := found[MANIFEST].stat().st_size) > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{path}: {MANIFEST} has {size} bytes, over {MAX_MANIFEST_BYTES}")

    text = (path / MANIFEST).read_bytes()
    try:
        manifest = json.loads(text)
        version = manifest["format"]
        intact = text == _sealed({key: value for key, value in manifest.items() if key != "sha256"})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: {MANIFEST} is damaged") from None
    if type(version) is int and version > FORMAT:
        raise CheckpointError(f"{path}: has format {version}; this rlsys reads formats up to {FORMAT}")
    if not intact or version != FORMAT:
        raise CheckpointError(f"{path}: {MANIFEST} is damaged")

    if missing := {*FILES} - found.keys():
        raise CheckpointError(f"{path}: {sorted(missing)[0]} is missing")
    if extra := found.keys() - {*FILES, MANIFEST}:
        raise CheckpointError(f"{path}: {sorted(extra)[0]} does not belong here")
    named = STEP.fullmatch(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise CheckpointError(f"{path}: {MANIFEST} is of step {manifest['step']}")
    for name in FILES:
        size, expected = found[name].stat().st_size, manifest["files"][name]["bytes"]
        if size != expected:
            raise CheckpointError(f"{path}: {name} has {size} bytes instead of {expected}")
    if manifest["files"][STATE]["bytes"] > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: {STATE} has over {MAX_JSON_BYTES} bytes")
    return manifest


def _read(path: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    """The bytes of one file, which are those that were written."""
    content = (path / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["files"][name]["sha256"]:
        raise CheckpointError(f"{path}: {name} is damaged (its SHA-256 differs)")
    return content


def _is_valid(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def _follow(path: Path) -> Path:
    """The folder that a pointer (a link, or a file holding a name) points at; any other path as it is."""
    if path.is_symlink():
        return path.parent / os.readlink(path)
    with contextlib.suppress(OSError, ValueError):
        if path.is_file() and STEP.fullmatch(name := path.read_bytes()[:64].decode().strip()):
            return path.with_name(name)
    return path


def _steps(folder: Path) -> list[str]:
    """The names of the checkpoints in `folder`, oldest first, whatever their state."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if STEP.fullmatch(path.name))
