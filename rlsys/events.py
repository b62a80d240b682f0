"""A run in TensorBoard's formats: its event file, what `rlsys board` adds to several of them, and the server.

An event file is a sequence of records (length, its checksum, an Event, its checksum), which grows by whole records. A
run has one. Resuming writes it anew under a later name, without what the run takes back: of TensorBoard's two loaders
neither forgets all points that a resumed run does not repeat, whatever a later file says.
"""

import contextlib
import io
import logging
import os
import struct
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_BOOL,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

PATTERN = "events.out.tfevents.*"
LAYOUT, SESSION_START, SESSION_END, EXPERIMENT = (
    "custom_scalars__config__",
    "_hparams_/session_start_info",
    "_hparams_/session_end_info",
    "_hparams_/experiment",
)
FLOAT32_MAX = 3.4028234e38
BINS = 30  # of a histogram


class Events:
    """The event file of one run.

    resume_step: the step a run goes on from. What was written after it is dropped, and so are the tags in `once`, which
        stand at the end of a run, and a record that a crash cut short. None starts a new file.

    A disk that refuses a record costs that record and one warning, never the run.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None, once: frozenset[str] = frozenset()):
        self.tags: set[str] = set()  # that the file has
        earlier = sorted(Path(folder).glob(PATTERN))
        path = _next_path(folder, earlier)
        self._file = Appender(path)
        begin = [_record(file_version="brain.Event:2")]
        if resume_step is None:
            self._file.append(begin[0])
            return
        kept = _survivors(earlier, resume_step, once | {SESSION_END})
        self.tags.update(tag for _, tags, _ in kept for tag in tags)
        # a START at step 0 says that nothing before this file counts, should an earlier one outlive a crash
        begin += [_record(session_log=SessionLog(status=SessionLog.START)), *(raw for _, _, raw in kept)]
        with self._file.failures():
            write_whole(path, b"".join(begin))
            for old in earlier:
                old.unlink(missing_ok=True)

    def scalars(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """A point for each tag; None, and what float32 cannot hold, is left out."""
        self._add(
            step,
            [
                Summary.Value(tag=tag, simple_value=number)
                for tag, number in numbers.items()
                if number is not None and abs(number) <= FLOAT32_MAX
            ],
        )

    def text(self, step: int, tag: str, markdown: str) -> None:
        tensor = _strings([markdown.encode()], [1])
        self._add(step, [Summary.Value(tag=f"{tag}/text_summary", tensor=tensor, metadata=_metadata("text"))])

    def image(self, step: int, tag: str, encoded: bytes, width: int, height: int) -> None:
        """A GIF or PNG file."""
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
        self._add(step, [Summary.Value(tag=tag, image=image)])

    def histogram(self, step: int, tag: str, values: np.ndarray, edges: np.ndarray | None = None) -> None:
        """The finite ones of `values`, of any shape, in the bins between `edges`, else in BINS of equal width."""
        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if not len(values):
            return
        counts, edges = np.histogram(values, BINS if edges is None else edges)
        histo = HistogramProto(
            min=edges[0],
            max=edges[-1],
            num=len(values),
            sum=values.sum(),
            sum_squares=(values**2).sum(),
            bucket_limit=edges[1:],
            bucket=counts,
        )
        self._add(step, [Summary.Value(tag=tag, histo=histo)])

    def layout(self, step: int, groups: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
        """Custom scalars: {group: {title of a chart: its tags}}. The last layout of a run holds."""
        categories = [
            Category(title=group, chart=[_chart(title, tags) for title, tags in charts.items()])
            for group, charts in groups.items()
        ]
        tensor = _strings([Layout(category=categories).SerializeToString()], [])
        self._add(step, [Summary.Value(tag=LAYOUT, tensor=tensor, metadata=_metadata("custom_scalars"))])

    def hparams(self, step: int, name: str, settings: Mapping[str, Any]) -> None:
        """The run's row in the table of hyperparameters, called `name`: numbers, booleans, and what else there is as text."""
        start = SessionStartInfo(group_name=name, start_time_secs=time.time())
        for key, value in hparam_values(settings).items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(start.hparams[key], kind, value)
        self._add(step, [_hparams_value(SESSION_START, session_start_info=start)])

    def end(self, step: int) -> None:
        """The run is finished, says the table of hyperparameters."""
        end = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
        self._add(step, [_hparams_value(SESSION_END, session_end_info=end)])

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _add(self, step: int, values: list[Any]) -> None:
        if values:
            self.tags.update(value.tag for value in values)
            self._file.append(_record(step=step, summary=Summary(value=values)))


