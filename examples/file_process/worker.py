"""Counts and hashes files and whole folders. See README.md beside this file."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from workers_sdk import Context, GiveUp, Worker

CHUNK_BYTES = 1 << 20
# A result must fit in a request body, 1 MiB.
MAX_FILES = 2000


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """path: a file, or a folder to walk. paths: several of them."""

    path: str | None = None
    paths: Annotated[list[str], msgspec.Meta(max_length=MAX_FILES)] = []

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.paths):
            raise ValueError("Expected either `path` or `paths`")


class Counts(msgspec.Struct):
    """Counts as `wc` has them; words are parted by ASCII white space."""

    path: str
    sha256: str
    bytes: int
    lines: int
    words: int


worker = Worker()


@worker.task("file_process")
def file_process(payload: Request, ctx: Context) -> dict[str, object]:
    """Look at every file, in order of their names. Stops between two pieces of a file when it has to."""
    files = [file for path in payload.paths or [payload.path or ""] for file in files_at(path, ctx)]
    if len(files) > MAX_FILES:
        raise GiveUp(f"{len(files):,} files; at most {MAX_FILES:,} in one task: name smaller folders")
    found: list[Counts] = []
    for file in files:
        ctx.progress({"done": len(found), "of": len(files), "path": str(file)})
        counts = count(file, ctx)
        found.append(counts)
        ctx.log(f"{counts.path}: {counts.lines:,} lines, {counts.words:,} words, {counts.bytes:,} bytes")
    ctx.progress({"done": len(found), "of": len(files)})
    return {
        "files": found,
        "bytes": sum(one.bytes for one in found),
        "lines": sum(one.lines for one in found),
        "words": sum(one.words for one in found),
    }


def files_at(path: str, ctx: Context) -> Iterator[Path]:
    """The file there, or the regular files below the folder there. Links in a folder are not followed: they may lead
    out of it, or in circles."""

    def refuse(error: OSError) -> None:
        raise GiveUp(f"cannot read {error.filename}: {error.strerror}") from error

    try:
        top = Path(path)
        mode = top.stat().st_mode
    except (OSError, ValueError) as error:
        raise GiveUp(f"cannot read {path!r}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISREG(mode):
        yield top
        return
    if not stat.S_ISDIR(mode):
        raise GiveUp(f"{path} is neither a file nor a folder")
    for folder, folders, names in os.walk(top, onerror=refuse):
        ctx.check()
        folders.sort()
        for name in sorted(names):
            if stat.S_ISREG((file := Path(folder, name)).lstat().st_mode):
                yield file


def count(path: Path, ctx: Context) -> Counts:
    """Hash and count one file in one pass, however large it is."""
    digest = hashlib.sha256()
    size = lines = words = 0
    in_word = False
    try:
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                ctx.check()
                digest.update(piece)
                size += len(piece)
                lines += piece.count(b"\n")
                # A word that began in the piece before is counted there.
                words += len(piece.split()) - (in_word and not piece[:1].isspace())
                in_word = not piece[-1:].isspace()
    except (FileNotFoundError, PermissionError) as error:
        raise GiveUp(f"cannot read {path}: {error.strerror}") from error
    return Counts(str(path), digest.hexdigest(), size, lines, words)
