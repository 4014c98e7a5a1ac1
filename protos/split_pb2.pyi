from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Labels(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOME: _ClassVar[Labels]
    FAR: _ClassVar[Labels]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORWARD: _ClassVar[Kind]
    BACKWARD: _ClassVar[Kind]
    LOSSES: _ClassVar[Kind]

class Read(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALL: _ClassVar[Read]
    FIRST: _ClassVar[Read]
    LAST: _ClassVar[Read]
HOME: Labels
FAR: Labels
FORWARD: Kind
BACKWARD: Kind
LOSSES: Kind
ALL: Read
FIRST: Read
LAST: Read

class DescribeRequest(_message.Message):
    __slots__ = ("protocol",)
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    def __init__(self, protocol: _Optional[int] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("plan", "first", "last", "depth", "width", "dtype", "bits", "throughput", "tokens", "sessions")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    THROUGHPUT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    plan: str
    first: int
    last: int
    depth: int
    width: int
    dtype: str
    bits: int
    throughput: float
    tokens: int
    sessions: int
    def __init__(self, plan: _Optional[str] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., depth: _Optional[int] = ..., width: _Optional[int] = ..., dtype: _Optional[str] = ..., bits: _Optional[int] = ..., throughput: _Optional[float] = ..., tokens: _Optional[int] = ..., sessions: _Optional[int] = ...) -> None: ...

class Up(_message.Message):
    __slots__ = ("open", "leg", "chunk", "sync", "evict", "close")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    LEG_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    EVICT_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    leg: Leg
    chunk: Chunk
    sync: Sync
    evict: Evict
    close: Close
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., leg: _Optional[_Union[Leg, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., sync: _Optional[_Union[Sync, _Mapping]] = ..., evict: _Optional[_Union[Evict, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("ready", "answer", "chunk", "synced", "error")
    READY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    answer: Answer
    chunk: Chunk
    synced: Synced
    error: Error
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., synced: _Optional[_Union[Synced, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("protocol", "version", "session", "plan", "first", "last", "labels", "dtype", "codec_up", "codec_down", "seed", "round", "done")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_UP_FIELD_NUMBER: _ClassVar[int]
    CODEC_DOWN_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    session: bytes
    plan: str
    first: int
    last: int
    labels: Labels
    dtype: str
    codec_up: str
    codec_down: str
    seed: int
    round: int
    done: Mark
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., session: _Optional[bytes] = ..., plan: _Optional[str] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., labels: _Optional[_Union[Labels, str]] = ..., dtype: _Optional[str] = ..., codec_up: _Optional[str] = ..., codec_down: _Optional[str] = ..., seed: _Optional[int] = ..., round: _Optional[int] = ..., done: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Mark(_message.Message):
    __slots__ = ("step", "version")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: int
    def __init__(self, step: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("version", "done", "credit", "max_bytes", "max_length", "patience")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    version: int
    done: Mark
    credit: int
    max_bytes: int
    max_length: int
    patience: float
    def __init__(self, version: _Optional[int] = ..., done: _Optional[_Union[Mark, _Mapping]] = ..., credit: _Optional[int] = ..., max_bytes: _Optional[int] = ..., max_length: _Optional[int] = ..., patience: _Optional[float] = ...) -> None: ...

class Leg(_message.Message):
    __slots__ = ("kind", "step", "train", "shape", "counts", "lengths", "read", "places", "size")
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    step: int
    train: bool
    shape: _containers.RepeatedScalarFieldContainer[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    read: Read
    places: Places
    size: int
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., step: _Optional[int] = ..., train: bool = ..., shape: _Optional[_Iterable[int]] = ..., counts: _Optional[_Iterable[int]] = ..., lengths: _Optional[_Iterable[int]] = ..., read: _Optional[_Union[Read, str]] = ..., places: _Optional[_Union[Places, _Mapping]] = ..., size: _Optional[int] = ...) -> None: ...

class Places(_message.Message):
    __slots__ = ("index", "target", "owner")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    index: _containers.RepeatedScalarFieldContainer[int]
    target: _containers.RepeatedScalarFieldContainer[int]
    owner: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[_Iterable[int]] = ..., target: _Optional[_Iterable[int]] = ..., owner: _Optional[_Iterable[int]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "sum", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    sum: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., sum: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("kind", "step", "version", "shape", "losses", "size")
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    step: int
    version: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    losses: FarLosses
    size: int
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., losses: _Optional[_Union[FarLosses, _Mapping]] = ..., size: _Optional[int] = ...) -> None: ...

class FarLosses(_message.Message):
    __slots__ = ("loss", "correct", "count", "each", "predicted")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    EACH_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    loss: _containers.RepeatedScalarFieldContainer[float]
    correct: _containers.RepeatedScalarFieldContainer[float]
    count: _containers.RepeatedScalarFieldContainer[float]
    each: _containers.RepeatedScalarFieldContainer[float]
    predicted: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, loss: _Optional[_Iterable[float]] = ..., correct: _Optional[_Iterable[float]] = ..., count: _Optional[_Iterable[float]] = ..., each: _Optional[_Iterable[float]] = ..., predicted: _Optional[_Iterable[int]] = ...) -> None: ...

class Sync(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Synced(_message.Message):
    __slots__ = ("version", "done")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    version: int
    done: Mark
    def __init__(self, version: _Optional[int] = ..., done: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Evict(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("kind", "step", "code", "text", "retry_after")
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    step: int
    code: str
    text: str
    retry_after: float
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., step: _Optional[int] = ..., code: _Optional[str] = ..., text: _Optional[str] = ..., retry_after: _Optional[float] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
