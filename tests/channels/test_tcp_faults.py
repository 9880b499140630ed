"""Channels over TCP whose connection is cut, spoiled, silent or slow."""

from __future__ import annotations

import threading
from itertools import accumulate

import numpy as np
import pytest

from async_adag.channels.failures import decode_failure
from async_adag.channels.interface import STOP, Failure
from async_adag.protocol.wire import HEADER_SIZE
from tests.proxy import Proxy, Way
from tests.tcp import PATIENCE, Side, connected, link

VALUES = ["first", None, {"a": [1, 2.5]}, np.arange(20), 7]


class Hour:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def open_link():
    """Makes channels; their proxies and both sides are closed at the end."""
    made, proxies = [], []

    def make(onward=None, back=None, through=True, **options):
        if through:
            (near, near_proxy), (far_proxy, far) = connected(), connected()
            proxies.append(Proxy(near_proxy, far_proxy, onward, back))
            options["sockets"] = near, far
        made.append(link(**options))
        return made[-1]

    yield make
    for proxy in proxies:
        proxy.close()
    for each in made:
        each.close()


def sizes_of(values):
    """Bytes on the wire of each frame."""
    with_writer = link()
    writer, sizes = with_writer.writer, []
    for value in values:
        before = writer.bytes
        writer.stage(writer.encode(value))
        sizes.append(HEADER_SIZE + writer.bytes - before)
        writer.unstage()
    with_writer.close()
    return sizes


ENDS = list(accumulate(sizes_of(VALUES)))


def read_what_is_there(reader):
    got = []
    while reader.may_read():
        got.append(reader.read())
    return got


def equal(got, expected):
    return all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True))


def send_all(channel, values):
    """Send, whether the connection still is of use or not."""
    writer = channel.writer
    for value in values:
        writer.stage(writer.encode(value))
        writer.publish()


def both_lost(channel):
    """Whether both sides were told."""
    return channel.there.losses and channel.here.losses


def wait(channel, until):
    def there():
        channel.here.network.turn()
        return until()

    channel.there.wait(there, ring_own=False)  # it is the loop that waits, and looks by itself


# -- cut


@pytest.mark.parametrize("resets", [False, True])
def test_cut_at_any_byte_gives_what_had_arrived_and_a_loss(resets):
    for cut_at in range(0, ENDS[-1] + 1, 7 if resets else 1):
        (near, near_proxy), (far_proxy, far) = connected(), connected()
        channel = link(sockets=(near, far), slots=len(VALUES))
        proxy = Proxy(near_proxy, far_proxy, Way(cut_at=cut_at, resets=resets))
        send_all(channel, VALUES)
        wait(channel, lambda: both_lost(channel))  # noqa: B023
        whole = sum(end <= cut_at for end in ENDS)
        got = read_what_is_there(channel.reader)
        if resets:  # takes with it what was under way
            assert len(got) <= whole
        else:
            assert len(got) == whole
            at_a_border = cut_at == 0 or cut_at in ENDS
            words = "closed by the other side" if at_a_border else "closed in the midst of a frame"
            assert channel.landing.lost == words
        assert equal(got, VALUES[: len(got)])
        assert channel.there.losses == [(0, channel.landing.lost)]
        assert channel.here.losses == [(0, channel.writer.lost)]
        assert not channel.writer.may_write()
        proxy.close()
        channel.close()


@pytest.mark.parametrize("ends_at", [0, 10, ENDS[0], ENDS[0] + 3, ENDS[1]])
def test_an_end_of_the_stream_before_the_stop_is_a_loss(open_link, ends_at):
    channel = open_link(Way(ends_at=ends_at), slots=8)
    send_all(channel, VALUES)
    wait(channel, lambda: channel.landing.lost)
    assert len(read_what_is_there(channel.reader)) == sum(end <= ends_at for end in ENDS)


def test_an_end_behind_the_stop_is_none(open_link):
    channel = open_link(slots=8)
    send_all(channel, ["last", STOP])
    channel.writer.close()
    channel.there.wait(lambda: channel.landing._ended and channel.writer.is_closed())
    assert read_what_is_there(channel.reader) == ["last", STOP]
    assert not channel.there.losses
    assert not channel.here.losses


def test_a_writer_whose_readers_are_gone_is_lost_and_says_so(open_link):
    channel = open_link(through=False, slots=8)
    channel.there.network.close()
    channel.here.wait(lambda: channel.here.losses)
    assert channel.here.network.lost == {0: "closed by the other side"}
    assert not channel.writer.may_write()
    assert not channel.writer.arm()
    channel.writer.stage(channel.writer.encode("nobody hears"))
    channel.writer.publish()


