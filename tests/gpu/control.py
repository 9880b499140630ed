"""Devices that leave something out, for controls: what is left out must be missed."""

from __future__ import annotations

from typing import Any

from async_adag.gpu.interface import CannotNotify


class Heedless:
    """A device whose new streams do not wait for events of other processes."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._foreign: set[Any] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def open_event(self, handle: bytes) -> Any:
        event = self._device.open_event(handle)
        self._foreign.add(event)
        return event

    def stream(self) -> Any:
        return _HeedlessStream(self._device.stream(), self._foreign)


class _HeedlessStream:
    def __init__(self, stream: Any, foreign: set[Any]) -> None:
        self._stream = stream
        self._foreign = foreign

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def wait(self, event: Any) -> None:
        if event not in self._foreign:
            self._stream.wait(event)


class WithoutHostFunctions:
    """A device that cannot notify, as where there is no C compiler."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def notify(self, stream: Any, fd: int) -> None:
        raise CannotNotify("left out")
