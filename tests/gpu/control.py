"""Devices that leave something out, for controls: what is left out must be missed."""

from __future__ import annotations

from typing import Any

from async_adag.gpu.interface import CannotNotify


class Heedless:
    """A device whose streams do not wait for words of other processes."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def words(self, memory: memoryview) -> Any:
        return _HeedlessWords(self._device.words(memory))


class _HeedlessWords:
    def __init__(self, words: Any) -> None:
        self._words = words

    def __getattr__(self, name: str) -> Any:
        return getattr(self._words, name)

    def wait(self, stream: Any, index: int, value: int) -> None:
        pass


class WithoutHostFunctions:
    """A device that cannot notify, as where there is no C compiler."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def notify(self, stream: Any, fd: int) -> None:
        raise CannotNotify("left out")
