"""The admin client says what is known after a call: nothing happened, refused, or nobody can tell."""

import pytest

from actions.node import client, directory
from controlplane.domain import errors, windows
from controlplane.domain import signals as sig
from tests.support.action_house import TLS, House
from tests.support.clock import START
from tests.support.fake_node import TOKEN, Trouble

FLUSH = "/admin/v1/cache/flush"


async def flush(house: House, *, key: str = "k", seconds: float = 5.0, path: str = FLUSH) -> object:
    return await house.targets.nodes.change(
        "chat", "n1", "POST", path, body={"tier": "l1"}, key=key, timeout_seconds=seconds
    )


@pytest.mark.parametrize(
    ("trouble", "kind", "is_done"),
    [
        (Trouble.LOSE_REQUEST, errors.OutcomeUnknownError, False),
        (Trouble.LOSE_ANSWER, errors.OutcomeUnknownError, True),
        (Trouble.FAIL_AFTER_EFFECT, errors.OutcomeUnknownError, True),
        (Trouble.BARE_503, errors.OutcomeUnknownError, False),
        (Trouble.NOT_JSON, errors.OutcomeUnknownError, True),
        (Trouble.HUGE, errors.OutcomeUnknownError, True),
        (Trouble.BUSY, errors.RetryLaterError, False),
        (Trouble.REDIRECT, errors.GiveUpError, False),
    ],
)
async def test_a_call_without_a_clear_answer_is_never_called_failed(
    house: House, trouble: Trouble, kind: type[errors.DsctlError], is_done: bool
) -> None:
    """Only what certainly had no effect may be retried; the rest is unknown, whether it happened or not."""
    house.n1.trouble = trouble
    with pytest.raises(kind) as caught:
        await flush(house)
    assert type(caught.value) is kind
    assert "chat/n1" in str(caught.value)
    assert bool(house.n1.effects) is is_done


async def test_a_hanging_node_is_given_up_in_time_and_unknown(house: House) -> None:
    """It was sent, and no answer came."""
    house.n1.trouble = Trouble.HANG
    with pytest.raises(errors.OutcomeUnknownError, match="no answer came"):
        await flush(house, seconds=0.2)


async def test_a_busy_node_says_when_to_come_back(house: House) -> None:
    """Its Retry-After is the delay."""
    house.n1.trouble = Trouble.BUSY
    with pytest.raises(errors.RetryLaterError) as caught:
        await flush(house)
    assert caught.value.delay_seconds == 7


async def test_a_closed_port_means_nothing_happened(house: House) -> None:
    """No connection, no effect."""
    async with client.AdminClient(token=TOKEN, token_setting="NODE_TOKEN", tls=TLS) as http:
        with pytest.raises(errors.RetryLaterError, match="n9 cannot be reached"):
            await http.change("POST", "http://127.0.0.1:1", FLUSH, target="n9", body=None, key="k", timeout_seconds=1.0)


@pytest.mark.parametrize("token", ["wrong", ""])
async def test_a_wrong_token_names_the_setting(house: House, token: str) -> None:
    """The person on call learns what to correct."""
    async with client.AdminClient(token=token, token_setting="DSCTL_NODE_TOKEN", tls=TLS) as http:
        with pytest.raises(errors.GiveUpError, match="DSCTL_NODE_TOKEN"):
            await http.change("POST", house.n1.url, FLUSH, target="n1", body={}, key="k", timeout_seconds=1.0)
    assert house.n1.effects == []


async def test_refusals_keep_their_kind_and_their_reason(house: House) -> None:
    """404, 409 and 422 are final, and say what the node said."""
    with pytest.raises(errors.NotFoundError, match="no such thing"):
        await flush(house, path="/admin/v1/cache/flushh")
    await flush(house, key="k1")
    with pytest.raises(errors.ConflictError, match="belongs to another call"):
        await flush(house, key="k1", path="/admin/v1/drain")
    with pytest.raises(errors.GiveUpError, match="expects l1 or all"):
        await house.targets.nodes.change(
            "chat", "n1", "POST", FLUSH, body={"tier": "l9"}, key="k2", timeout_seconds=1.0
        )


async def test_a_key_that_is_no_header_is_refused_before_it_is_sent(house: House) -> None:
    """A line feed in a key can never become a header of its own."""
    with pytest.raises(errors.GiveUpError, match="cannot be sent"):
        await flush(house, key="a\r\nX-Evil: 1")
    assert house.n1.calls == []


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.LOSE_ANSWER, errors.RetryLaterError),
        (Trouble.FAIL_AFTER_EFFECT, errors.RetryLaterError),
        (Trouble.BARE_503, errors.RetryLaterError),
        (Trouble.NOT_JSON, errors.RetryLaterError),
        (Trouble.HUGE, errors.RetryLaterError),
        (Trouble.OTHER_CONTRACT, errors.GiveUpError),
    ],
)
async def test_reading_has_no_unknown_outcome(house: House, trouble: Trouble, kind: type[errors.DsctlError]) -> None:
    """It has no effect, so it can be repeated; only another contract stays what it is."""
    house.n1.read_trouble = trouble
    with pytest.raises(kind, match="chat/n1") as caught:
        await house.targets.nodes.state("chat", "n1")
    assert type(caught.value) is kind
    assert (await house.targets.nodes.state("chat", "n1")).cache.l1.entries == 812


@pytest.mark.parametrize(
    "url",
    ["ftp://h:1", "http://", "http://user@h:1", "http://h:1/path", "http://h:1?x=1", "file:///etc/passwd", "h:1"],
)
def test_only_plain_http_addresses_are_configured(url: str) -> None:
    """Nothing else can ever be called."""
    with pytest.raises(errors.InvalidInputError, match="no base URL"):
        directory.StaticDirectory({"chat": {"n1": url}})


def view(address: str) -> windows.FleetView:
    node = windows.NodeView("n1", "chat", address, sig.Value(1.0, START))
    return windows.FleetView(START, {"chat": windows.ServiceView("chat", {}, {"n1": node})})


def test_the_fleet_view_gives_addresses() -> None:
    """A node is called where Prometheus scrapes it."""
    where = directory.FleetDirectory(lambda: view("10.0.0.7:8100"), {"chat": "http://gateway:80/"})
    assert where.nodes("chat") == ["n1"]
    assert where.node_url("chat", "n1") == "http://10.0.0.7:8100"
    assert where.gateway_url("chat") == "http://gateway:80"
    with pytest.raises(errors.NotFoundError, match="no node 'n2'"):
        where.node_url("chat", "n2")
    with pytest.raises(errors.NotFoundError, match="no service 'chess'"):
        where.nodes("chess")
    with pytest.raises(errors.NotFoundError, match="no gateway is configured"):
        where.gateway_url("chess")


@pytest.mark.parametrize("address", ["n1", "u:p@evil:80", "evil:80/admin", "evil:80#", "a b:80", "x:80?y", "[::1"])
def test_a_strange_address_is_never_called(address: str) -> None:
    """A label cannot smuggle a user, a path or another host."""
    with pytest.raises(errors.GiveUpError, match="no host:port"):
        directory.FleetDirectory(lambda: view(address)).node_url("chat", "n1")


def test_before_the_first_tick_nobody_is_known() -> None:
    """That is no reason to give up."""
    with pytest.raises(errors.RetryLaterError, match="not been observed yet"):
        directory.FleetDirectory(lambda: None).nodes("chat")
