"""Who is served by which listener: callers, operators, and the commands of this machine."""

import re
from hmac import compare_digest

from tollhouse.apps.answers import error_answer
from tollhouse.apps.api import AsgiApp, CompletionEndpoint, RawHeaders, Receive, Scope, Send
from tollhouse.apps.edge import AUTHORIZE_PATH
from tollhouse.apps.noting import Client
from tollhouse.completions.routes import Caller, Route
from tollhouse.edge.public import PUBLIC
from tollhouse.errors import NotFound, TollhouseError, Unauthorized
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id

# Beside what callers may reach there is what edges and load balancers ask. Named is what is let through, so that an
# address that is added to the service stays inside until somebody lists it.
_FOR_CALLERS = re.compile(f"(?:{PUBLIC})|^/(?:livez|readyz)$|^{AUTHORIZE_PATH}(?:/|$)".encode())
_FOR_FOLLOWERS = re.compile(b"^/events(?:/|$)|^/(?:livez|readyz|health|metrics)$")


def for_callers_only(app: AsgiApp, clock: Clock) -> AsgiApp:
    """Return an application without operators' addresses, which a listener of their own serves."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        # As it was sent, which is what the application goes by.
        if _FOR_CALLERS.search(scope["raw_path"]) is not None:
            await app(scope, receive, send)
            return
        await _refuse(send, NotFound(f"there is nothing at {scope['path']}"), clock)

    return answer


def for_followers_only(app: AsgiApp, clock: Clock) -> AsgiApp:
    """Return an application with nothing but events, and what probes and scrapers ask."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if _FOR_FOLLOWERS.search(scope["raw_path"]) is not None:
            await app(scope, receive, send)
            return
        await _refuse(send, NotFound(f"there is nothing at {scope['path']}: this process tells events"), clock)

    return answer


def for_commands_only(app: AsgiApp, operator_token: str, clock: Clock) -> AsgiApp:
    """Return an application that serves whoever can read the lock file, and nobody else.

    Its listener is plain HTTP on the loopback interface: any other key would be let in there without the certificate
    that the other listeners may ask for.
    """
    expected = f"Bearer {operator_token}".encode()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and compare_digest(given[0], expected):
            await app(scope, receive, send)
            return
        await _refuse(send, Unauthorized("this address is for the commands of this machine, which know its key"), clock)

    return answer


def for_nobody(clock: Clock) -> AsgiApp:
    """Return an application without any address, for a listener that takes completions alone."""

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _refuse(send, NotFound(f"there is nothing at {scope['path']}"), clock)

    return answer


class WorkerEndpoint(CompletionEndpoint):
    """Completion calls of the worker of this process, and of nobody else.

    Its listener is as that of commands.
    """

    def __init__(self, endpoint: CompletionEndpoint, api_key: str) -> None:
        vars(self).update(vars(endpoint))
        self._expected = f"Bearer {api_key}".encode()

    def identify(self, route: Route, headers: RawHeaders, client: Client) -> Caller | TollhouseError:
        given = [value for name, value in headers if name.lower() == b"authorization"]
        if len(given) != 1 or not compare_digest(given[0], self._expected):
            return Unauthorized("this address is for the worker of this service, which knows its key")
        return super().identify(route, headers, client)


async def _refuse(send: Send, error: TollhouseError, clock: Clock) -> None:
    status, headers, body = error_answer(error, new_id("req", clock.now_ms()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
