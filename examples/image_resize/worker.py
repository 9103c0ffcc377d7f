"""Resizes PNG, JPEG and WebP images. See README.md beside this file.

A task is delivered at least once: a worker may die, or lose its lease, after it wrote the image and before the gateway
heard of it, and then another attempt does the work again. That is harmless here: the result's name is made of what went
into it, and the file appears by one rename, so that repeating the work writes the same bytes in the same place and a
reader never sees half an image.
"""

import hashlib
import io
import os
import secrets
import struct
import urllib.error
import urllib.request
import warnings
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import IO, Annotated, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
from PIL import Image, ImageOps, UnidentifiedImageError

from workers_sdk import Context, GiveUp, Worker

OUTPUT_FOLDER = Path(os.environ.get("OUTPUT_FOLDER", Path(__file__).with_name("output")))
# Whoever enqueues a task chooses the URL: without a list, tasks could read what only this machine may.
IMAGE_URL_HOSTS = os.environ.get("IMAGE_URL_HOSTS", "").split(",")
MAX_BYTES = 50_000_000
MAX_PIXELS = 50_000_000
FETCH_SECONDS = 20
FORMATS = ("PNG", "JPEG", "WEBP")

# A few kilobytes can unfold to gigabytes of pixels: Pillow looks at the size in the header before it unfolds any.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Resize(msgspec.Struct, forbid_unknown_fields=True):
    """What to resize, and the box to fit it to, in pixels.

    fit, as in CSS: `contain` makes it as large as the box allows, `cover` fills the box and crops the middle,
    `scale-down` is `contain` but never enlarges. The aspect ratio is kept by all.
    """

    width: Side
    height: Side
    image_path: str | None = None
    image_url: str | None = None
    fit: Literal["contain", "cover", "scale-down"] = "contain"

    def __post_init__(self) -> None:
        if (self.image_path is None) == (self.image_url is None):
            raise ValueError("Expected either `image_path` or `image_url`")
        urlsplit(self.image_url or "")  # raises ValueError for what is no URL


class Resized(msgspec.Struct):
    """Where the image is now. size: bytes."""

    path: str
    size: int
    sha256: str
    width: int
    height: int


worker = Worker(concurrency=os.cpu_count() or 1)


@worker.task("image_resize", timeout_seconds=120)
def image_resize(payload: Resize, ctx: Context) -> Resized:
    """Resize one image."""
    name, source = read(payload)
    ctx.progress({"step": "read", "bytes": len(source)})
    image, encoded = resize(source, payload)
    # From a lost lease on, another attempt has the task: change nothing any more.
    ctx.check()
    origin = hashlib.sha256(source).hexdigest()[:16]
    suffix = {"JPEG": ".jpg"}.get(image.format or "", f".{image.format}".lower())
    shape = f"{payload.width}x{payload.height}-{payload.fit}"
    path = OUTPUT_FOLDER.absolute() / f"{name[:80]}-{origin}-{shape}{suffix}"
    put_in_place(path, encoded)
    return Resized(str(path), len(encoded), hashlib.sha256(encoded).hexdigest(), image.width, image.height)


def read(payload: Resize) -> tuple[str, bytes]:
    """Read the image. Returns the name it goes by, and its bytes. Raises GiveUp where there is none to be had."""
    if payload.image_url is not None:
        url = urlsplit(payload.image_url)
        if url.scheme != "file":
            return Path(url.path).stem, fetch(payload.image_url)
        path = Path(url2pathname(url.path))
    else:
        path = Path(payload.image_path or "")
    if not path.is_file():
        raise GiveUp(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            return path.stem, take(file, str(path))
    except PermissionError as error:
        raise GiveUp(f"cannot read {path}: {error.strerror}") from error


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would lead past the list of hosts."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))


def fetch(url: str) -> bytes:
    """Fetch the image over HTTP. Raises GiveUp where asking again would not help; what else it raises is retried."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname not in IMAGE_URL_HOSTS:
        raise GiveUp(f"{url}: fetches from the hosts in IMAGE_URL_HOSTS only, by http: or https:")
    try:
        with opener.open(url, timeout=FETCH_SECONDS) as reply:
            return take(reply, url)
    except urllib.error.HTTPError as error:
        if error.code in (408, 425, 429) or error.code >= 500:
            raise
        raise GiveUp(f"{url}: answered {error.code} {error.reason}") from error
    except (InvalidURL, ValueError) as error:
        raise GiveUp(f"{url}: {error}") from error
    except HTTPException as error:
        raise OSError(f"{url}: the reply broke off: {error!r}") from error


def take(file: IO[bytes], name: str) -> bytes:
    """Read it all, within bounds."""
    source = file.read(MAX_BYTES + 1)
    if len(source) > MAX_BYTES:
        raise GiveUp(f"{name}: more than {MAX_BYTES:,} bytes")
    return source


def resize(source: bytes, payload: Resize) -> tuple[Image.Image, bytes]:
    """Resize and encode it in the format it came in. Raises GiveUp for what is no image, or far too large."""
    box = (payload.width, payload.height)
    try:
        with Image.open(io.BytesIO(source), formats=FORMATS) as image:
            image_format = image.format
            profile = image.info.get("icc_profile")
            # A camera notes how it was held; without that note in the result the pixels themselves must be turned.
            upright = ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise GiveUp(f"too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise GiveUp("neither a PNG nor a JPEG nor a WebP image") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise GiveUp(f"the image cannot be read to its end: {error}") from error
    if upright.mode not in ("L", "LA", "RGB", "RGBA"):
        # Palettes cannot be averaged, and CMYK or 16 bits have no place in every format.
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    if payload.fit == "cover":
        resized = ImageOps.fit(upright, box)
    elif payload.fit == "contain" or upright.width > box[0] or upright.height > box[1]:
        resized = ImageOps.contain(upright, box)
    else:
        resized = upright
    buffer = io.BytesIO()
    resized.save(buffer, image_format, quality=85, icc_profile=profile)
    resized.format = image_format
    return resized, buffer.getvalue()


def put_in_place(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, and on the disk before the task is reported."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
