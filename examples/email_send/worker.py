"""Sends mail over SMTP. See README.md beside this file.

A task is delivered at least once, and SMTP cannot take a mail back. Two things keep one task from becoming two mails: a
ledger of who accepted which mail, asked before each attempt and written as soon as the server said yes; and, for the
moment between that yes and the ledger's entry, a Message-ID made from the task's id, by which mail systems tell a mail
that arrives twice. The same ledger lets an attempt after a half accepted one go to those recipients only that are left.
"""

import hashlib
import ipaddress
import mimetypes
import os
import re
import smtplib
import sqlite3
import ssl
from collections.abc import Iterable
from contextlib import closing
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import msgspec

from workers_sdk import Context, GiveUp, Retry, Worker

SMTP_URL = os.environ.get("SMTP_URL", "smtp://127.0.0.1:8025")
MAIL_FROM = os.environ.get("MAIL_FROM", "Tasks <tasks@localhost.localdomain>")
LEDGER = Path(os.environ.get("MAIL_LEDGER", Path(__file__).parent / "output" / "ledger.sqlite3"))
SMTP_SECONDS = 20
MAX_ATTACHED_BYTES = 10_000_000
# What a server says of one mail for good; 4xx passes.
PERMANENT = range(500, 600)
POLICY = SMTP.clone(cte_type="7bit")

_NAMED = re.compile(r""""?(?P<name>\w[\w .,'&+-]{0,99})"? *<(?P<address>[^<>]+)>""")
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))+")
Recipients = Annotated[list[str], msgspec.Meta(max_length=100)]


class Attachment(msgspec.Struct, forbid_unknown_fields=True):
    """A file, and what it is called in the mail; without a name, its own."""

    path: str
    filename: str | None = None


class Email(msgspec.Struct, forbid_unknown_fields=True):
    """One mail. Addresses are `ada@example.org` or `Ada <ada@example.org>`. dry_run: check and build, send nothing."""

    to: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]
    subject: Annotated[str, msgspec.Meta(max_length=900)]
    text: str
    html: str | None = None
    cc: Recipients = []
    bcc: Recipients = []
    reply_to: str | None = None
    attachments: Annotated[list[Attachment], msgspec.Meta(max_length=20)] = []
    dry_run: bool = False


worker = Worker(concurrency=4)


@worker.task("email_send", timeout_seconds=300)
def email_send(payload: Email, ctx: Context) -> dict[str, object]:
    """Send one mail to everybody who has not accepted it yet."""
    message, recipients = build(payload, ctx)
    message_id = str(message["Message-ID"])
    result = {"message_id": message_id, "recipients": recipients, "dry_run": payload.dry_run}
    if payload.dry_run:
        return result
    with closing(open_ledger()) as ledger:
        left = [one for one in recipients if one not in accepted(ledger, message_id)]
        if not left:
            ctx.log("an earlier attempt sent it to everybody")
            return result
        ctx.check()  # from here on it cannot be taken back
        refused = deliver(message, left)
        record(ledger, message_id, (one for one in left if one not in refused))
    ctx.log(f"the server took it for {len(left) - len(refused)} of {len(left)} recipients")
    if refused:
        words = "; ".join(f"{one}: {code} {text.decode(errors='replace')}" for one, (code, text) in refused.items())
        if all(code in PERMANENT for code, _ in refused.values()):
            raise GiveUp(f"refused for good: {words}")
        raise Retry(message=f"refused for now: {words}")
    return result


def build(payload: Email, ctx: Context) -> tuple[EmailMessage, list[str]]:
    """Build the mail, the same in each attempt. Returns it and its recipients' bare addresses.

    Raises GiveUp for what cannot be sent, before any server is asked.
    """
    sender = parse("MAIL_FROM", MAIL_FROM)
    to, cc, bcc = (
        [parse(name, one) for one in addresses]
        for name, addresses in (("to", payload.to), ("cc", payload.cc), ("bcc", payload.bcc))
    )
    message = EmailMessage(policy=POLICY)
    name = hashlib.sha256(ctx.task.id.encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{name}@{sender.domain}>"
    message["From"] = sender
    message["To"] = to
    if cc:
        message["Cc"] = cc
    if payload.reply_to is not None:
        message["Reply-To"] = parse("reply_to", payload.reply_to)
    if ctx.task.created_at is not None:
        message["Date"] = ctx.task.created_at
    try:
        message["Subject"] = payload.subject
    except ValueError as error:  # a line break would begin another header
        raise GiveUp(f"subject: {error}") from error
    message.set_content(payload.text)
    if payload.html is not None:
        message.add_alternative(payload.html, subtype="html")
    attach(message, payload.attachments)
    return message, list(dict.fromkeys(one.addr_spec for one in (*to, *cc, *bcc)))


def parse(name: str, text: str) -> Address:
    """Read one address; a domain beyond ASCII becomes its IDNA form. Raises GiveUp where it cannot be one."""
    # Not by the standard library's parser: it reads nearly everything as some address, or raises any kind of error.
    named = _NAMED.fullmatch(text)
    local, _, domain = (named["address"] if named else text).rpartition("@")
    try:
        domain = domain.encode("idna").decode()
    except UnicodeError:
        domain = ""
    if len(local) <= 64 and _LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain):
        return Address(named["name"].strip() if named else "", local, domain)
    raise GiveUp(f"{name}: {text!r} is no mail address")


