"""README.md, docs/protocol.md, docs/internals.md and CHANGELOG.md, held against the code and a live gateway.

`python -m tests.test_documentation` writes the README's configuration table anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from gateway import config, tasks
from gateway.api import admin_messages, messages, operations, problems, task_messages, worker_messages
from gateway.api.messages import Request
from gateway.store import scripts
from gateway.store.keys import Keys
from tests.harness import LiveGateway, live_gateway

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
INTERNALS = (ROOT / "docs" / "internals.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
DOCUMENTS = sorted(
    path for path in (ROOT, ROOT / "docs", ROOT / "examples", ROOT / "benchmarks") for path in path.glob("*.md")
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# Members whose values differ from run to run; where a later request uses one, it is the one of this run.
_OF_THIS_RUN = {"id", "lease_token", "next_cursor", "request_id", "job_id"}
_MEASURED = {"oldest_pending_seconds", "last_seen_seconds", "version", "workers", "open_polls"}


# The configuration table


def configuration_table() -> str:
    """The README's configuration table, from the settings."""
    rows = ["| variable | what it may be | default | meaning |", "|---|---|---|---|"]
    for row in config.table():
        first, *others = (f"`{name}`" for name in row.variables)
        names = f"{first} (or {', '.join(others)})" if others else first
        default = "" if row.default is None else f"`{json.dumps(row.default).strip(chr(34))}`"
        rows.append(f"| {names} | {row.kind} | {default} | {row.about} |")
    return "\n".join(rows)


def _between(text: str, mark: str) -> str:
    start, end = f"<!-- {mark} -->\n", f"\n<!-- end of {mark} -->"
    assert (text.count(start), text.count(end)) == (1, 1), mark
    return text.partition(start)[2].partition(end)[0]


def test_the_configuration_table_is_that_of_the_settings() -> None:
    assert _between(README, "configuration") == configuration_table(), "run python -m tests.test_documentation"