def test_a_loss_is_noticed_at_once_while_the_loop_computes(open_link):
    """Nobody takes a turn on the side that notices."""
    told = threading.Event()
    channel = open_link(through=False)
    channel.here.network.on_lost = lambda *_: told.set()
    channel.there.network.close()
    assert told.wait(PATIENCE)
    told.clear()
    channel = open_link(through=False)
    channel.there.network.on_lost = lambda *_: told.set()
    channel.send("last")
    channel.writer.close()
    assert told.wait(PATIENCE)
    assert channel.reader.read() == "last"


# -- spoiled


def test_no_flipped_byte_of_a_header_gives_a_wrong_value():
    for at in [*range(HEADER_SIZE), *range(ENDS[2], ENDS[2] + HEADER_SIZE)]:
        (near, near_proxy), (far_proxy, far) = connected(), connected()
        channel = link(sockets=(near, far), slots=len(VALUES))
        proxy = Proxy(near_proxy, far_proxy, Way(flip_at=at, flip=1 << at % 8))
        send_all(channel, VALUES)
        wait(channel, lambda: channel.landing.lost)  # noqa: B023
        assert channel.landing.lost.startswith("garbage: ")
        got = read_what_is_there(channel.reader)
        assert equal(got, VALUES[: sum(end <= at for end in ENDS)])
        proxy.close()
        channel.close()


def test_flipped_bytes_of_payloads_spoil_at_most_their_own_value():
    """Payloads carry no checksum but TCP's: their reader may get another value, or an error, and goes on."""
    begin = ENDS[2] + HEADER_SIZE
    for at in range(begin, ENDS[3]):
        (near, near_proxy), (far_proxy, far) = connected(), connected()
        channel = link(sockets=(near, far), slots=len(VALUES))
        proxy = Proxy(near_proxy, far_proxy, Way(flip_at=at, flip=0x10))
        send_all(channel, VALUES)
        wait(channel, lambda: channel.landing.landed == len(VALUES))  # noqa: B023
        assert equal([channel.reader.read() for _ in range(3)], VALUES[:3])
        try:
            channel.reader.read()
        except Exception:
            pass
        assert channel.reader.read() == VALUES[4]
        proxy.close()
        channel.close()


@pytest.mark.parametrize("at", range(HEADER_SIZE))
def test_a_spoiled_credit_ends_the_writer(open_link, at):
    channel = open_link(back=Way(flip_at=at, flip=0x40), slots=1)
    channel.send("x")
    channel.there.wait(lambda: channel.reader.may_read())
    channel.reader.read()
    channel.here.wait(lambda: channel.writer.lost)
    assert channel.writer.lost.startswith("garbage: ")


# -- silent, and slow


