"""Fetching a page of the public web as text.

Only addresses that everyone can reach are connected to: a name is looked up once, every address that it has must be
public, and the connection goes to the address that was looked at, so that a name cannot come to mean another meanwhile.
The same is done anew for each redirection. There is no proxy, no cookie and no key; time and size are limited.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from scratchlm import __version__
from scratchlm.agents.tool import Tool, tool
from scratchlm.errors import UserError
from scratchlm.retrieval.formats import Unreadable, read_bytes_as
from scratchlm.retrieval.prompting import as_data

_REDIRECTIONS, _PART = 5, 65_536
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that lead to the IPv4 address in their last 32 bits (RFC 6052)."""
_TEXT = re.compile(r"text/.*|application/([\w.-]+\+)?(json|xml)|application/javascript")
_KEPT = "%/?:@!$&'()*+,;=-._~"
"""Signs of a path and a query that are sent as they are."""
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", re.IGNORECASE)


@dataclass(frozen=True)
class WebLimits:
    """What one page may use: seconds, bytes, and the hosts it may be on (with those below them); none for any."""

    seconds: float = 20.0
    size: int = 4 << 20
    hosts: tuple[str, ...] = ()


def fetch_page(url: str, limits: WebLimits | None = None) -> str:
    """A page's text: HTML as Markdown, other text as it is. What speaks to a model in it is left out.

    Raises:
        ValueError: the address is not public or not allowed, the server refuses, or it is no text, too large or slow.
    """
    return readable(*fetch_bytes(url, limits or WebLimits()))


def fetch_bytes(url: str, limits: WebLimits) -> tuple[str, Message, bytes]:
    """The address that redirections led to, the headers and the content.

    Raises:
        ValueError: as :func:`fetch_page`, but whatever its content is.
    """
    until = time.monotonic() + limits.seconds
    for _ in range(_REDIRECTIONS + 1):
        parts = checked_url(url, limits.hosts)
        status, headers, data = exchange(parts, address_of(parts), limits, until)
        if status not in (301, 302, 303, 307, 308):
            break
        if not (there := headers.get("Location", "")):
            raise ValueError(f"{url} redirects to nowhere")
        url = urljoin(url, there)
    else:
        raise ValueError(f"{url} redirects more than {_REDIRECTIONS} times")
    if status != 200:
        raise ValueError(f"{url} answers {status} {http.client.responses.get(status, '')}".rstrip())
    return url, headers, data


def checked_url(url: str, hosts: Sequence[str] = ()) -> SplitResult:
    """The parts of an address that may be asked.

    Raises:
        ValueError: it is no web address, holds a password, or is of another host than ``hosts``, if there are any.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url[:200]!r} is no web address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url[:200]!r} is no web address; give one such as https://example.org/page")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a user's name or password is not asked")
    if not parts.netloc.isascii():
        raise ValueError(f"{parts.hostname} has letters that are not ASCII; write its xn-- name")
    if any(character <= " " or character == "\x7f" for character in parts.geturl()):
        raise ValueError(f"{url[:200]!r} has white space or control characters")
    if port == 0:
        raise ValueError("there is no port 0")
    host = parts.hostname.rstrip(".").lower()
    if hosts and not any(host == one or host.endswith(f".{one}") for one in hosts):
        raise ValueError(f"{host} is not allowed; these hosts are: {', '.join(hosts)}")
    return parts


def address_of(parts: SplitResult, *, public: bool = True) -> tuple[str, int]:
    """The address and port to connect to.

    Args:
        public: refuse a host that has an address that not everyone can reach.

    Raises:
        ValueError: the host has no address, or one that is not public.
    """
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise ValueError(f"the host {host[:200]} is not known") from None
    for one in found:
        if public and not is_public(one):
            raise ValueError(f"{host} has the address {one}, which is not public; it is not asked")
    return found[0], port


def is_public(address: str) -> bool:
    """Whether everyone can reach an IP address, also where another is written within it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner: list[ipaddress.IPv4Address | None] = []
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _TRANSLATED:
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
    return all(one.is_global and not one.is_multicast for one in (found, *filter(None, inner)))


def exchange(
    parts: SplitResult,
    address: tuple[str, int],
    limits: WebLimits,
    until: float,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, Message, bytes]:
    """One request, to one address: the status, the headers and the content of its answer.

    Args:
        until: when it has to be there, by :func:`time.monotonic`.
        headers: beside those that are always sent, or in their place.

    Raises:
        ValueError: there is no whole answer of the allowed size in time.
    """
    sent = {
        "user-agent": f"scratchlm/{__version__}",
        "accept": "text/html, text/*, application/json",
        **{name.lower(): value for name, value in (headers or {}).items()},
        "host": parts.netloc,
        "accept-encoding": "identity",
        "connection": "close",
    }
    if body is not None:
        sent["content-length"] = str(len(body))
    left = until - time.monotonic()
    host, late = parts.hostname or "", ValueError(f"{parts.hostname} takes longer than {limits.seconds:g} s")
    if left <= 0:
        raise late
    connection = http.client.HTTPConnection(host, address[1], timeout=left)
    opened: list[socket.socket] = []
    watch = threading.Timer(left, _hang_up, [opened])
    watch.daemon = True
    try:
        opened.append(socket.create_connection(address, left))
        watch.start()
        if parts.scheme == "https":
            opened.append(ssl.create_default_context().wrap_socket(opened[0], server_hostname=host))
        connection.sock = opened[-1]
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), _KEPT)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name.title(), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        if answer.getheader("Content-Encoding", "identity") != "identity":
            raise ValueError(f"{host} answers in an encoding that was not asked for")
        data = b""
        while part := answer.read1(_PART):
            data += part
            if len(data) > limits.size:
                raise ValueError(f"{parts.geturl()} has more than {limits.size:,} bytes")
        if time.monotonic() >= until:
            raise late
        if answer.length:
            raise ValueError(f"{host} broke off its answer")
        return answer.status, answer.headers, data
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= until:
            raise late from None
        raise ValueError(f"{host} cannot be asked: {error or type(error).__name__}") from None
    finally:
        watch.cancel()
        connection.close()
        for one in opened:
            one.close()


def _hang_up(opened: Sequence[socket.socket]) -> None:
    """End what is being read, however slowly it comes."""
    for one in opened:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def readable(url: str, headers: Message, data: bytes) -> str:
    """What came from an address, as :func:`fetch_page` gives it.

    Raises:
        ValueError: it is no text.
    """
    kind, charset = headers.get_content_type(), headers.get_content_charset()
    if not _TEXT.fullmatch(kind):
        raise ValueError(f"{url} is {kind}, which is no text")
    try:
        if charset:
            with suppress(LookupError):  # a name that no encoding has
                data = data.decode(charset, "replace").encode()
        read = read_bytes_as("html" if "html" in kind else "text", data)
    except Unreadable as error:
        raise ValueError(f"{url} {error}") from None
    text, left_out = as_data(read.text)
    return f"{text}\n\n[left out: {left_out} parts that speak to the reader's model]" if left_out else text


def web_tool(hosts: Sequence[str] = (), limits: WebLimits | None = None) -> Tool:
    """The tool ``fetch``.

    Raises:
        UserError: a host is none.
    """
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise UserError(f"{host!r} is no host; give one such as docs.python.org")
    limits = limits or WebLimits(hosts=tuple(host.lower() for host in hosts))

    @tool(timeout=limits.seconds + 5)
    def fetch(url: str) -> str:
        """Fetch a web page as text."""
        return fetch_page(url, limits)

    return fetch