# The README's lines


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Every block that a reader copies: what its mark says beside `run`, and its lines."""
    for found in re.finditer(r"<!-- run ?([a-z]*) -->\n```bash\n(.*?)```", text, re.DOTALL):
        yield found[1], found[2]


async def test_every_line_of_the_readme_runs(redis_url: str, tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    blocks = list(_blocks(README))
    assert len(blocks) >= 6
    running: list[subprocess.Popen[bytes]] = []
    async with live_gateway(redis_url, pool_size=5) as gateway:
        env = {**os.environ, "GATEWAY_URL": gateway.url, "LC_ALL": "C.UTF-8"}
        try:
            for mark, lines in blocks:
                script = f"set -euo pipefail\n{lines.replace('http://127.0.0.1:8080', gateway.url)}"
                if mark == "background":
                    running.append(
                        subprocess.Popen(
                            ["bash", "-c", script],
                            cwd=tmp_path,
                            env=env,
                            start_new_session=True,
                            stdout=subprocess.DEVNULL,
                        )
                    )
                    continue
                done = await asyncio.to_thread(
                    subprocess.run,
                    ["bash", "-c", script],
                    cwd=tmp_path,
                    env=env,
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
                assert "urn:tasks-gateway:problem" not in done.stdout, f"{lines}\n{done.stdout}"
        finally:
            for process in running:
                os.killpg(process.pid, signal.SIGTERM)
                await asyncio.to_thread(process.wait, 10)


async def test_the_arq_producer_of_the_readme_gets_what_a_worker_completed_with(
    gateway: LiveGateway, redis_url: str
) -> None:
    found = re.search(r"<!-- run python -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found
    script = found[1].replace(
        "RedisSettings()", f"RedisSettings(unix_socket_path={redis_url.removeprefix('unix://')!r})"
    )
    producer = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    (task,) = await gateway.poll("image_resize", wait=20)
    assert task["payload"] == {"function": "resize", "args": ["cat.jpg"], "kwargs": {"width": 320}}
    await gateway.report(task, "complete", result="a small cat")
    printed, _ = await producer.communicate()
    assert printed == b"a small cat\n"


def test_the_readme_begins_with_what_it_is_and_a_worker_in_bash() -> None:
    first_screen = "\n".join(README.splitlines()[:60])
    assert "make run" in first_screen
    assert "/poll?worker_id=" in first_screen
    assert "/complete" in first_screen


def test_every_promise_stands_in_its_words() -> None:
    assert "Delivery is at least once; acceptance of the outcome is exactly once." in README.replace("\n", " ")
    assert "6-20 %" in README


def test_every_relative_link_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_link_to_a_heading_finds_it() -> None:
    for path in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", path.read_text()):
            if "://" in target:
                continue
            there = (path.parent / target).read_text() if target else path.read_text()
            anchors = {
                re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
                for title in re.findall(r"^#+ (.*)$", there, re.MULTILINE)
            }
            assert anchor in anchors, f"{path.name}: {target}#{anchor}"


def test_every_heading_of_the_protocol_that_the_code_names_exists() -> None:
    """`Protocol, "Workers".` in the gateway, `docs/protocol.md, Workers.` in the SDK."""
    headings = {
        re.sub(r"^\d+\. ", "", title.replace("`", "")) for title in re.findall(r"^#+ (.*)$", PROTOCOL, re.MULTILINE)
    }
    named = []
    for path in (path for folder in ("gateway", "workers_sdk") for path in (ROOT / folder).rglob("*.py")):
        for pointer in re.findall(r"\b[Pp]rotocol(?:\.md)?,\s+([^\n]+)", path.read_text()):
            if pointer.startswith("TypeAlias"):
                continue  # an import of typing's
            found = re.match(r'"([^"]+)"|([A-Z][\w /{}]*)', pointer)
            assert found, f"{path.name}: {pointer}"
            assert (found[1] or found[2]) in headings, f"{path.name}: {pointer}"
            named.append(found[0])
    assert len(named) > 10


def test_no_document_names_what_does_not_exist() -> None:
    for path in DOCUMENTS:
        for name in re.findall(r"`((?:gateway|workers_sdk|examples|tests|docs)/[\w./*-]+)`", path.read_text()):
            assert any(ROOT.glob(name.rstrip("/"))), f"{path.name}: {name}"
        for command in re.findall(r"`make ([a-z]+)`", path.read_text()):
            assert f"\n{command}:" in (ROOT / "Makefile").read_text(), f"{path.name}: make {command}"


def test_a_line_to_type_finds_its_python_in_a_fresh_clone() -> None:
    """Or its document says which `python` it means."""
    for path in (*DOCUMENTS, *(ROOT / "docs" / "workers").glob("*.md"), *(ROOT / "examples").glob("*/README.md")):
        text = path.read_text()
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL):
            bare = re.search(r"^(?:\w+=\S+ )*(python|gateway) .*", block, re.MULTILINE)
            assert not bare or f"`{bare[1]}` is `.venv/bin/{bare[1]}`" in text, f"{path}: {bare[0]}"


def test_the_changelog_has_the_version_that_ships() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## \[{re.escape(version)}\]", CHANGELOG, re.MULTILINE)
    assert "keepachangelog.com" in CHANGELOG


# The protocol's tables


def _sections() -> dict[tuple[str, str], str]:
    """The text under each route's heading, by (method, path)."""
    found = {}
    for part in re.split(r"^(?=#{2,3} )", PROTOCOL, flags=re.MULTILINE):
        title = part.partition("\n")[0]
        for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`]*)`", title):
            assert (method, path) not in found, f"{method} {path} has two headings"
            found[method, path] = part
    return found


async def test_the_protocol_has_every_route_and_no_other(gateway: LiveGateway) -> None:
    routes = {(method, path) for methods, path in gateway.app.table for method in methods.split()}
    assert set(_sections()) == {route for route in routes if route[0] != "HEAD"}
    # "HEAD goes wherever GET goes, but for /poll."
    assert {path for method, path in routes if method == "HEAD"} == {
        path for method, path in routes if method == "GET" and path != "/poll"
    }


every_operation = pytest.mark.parametrize(
    "operation", [pytest.param(one, id=f"{one.method} {one.path}") for one in operations.OPERATIONS]
)


@every_operation
def test_a_route_has_its_parameters_and_statuses(operation: Any) -> None:
    section = _sections()[operation.method, operation.path]
    for parameter in operation.parameters:
        if parameter.where != "path":
            assert re.search(rf"[`?&]{re.escape(parameter.name)}\b", section), parameter.name
    listed = re.search(r"^Statuses: ([\d, ]+)\.$", section, re.MULTILINE)
    assert listed, "no line of statuses"
    refusals = {problems.STATUS[cause] for cause in operation.refusals}
    if operation.parameters or operation.bodies:
        refusals.add(400)
    assert [int(one) for one in listed[1].split(", ")] == sorted({*operation.answers, *refusals} - {500})


def _codes() -> dict[str, tuple[int, str]]:
    rows = re.findall(r"^\| `([a-z_0-9]+)` \| (\d{3}) \| (yes|no) \|", _between(PROTOCOL, "codes"), re.MULTILINE)
    assert len({code for code, _, _ in rows}) == len(rows)
    return {code: (int(status), retryable) for code, status, retryable in rows}


