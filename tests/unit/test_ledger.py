"""The ledger: which execution a frame belongs to, and who may be admitted."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from async_adag.protocol.ledger import Ledger


class LedgerAgainstModel(RuleBasedStateMachine):
    """The model keeps, for each execution, the set of channels whose frames are still to come."""

    @initialize(channels=st.integers(0, 4), limit=st.integers(1, 6))
    def make(self, channels, limit):
        self.ledger = Ledger(channels, limit)
        self.channels = channels
        self.limit = limit
        self.missing = {}  # execution: channels
        self.admitted = 0
        self.reserved = 0
        self.arrived = [0] * channels

    def has_place(self):
        return len(self.missing) + self.reserved < self.limit

    @precondition(lambda self: self.has_place())
    @rule()
    def reserve(self):
        assert self.ledger.has_place()
        self.ledger.reserve()
        self.reserved += 1

    @precondition(lambda self: self.reserved)
    @rule()
    def release(self):
        self.ledger.release()
        self.reserved -= 1

    @precondition(lambda self: self.reserved)
    @rule()
    def admit(self):
        entry = self.ledger.admit(f"execution {self.admitted}")
        assert entry.seq == self.admitted
        if self.channels:  # without any, nothing is waited for
            self.missing[self.admitted] = set(range(self.channels))
        self.admitted += 1
        self.reserved -= 1

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def arrive(self, data):
        channel = data.draw(st.integers(0, self.channels - 1))
        seq = self.arrived[channel]
        if seq == self.admitted:
            with pytest.raises(IndexError):
                self.ledger.arrive(channel)
            return
        entry = self.ledger.arrive(channel)
        assert (entry.seq, entry.payload) == (seq, f"execution {seq}")
        self.arrived[channel] += 1
        self.missing[seq].remove(channel)
        assert entry.missing == len(self.missing[seq])
        if not self.missing[seq]:
            del self.missing[seq]

    @rule()
    def abandon(self):
        rest = self.ledger.abandon()
        assert [(entry.seq, channels) for entry, channels in rest] == self.expected_rest()
        self.missing.clear()
        self.arrived = [self.admitted] * self.channels

    def expected_rest(self):
        return [(seq, sorted(channels)) for seq, channels in sorted(self.missing.items())]

    @invariant()
    def counts_agree(self):
        if hasattr(self, "ledger"):
            ledger = self.ledger
            assert ledger.in_flight == len(self.missing)
            assert ledger.admitted == self.admitted
            assert ledger.reserved == self.reserved
            assert ledger.has_place() == self.has_place()
            pending = [(entry.seq, channels) for entry, channels in ledger.pending()]
            assert pending == self.expected_rest()


LedgerAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLedgerAgainstModel = LedgerAgainstModel.TestCase


def test_an_execution_is_in_flight_until_its_last_frame():
    ledger = Ledger(2, limit=1)
    ledger.reserve()
    entry = ledger.admit("x")
    assert ledger.arrive(1) is entry
    assert not ledger.has_place()
    assert ledger.arrive(0) is entry
    assert ledger.has_place()


def test_a_reservation_takes_a_place():
    ledger = Ledger(1, limit=2)
    ledger.reserve()
    ledger.reserve()
    assert not ledger.has_place()
    ledger.release()
    assert ledger.has_place()
    assert ledger.in_flight == 0


def test_frames_count_as_arrived_one_by_one():
    ledger = Ledger(2, limit=2)
    for _ in range(2):
        ledger.reserve()
        ledger.admit(None)
    for channel in (0, 0, 1):
        ledger.arrive(channel)
    assert ledger.arrived == 3
