"""Finds, reads and checks training data, and brings every row into one of two shapes.

Shapes: `messages` (a conversation; the loss is taken over all of it), `pair` (a prompt and its completion; the loss is
taken over the completion), `text` (raw text). Formats: Parquet, JSON (an array or one object a line), CSV, TSV, Arrow.
Rows stream: memory holds one file's current batch, not the data set. Must not import torch; pyarrow is imported only when
a Parquet or Arrow file is there.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from .config import DatasetSettings, nearest
from .failure import Failure, Problems

EXTENSIONS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
}
# Files that lie beside data sets and are none.
BESIDE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", "adapter_config.json"}
BESIDE_EXTENSIONS = (".md", ".txt", ".lock", ".sha256", ".yaml", ".yml", ".gitattributes", ".py")
# The first word of a file's or folder's name that says its rows are for evaluation, as hubs name their splits.
EVALUATION = ("test", "validation", "valid", "val", "eval", "dev")
# A folder with more files than this is not a data set, or the wrong folder.
FILES_LIMIT = 10_000
# A CSV field larger than this is a broken quote, not a text.
CSV_FIELD_BYTES = 16 << 20
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "tool": "tool"}
# Column names tried in this order: prompt, optional second part of the prompt, completion.
PAIRS = (
    ("prompt", None, "completion"),
    ("prompt", None, "response"),
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("instruction", "input", "response"),
    ("instruction", "context", "output"),
    ("question", "context", "answer"),
    ("question", None, "response"),
    ("context", None, "response"),
    ("input", None, "output"),
)
CONVERSATIONS = ("messages", "conversations", "conversation")
EXPECTED = (
    "messages; prompt and completion; instruction and output (with input); instruction and response (with context); "
    "question and answer; context and response; or text"
)


@dataclass(frozen=True)
class DataFile:
    """One file: where, its format (a value of EXTENSIONS), and whether its rows are for evaluation."""

    path: str
    format: str
    evaluation: bool
    name: str


@dataclass(frozen=True)
class Shape:
    """How a file's columns make a row. `kind` is messages, pair or text; `second` may be absent in the file."""

    kind: str
    first: str
    second: str | None = None
    completion: str | None = None


@dataclass
class Summary:
    """What was read: rows per use, files, the shape's kind, and a digest over all rows in order."""

    files: list[str] = field(default_factory=list)
    kind: str = ""
    rows: int = 0
    evaluation_rows: int = 0
    characters: int = 0
    digest: str = ""
    notes: list[str] = field(default_factory=list)


class Dataset:
    """A folder or file of training data."""

    def __init__(self, path: str, settings: DatasetSettings):
        self.settings = settings
        self.notes: list[str] = []
        self.files = find(path, settings, self.notes)

    def check(self) -> Summary:
        """Reads every row once; raises Failure DatasetInvalid with what is wrong, all files together."""
        problems = Problems("DatasetInvalid", "data set")
        summary = Summary(notes=self.notes)
        digest = hashlib.sha256()
        kinds: dict[str, str] = {}
        for file in self.files:
            summary.files.append(file.name)
            count = 0
            for kind, row in self.rows_of(file, problems):
                kinds.setdefault(kind, file.name)
                digest.update(json.dumps([file.evaluation, row], sort_keys=True, ensure_ascii=False).encode())
                summary.characters += characters(row)
                count += 1
            if file.evaluation:
                summary.evaluation_rows += count
            else:
                summary.rows += count
        if len(kinds) > 1:
            both = " and ".join(f"{name} holds {kind}" for kind, name in kinds.items())
            problems.add(f"the files do not fit together: {both}")
        problems.raise_if_any()
        if not summary.rows:
            raise Failure("DatasetInvalid", "data set: no row to train on; all files are for evaluation by their names")
        self.check_fraction(summary)
        summary.kind = next(iter(kinds))
        summary.digest = digest.hexdigest()
        return summary

    def check_fraction(self, summary: Summary) -> None:
        """Sees that rows are left on both sides of a split."""
        fraction = self.settings.train_fraction
        if fraction < 1 and summary.evaluation_rows:
            self.notes.append("train_test_split has no effect: the data set has files for evaluation")
        elif fraction < 1 and not 0 < round(summary.rows * fraction) < summary.rows:
            raise Failure(
                "DatasetInvalid",
                f"data set: {summary.rows} rows are too few for train_test_split: {fraction:g}; use 1 to hold none out",
            )

    def rows(self, evaluation: bool) -> Iterator[dict]:
        """The rows of one use, in order, after `check` found nothing wrong."""
        problems = Problems("DatasetInvalid", "data set")
        for file in self.files:
            if file.evaluation == evaluation:
                for _, row in self.rows_of(file, problems):
                    yield row
                problems.raise_if_any()

    def rows_of(self, file: DataFile, problems: Problems) -> Iterator[tuple[str, dict]]:
        """The good rows of one file with their kind; what is wrong with the others goes to `problems`."""
        shape = None
        seen = False
        try:
            for unit, number, row in READERS[file.format](file.path):
                seen = True
                if not isinstance(row, dict):
                    problems.add(f"{file.name}:{number} ({unit}): is no object with named columns")
                    continue
                if shape is None:
                    shape = resolve(list(row), self.settings, file.name, self.notes)
                try:
                    yield shape.kind, shaped(row, shape, self.settings.chat_template)
                except ValueError as error:
                    problems.add(f"{file.name}:{number} ({unit}): {error}")
        except Unreadable as error:
            problems.add(f"{file.name}{error}")
            return
        except Failure as failure:
            problems.add(failure.message)
            return
        if not seen:
            problems.add(f"{file.name}: has no rows")


