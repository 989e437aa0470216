"""Open a model in ONNX Runtime and run it, with errors that say what, where and what to do."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxq.errors import DataError, ModelError, TargetError
from onnxq.heap import trim
from onnxq.runtime.batch import Array, Feeds
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.gpu import TENSORRT_REMEDY, has_device, has_tensorrt, load_tensorrt
from onnxq.runtime.libraries import register_libraries
from onnxq.runtime.run import PROVIDERS, Provider, Run, known_provider

if TYPE_CHECKING:
    import onnx

Optimization = Literal["none", "basic", "extended", "all"]

LACKING = "Could not find an implementation"
"""What ONNX Runtime says of an operator on a type that it has no kernel for."""
_SECOND_CHOICES: Mapping[Provider, tuple[Provider, ...]] = {
    "cpu": (),
    "cuda": ("cpu",),
    "tensorrt": ("cuda", "cpu"),
}
_PROVIDER_OPTIONS: Mapping[Provider, Mapping[str, str]] = {"tensorrt": {"trt_int8_enable": "1"}}
"""TensorRT 10 refuses int8 in a graph where it is not told of it beforehand."""
_LEVELS: Mapping[str, str] = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_DTYPES: Mapping[str, str] = {"float": "float32", "double": "float64", "string": "object"}
_FATAL = 4  # ONNX Runtime's log level; what it would log as an error, we raise
_PROTOBUF_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class ValueSpec:
    """One input or output of a model.

    Args:
        name: Its name.
        type: ONNX Runtime's text for its type, such as ``tensor(float)``.
        shape: A number, a symbol, or None (nothing known) for each axis.

    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The NumPy type of a tensor; None for other values and for types NumPy lacks."""
        match = re.fullmatch(r"tensor\((\w+)\)", self.type)
        try:
            return np.dtype(_DTYPES.get(match[1], match[1])) if match else None
        except TypeError:
            return None

    def to_dict(self) -> dict[str, object]:
        """Return name, type and shape as plain values."""
        return {"name": self.name, "type": self.type, "shape": list(self.shape)}


@dataclass(frozen=True)
class Session:
    """A model that is open in ONNX Runtime.

    Args:
        inference: The ``onnxruntime.InferenceSession``.
        source: What error messages call the model: its file, or ``the model``.
        asked: Where and how it was asked to run.
        inputs: What must be fed; initializers listed as inputs are not among them.
        outputs: What a run gives back, in order.
        create_ms: Milliseconds that opening took.
        drawing: The operators that draw random numbers, if they were given one seed.
        selected: The outputs that depend on which boxes were selected, if what was selected from is returned.

    """

    inference: Any = field(repr=False)
    source: str
    asked: Run
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    create_ms: float
    drawing: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the session got, by ONNX Runtime's names."""
        return tuple(self.inference.get_providers())

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(value.name for value in self.outputs)

    def select(self, feeds: Feeds) -> dict[str, Array]:
        """Return the feeds that the model has; others are dropped.

        What is float32 is rounded where the model takes float16.

        Raises:
            DataError: One is missing, or has another dtype, rank or size than the model.

        """
        optional = {value.name for value in self.inputs if value.type.startswith("optional")}
        missing = [v.name for v in self.inputs if v.name not in feeds and v.name not in optional]
        if missing:
            raise DataError(
                f"no data for input {', '.join(map(repr, missing))}",
                where=self.source,
                hint=f"the data has: {', '.join(sorted(feeds)) or 'nothing'}",
            )
        chosen = {v.name: _narrowed(v, feeds[v.name]) for v in self.inputs if v.name in feeds}
        for value in self.inputs:
            if value.name in chosen:
                _check_feed(value, chosen[value.name], self.source)
        return chosen

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Return the outputs by name, in order: arrays, or lists for sequences.

        Raises:
            DataError: The feeds do not fit the inputs.
            ModelError: ONNX Runtime failed while running; its reason on one line.

        """
        chosen = self.select(feeds)
        try:
            values = self.inference.run(None, chosen)
        except Exception as error:
            fed = ", ".join(f"{name} {_form(value)}" for name, value in chosen.items())
            raise ModelError(
                f"ONNX Runtime failed on these feeds: {short_reason(error)}",
                where=self.source,
                hint=f"it was fed {fed}; sizes or values may be more than the model takes",
            ) from error
        return dict(zip(self.output_names, values, strict=True))


def open_session(
    model: Path | bytes | onnx.ModelProto,
    run: Run = Run(),
    *,
    extra_outputs: Sequence[str] = (),
    profile: Path | None = None,
    optimized_model_path: Path | None = None,
    optimization: Optimization = "all",
    external_data_folder: Path | None = None,
    arena: bool = True,
) -> Session:
    """Open ``model`` in ONNX Runtime; one of bfloat16, for which the CPU has no kernels, in float32.

    Args:
        model: A file (needed above 2 GB, with external data beside it), or the model itself.
        run: Where and how it shall run.
        extra_outputs: Names of inner values to return too, behind the model's own outputs.
        profile: Prefix of the profile's file; ``inference.end_profiling()`` returns its name.
        optimized_model_path: Where to save the optimised graph. Its weights go beside it.
        optimization: How far ONNX Runtime rewrites the graph. Below ``extended`` a QDQ model
            runs in float.
        external_data_folder: Where the external data of a model given as bytes or proto lies.
        arena: Keep freed memory for the next run. Without it, memory follows what is in use.

    Raises:
        TargetError: ONNX Runtime, the provider or a GPU is missing, or another provider runs it.
        ModelError: ONNX Runtime cannot load the model; its reason on one line.

    """
    ort = import_onnxruntime()
    _need_provider(ort, run.provider)
    source = str(model) if isinstance(model, Path) else "the model"
    if isinstance(model, Path) and extra_outputs:
        external_data_folder = external_data_folder or model.parent
    options = _options(ort, run.threads, profile, optimized_model_path, optimization)
    options.enable_cpu_mem_arena = arena
    for key, value in {**_folder_entry(external_data_folder), **run.entries}.items():
        options.add_session_config_entry(key, value)

    def create(loaded: Path | bytes | onnx.ModelProto) -> Session:
        return _create(ort, _loadable(loaded, extra_outputs, source), options, run, source)

    session = _in_some_type(model, create, run)
    _refuse_another_provider(session)
    trim()
    return session


def _in_some_type(
    model: Path | bytes | onnx.ModelProto,
    create: Callable[[Path | bytes | onnx.ModelProto], Session],
    run: Run,
) -> Session:
    """Create a session, of a model of bfloat16 in float32 where the CPU lacks kernels for it."""
    try:
        return create(model)
    except ModelError as error:
        if run.provider != "cpu" or LACKING not in str(error):
            raise
        from onnxq.runtime.widened import in_float32  # it rewrites graphs, which few sessions need

        if (wide := in_float32(model)) is None:
            raise
        return create(wide)


def usable_provider(name: str) -> Provider | None:
    """Return the provider of this name if sessions can be opened on it here; None if not."""
    provider = known_provider(name)
    if provider is None or PROVIDERS[provider] not in import_onnxruntime().get_available_providers():
        return None
    here = provider == "cpu" or (has_device() and (provider != "tensorrt" or has_tensorrt()))
    return provider if here else None


def _create(ort: Any, loadable: str | bytes, options: Any, run: Run, source: str) -> Session:
    start = time.perf_counter()
    try:
        inference = ort.InferenceSession(loadable, options, providers=_providers(run), enable_fallback=0)
    except Exception as error:
        if run.provider != "cpu" and not has_device():
            raise TargetError(
                "there is no NVIDIA GPU, or no driver for it", where=source, hint="see: onnxq doctor"
            ) from error
        raise ModelError(f"ONNX Runtime cannot load it: {short_reason(error)}", where=source) from error
    create_ms = (time.perf_counter() - start) * 1e3
    inputs, outputs = _specs(inference.get_inputs()), _specs(inference.get_outputs())
    return Session(inference, source, run, inputs, outputs, create_ms)


def _providers(run: Run) -> list[Any]:
    """Return ONNX Runtime's names of the provider, with its options, and of its second choices."""
    graph = {"enable_cuda_graph": "1"} if run.cuda_graph else {}
    wanted = {**_PROVIDER_OPTIONS.get(run.provider, {}), **graph}
    return [(PROVIDERS[run.provider], wanted), *(PROVIDERS[one] for one in _SECOND_CHOICES[run.provider])]


