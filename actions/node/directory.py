"""Where the admin APIs of nodes and gateways are: the only source of addresses that actions may call.

Called by the clients here and by planning, which also learns from it which nodes there are. Addresses come from
discovery or configuration, never from an alert, a runbook or a caller: that is what keeps a request from being
sent elsewhere. Plain functions over values; safe to share.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from controlplane.domain import errors, windows

# host:port as Prometheus writes a target's address, IPv6 in brackets: nothing that could hide a user or a path.
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_SCHEMES = ("http", "https")


class NodeDirectory(Protocol):
    """Names to addresses. Raises NotFoundError for unknown names, RetryLaterError when nothing is known yet."""

    def nodes(self, service: str) -> Sequence[str]:
        """Return the names of the service's nodes, sorted."""
        ...

    def node_url(self, service: str, node: str) -> str:
        """Return the base URL of a node's admin API, without a trailing slash."""
        ...

    def gateway_url(self, service: str) -> str:
        """Return the base URL of the admin API of the service's gateway, without a trailing slash."""
        ...


@dataclass(frozen=True, slots=True)
class StaticDirectory:
    """Addresses from configuration: `node_urls[service][node]` and `gateway_urls[service]`."""

    node_urls: Mapping[str, Mapping[str, str]]
    gateway_urls: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        for urls in (*self.node_urls.values(), self.gateway_urls):
            for name, url in urls.items():
                check_url(url, place=name)

    def nodes(self, service: str) -> Sequence[str]:
        """Return the configured nodes of a service."""
        return sorted(_of(self.node_urls, service))

    def node_url(self, service: str, node: str) -> str:
        """Return the configured URL of a node."""
        url = _of(self.node_urls, service).get(node)
        if url is None:
            raise _no_node(service, node)
        return url.rstrip("/")

    def gateway_url(self, service: str) -> str:
        """Return the configured URL of a gateway."""
        return _gateway(self.gateway_urls, service)


@dataclass(frozen=True, slots=True)
class FleetDirectory:
    """Addresses from the newest fleet view: a node's admin API shares the port that Prometheus scrapes.

    `view` returns None before the first tick; callers then get RetryLaterError. `scheme` is that of all nodes.
    """

    view: Callable[[], windows.FleetView | None]
    gateway_urls: Mapping[str, str] = field(default_factory=dict[str, str])
    scheme: str = "http"

    def __post_init__(self) -> None:
        for service, url in self.gateway_urls.items():
            check_url(url, place=service)

    def nodes(self, service: str) -> Sequence[str]:
        """Return the nodes that the newest view shows for a service, down or not."""
        return sorted(self._service(service).nodes)

    def node_url(self, service: str, node: str) -> str:
        """Return where the newest view found the node."""
        found = self._service(service).nodes.get(node)
        if found is None:
            raise _no_node(service, node)
        if not _ADDRESS.fullmatch(found.address):
            raise errors.GiveUpError(
                f"{service}/{node} was discovered at {found.address!r}, which is no host:port; correct its target"
            )
        return f"{self.scheme}://{found.address}"

    def gateway_url(self, service: str) -> str:
        """Return the configured URL of a gateway."""
        return _gateway(self.gateway_urls, service)

    def _service(self, service: str) -> windows.ServiceView:
        view = self.view()
        if view is None:
            raise errors.RetryLaterError("the fleet has not been observed yet; ask again after the first tick")
        found = view.services.get(service)
        if found is None:
            raise errors.NotFoundError(
                f"no service {service!r}; known are {', '.join(sorted(view.services)) or 'none'}"
            )
        return found


def check_url(url: str, *, place: str) -> None:
    """Raise InvalidInputError unless `url` is scheme, host and port only, over HTTP or HTTPS."""
    parts = urlsplit(url)
    is_plain = parts.username is None and not parts.path.strip("/") and not parts.query and not parts.fragment
    if parts.scheme not in _SCHEMES or not parts.hostname or not is_plain:
        raise errors.InvalidInputError(f"{url!r} is no base URL; write it as http://host:port", place=place)


def _of(urls: Mapping[str, Mapping[str, str]], service: str) -> Mapping[str, str]:
    found = urls.get(service)
    if found is None:
        raise errors.NotFoundError(f"no service {service!r}; known are {', '.join(sorted(urls)) or 'none'}")
    return found


def _no_node(service: str, node: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"service {service} has no node {node!r}; `dsctl nodes list` shows those there are")


def _gateway(urls: Mapping[str, str], service: str) -> str:
    url = urls.get(service)
    if url is None:
        raise errors.NotFoundError(f"no gateway is configured for service {service!r}; add its URL to the settings")
    return url.rstrip("/")
