"""``python -m bench.guardrails [--write]``: CPU per call of each guardrail, in one process and without a server.

Times are those of the process's own CPU, the least of several rounds: what other processes do hardly counts.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tollhouse.config import Guardrails
from tollhouse.config.guardrails import PII_KINDS
from tollhouse.guardrails.answers.schema import validator
from tollhouse.guardrails.answers.session import Session
from tollhouse.guardrails.answers.stream import StreamGuard
from tollhouse.guardrails.inspection import Guard
from tollhouse.providers.sse import encode_event

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "guardrails.md"
_BEGIN, _END = "<!-- guardrails -->", "<!-- /guardrails -->"
_ROUNDS, _CALLS = 7, 200
_LINE = "Summarise today's sales for the branches in Kampala and Jinja; revenue was 1,250,000 on 2026-04-01.\n"
_CLEAN = (_LINE * 20)[:2000]
_FULL = ("Write to alice@example.com or +256772123456, card 4111 1111 1111 1111. " + _CLEAN)[:2000]
_ACCENTS = ("Café «quoted» " + _CLEAN)[:2000]
_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_OFF = Guardrails(hidden_characters="off")


def main() -> int:
    """Measure, and print or keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.guardrails", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {_PAGE.name}")
    arguments = parser.parse_args()
    lines = ["| guardrail | µs a call |", "|---|---|"]
    for name, work in _cases():
        line = f"| {name} | {_cpu_us(work):.1f} |"
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        page = _PAGE.read_text()
        before, after = page.index(_BEGIN) + len(_BEGIN), page.index(_END)
        where = f"\nPython {platform.python_version()}, {platform.machine()}.\n"
        _PAGE.write_text(page[:before] + where + "\n" + "\n".join(lines) + "\n" + page[after:])
    return 0


def _cpu_us(work: Callable[[], object]) -> float:
    work()
    rounds = []
    for _ in range(_ROUNDS):
        started_s = time.process_time()
        for _ in range(_CALLS):
            work()
        rounds.append((time.process_time() - started_s) / _CALLS)
    return min(rounds) * 1e6


def _cases() -> list[tuple[str, Callable[[], object]]]:
    every = {"hidden_characters": "redact", "normalize": "nfc", "prompt_injection": "flag"}
    return [
        ("all off", _request(_OFF, _CLEAN)),
        ("the default, on ASCII", _request(Guardrails(), _CLEAN)),
        ("the default, on other text", _request(Guardrails(), _ACCENTS)),
        *((f"`{name}`", _request(_with(name, value), _CLEAN)) for name, value in every.items()),
        ("`input_length`", _request(_with("input_length", "block"), _CLEAN)),
        *((f"`pii`, {kind} alone", _request(_with("pii", "redact", pii_kinds=(kind,)), _CLEAN)) for kind in PII_KINDS),
        ("`pii`, all kinds, nothing found", _request(_with("pii", "redact"), _CLEAN)),
        ("`pii`, all kinds, three found", _request(_with("pii", "redact"), _FULL)),
        ("`restore`, a whole answer", _answer(_with("pii", "redact"), "To [EMAIL_1]: " + _CLEAN)),
        ("`secrets`, a whole answer", _answer(_with("secrets", "redact"), _CLEAN)),
        ("`markup`, a whole answer", _answer(_with("markup", "redact"), _CLEAN)),
        ("`response_schema`, a whole answer", _answer(_with("response_schema", "block"), json.dumps({"text": _CLEAN}))),
        ("`restore`, an event of a stream", _event(_with("pii", "redact"))),
        ("`secrets`, an event of a stream", _event(_with("secrets", "redact"))),
        ("`markup`, an event of a stream", _event(_with("markup", "redact"))),
    ]


def _with(name: str, value: str, **more: Any) -> Guardrails:
    changes: dict[str, Any] = {"hidden_characters": "off", name: value, **more}
    return Guardrails(**changes)


def _body(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "system", "content": "You are."}, {"role": "user", "content": text}]}


def _request(policy: Guardrails, text: str) -> Callable[[], object]:
    guard, body = Guard(policy), _body(text)
    raw = json.dumps(body, ensure_ascii=False).encode()
    return lambda: guard.passes(raw) or guard.inspect(body)


def _session(policy: Guardrails) -> Session:
    vault = Guard(policy).inspect(_body(_FULL)).vault
    schema = None if policy.response_schema == "off" else validator(_SCHEMA)
    return Session(policy, vault, schema, is_json=schema is not None)


def _answer(policy: Guardrails, text: str) -> Callable[[], object]:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 500, "completion_tokens": 500, "total_tokens": 1000}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    body, session = json.dumps(answer).encode(), _session(policy)
    return lambda: session.body(body, "chat", "stop")


def _event(policy: Guardrails) -> Callable[[], object]:
    guard = StreamGuard(_session(policy), "chat")
    choices = [{"index": 0, "delta": {"content": " branches\n"}, "logprobs": None, "finish_reason": None}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    event = encode_event(json.dumps(chunk).encode())
    return lambda: guard.feed(event)


if __name__ == "__main__":
    raise SystemExit(main())
