"""What guardrails cost in whole calls."""

import statistics

from bench.arithmetic import median_ratio, significant
from bench.cases import Bench, Row

_OF_CALLS = {
    "off": 'hidden_characters = "off"',
    "the default": "",
    "`pii` and `secrets`, nothing found": 'pii = "redact"\nsecrets = "redact"',
    "all of them": """
hidden_characters = "redact"
normalize = "nfc"
input_length = "block"
prompt_injection = "block"
pii = "redact"
secrets = "redact"
response_schema = "block"
markup = "redact"
""",
}


def guardrails(bench: Bench) -> list[Row]:
    """CPU per call with guardrails over that without, of services that are loaded in turn."""
    services = {
        what: bench.service(f"guardrails-{number}", more=f"[guardrails]\n{settings}\n")
        for number, (what, settings) in enumerate(_OF_CALLS.items())
    }
    taken: dict[str, list[float]] = {what: [] for what in services}
    for _ in range(bench.plan.rounds):
        for what, service in services.items():
            taken[what].append(bench.service_us(service, 64))
    off = taken.pop("off")
    rows = [Row("CPU per call without guardrails, 64 connections", f"{significant(statistics.median(off))} µs")]
    for what, of in taken.items():
        more = median_ratio(of, off) * 100 - 100
        rows.append(Row(f"… with guardrails: {what}", f"{more:+.0f} % ({significant(statistics.median(of))} µs)"))
    return rows