class Unreadable(Exception):
    """A file cannot be read further; the text goes after the file's name: ": …" or ":LINE: …"."""


def find(path: str, settings: DatasetSettings, notes: list[str]) -> list[DataFile]:
    """The data files below a folder, sorted by name; raises Failure DatasetInvalid when there is none."""
    base = narrowed(path, settings.path)
    if os.path.isfile(base):
        names = [os.path.basename(base)]
        root = os.path.dirname(base)
    elif os.path.isdir(base):
        root = base
        names = sorted(os.path.relpath(name, root) for name in itertools.islice(walk(root), FILES_LIMIT + 1))
        if len(names) > FILES_LIMIT:
            raise Failure("DatasetInvalid", f"{base}: holds more than {FILES_LIMIT} files; is it the right folder?")
    else:
        raise Failure("DatasetInvalid", f"{base}: no such file or folder; the data set is expected there")
    files, unknown, beside = [], [], []
    for name in names:
        full = os.path.join(root, name)
        kind = format_of(full, settings.extension)
        if kind:
            files.append(DataFile(full, kind, is_evaluation(name), name))
        else:
            (unknown if kind is None else beside).append(name)
    if not files:
        others = [*unknown, *beside]
        found = f"found {', '.join(others[:10])}" if others else "the folder is empty"
        raise Failure(
            "DatasetInvalid",
            f"{base}: no data file; {found}. Formats are told by extension: {', '.join(EXTENSIONS)} (also with .gz); "
            "for other names set dataset_extension in DatasetConfig",
        )
    if unknown:
        notes.append(f"ignored beside the data: {', '.join(unknown[:10])}")
    return files


def narrowed(path: str, inside: str | None) -> str:
    """`dataset_path` of the configuration, which must stay below the data folder."""
    if not inside:
        return path
    joined = os.path.realpath(os.path.join(path, inside))
    root = os.path.realpath(path)
    if joined != root and not joined.startswith(root + os.sep):
        raise Failure("ConfigInvalid", f"dataset_path {inside}: must be inside the data folder {path}")
    return joined


def walk(root: str) -> Iterator[str]:
    """All regular files below a folder, without hidden ones. Reading a pipe or a socket would wait for ever."""
    for folder, folders, names in os.walk(root, followlinks=False):
        # Mounted ConfigMaps keep their files in hidden folders, volumes have lost+found.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "lost+found")))
        for name in names:
            path = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield path


def format_of(path: str, extension: str | None) -> str | None:
    """The file's format by extension, or by its first bytes; "" for files that lie beside data, None if unknown."""
    name = os.path.basename(path).lower()
    if name in BESIDE or name.endswith(BESIDE_EXTENSIONS):
        return ""
    stem = name.removesuffix(".gz")
    if extension:
        wanted = "." + extension.lower().lstrip(".")
        if wanted not in EXTENSIONS:
            raise Failure("ConfigInvalid", f"dataset_extension {extension}: must be one of {', '.join(EXTENSIONS)}{nearest(wanted, EXTENSIONS)}")
        # Files that carry another known extension are what that says.
        return EXTENSIONS.get(os.path.splitext(stem)[1], EXTENSIONS[wanted])
    known = EXTENSIONS.get(os.path.splitext(stem)[1])
    return known or by_first_bytes(path)


