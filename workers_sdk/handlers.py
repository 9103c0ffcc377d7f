"""A function as the handler of a job type: which arguments it takes, and how its payload is decoded."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from workers_sdk.context import Context
from workers_sdk.signals import InvalidPayload

Function = Callable[..., Any]
_CONTEXT_NAMES = ("ctx", "context")


class Handler:
    """A handler. timeout_seconds: longest one attempt may take, None for no bound. in_thread: it is a plain function.

    Raises TypeError for a function that takes more than a payload and a Context, or whose payload's annotation has
    no JSON form.
    """

    def __init__(self, job_type: str, function: Function, timeout_seconds: float | None = None) -> None:
        self.job_type = job_type
        self.timeout_seconds = timeout_seconds
        self.in_thread = not inspect.iscoroutinefunction(function)
        self._function = function
        self._payload_name, self._context_name, annotation = _parameters(function)
        try:
            self._decoder = msgspec.json.Decoder(annotation)
        except TypeError as error:
            raise TypeError(f"{_name(function)}: a payload cannot be decoded as {annotation!r}: {error}") from error

    def arguments(self, payload: Raw | bytes, context: Context) -> dict[str, Any]:
        """Decode the payload and gather the arguments to call with. Raises InvalidPayload."""
        arguments: dict[str, Any] = {}
        if self._payload_name:
            try:
                arguments[self._payload_name] = self._decoder.decode(payload)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise InvalidPayload(str(error)) from error
        if self._context_name:
            arguments[self._context_name] = context
        return arguments

    def __call__(self, arguments: dict[str, Any]) -> Any:
        """Call the function: a result, or for an async one an awaitable."""
        return self._function(**arguments)


def _parameters(function: Function) -> tuple[str, str, Any]:
    """The names of the payload's and the context's parameter ('' none), and the payload's annotation."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{_name(function)}: {error}; define the payload's type in its module, not in a function"
        ) from error
    except TypeError:
        hints = {}  # a callable object or a partial: without hints its payload is plain JSON
    payload_name = context_name = ""
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{_name(function)}: {name} must not be positional only")
        if not context_name and (hints.get(name) is Context or (name in _CONTEXT_NAMES and name not in hints)):
            context_name = name
        elif not payload_name and parameter.kind is parameter.POSITIONAL_OR_KEYWORD and (required or not payload_name):
            payload_name = name
        elif required:
            raise TypeError(f"{_name(function)}: a handler takes a payload and a Context; {name} is one too many")
    return payload_name, context_name, hints.get(payload_name, Any)


def _name(function: Function) -> str:
    return getattr(function, "__qualname__", repr(function))
