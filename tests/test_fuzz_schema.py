"""The gateway answers as its document says. Some twenty seconds; `python -m tests.fuzz schema` goes on for longer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz import schema

# Of each operation, and of sequences of them; some twenty seconds.
EXAMPLES = 2


@pytest.mark.skipif(
    find_spec("urllib3_future") is not None,
    reason="urllib3-future (of niquests) has overwritten urllib3 in this environment: Schemathesis needs the real one",
)
async def test_every_operation_answers_as_documented(redis_url: str, tmp_path: Path) -> None:
    report = await schema.run(redis_url, tmp_path, None, "--seed", "4", "--max-examples", str(EXAMPLES))
    assert report.ok, report.output[-6000:]
    assert report.unreached == []
    # The others need more than a document says: a poll's worker and types, a key or worker that is there.
    assert set(report.unpassed) <= {"DELETE /keys/{id}", "DELETE /workers/{id}", "GET /docs/{name}"}
    assert report.requests > 1000