def by_first_bytes(path: str) -> str | None:
    """The format that a file's first bytes prove; None when they prove nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return None
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    return "json" if head.lstrip()[:1] in (b"{", b"[") else None


def is_evaluation(name: str) -> bool:
    """Whether a path below the data folder is named as a split for evaluation."""
    parts = name.lower().replace("\\", "/").split("/")
    return any(part.replace("_", "-").split(".")[0].split("-")[0] in EVALUATION for part in parts)


def opened(path: str, newline: str | None = None):
    """A text file for reading, unpacked if its name ends in .gz; a byte-order mark is skipped."""
    opener = gzip.open if path.endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", newline=newline)


def read_lines(path: str) -> Iterator[tuple[str, int, object]]:
    """JSON, one object a line."""
    number = 0
    try:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield "line", number, json.loads(line)
                    except ValueError as error:
                        raise Unreadable(f":{number}: is not JSON: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Unreadable(f":{number + 1}: cannot be read: {error}") from error


def read_json(path: str) -> Iterator[tuple[str, int, object]]:
    """A JSON file: one object a line, or an array, or an object with one array in it."""
    with opened(path) as file:
        try:
            first = file.readline()
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise Unreadable(f": cannot be read: {error}") from error
    try:
        whole_line = isinstance(json.loads(first), dict)
    except ValueError:
        whole_line = False
    if whole_line:
        # One object: the first line of many, or a file that wraps its rows.
        yield from read_lines_or_wrapped(path)
    else:
        yield from elements(read_document(path))


def read_lines_or_wrapped(path: str) -> Iterator[tuple[str, int, object]]:
    """Tells {"data": [rows]} on one line from one row a line."""
    with opened(path) as file:
        row = json.loads(file.readline())
        more = any(line.strip() for line in file)
    lists = [value for value in row.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if not more and len(row) == 1 and lists and next(iter(row)) not in CONVERSATIONS:
        yield from elements(row)
    else:
        yield from read_lines(path)


def read_document(path: str):
    """A whole file as one JSON value."""
    try:
        with opened(path) as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise Unreadable(f":{error.lineno}: is not JSON: {error.msg} (column {error.colno})") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Unreadable(f": cannot be read: {error}") from error


def elements(document) -> Iterator[tuple[str, int, object]]:
    """The rows of an array, or of the only array in an object."""
    if isinstance(document, dict):
        arrays = [value for value in document.values() if isinstance(value, list)]
        if len(arrays) != 1:
            raise Unreadable(f": an array of rows is wanted; this is one object with {', '.join(document) or 'nothing'}")
        document = arrays[0]
    if not isinstance(document, list):
        raise Unreadable(f": an array of rows is wanted, this is {type(document).__name__}")
    for number, row in enumerate(document, 1):
        yield "row", number, row


def read_csv(path: str, delimiter: str = ",") -> Iterator[tuple[str, int, object]]:
    """Comma-separated values with a header; a row's number is that of its first line."""
    csv.field_size_limit(CSV_FIELD_BYTES)
    line = 0
    try:
        with opened(path, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, None)
            if header is None:
                return
            header = [name.strip() for name in header]
            if len(set(header)) != len(header):
                raise Unreadable(f":1: a column name is there twice: {', '.join(header)}")
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(header):
                    raise Unreadable(f":{line}: {len(cells)} fields, the header has {len(header)}: {', '.join(header)}")
                if cells:
                    yield "line", line, dict(zip(header, cells))
                line = reader.line_num + 1
    except csv.Error as error:
        raise Unreadable(f":{line}: is not CSV: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Unreadable(f":{line}: cannot be read: {error}") from error


def read_tsv(path: str) -> Iterator[tuple[str, int, object]]:
    """Values separated by tabulators."""
    return read_csv(path, "\t")


def pyarrow_module(name: str):
    """A module of pyarrow, or a sentence about its absence."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Unreadable(": reading this format needs the Python package pyarrow") from error


def read_parquet(path: str) -> Iterator[tuple[str, int, object]]:
    """An Apache Parquet file, batch by batch."""
    parquet, pyarrow = pyarrow_module("pyarrow.parquet"), pyarrow_module("pyarrow")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield "row", number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise Unreadable(f": cannot be read as Parquet: {error}") from error


def read_arrow(path: str) -> Iterator[tuple[str, int, object]]:
    """An Apache Arrow file or stream, batch by batch."""
    pyarrow = pyarrow_module("pyarrow")
    ipc = pyarrow_module("pyarrow.ipc")
    number = 0
    try:
        with pyarrow.memory_map(path) as source:
            try:
                file = ipc.open_file(source)
                batches = (file.get_batch(index) for index in range(file.num_record_batches))
            except pyarrow.ArrowInvalid:
                source.seek(0)
                batches = ipc.open_stream(source)
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield "row", number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise Unreadable(f": cannot be read as Arrow: {error}") from error


READERS = {
    "jsonl": read_lines,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}


def resolve(columns: list[str], settings: DatasetSettings, name: str, notes: list[str]) -> Shape:
    """Which columns make a row; raises Failure DatasetInvalid that lists the columns there are."""
    shape = configured(columns, settings, name) or detected(columns)
    if shape is None:
        raise Failure("DatasetInvalid", f"{name}: columns {listing(columns)} are none of the known ones: {EXPECTED}")
    used = {shape.first, shape.second, shape.completion}
    ignored = [column for column in columns if column not in used]
    text = f"columns without effect: {', '.join(ignored)}"
    if ignored and text not in notes:
        notes.append(text)
    return shape


def configured(columns: list[str], settings: DatasetSettings, name: str) -> Shape | None:
    """The shape that the configuration names, if it names one."""
    wanted = [settings.messages_column, settings.context_column, settings.response_column]
    for column in filter(None, wanted):
        if column not in columns:
            raise Failure(
                "DatasetInvalid",
                f"{name}: has no column {column}, which DatasetConfig names{nearest(column, columns)}; "
                f"columns are {listing(columns)}",
            )
    if settings.messages_column:
        return Shape("messages", settings.messages_column)
    if settings.context_column and settings.response_column:
        return Shape("pair", settings.context_column, None, settings.response_column)
    if settings.response_column:
        return Shape("text", settings.response_column)
    return None


def detected(columns: list[str]) -> Shape | None:
    """The shape that the columns' names tell."""
    for column in CONVERSATIONS:
        if column in columns:
            return Shape("messages", column)
    for first, second, completion in PAIRS:
        if first in columns and completion in columns:
            return Shape("pair", first, second if second in columns else None, completion)
    return Shape("text", "text") if "text" in columns else None


def listing(columns: list[str]) -> str:
    """Column names, quoted, the first twenty."""
    shown = ", ".join(repr(column) for column in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")


def shaped(row: dict, shape: Shape, chat: bool) -> dict:
    """A row in its shape; raises ValueError that says what is wrong with it."""
    if shape.kind == "messages":
        return {"messages": conversation(row.get(shape.first), shape.first, answered=True)}
    if shape.kind == "text":
        return {"text": text_of(row, shape.first)}
    prompt, completion = row.get(shape.first), row.get(shape.completion)
    if isinstance(prompt, list) or isinstance(completion, list):
        return {
            "prompt": conversation(prompt, shape.first, answered=False),
            "completion": conversation(completion, shape.completion, answered=True),
        }
    prompt, completion = text_of(row, shape.first), text_of(row, shape.completion)
    more = row.get(shape.second) if shape.second else None
    if isinstance(more, str) and more.strip():
        prompt = f"{prompt}\n\n{more}"
    if not chat:
        return {"prompt": prompt, "completion": completion}
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


def text_of(row: dict, column: str) -> str:
    """The text of a column, which must have some."""
    value = row.get(column)
    if value is None:
        raise ValueError(f"{column} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{column} is no text but {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{column} is empty")
    return value


def conversation(value, column: str, answered: bool) -> list[dict]:
    """The messages of a column; text that holds a JSON array, as in CSV files, is read as one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"{column} is text, a list of messages is wanted") from None
    if not isinstance(value, list) or not value:
        raise ValueError(f"{column} is no list of messages" if value else f"{column} is empty")
    messages = [message(item, f"{column}[{index}]") for index, item in enumerate(value)]
    if answered and all(item["role"] != "assistant" for item in messages):
        raise ValueError(f"{column} has no message of the assistant, so there is nothing to learn")
    return messages


def message(item, place: str) -> dict:
    """One message: role and content, or from and value."""
    if not isinstance(item, dict):
        raise ValueError(f"{place} is no message with role and content")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if role not in ROLES:
        raise ValueError(f"{place}.role is {role!r}, must be one of {', '.join(sorted(set(ROLES)))}")
    if item.get("tool_calls"):
        raise ValueError(f"{place}.tool_calls: calls of tools are not supported")
    if not isinstance(content, str):
        raise ValueError(f"{place}.content is no text but {type(content).__name__}")
    if not content.strip():
        raise ValueError(f"{place}.content is empty")
    return {"role": ROLES[role], "content": content}


def characters(row: dict) -> int:
    """The length of a row's texts."""
    return sum(
        len(value) if isinstance(value, str) else sum(len(item["content"]) for item in value) for value in row.values()
    )
