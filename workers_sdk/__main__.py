"""`python -m workers_sdk module:worker` runs the Worker that a module holds under that name."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from workers_sdk import logs, reloader
from workers_sdk.bearer import from_file
from workers_sdk.errors import NotAllowed
from workers_sdk.worker import Worker

_ADVICE = {
    401: "Set GATEWAY_TOKEN, or name a file with --token-file.",
    403: "It needs a token with the scope `work`, for its job types.",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT. Returns the exit code: 0, 1 where the gateway refused it, or 2 where
    there is no such worker."""
    parser = argparse.ArgumentParser(prog="python -m workers_sdk", description=__doc__)
    parser.add_argument("worker", metavar="module:worker", help="where the Worker is; the name is `worker` if left out")
    parser.add_argument("--url", help="the gateway (default: the worker's own, $GATEWAY_URL, http://127.0.0.1:8080)")
    parser.add_argument("--token-file", help="file with the token, read again when it changes")
    parser.add_argument("--concurrency", type=int, help="most handlers at once (default: the worker's own)")
    parser.add_argument("--reload", action="store_true", help="start again when a .py file below this folder changes")
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: info"
    )
    options = parser.parse_args(arguments)
    logs.configure(options.log_level)
    if options.reload:
        given = sys.argv[1:] if arguments is None else arguments
        command = [sys.executable, "-m", "workers_sdk", *(one for one in given if one != "--reload")]
        return reloader.run(command, Path.cwd())
    try:
        worker = _find(options.worker)
        if options.token_file is not None:
            worker.token = from_file(options.token_file)
    except (LookupError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if options.url is not None:
        worker.url = options.url
    if options.concurrency is not None:
        worker.concurrency = options.concurrency
    try:
        worker.run()
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except NotAllowed as refusal:
        print(f"{parser.prog}: the gateway refused this worker: {refusal}. {_ADVICE[refusal.status]}", file=sys.stderr)
        return 1
    return 0


def _find(where: str) -> Worker:
    """The Worker at `module:name`. Raises LookupError with what is wrong; what the module raises passes through."""
    module_name, _, name = where.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise LookupError(f"there is no module {module_name} here; run this in the folder that holds it") from error
        raise
    found = getattr(module, name or "worker", None)
    if not isinstance(found, Worker):
        raise LookupError(f"{module_name} has no Worker called {name or 'worker'}")
    return found


if __name__ == "__main__":
    sys.exit(main())