def beat(channel, clock, seconds):
    """Let time go by, with a look at every quarter of a heartbeat, on both sides."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now += 0.25
        for side in (channel.here, channel.there):
            side.network.tick()


HEARTBEAT = 1.0


def side_with(clock):
    """A side that looks at another clock; its attendant is told of the time by the test."""
    side = Side(clock=clock)
    side.network.heartbeat = HEARTBEAT
    return side


@pytest.mark.parametrize("silent", ["onward", "back"])
def test_silence_of_either_direction_is_found(open_link, silent):
    clock = Hour()
    way = Way(silent_at=HEADER_SIZE)
    channel = open_link(**{silent: way}, here=side_with(clock), there=side_with(clock))
    beat(channel, clock, 0.25)
    wait(channel, lambda: channel.writer._heard == channel.landing._heard == clock.now)
    beat(channel, clock, HEARTBEAT)
    assert not channel.there.losses + channel.here.losses
    deaf = channel.there if silent == "onward" else channel.here
    clock.now += 0.5
    deaf.network.tick()
    assert deaf.losses == [(0, "silent for 1 s")]


def test_who_has_not_begun_yet_is_waited_for(open_link):
    """As long as a graph is compiled: the other side may wait for others still."""
    clock = Hour()
    way = Way(silent_at=0)
    channel = open_link(back=way, here=side_with(clock), there=side_with(clock))
    for _ in range(40):
        clock.now += 0.25
        channel.here.network.tick()
        wait(channel, lambda: channel.landing._heard == clock.now)
        channel.there.network.tick()
    assert not channel.there.losses + channel.here.losses
    way.speak.set()
    wait(channel, lambda: channel.writer._heard == clock.now)
    assert channel.pass_on("begins") == "begins"


def test_signs_of_life_are_given_however_busy_a_loop_is_with_the_connection(open_link):
    clock = Hour()
    channel = open_link(through=False, here=side_with(clock), there=side_with(clock))
    clock.now += HEARTBEAT
    with channel.writer.lock:
        ticking = threading.Thread(target=channel.here.network.tick)
        ticking.start()
        ticking.join(0.01)  # it has looked, or comes later; either will do
    ticking.join()
    wait(channel, lambda: channel.landing._heard == clock.now)


def test_a_connection_on_which_nothing_is_said_stays(open_link):
    clock = Hour()
    proxied = open_link(here=side_with(clock), there=side_with(clock))
    for _ in range(40):
        clock.now += 0.25
        for side, other in ((proxied.here, proxied.landing), (proxied.there, proxied.writer)):
            side.network.tick()  # says something
            wait(proxied, lambda: other._heard == clock.now)  # noqa: B023 - until it is heard
    assert not proxied.there.losses + proxied.here.losses
    assert proxied.pass_on("still") == "still"


def test_a_trickle_of_single_bytes_is_no_loss(open_link):
    clock = Hour()
    way = Way(piece=1, permits=threading.Semaphore(0))
    channel = open_link(way, here=Side(), there=side_with(clock), slots=len(VALUES))
    send_all(channel, VALUES)
    for passed in range(1, ENDS[-1] + 1):
        clock.now += 0.9
        way.permits.release()
        wait(channel, lambda: channel.landing._heard == clock.now)
        channel.there.network.tick()
        assert channel.landing.landed == sum(end <= passed for end in ENDS)
    assert not channel.there.losses
    assert equal(read_what_is_there(channel.reader), VALUES)


def test_a_slow_network_delivers_all_in_order(open_link):
    channel = open_link(Way(delay=0.001, piece=1500), Way(delay=0.001))
    for number in range(50):
        value = np.full(number * 20, number)
        np.testing.assert_array_equal(channel.pass_on(value), value)


# -- much, and both ways


def test_both_sides_send_much_at_once(open_link):
    here, there = Side(), Side()
    one = open_link(through=False, here=here, there=there)
    other = open_link(through=False, here=there, there=here)
    much = np.arange(8 << 20)
    one.send(much)
    other.send(-much)
    wait(one, lambda: one.landing.landed and other.landing.landed)
    assert np.array_equal(one.reader.read(), much)
    assert np.array_equal(other.reader.read(), -much)


def test_what_was_published_may_be_changed_at_once(open_link):
    channel = open_link(through=False, slots=4)
    array = np.zeros(2 << 20)
    for number in range(4):
        array[:] = number
        channel.send(array)
    array[:] = -1
    wait(channel, lambda: channel.landing.landed == 4)
    for number in range(4):
        assert (channel.reader.read() == number).all()


def test_a_full_queue_is_delivered_by_closing(open_link, monkeypatch):
    for module in ("connection", "network"):
        monkeypatch.setattr(f"async_adag.channels.{module}.LINGER", 2 * PATIENCE)
    channel = open_link(through=False, slots=8)
    for number in range(4):
        channel.send(np.full(1 << 19, number))
    channel.send(STOP)
    channel.writer.close()
    closing = threading.Thread(target=channel.here.network.close)
    closing.start()
    channel.there.wait(lambda: channel.landing.landed == 5)
    for number in range(4):
        assert (channel.reader.read() == number).all()
    assert channel.reader.read() is STOP
    channel.there.wait(lambda: channel.landing._ended)
    closing.join()
    assert not channel.there.losses + channel.here.losses


def test_a_small_frame_passes_a_big_one_on_another_edge(open_link):
    here, there = Side(), Side()
    held = Way(silent_at=1 << 20)
    big = open_link(held, here=here, there=there)
    small = open_link(here=here, there=there)
    big.send(np.zeros(4 << 20))
    small.send("passes")
    wait(small, lambda: small.landing.landed == 1)
    assert small.reader.read() == "passes"
    assert not big.reader.may_read()
    held.speak.set()
    wait(big, lambda: big.landing.landed == 1)


# -- no memory


@pytest.mark.interpreted(reason="it replaces a method")
@pytest.mark.parametrize("size", [2000, 50_000, 3 << 20])
def test_a_frame_for_which_there_is_no_memory_lands_as_a_failure(open_link, monkeypatch, size):
    channel = open_link(through=False)
    with monkeypatch.context() as patch:

        def refuse(*_):
            raise OSError(28, "the system's shared memory is used up " * 20)

        patch.setattr(channel.landing._ring._pool, "take", refuse)
        failed = channel.pass_on(np.zeros(size // 8))
        assert type(failed) is Failure
        error = decode_failure(failed.encoded)
        assert type(error) is OSError
        assert "shared memory is used up" in str(error)
        assert channel.pass_on("small") == "small"
    assert channel.pass_on(np.ones(size // 8)).sum() == size // 8


# -- forks


def test_a_forked_child_takes_nothing_from_its_parent(open_link):
    channel = open_link(through=False, slots=8)
    assert channel.pass_on("before") == "before"
    channel.send(np.zeros(1 << 20))  # in the midst of which the child begins
    channel.leave_in_child()
    wait(channel, lambda: channel.landing.landed == 2)
    assert channel.reader.read().shape == (1 << 20,)
    assert channel.pass_on("after") == "after"
    assert not channel.there.losses + channel.here.losses