def test_the_protocol_has_every_code_with_its_status() -> None:
    known = {cause.code: (status, "yes" if cause.retryable else "no") for cause, status in problems.STATUS.items()}
    for name in ("protocol_guard.py", "server.py"):
        for status, code in re.findall(r'\b([45]\d\d), "([a-z_]+)"', (ROOT / "gateway" / name).read_text()):
            known.setdefault(code, (int(status), "yes" if status in ("408", "503") else "no"))
    assert _codes() == known


# Members that requests may have

WIRE = {**vars(messages), **vars(task_messages), **vars(worker_messages), **vars(admin_messages)}
NAMES = {
    messages.JobType.__metadata__[0].pattern: "job type",
    messages.WorkerId.__metadata__[0].pattern: "worker id",
    messages.PollId.__metadata__[0].pattern: "poll id",
    admin_messages.TenantName.__metadata__[0].pattern: "tenant",
    admin_messages.JobTypePattern.__metadata__[0].pattern: "job type pattern",
}


def test_the_protocol_spells_the_form_of_each_name() -> None:
    for pattern, name in NAMES.items():
        assert re.search(
            rf"^\| {name} \| `{re.escape(pattern.removeprefix('^').removesuffix(chr(92) + 'Z'))}`",
            PROTOCOL,
            re.MULTILINE,
        )


def described(type_: inspect.Type) -> str:
    """A member's type and bounds, in words."""
    match type_:
        case inspect.UnionType():
            return " or ".join(described(one) for one in type_.types if not isinstance(one, inspect.NoneType))
        case inspect.Metadata():
            return described(type_.type)
        case inspect.IntType() | inspect.FloatType():
            kind = "whole number" if isinstance(type_, inspect.IntType) else "number"
            low = f"above {type_.gt:,}" if type_.gt is not None else f"{type_.ge:,}"
            return f"{kind}, {low} to {type_.le:,}"
        case inspect.StrType():
            if type_.pattern in NAMES:
                return f"[{NAMES[type_.pattern]}](#names)"
            return f"text of {type_.min_length or 0} to {type_.max_length:,} characters"
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in type_.values)
        case inspect.ListType():
            return f"array of {type_.min_length or 0} to {type_.max_length:,}: {described(type_.item_type)}"
        case inspect.DictType():
            key, value = described(type_.key_type), described(type_.value_type)
            return f"object of at most {type_.max_length}, from {key} to {value}"
        case inspect.StructType():
            return f"object [{type_.cls.__name__}](#{type_.cls.__name__.lower()})"
        case inspect.BoolType():
            return "true or false"
        case inspect.RawType() | inspect.AnyType():
            return "any JSON value"
    raise AssertionError(type_)


def members_of(message: type[Request]) -> list[str]:
    """The first two columns of a message's table."""
    info = inspect.type_info(message)
    assert isinstance(info, inspect.StructType)
    return [f"| `{one.name}`{' (required)' if one.required else ''} | {described(one.type)} |" for one in info.fields]


def _all_messages() -> list[type[Request]]:
    return [one for one in WIRE.values() if isinstance(one, type) and issubclass(one, Request) and one is not Request]


@pytest.mark.parametrize("message", _all_messages(), ids=lambda message: message.__name__)
def test_the_protocol_has_every_member_with_its_bounds(message: type[Request]) -> None:
    table = _between(PROTOCOL, f"members of {message.__name__}").splitlines()
    assert table[:2] == ["| member | what it may be | meaning |", "|---|---|---|"]
    columns = [re.match(r"\| `.*?(?<!\\)\| .*?(?<!\\)\|", row) for row in table[2:]]
    assert [found[0] if found else None for found in columns] == members_of(message)


def test_the_protocol_has_every_member_of_a_reply() -> None:
    for name, message in WIRE.items():
        if isinstance(message, type) and issubclass(message, msgspec.Struct) and not issubclass(message, Request):
            for member in message.__struct_fields__:
                assert f"`{member}`" in PROTOCOL or f'"{member}"' in PROTOCOL, f"{name}.{member}"


def test_the_protocol_shows_a_task_with_every_member() -> None:
    firsts = re.findall(r"^\| (`.*?) \|", _between(PROTOCOL, "members of a task"), re.MULTILINE)
    shown = [member for first in firsts for member in re.findall(r"`(\w+)`", first)]
    info = inspect.type_info(task_messages.TaskReply)
    assert isinstance(info, inspect.StructType)
    # A member's type has its description.
    assert sorted(shown) == sorted(one.name for one in info.fields if "under /api/v1/jobs" not in str(one.type))


def test_what_scripts_rely_on() -> None:
    """ "Replies for scripts" promises the first and the last members of a task in a worker's hands."""
    assert task_messages.LeasedTaskReply.__struct_fields__[:4] == ("id", "job_type", "status", "payload")
    assert task_messages.LeasedTaskReply.__struct_fields__[-3:] == ("lease_token", "lease_seconds", "heartbeat_seconds")


