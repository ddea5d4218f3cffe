"""The fake provider's own HTTP interface, for tests in other processes and languages.

| call | does |
|---|---|
| ``POST /_fake/behaviour[?model=NAME]`` with a Behaviour | answers every call so, or every call for one model |
| ``POST /_fake/script`` with a list of Behaviours | answers the next calls so, one a call |
| ``POST /_fake/replay`` with a recorded exchange | answers the next call with it |
| ``GET /_fake/receipts`` | lists the receipts |
| ``POST /_fake/reset`` | forgets behaviours and receipts |
"""

from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import msgspec

from tollhouse.testing.behaviour import Behaviour, Receipt
from tollhouse.testing.server import Delivery, HttpCall

PREFIX = "/_fake/"

_behaviour_decoder = msgspec.json.Decoder(Behaviour)
_script_decoder = msgspec.json.Decoder(list[Behaviour])
_exchange_decoder = msgspec.json.Decoder(dict[str, Any])


class Controlled(Protocol):
    """What can be told how to behave."""

    def behave(self, behaviour: Behaviour, *, model: str | None = None) -> None: ...

    def script(self, behaviours: Iterable[Behaviour]) -> None: ...

    def replay(self, exchange: dict[str, Any]) -> None: ...

    def receipts(self) -> list[Receipt]: ...

    def reset(self) -> None: ...


def control(fake: Controlled, http: HttpCall) -> Delivery:
    """Do what a call below ``PREFIX`` asks for."""
    target = urlsplit(http.target)
    try:
        match http.method, target.path.removeprefix(PREFIX):
            case "POST", "behaviour":
                model = parse_qs(target.query).get("model", [None])[0]
                fake.behave(_behaviour_decoder.decode(http.body), model=model)
            case "POST", "script":
                fake.script(_script_decoder.decode(http.body))
            case "POST", "replay":
                fake.replay(_exchange_decoder.decode(http.body))
            case "POST", "reset":
                fake.reset()
            case "GET", "receipts":
                return Delivery(200, msgspec.json.encode(fake.receipts()))
            case _:
                return _message(404, f"no {http.method} {target.path}; see tollhouse.testing.control for what there is")
    except (ValueError, RecursionError) as error:
        # Decoding errors of msgspec are ValueErrors; their text names the field and what was expected.
        return _message(400, str(error))
    return _message(200, "done")


def _message(status: int, text: str) -> Delivery:
    return Delivery(status, msgspec.json.encode({"message": text}))