def short_reason(error: Exception) -> str:
    """Return ONNX Runtime's message on one line, without its code, paths and signatures."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+ : )?", "", text)
    text = re.sub(r"/\S*onnxruntime\S*\.(cc|h):\d+ .*?\) (?=[A-Z])", "", text)
    text = re.sub(r"^(Load model from \S+ failed:\s*)+", "", text)
    return text if len(text) <= 300 else text[:297] + "..."


def _need_provider(ort: Any, provider: Provider) -> None:
    available = ort.get_available_providers()
    if PROVIDERS.get(provider) not in available:
        known = [short for short, name in PROVIDERS.items() if name in available]
        raise TargetError(
            f"the installed ONNX Runtime has no provider {provider!r}",
            hint=f"it has: {', '.join(known)}"
            + ('; pip install "onnxq[cuda]" for an NVIDIA GPU' if provider in PROVIDERS else ""),
        )
    if provider == "tensorrt" and not has_tensorrt():
        raise TargetError(
            "TensorRT's libraries are missing",
            hint=f"{TENSORRT_REMEDY} brings them",
        )
    if provider != "cpu":
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            ort.preload_dlls()  # finds CUDA and cuDNN where pip put them
    if provider == "tensorrt":
        load_tensorrt()


def _refuse_another_provider(session: Session) -> None:
    if session.providers[0] != PROVIDERS[session.asked.provider]:
        raise TargetError(
            f"asked for {session.asked.provider!r}, but ONNX Runtime fell back to {session.providers[0]}",
            where=session.source,
            hint="check the GPU's driver and that its libraries are installed; see: onnxq doctor",
        )


def _options(
    ort: Any, threads: int | None, profile: Path | None, optimized: Path | None, optimization: Optimization
) -> Any:
    options = ort.SessionOptions()
    register_libraries(options)
    options.log_severity_level = _FATAL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[optimization])
    options.intra_op_num_threads = threads or 0
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        entry = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{entry}_file_name", f"{optimized.name}.data")
        options.add_session_config_entry(f"{entry}_min_size_in_bytes", "1024")
    return options


def _folder_entry(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    return {"session.model_external_initializers_file_folder_path": str(folder.resolve())}


def _loadable(
    model: Path | bytes | onnx.ModelProto, extra_outputs: Sequence[str], source: str
) -> str | bytes:
    """Return a path or bytes for ONNX Runtime; with extra outputs, the bytes of a changed copy."""
    if isinstance(model, Path) and not model.is_file():
        raise ModelError("there is no such file", where=source, hint="give the path of an .onnx file")
    if extra_outputs:
        return _serialized(_with_outputs(model, extra_outputs, source), source)
    if isinstance(model, Path):
        return str(model)
    return model if isinstance(model, bytes) else _serialized(model, source)


def _with_outputs(
    model: Path | bytes | onnx.ModelProto, names: Sequence[str], source: str
) -> onnx.ModelProto:
    import onnx

    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
    else:
        copy = read_proto(model, source)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return copy


def read_proto(model: Path | bytes, source: str) -> onnx.ModelProto:
    """Return the parsed model, with external data left where it is.

    Raises:
        ModelError: The bytes are not an ONNX model.

    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(model.read_bytes() if isinstance(model, Path) else model)
    except DecodeError as error:
        raise ModelError("these bytes are not an ONNX model", where=source) from error
    return proto