# The protocol's transcripts


class Transcript:
    """Requests and replies of one block, as a document shows them."""

    def __init__(self, block: str) -> None:
        self.steps: list[tuple[str, list[str], str, str, list[str], str]] = []
        for exchange in re.split(r"\n\n(?=(?:GET|POST|PATCH|DELETE) /)", block.strip("\n")):
            request, _, reply = exchange.partition("\n\nHTTP/1.1 ")
            head, _, body = request.partition("\n\n")
            line, *headers = head.split("\n")
            reply_head, _, reply_body = reply.partition("\n\n")
            status, *reply_headers = reply_head.split("\n")
            self.steps.append((line, headers, body, status, reply_headers, reply_body))


class Bindings:
    """What a document calls an id, a token or a cursor, and what this run calls it."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def real(self, text: str) -> str:
        """A request of the document as this run must send it."""
        for shown in sorted(self._real, key=len, reverse=True):
            text = text.replace(shown, self._real[shown])
        return text

    def match(self, shown: Any, real: Any, where: str = "", name: str = "") -> None:
        """See that a reply is the one that the document shows, but for what differs from run to run."""
        if isinstance(shown, dict):
            assert isinstance(real, dict), where
            assert list(shown) == list(real), f"{where}: {list(shown)} is shown, {list(real)} is answered"
            for key in shown:
                self.match(shown[key], real[key], f"{where}.{key}", key)
        elif isinstance(shown, list):
            assert isinstance(real, list), where
            assert len(shown) == len(real), f"{where}: {len(shown)} are shown, {len(real)} are answered"
            for number, (one, other) in enumerate(zip(shown, real, strict=True)):
                self.match(one, other, f"{where}[{number}]")
        elif isinstance(shown, str) and isinstance(real, str) and _TIME.fullmatch(shown):
            assert _TIME.fullmatch(real), f"{where}: {real}"
        elif name in _OF_THIS_RUN and isinstance(shown, str):
            assert isinstance(real, str), where
            assert self._real.setdefault(shown, real) == real, f"{where}: {shown} was another before"
        elif isinstance(shown, float) and isinstance(real, float):
            assert abs(shown - real) < 1, f"{where}: {shown} is shown, {real} is answered"
        elif name in _MEASURED:
            assert type(shown) is type(real), where
        else:
            shown = self.real(shown) if isinstance(shown, str) else shown
            assert shown == real, f"{where}: {shown!r} is shown, {real!r} is answered"


async def test_the_protocols_transcripts_are_true(gateway: LiveGateway) -> None:
    blocks = re.findall(r"^```http\n(.*?)^```", PROTOCOL, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 12
    bindings = Bindings()
    for block in blocks:
        for line, headers, body, status, reply_headers, reply_body in Transcript(block).steps:
            method, _, target = bindings.real(line).partition(" ")
            sent = dict(bindings.real(header).split(": ", 1) for header in headers)
            reply = await gateway.client.request(method, target, headers=sent, content=bindings.real(body))
            assert f"{reply.status_code} {reply.reason_phrase}" == status, f"{line}: {reply.text}"
            if reply_body:
                bindings.match(json.loads(reply_body), reply.json(), line)
            else:
                assert reply.content == b"", f"{line}: {reply.text}"
            for header in reply_headers:
                name, _, value = header.partition(": ")
                bindings.match(value, reply.headers[name], f"{line}: {name}", "id" if name == "ETag" else name)


# Internals


def test_the_internals_have_every_state_verb_script_and_key() -> None:
    for status in tasks.Status:
        assert f"`{status.value}`" in INTERNALS
    for verb in tasks.TRANSITIONS:
        assert f"`{verb}`" in INTERNALS
    for verb in scripts.VERBS:
        assert f"`{verb}.lua`" in INTERNALS
    header = Keys().lua_header()
    for name in re.findall(r"OURS \.\. '([a-z]+)", header):
        assert re.search(rf"`tg:{{T}}:{name}[:`]", INTERNALS), name
    for name in re.findall(r"'(arq:[a-z-]+:)'", header):
        assert f"`{name}" in INTERNALS, name


def test_the_internals_table_of_moves_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", _between(INTERNALS, "moves"), re.MULTILINE)
    shown = {(verb, before): set(re.findall(r"`(\w+)`", after)) for verb, before, after in rows}
    assert shown == {
        (verb, before.value): {one.value for one in after}
        for verb, moves in tasks.TRANSITIONS.items()
        for before, after in moves.items()
    }


def main() -> None:
    """Write the README's configuration table anew."""
    path = ROOT / "README.md"
    path.write_text(README.replace(_between(README, "configuration"), configuration_table()))


if __name__ == "__main__":
    main()