def hparam_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings as the table of hyperparameters takes them: what is None is left out, a list is "[64,64]"."""
    plain = {key: value for key, value in settings.items() if value is not None}
    return {k: v if isinstance(v, bool | int | float | str) else str(v).replace(" ", "") for k, v in plain.items()}


def write_experiment(path: Path, sessions: list[dict[str, Any]], metrics: Mapping[str, str]) -> None:
    """An event file that says which columns the table of hyperparameters has for these runs' settings.

    Those whose values differ come first, and so are shown. metrics: {tag: name in the table}. TensorBoard reads one such file,
    the first that it finds, for all runs: it belongs to a board, not to a run.
    """
    values: dict[str, list[Any]] = {}
    for session in sessions:
        for key, value in hparam_values(session).items():
            values.setdefault(key, []).append(value)
    experiment = Experiment(
        hparam_infos=[_hparam_info(key, found) for key, found in values.items()],
        metric_infos=[MetricInfo(name=MetricName(tag=tag), display_name=name) for tag, name in metrics.items()],
    )
    summary = Summary(value=[_hparams_value(EXPERIMENT, experiment=experiment)])
    write_whole(path, _record(file_version="brain.Event:2") + _record(summary=summary))


def read(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """What the TensorBoard event files right in `folder` hold, whoever wrote them: scalars and texts, by tag.

    Scalars are (step, value) in the order written, texts the last of their tag. What a resumed run wrote anew counts once. A
    file that is cut short, or none at all, is read as far as it goes.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator

    with _no_messages_of("tensorboard"):
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, TENSORS: 0})  # 0: all
        events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()[SCALARS]}
    texts = {}
    for tag in events.Tags()[TENSORS]:
        strings = events.Tensors(tag)[-1].tensor_proto.string_val
        if strings:
            texts[tag.removesuffix("/text_summary")] = strings[0].decode(errors="replace")
    return scalars, texts


def serve(folder: Path, host: str, port: int | None) -> str:
    """Start TensorBoard on the runs below `folder`, in a thread; returns its address.

    port: None takes the first free one from 6006 on, 0 any. Raises OSError where that is impossible.
    """
    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # also later, in its thread
    flags = ["rlsys board", "--logdir", str(folder), "--host", host, "--reload_interval", "5"]
    # all points of a run (log.Pace writes some thousands), and the pictures of as many evaluations as one can look at
    flags += ["--samples_per_plugin", "scalars=20000,images=50,histograms=200"]
    if port is not None:
        flags += ["--port", str(port)]
    board = program.TensorBoard(default.get_plugins())
    with contextlib.redirect_stderr(io.StringIO()):  # advice on its own options
        board.configure(flags)
        try:
            return board.launch()
        except program.TensorBoardServerException as error:
            raise OSError(str(error)) from None


