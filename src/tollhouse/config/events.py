"""Events: how long they are kept, and how they are told and sent."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from tollhouse.config.rules import accepting, each, is_network, is_origin, seconds, whole
from tollhouse.config.section import Section


def _are_percents(numbers: tuple[int, ...]) -> bool:
    return len(set(numbers)) == len(numbers) and all(1 <= number <= 100 for number in numbers)


class Events(Section, frozen=True):
    """Events, and those who follow them."""

    keep_days: Annotated[int, whole(1, 3650)] = 7
    """How long events can be read again."""
    poll_s: Annotated[float, seconds(60)] = 0.1
    """How often it is looked for new ones while somebody follows."""
    heartbeat_s: Annotated[float, seconds(3600)] = 15
    """How long a stream or a socket is silent at the longest."""
    send_timeout_s: Annotated[float, seconds(3600)] = 30
    """How long a client may leave what it was sent unread before its stream is ended."""
    max_clients: Annotated[int, whole(1, 1_000_000)] = 5000
    """Clients that follow at once, of one process."""
    max_clients_per_tenant: Annotated[int, whole(1, 1_000_000)] = 2000
    """… and of one tenant among them."""
    token_ttl_s: Annotated[int, whole(1, 86_400)] = 900
    """How long a browser's token is good for, unless it was asked for a shorter time."""
    allowed_origins: Annotated[
        tuple[str, ...], accepting(each(is_origin), "a list of origins such as https://app.example.com, each once")
    ] = ()
    """The origins of pages of other hosts that may follow."""

    budget_thresholds: Annotated[
        tuple[int, ...], accepting(_are_percents, "a list of whole numbers from 1 to 100, each once")
    ] = (50, 80, 90, 100)
    """Shares of a cap, in percent, that are told of once they are spent."""


class Webhooks(Section, frozen=True):
    """Events that are sent to others."""

    allow_networks: Annotated[
        tuple[str, ...], accepting(each(is_network), "a list of IP addresses or networks, each once")
    ] = ()
    """Networks that are not public and that webhooks may go to all the same."""
    timeout_s: Annotated[float, seconds(300)] = 15
    """For name, connection and answer together."""
    max_concurrent: Annotated[int, whole(1, 10_000)] = 64
    """Tries at once, of one process."""
    max_per_endpoint: Annotated[int, whole(1, 1000)] = 4
    """… at one endpoint; one that fails is tried by one at a time."""
    poll_s: Annotated[float, seconds(60)] = 0.5
    """How often it is looked for what is due."""
    rotation_hours: Annotated[int, whole(0, 8760)] = 24
    """How long a secret that was replaced signs too."""
    keep_days: Annotated[int, whole(1, 3650)] = 30
    """How long deliveries that have ended can be looked at, and dead ones tried again."""

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Those of ``allow_networks``."""
        return tuple(ip_network(each) for each in self.allow_networks)
