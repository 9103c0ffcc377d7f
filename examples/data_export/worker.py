"""Exports what a query finds in a SQLite database to CSV and Parquet. See README.md beside this file.

Rows are read, converted and written a chunk at a time, so that an export needs the memory of one chunk, whatever its
length. A task is delivered at least once: files are written beside their names and renamed when they are whole, so that
another attempt replaces them by the same bytes and nobody reads half of one.
"""

import csv
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Annotated, Literal
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from workers_sdk import Context, GiveUp, Retry, Worker

OUTPUT_FOLDER = Path(os.environ.get("OUTPUT_FOLDER", Path(__file__).with_name("output")))
MAX_COLUMNS = 500
# A query may read. It may not attach another database, set pragmas or write.
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# A writer that takes longer is left to the task's retry rule: a slot is too dear to wait in.
BUSY_SECONDS = 1.0
STEPS_BETWEEN_CHECKS = 10_000

Format = Literal["csv", "parquet"]
Row = Sequence[object]


class Export(msgspec.Struct, forbid_unknown_fields=True):
    """What to export. name: of the files, without .csv or .parquet. chunk_rows: how many are in memory at once."""

    database: str
    query: str
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
    formats: Annotated[tuple[Format, ...], msgspec.Meta(min_length=1, max_length=2)] = ("csv", "parquet")
    chunk_rows: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10_000


class Written(msgspec.Struct):
    """One file. size: bytes."""

    path: str
    size: int
    sha256: str


worker = Worker(concurrency=2)


@worker.task("data_export", timeout_seconds=3600)
def data_export(payload: Export, ctx: Context) -> dict[str, object]:
    """Export one query."""
    with closing(connect(payload.database)) as database:
        # Without it a long query would hear of a cancellation or a lost lease only at its end.
        database.set_progress_handler(lambda: ctx.interrupted is not None, STEPS_BETWEEN_CHECKS)
        try:
            return export(database, payload, ctx)
        except sqlite3.Error as error:
            ctx.check()  # it was the progress handler that ended the query
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in BUSY:
                raise Retry(message=f"{payload.database}: {error}") from error
            raise GiveUp(f"{payload.database}: {error}") from error


def connect(path: str) -> sqlite3.Connection:
    """Open a database, to read it only."""
    if not Path(path).is_file():
        raise GiveUp(f"there is no file {path}")
    # The path of a file: URI is quoted: a `?` in it would begin options such as mode=rw.
    return sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_SECONDS)


def export(database: sqlite3.Connection, payload: Export, ctx: Context) -> dict[str, object]:
    """Run the query twice within one snapshot: for the number of rows and the types, and for the rows."""
    database.execute("BEGIN")
    database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)
    query = payload.query.strip().rstrip(";")
    total, schema = survey(database, query)
    ctx.log(f"{total:,} rows of {', '.join(schema.names)}")
    targets = {one: OUTPUT_FOLDER.absolute() / f"{payload.name}.{one}" for one in dict.fromkeys(payload.formats)}
    done = 0
    with ExitStack() as stack:
        parts = {one: stack.enter_context(part_of(path)) for one, path in targets.items()}
        with ExitStack() as open_files:
            writers = [open_files.enter_context(WRITERS[one](part, schema)) for one, part in parts.items()]
            cursor = database.execute(query)
            while rows := cursor.fetchmany(payload.chunk_rows):
                ctx.check()
                for write in writers:
                    write(rows)
                done += len(rows)
                ctx.progress({"rows": done, "of": total})
        ctx.check()  # from a lost lease on, another attempt has the task
        for one, path in targets.items():
            parts[one].replace(path)
    return {"rows": done, "columns": schema.names, "files": [written(path) for path in targets.values()]}


def survey(database: sqlite3.Connection, query: str) -> tuple[int, pa.Schema]:
    """Count the rows and choose a type for each column: SQLite has types for values only."""
    # The line's end ends a comment that the query may end with.
    names = [column[0] for column in database.execute(f"SELECT * FROM ({query}\n) LIMIT 0").description]
    if len(names) > MAX_COLUMNS:
        raise GiveUp(f"{len(names)} columns; at most {MAX_COLUMNS}")
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    kinds = ", ".join(f"group_concat(DISTINCT typeof({name}))" for name in quoted)
    total, *found = database.execute(f"SELECT count(*), {kinds} FROM ({query}\n)").fetchone()
    fields = [
        pa.field(name, column_type(name, set((one or "").split(",")) - {"", "null"}))
        for name, one in zip(names, found, strict=True)
    ]
    return total, pa.schema(fields)


def column_type(name: str, kinds: set[str]) -> pa.DataType:
    """The narrowest type that holds every value. Raises GiveUp when there is none."""
    if kinds == {"blob"}:
        return pa.binary()
    if "blob" in kinds:
        raise GiveUp(f"column {name} mixes {' and '.join(sorted(kinds))}: CAST it in the query")
    if "text" in kinds or not kinds:
        return pa.string()
    return pa.float64() if "real" in kinds else pa.int64()


@contextmanager
def csv_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[list[Row]], None]]:
    """RFC 4180 in UTF-8, with a line of names. NULL is an empty field, a blob is in hexadecimal digits."""
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(schema.names)

        def write(rows: list[Row]) -> None:
            writer.writerows([value.hex() if isinstance(value, bytes) else value for value in row] for row in rows)

        yield write
        settle(file)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[list[Row]], None]]:
    """Parquet, a row group a chunk."""
    with path.open("xb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:

            def write(rows: list[Row]) -> None:
                writer.write_table(table(rows, schema))

            yield write
        settle(file)


WRITERS = {"csv": csv_writer, "parquet": parquet_writer}


def table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Rows as columns."""
    columns = []
    for field, values in zip(schema, zip(*rows, strict=True), strict=True):
        if field.type == pa.string():
            values = tuple(value if value is None else str(value) for value in values)
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise GiveUp(f"column {field.name} does not fit {field.type}: {error}") from error
    return pa.table(columns, schema=schema)


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A name beside the file's own to write it under; what was not renamed by the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def settle(file: IO[str] | IO[bytes]) -> None:
    """See that what was written is on the disk before the task is reported."""
    file.flush()
    os.fsync(file.fileno())


def written(path: Path) -> Written:
    """Look at the file as it is now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Written(str(path), os.fstat(file.fileno()).st_size, digest)
