"""Request bodies, decoded by msgspec from the bytes: amounts stay exact, and mistakes are told as everywhere else.

The framework would decode them to floats first, and coerce what is of another type.
"""

from functools import lru_cache
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State

from tollhouse.errors import InvalidRequest
from tollhouse.keys.model import Principal
from tollhouse.kit.validation import decode_json


@lru_cache
def _decoder(body_type: type) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(body_type)


class ExactRequest(Request[Principal, None, State]):
    """A request whose ``data`` is of the type that its handler declares."""

    async def body(self) -> bytes:
        raw = await super().body()
        if not raw:
            raise InvalidRequest("the body is missing; expected a JSON object")
        return raw

    async def json(self) -> Any:
        field = self.route_handler.parsed_data_field
        assert field is not None, "only asked for by handlers that take data"
        try:
            return decode_json(_decoder(field.annotation), await self.body())
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
