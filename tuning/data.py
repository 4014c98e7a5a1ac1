"""A data file, or rows in memory, as a corpus: examples to train and to evaluate on, and whose.

Importing this module loads tokenizers and numpy, never torch.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, DataError, require
from fedloom.core.job import DataConfig
from fedloom.core.patterns import Pattern
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples
from fedloom.tuning.labels import class_numbers
from fedloom.tuning.patterned import tokenize_within
from fedloom.tuning.reading import Reading
from fedloom.tuning.splits import owners, split_rows
from fedloom.tuning.tables import Table, array_names, read_table, table_of
from fedloom.tuning.tokens import tokenize, tokenize_causal

__all__ = [
    "Corpus",
    "Examples",
    "ImageExamples",
    "Reading",
    "TextExamples",
    "corpus_from_rows",
    "load_examples",
    "own_examples",
]

Rows = NDArray[np.int64]
Labels = NDArray[np.int64]

# What arrays of an NPZ file are commonly called, tried where the configured name is not there.
IMAGE_NAMES = ("pixels", "images", "x")
LABEL_NAMES = ("label", "labels", "y")
MAX_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class Corpus:
    """Everything that is learned from and evaluated on.

    Attributes:
        train: training examples.
        valid: validation examples; empty where the data have none.
        test: test examples.
        client_codes: int64 ``[N_train]``, owner of each training example as an index into
            `client_names`; None where the data do not say whose they are.
        client_names: names of the clients, sorted.
        classes: name of each class; empty for a causal language model. The label of a training
            example may be missing: its class is then -1.
        dropped: rows left out because their label (or text to learn) was missing.
    """

    train: Examples
    valid: Examples
    test: Examples
    client_codes: NDArray[np.int64] | None
    client_names: tuple[str, ...]
    classes: tuple[str, ...]
    dropped: int = 0

    def curve(self, split: str) -> Examples:
        """What a curve is drawn from: ``valid`` where it is asked for and there, else ``test``."""
        return self.valid if split == "valid" and len(self.valid) else self.test

    def check_test(self, where: str) -> None:
        """Raise `DataError`, naming the data, where nothing is left to evaluate on."""
        if not len(self.test):
            raise DataError(f"{where}: no test examples; the curve needs some")


def load_examples(config: DataConfig, reading: Reading, *, seed: int = 0) -> Corpus:
    """Read a data file into a corpus.

    Args:
        config: the file, and where the parts of an example stand in it.
        reading: how the backbone reads them.
        seed: of the choice of evaluation examples where ``config.max_test`` cuts them.

    Raises:
        ConfigError: the configuration names no file, or a limit that needs a client column.
        DataError: the file is missing, malformed or does not fit the task.
    """
    if not config.path:
        raise ConfigError("data.path = '': expected a CSV, JSONL, Parquet or NPZ file")
    return _gather(config.path, config, reading, seed)


def corpus_from_rows(
    data: object, config: DataConfig, reading: Reading, *, seed: int = 0
) -> Corpus:
    """Make a corpus of Python data.

    Args:
        data: rows (an iterable of mappings), columns (a mapping of sequences or a data frame), or
            a function that returns either.
        config: names of the columns; its path is not read.
        reading: how the backbone reads the examples.
        seed: as in `load_examples`.

    Raises:
        ConfigError: a limit that needs a client column.
        DataError: the data have another form or do not fit the task.
    """
    return _gather(data, config, reading, seed)


def own_examples(source: object, config: DataConfig, reading: Reading, *, seed: int = 0) -> Corpus:
    """The examples of one client, from its own file or rows: the same as where all lie in one file.

    Args:
        source: path of the file, or data as `corpus_from_rows` takes them.
        config: names of the columns, ``max_examples`` and ``classes``; neither path nor client
            column is read.
        reading: how the backbone reads the examples.
        seed: as in `load_examples`.

    Raises:
        DataError: the file is missing, malformed or does not fit the task.
    """
    alone = replace(config, client="", max_clients=0, max_examples=0)
    corpus = _gather(source, alone, reading, seed, own=True)
    if config.max_examples and len(corpus.train) > config.max_examples:
        return replace(corpus, train=corpus.train.take(np.arange(config.max_examples)))
    return corpus


def _gather(
    source: object, config: DataConfig, reading: Reading, seed: int, *, own: bool = False
) -> Corpus:
    path = Path(source) if isinstance(source, str) else None
    if path and path.suffix.lower() == ".npz":
        config = _named_arrays(config, array_names(path))
    columns, needed = _columns(config, reading.task), _needed(config, reading.task)
    if path:
        table = read_table(path, columns, needed=needed)
    else:
        table = table_of(source, columns, needed=needed)
    return _corpus(table, config, reading, seed, own=own)


def _columns(config: DataConfig, task: str) -> list[str]:
    for key in ("text",) if task == "causal-lm" else ("text", "label"):
        require(bool(getattr(config, key)), f"data.{key}", "", f"the name of a column, for {task}")
    prompt = config.prompt if task == "causal-lm" else ""
    label = "" if task == "causal-lm" else config.label
    names = (config.text, prompt, label, config.client, config.split)
    return [name for name in names if name]


def _needed(config: DataConfig, task: str) -> Collection[str]:
    if task == "causal-lm":
        return (config.text,)
    return () if config.unlabelled else (config.label,)


def _named_arrays(config: DataConfig, present: Collection[str]) -> DataConfig:
    def name(wanted: str, usual: tuple[str, ...]) -> str:
        return wanted if wanted in present else next((n for n in usual if n in present), wanted)

    text, label = name(config.text, IMAGE_NAMES), name(config.label, LABEL_NAMES)
    return replace(config, text=text, label=label)


def _corpus(
    table: Table, config: DataConfig, reading: Reading, seed: int, *, own: bool = False
) -> Corpus:
    splits = split_rows(table, config, seed=seed, own=own)
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    if reading.task != "causal-lm":
        # of the whole training split, so that limits on clients do not change what is asked
        labels, classes = class_numbers(table, config.label, splits.train, config.classes)
    train, codes, names = owners(table, splits.train, config)

    def examples(rows: Rows) -> Examples:
        if reading.task == "classify-image":
            return _images(table, config.text, rows, labels)
        return _texts(table, config, reading, rows, labels)

    valid, test = (_told(rows, labels) for rows in (splits.valid, splits.test))
    dropped = len(splits.valid) - len(valid) + len(splits.test) - len(test)
    held_out = examples(valid), examples(test)
    return Corpus(examples(train), *held_out, codes, names, classes, table.dropped + dropped)


def _told(rows: Rows, labels: Labels | None) -> Rows:
    """Those of some rows that have a label: others say nothing of a model."""
    return rows if labels is None else rows[labels[rows] >= 0]


def _texts(
    table: Table, config: DataConfig, reading: Reading, rows: Rows, labels: Labels | None
) -> TextExamples:
    if reading.tokenizer is None:
        raise ConfigError(f"backbone.task = {reading.task!r}: needs a tokenizer")
    texts = _strings(table, config.text, rows)
    if labels is not None:
        read = reading.tokenizer, reading.max_tokens
        if reading.pattern == Pattern():
            examples = tokenize(texts, *read)
        else:
            examples = tokenize_within(texts, *read, reading.pattern)
        return replace(examples, labels=labels[rows])
    prompts = _strings(table, config.prompt, rows) if config.prompt else None
    return tokenize_causal(
        texts, prompts, reading.tokenizer, max_tokens=reading.max_tokens, eos=reading.eos
    )


def _strings(table: Table, column: str, rows: Rows) -> list[str]:
    values = table.columns[column]
    texts: list[str] = []
    for row in rows:
        value = values[row]
        if not isinstance(value, str):
            found = f"{column} = {value!r:.40}: expected text, found {type(value).__name__}"
            raise DataError(f"{table.where(int(row))}: {found}")
        texts.append(value)
    return texts


def _images(table: Table, column: str, rows: Rows, labels: Labels | None) -> ImageExamples:
    pixels = np.asarray(table.columns[column])
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] > MAX_CHANNELS >= pixels.shape[3]:
        pixels = np.moveaxis(pixels, 3, 1)
    where = f"{table.source}: {column}"
    if pixels.ndim != 4 or pixels.shape[1] > MAX_CHANNELS:
        shape = list(pixels.shape)
        raise DataError(f"{where} {shape}: expected [N, H, W], [N, C, H, W] or [N, H, W, C]")
    chosen = _pixels(pixels[rows], where)
    return ImageExamples(chosen, np.zeros(0, np.int64) if labels is None else labels[rows])


def _pixels(pixels: NDArray[np.generic], where: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Pixels as uint8 (0 to 255), or as float32 where they are floats."""
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise DataError(f"{where}: a pixel is NaN or infinite")
        return np.ascontiguousarray(pixels, dtype=np.float32)
    fits = pixels.dtype.kind in "iu" and (
        not pixels.size or (0 <= pixels.min() <= pixels.max() <= 255)
    )
    if not fits:
        raise DataError(f"{where}: expected floats, or whole numbers from 0 to 255")
    return np.ascontiguousarray(pixels, dtype=np.uint8)