def attach(message: EmailMessage, attachments: Iterable[Attachment]) -> None:
    """Attach files."""
    total = 0
    for one in attachments:
        path = Path(one.path)
        if not path.is_file():
            raise GiveUp(f"attachments: there is no file {path}")
        try:
            with path.open("rb") as file:
                content = file.read(MAX_ATTACHED_BYTES - total + 1)
        except PermissionError as error:
            raise GiveUp(f"attachments: cannot read {path}: {error.strerror}") from error
        total += len(content)
        if total > MAX_ATTACHED_BYTES:
            raise GiveUp(f"attachments: more than {MAX_ATTACHED_BYTES:,} bytes")
        filename = one.filename or path.name
        if not filename.isprintable():
            raise GiveUp(f"attachments: {filename!r} is no name of a file")
        maintype, _, subtype = (mimetypes.guess_type(filename)[0] or "application/octet-stream").partition("/")
        message.add_attachment(content, maintype=maintype, subtype=subtype, filename=filename)


def deliver(message: EmailMessage, recipients: list[str]) -> dict[str, tuple[int, bytes]]:
    """Hand the mail to the server. Returns the recipients it refused, with its words.

    Raises GiveUp when it refused the mail itself for good; whatever else is wrong may pass, and is tried again.
    """
    try:
        with connect() as server:
            try:
                return server.send_message(message, to_addrs=recipients)
            except smtplib.SMTPRecipientsRefused as error:
                return error.recipients
            except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
                if error.smtp_code in PERMANENT:
                    raise GiveUp(f"refused for good: {said(error)}") from error
                raise
    except smtplib.SMTPResponseException as error:
        raise Retry(message=f"{type(error).__name__}: {said(error)}") from error
    except (smtplib.SMTPException, OSError) as error:
        raise Retry(message=f"no mail server answers: {type(error).__name__}: {error}") from error


def said(error: smtplib.SMTPResponseException) -> str:
    """What the server said."""
    text = error.smtp_error
    return f"{error.smtp_code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"


def connect() -> smtplib.SMTP:
    """Connect as SMTP_URL says: smtps: with TLS, smtp: with STARTTLS where the server offers it."""
    url = urlsplit(SMTP_URL)
    host = url.hostname or "127.0.0.1"
    context = ssl.create_default_context()
    if url.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, url.port or 465, timeout=SMTP_SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, url.port or 25, timeout=SMTP_SECONDS)
    try:
        server.ehlo_or_helo_if_needed()
        secure = url.scheme == "smtps"
        if not secure and server.has_extn("starttls"):
            server.starttls(context=context)
            secure = True
        if url.username:
            if not secure and not is_loopback(host):
                raise OSError(f"{host} offers no TLS: the password stays here")
            server.login(unquote(url.username), unquote(url.password or ""))
    except BaseException:
        server.close()
        raise
    return server


def is_loopback(host: str) -> bool:
    """Whether it is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_ledger() -> sqlite3.Connection:
    """Open the ledger, made where there is none. SQLite lets several workers of one machine share it."""
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    ledger = sqlite3.connect(LEDGER, timeout=SMTP_SECONDS)
    ledger.execute(
        "CREATE TABLE IF NOT EXISTS accepted (message_id TEXT, recipient TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP,"
        " PRIMARY KEY (message_id, recipient)) WITHOUT ROWID"
    )
    return ledger


def accepted(ledger: sqlite3.Connection, message_id: str) -> set[str]:
    """Who has accepted a mail in earlier attempts."""
    return {one for (one,) in ledger.execute("SELECT recipient FROM accepted WHERE message_id = ?", (message_id,))}


def record(ledger: sqlite3.Connection, message_id: str, recipients: Iterable[str]) -> None:
    """Remember who accepted a mail, on the disk before anything else happens."""
    with ledger:
        ledger.executemany(
            "INSERT OR IGNORE INTO accepted (message_id, recipient) VALUES (?, ?)",
            [(message_id, one) for one in recipients],
        )