def _serialized(proto: onnx.ModelProto, source: str) -> bytes:
    if proto.ByteSize() > _PROTOBUF_LIMIT:
        raise ModelError(
            "a model in memory cannot be larger than 2 GB",
            where=source,
            hint="save it with external data and give the path",
        )
    serialized: bytes = proto.SerializeToString()
    return serialized


def _specs(values: Sequence[Any]) -> tuple[ValueSpec, ...]:
    return tuple(ValueSpec(value.name, value.type, tuple(value.shape or ())) for value in values)


def _narrowed(value: ValueSpec, array: Any) -> Any:
    is_wide = isinstance(array, np.ndarray) and array.dtype == np.float32
    return array.astype(np.float16) if is_wide and value.dtype == np.float16 else array


def _form(value: Any) -> str:
    """Return how errors tell of what a model was fed."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a sequence of {len(value)}"


def _check_feed(value: ValueSpec, array: Any, source: str) -> None:
    if value.dtype is None or not isinstance(array, np.ndarray):
        return
    text = value.dtype.kind == "O" and array.dtype.kind in "OUS"
    if array.dtype != value.dtype and not text:
        raise DataError(
            f"the data is {array.dtype}, the model wants {value.dtype}",
            where=f"{source}: input {value.name!r}",
        )
    fixed = zip(array.shape, value.shape, strict=False)
    wrong = value.shape and (
        array.ndim != len(value.shape) or any(isinstance(want, int) and got != want for got, want in fixed)
    )
    if wrong:
        raise DataError(
            f"the data has shape {list(array.shape)}, the model wants {list(value.shape)}",
            where=f"{source}: input {value.name!r}",
        )
