"""Results as they are downloaded: text, Markdown or JSON, and the rows of a job that has many completions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollhouse.jobs.model import Job, Output

_MEDIA: dict[Output, str] = {
    "text": "text/plain",
    "markdown": "text/markdown",
    "json": "application/json",
}
_ENDINGS: dict[str, str] = {_MEDIA["text"]: "txt", _MEDIA["markdown"]: "md", _MEDIA["json"]: "json"}
_FENCE = "```"


class Download(msgspec.Struct, frozen=True):
    """A result as a file."""

    body: bytes
    media_type: str
    filename: str


class _Answered(msgspec.Struct):
    content: str
    finish_reason: str = ""
    cost_usd: msgspec.Raw = msgspec.Raw(b"0")


_decode = msgspec.json.Decoder(_Answered).decode


def whole(job: Job, result: bytes) -> Download:
    """Return the answer of a single completion, as the file it is: JSON only where it can be read as that."""
    content = _decode(result).content
    media_type = _MEDIA[job.output]
    if job.output == "json":
        bare = _without_fence(content)
        if _is_json(bare):
            return _file(job, bare.encode(), media_type)
        media_type = _MEDIA["text"]
    return _file(job, content.encode(), media_type)


def rows(job: Job, parts: Sequence[tuple[Job, bytes | None]]) -> Download:
    """Return the answers of many completions as JSON, in the order of their rows; ``null`` for one that is not over."""
    body = {
        "job_id": job.job_id,
        "status": job.state,
        "progress": {"total": job.parts, "complete": job.parts_complete, "failed": job.parts_failed},
        "rows": [_row(part, result) for part, result in parts],
    }
    return _file(job, msgspec.json.encode(body), _MEDIA["json"])


def _row(part: Job, result: bytes | None) -> dict[str, Any]:
    row: dict[str, Any] = {"number": part.position + 1, "status": part.state, "content": None}
    if part.error_code:
        row |= {"error": part.error_code, "message": part.error_message}
    if result is not None:
        answered = _decode(result)
        row |= {"content": answered.content, "cost_usd": answered.cost_usd}
        bare = _without_fence(answered.content) if part.output == "json" else ""
        if bare and _is_json(bare):
            row["content"] = msgspec.Raw(bare.encode())
    return row


def _file(job: Job, body: bytes, media_type: str) -> Download:
    return Download(body, media_type, f"{job.template or 'job'}-{job.job_id}.{_ENDINGS[media_type]}")


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _without_fence(text: str) -> str:
    """Return JSON without the lines of a code block, which models put around it."""
    text = text.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE) and "\n" in text:
        return text.partition("\n")[2].removesuffix(_FENCE).strip()
    return text
