"""docs/cli.md names every command, and nothing that is not there; --help shows all that it was given."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer.main

from gateway.cli import app
from tests.command_line import ROOT, run

_TEXT = (ROOT / "docs" / "cli.md").read_text()
_EXAMPLES = re.findall(r"^\$ (.*\bgateway\b.*)$", _TEXT, re.MULTILINE)


def commands() -> dict[str, Any]:
    """Every command by its whole name, those of groups as `queue set`."""
    root: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, one in root.commands.items():
        below = getattr(one, "commands", None)
        found |= {name: one} if below is None else {f"{name} {sub}": command for sub, command in below.items()}
    return found


def called(line: str) -> tuple[str, list[str]]:
    """The command and the options of an example."""
    words = shlex.split(re.sub(r"\$\((.*)\)", r" \1", line))
    words = words[words.index("gateway") + 1 :]
    words = words[: words.index("|")] if "|" in words else words
    name = words[0] if words[0] in commands() else " ".join(words[:2])
    return name, [word for word in words if word.startswith("-") and word != "-"]


def test_every_command_has_a_section_with_an_example() -> None:
    assert set(re.findall(r"^### (\S+)$", _TEXT, re.MULTILINE)) == {name.split()[0] for name in commands()}
    assert {called(line)[0] for line in _EXAMPLES} == set(commands())


def test_every_example_can_be_called() -> None:
    for line in _EXAMPLES:
        name, options = called(line)
        known = {option for parameter in commands()[name].params for option in parameter.opts}
        assert set(options) <= known, line


def test_every_option_in_the_text_is_one() -> None:
    known = {option for command in commands().values() for one in command.params for option in one.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", _TEXT)) <= known | {"--install-completion"}


def test_no_help_holds_what_would_be_taken_for_markup() -> None:
    for name, command in commands().items():
        for one in (command, *command.params):
            assert "[" not in (getattr(one, "help", None) or ""), (name, one.name)


async def test_help_says_what_holds_where_an_option_is_left_out() -> None:
    for arguments, hints in (
        (("queue", "pause"), ("until it is resumed", "from HOST and PORT", "GATEWAY_TOKEN, also of .env")),
        (("serve",), ("HOST, or 127.0.0.1", "PORT, or 8080")),
        (("keys", "create"), ("all but admin", "yours", "never")),
        (("token",), ("all but admin", "default")),
        (("queue", "redrive"), ("all at once",)),
    ):
        shown = " ".join((await run(None, *arguments, "--help", COLUMNS="250")).out.split())
        for hint in hints:
            assert f"[default: ({hint})]" in shown, (arguments, shown)