@contextlib.contextmanager
def _no_messages_of(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _chart(title: str, tags: Iterable[str]) -> Any:
    return Chart(title=title, multiline=MultilineChartContent(tag=[f"^{tag}$" for tag in tags]))


def _hparam_info(key: str, values: list[Any]) -> Any:
    kinds = {{bool: DATA_TYPE_BOOL, str: DATA_TYPE_STRING}.get(type(value), DATA_TYPE_FLOAT64) for value in values}
    kind = kinds.pop() if len(kinds) == 1 else DATA_TYPE_STRING
    info = HParamInfo(name=key, type=kind, differs=len(set(values)) > 1)
    if kind == DATA_TYPE_FLOAT64:
        info.domain_interval.min_value, info.domain_interval.max_value = min(values), max(values)
    else:
        info.domain_discrete.extend(sorted(set(values if kind == DATA_TYPE_BOOL else map(str, values))))
    return info


def _hparams_value(tag: str, **data: Any) -> Any:
    nothing = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=0)]))
    content = HParamsPluginData(version=0, **data).SerializeToString()
    return Summary.Value(tag=tag, tensor=nothing, metadata=_metadata("hparams", content))


def _metadata(plugin: str, content: bytes = b"") -> Any:
    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return SummaryMetadata(plugin_data=data, data_class=DATA_CLASS_TENSOR)


def _strings(values: list[bytes], shape: list[int]) -> Any:
    dims = [TensorShapeProto.Dim(size=size) for size in shape]
    return TensorProto(dtype=DT_STRING, string_val=values, tensor_shape=TensorShapeProto(dim=dims))


# -- records -------------------------------------------------------------------------------------------------------------


def _record(**fields: Any) -> bytes:
    record = io.BytesIO()  # with length and checksums
    RecordWriter(record).write(Event(wall_time=time.time(), **fields).SerializeToString())
    return record.getvalue()


def _records(path: Path) -> Iterator[tuple[Any, bytes]]:
    """Each whole record of an event file, parsed and raw."""
    content, start = path.read_bytes(), 0
    while len(content) >= start + 12:
        end = start + 12 + struct.unpack_from("<Q", content, start)[0] + 4
        event = Event()
        try:
            event.ParseFromString(content[start + 12 : end - 4])
        except DecodeError:
            return
        if end > len(content) or not event.wall_time:  # cut short, or zeros
            return
        yield event, content[start:end]
        start = end


def _survivors(paths: list[Path], step: int, once: frozenset[str]) -> list[tuple[int, list[str], bytes]]:
    """(step, tags, raw record) of all summaries up to `step` but those of tags in `once`."""
    kept: list[tuple[int, list[str], bytes]] = []
    for path in paths:
        for event, raw in _records(path):
            tags = [value.tag for value in event.summary.value]
            if event.session_log.status == SessionLog.START:
                kept = [earlier for earlier in kept if earlier[0] < event.step]
            elif tags and event.step <= step and not once & set(tags):
                kept.append((event.step, tags, raw))
    return kept


def _next_path(folder: Path, earlier: list[Path]) -> Path:
    """A name that sorts after all other event files, whatever the clock says: TensorBoard reads them in that order."""
    stamps = [path.name.split(".")[3] for path in earlier]
    latest = max((int(stamp) for stamp in stamps if stamp.isdigit()), default=0)
    return Path(folder) / f"events.out.tfevents.{max(int(time.time()), latest + 1):010d}.rlsys"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all; TensorBoard takes none by its name before."""
    temporary = path.with_name(f".{path.name.rpartition('.')[2]}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Appender:
    """A file that grows by whole records. A disk that refuses one costs that record, and one warning."""

    def __init__(self, path: Path):
        self._path = path
        self._file: io.FileIO | None = None
        self._end = 0  # of the last whole record
        self._has_warned = False

    def append(self, record: bytes) -> None:
        with self.failures():
            if self._file is None:
                self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
                self._end = os.fstat(self._file.fileno()).st_size
            elif os.fstat(self._file.fileno()).st_size != self._end:  # the last record was cut short
                self._file.truncate(self._end)
            written = self._file.write(record)
            if written != len(record):
                raise OSError(f"{written} of {len(record)} bytes were written")
            self._end += written

    def sync(self) -> None:
        with self.failures():
            if self._file is not None:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            with self.failures():
                self._file.close()

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turn the first OSError into a warning, the later ones into nothing."""
        try:
            yield
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                message = f"{self._path}: {error}. Metrics are lost until that changes."
                warnings.warn(message, RuntimeWarning, stacklevel=2)
