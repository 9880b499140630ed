"""The real device: CUDA, through cupy where it has the call and the driver's own library where it has not.

Imported by whoever has a GPU edge, and by nobody else; cupy is imported when a device is looked for.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

from async_adag.gpu.cuda_driver import SUCCESS, Driver
from async_adag.gpu.host_function import ring_address
from async_adag.gpu.interface import DeviceError, Event, Export, NotExportable, Span, Stream, TimedEvent
from async_adag.gpu.mappings import Mappings

_INVALID_VALUE = 1
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100
_NOT_READY = 600
_NOT_SUPPORTED = 801

_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = 1, 2, 3
_PORTABLE = 1
_NON_BLOCKING = 1
_DEFAULT, _BLOCKING_SYNC, _DISABLE_TIMING = 0, 1, 2
_REGISTER_PORTABLE, _REGISTER_MAPPED = 1, 2

_WHOLE_BLOCK = 2 << 20
"""CUDA makes smaller allocations parts of a block of this size, and to share one part is to share the block."""

_EXTRAS = "async-adag[gpu] has it for CUDA 12 (cupy-cuda12x), async-adag[gpu13] for CUDA 13 (cupy-cuda13x)"

_devices: dict[int, CudaDevice] = {}


def find_device() -> CudaDevice:
    """The current device of this thread. The same object each time.

    Raises:
        DeviceError: there is none that can be used; says what is missing, and what to do.
    """
    runtime = _runtime()
    try:
        ordinal = runtime.getDevice()
        device = _devices.get(ordinal)
        if device is None:
            if not runtime.getDeviceCount():
                raise DeviceError(why_none(_NO_DEVICE, 0, os.environ.get("CUDA_VISIBLE_DEVICES"), ""))
            device = CudaDevice(runtime, ordinal)
            _devices[ordinal] = device
    except runtime.CUDARuntimeError as error:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise DeviceError(why_none(error.status, _driver_version(runtime), visible, str(error))) from error
    return device


def _runtime() -> Any:
    """CUDA's runtime library, as cupy has it.

    Raises:
        DeviceError: cupy is not here, or not whole.
    """
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise DeviceError(f"cupy cannot be imported: {error}") from error
        raise DeviceError(f"cupy is not installed: {_EXTRAS}") from error
    except ImportError as error:
        raise DeviceError(f"cupy cannot be imported: {error}") from error
    runtime: Any = cupy.cuda.runtime
    if runtime.is_hip:
        raise DeviceError(f"cupy here is built for ROCm, and GPU edges need CUDA: {_EXTRAS}")
    return runtime


def _driver_version(runtime: Any) -> int:
    try:
        return int(runtime.driverGetVersion())
    except runtime.CUDARuntimeError:
        return 0


def why_none(status: int, driver: int, visible: str | None, said: str) -> str:
    """Why there is no device.

    Args:
        status: what CUDA's runtime answered, as its number.
        driver: the version of CUDA that the driver is made for, or 0 where there is no driver.
        visible: ``CUDA_VISIBLE_DEVICES``, if it is set.
        said: what CUDA's runtime answered, in words.
    """
    if status == _INSUFFICIENT_DRIVER and not driver:
        return "there is no NVIDIA driver on this machine (or in this container)"
    if status == _INSUFFICIENT_DRIVER:
        version = f"{driver // 1000}.{driver % 1000 // 10}"
        return f"the NVIDIA driver here is made for CUDA {version}, which is too old for this cupy: {_EXTRAS}"
    if status == _NO_DEVICE:
        setting = "is not set" if visible is None else f"is {visible!r}"
        return (
            f"no GPU is visible to this process (CUDA_VISIBLE_DEVICES {setting}); "
            "Ray hides GPUs from actors that do not ask for one: give the actor num_gpus"
        )
    return f"CUDA cannot be used: {said}"


class CudaDevice:
    """A CUDA device, in this process; see `interface.Device`.

    Its objects belong to it and are to be used with it only. May be used by several threads.

    Attributes:
        mappings: what this process has open on it of others, whichever graph brings it.
    """

    def __init__(self, runtime: Any, ordinal: int) -> None:
        self.ordinal = ordinal
        self.runtime = runtime
        self.error: type[Exception] = runtime.CUDARuntimeError
        self.enter()
        self.driver = Driver()
        self.identity = self.driver.identity(ordinal)
        self.name = self.driver.name(ordinal)
        self.mappings = Mappings(self)
        self._waiting = threading.local()

    def __repr__(self) -> str:
        return f"<CudaDevice {self.ordinal}: {self.name}, {self.identity}>"

    def enter(self) -> None:
        try:
            self.runtime.setDevice(self.ordinal)
        except self.error as error:
            raise _failed("cudaSetDevice", error) from error

    def stream(self) -> CudaStream:
        return CudaStream(self, self._new_stream(), owned=True)

    def adopt(self, handle: int) -> CudaStream:
        return CudaStream(self, handle, owned=False)

    def event(self) -> CudaEvent:
        return CudaEvent(self, self._new_event(_DISABLE_TIMING))

    def timed_event(self) -> CudaTimedEvent:
        return CudaTimedEvent(self, self._new_event(_DEFAULT))

    def allocate(self, nbytes: int) -> CudaMemory:
        """See `interface.Device`. Takes whole blocks of 2 MiB, so that nothing else is shared along with it."""
        whole = max(1, -(-nbytes // _WHOLE_BLOCK)) * _WHOLE_BLOCK
        try:
            return CudaMemory(self, Span(self.runtime.malloc(whole), nbytes))
        except self.error as error:
            raise _failed(f"cudaMalloc of {whole:,} bytes", error) from error

    def copy(self, to: Span, source: Span, stream: Stream) -> None:
        self._copy(to, source, _DEVICE_TO_DEVICE, stream)

    def to_host(self, to: Span, source: Span, stream: Stream) -> None:
        self._copy(to, source, _DEVICE_TO_HOST, stream)

    def from_host(self, to: Span, source: Span, stream: Stream) -> None:
        self._copy(to, source, _HOST_TO_DEVICE, stream)

    def _copy(self, to: Span, source: Span, kind: int, stream: Stream) -> None:
        try:
            self.runtime.memcpyAsync(to.address, source.address, source.nbytes, kind, stream.handle)
        except self.error as error:
            raise _failed("cudaMemcpyAsync", error) from error

    def allocate_host(self, nbytes: int) -> CudaHostMemory:
        try:
            return CudaHostMemory(self, Span(self.runtime.hostAlloc(nbytes, _PORTABLE), nbytes))
        except self.error as error:
            raise _failed(f"cudaHostAlloc of {nbytes:,} bytes", error) from error

    def export(self, span: Span) -> Export:
        base, nbytes = self.driver.allocation_of(span.address)
        if span.address + span.nbytes > base + nbytes:
            raise NotExportable(f"the {span.nbytes:,} bytes at {span.address:#x} lie in more than one allocation")
        try:
            handle: bytes = self.runtime.ipcGetMemHandle(base)
        except self.error as error:
            if error.status not in (_INVALID_VALUE, _NOT_SUPPORTED):  # type: ignore[attr-defined]
                raise _failed("cudaIpcGetMemHandle", error) from error
            raise NotExportable(
                f"cudaIpcGetMemHandle: {error}; only memory of cudaMalloc can be opened by other processes, which "
                "that of cudaMallocAsync and of torch's expandable_segments:True is not"
            ) from error
        return Export(handle, span.address - base)

    def open(self, handle: bytes) -> CudaMapping:
        try:
            address = self.runtime.ipcOpenMemHandle(handle)
        except self.error as error:
            raise _failed(
                "cudaIpcOpenMemHandle (of another process's memory on the same device, and of one that lives)",
                error,
            ) from error
        mapping = CudaMapping(self, Span(address, 0))
        try:
            mapping.span = Span(*self.driver.allocation_of(address))
        except DeviceError:
            mapping.close()
            raise
        return mapping

    def words(self, memory: memoryview) -> CudaWords:
        return CudaWords(self, self.driver, memory)

    def notify(self, stream: Stream, fd: int) -> None:
        """See `interface.Device`.

        Raises:
            CannotNotify: there is no C compiler, or none that works; says which were looked for.
            DeviceError: it cannot be issued.
        """
        self.driver.launch_host_function(stream.handle, ring_address(), fd)

    def wait_for(self, event: int) -> None:
        """Block this thread, without the GIL and without spinning, until the device has passed ``event``.

        By way of an event that was made for sleeping, as CUDA spins on others.
        """
        place: _WaitingPlace | None = getattr(self._waiting, "place", None)
        if place is None:
            place = self._waiting.place = _WaitingPlace(
                self.runtime, self._new_stream(), self._new_event(_DISABLE_TIMING | _BLOCKING_SYNC)
            )
        try:
            self.runtime.streamWaitEvent(place.stream, event)
            self.runtime.eventRecord(place.event, place.stream)
            self.runtime.eventSynchronize(place.event)
        except self.error as error:
            raise _failed("cudaEventSynchronize", error) from error

    def let_go(self, call: str, free: Any, handle: int) -> None:
        """Free something. If the device has failed, everything of this process on it is gone already.

        Raises:
            DeviceError: it cannot be freed, and the device has not failed.
        """
        try:
            free(handle)
        except self.error as error:
            if self.runtime.streamQuery(0) in (SUCCESS, _NOT_READY):
                raise _failed(call, error) from error

    def _new_stream(self) -> int:
        try:
            return int(self.runtime.streamCreateWithFlags(_NON_BLOCKING))
        except self.error as error:
            raise _failed("cudaStreamCreateWithFlags", error) from error

    def _new_event(self, flags: int) -> int:
        try:
            return int(self.runtime.eventCreateWithFlags(flags))
        except self.error as error:
            raise _failed("cudaEventCreateWithFlags", error) from error


class CudaEvent:
    """See `interface.Event`. ``handle`` is its cudaEvent_t."""

    __slots__ = ("_device", "handle")

    def __init__(self, device: CudaDevice, handle: int) -> None:
        self._device = device
        self.handle = handle

    def query(self) -> bool:
        status = self._device.runtime.eventQuery(self.handle)
        if status == SUCCESS:
            return True
        if status == _NOT_READY:
            return False
        error = self._device.error(status)
        raise _failed("cudaEventQuery", error) from error

    def synchronize(self) -> None:
        self._device.wait_for(self.handle)

    def close(self) -> None:
        handle, self.handle = self.handle, 0
        if handle:
            self._device.let_go("cudaEventDestroy", self._device.runtime.eventDestroy, handle)


class CudaTimedEvent(CudaEvent):
    """See `interface.TimedEvent`."""

    __slots__ = ()

    def since(self, earlier: TimedEvent) -> int:
        assert isinstance(earlier, CudaTimedEvent)
        try:
            milliseconds = self._device.runtime.eventElapsedTime(earlier.handle, self.handle)
        except self._device.error as error:
            raise _failed("cudaEventElapsedTime", error) from error
        return round(float(milliseconds) * 1e6)


class CudaStream:
    """See `interface.Stream`. ``handle`` is its cudaStream_t."""

    __slots__ = ("_device", "_owned", "handle")

    def __init__(self, device: CudaDevice, handle: int, *, owned: bool) -> None:
        self._device = device
        self._owned = owned
        self.handle = handle

    def record(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        try:
            self._device.runtime.eventRecord(event.handle, self.handle)
        except self._device.error as error:
            raise _failed("cudaEventRecord", error) from error

    def wait(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        try:
            self._device.runtime.streamWaitEvent(self.handle, event.handle)
        except self._device.error as error:
            raise _failed("cudaStreamWaitEvent", error) from error

    def close(self) -> None:
        owned, self._owned = self._owned, False
        if owned:
            self._device.let_go("cudaStreamDestroy", self._device.runtime.streamDestroy, self.handle)


class CudaMemory:
    """See `interface.Memory`."""

    __slots__ = ("_device", "_open", "span")

    def __init__(self, device: CudaDevice, span: Span) -> None:
        self._device = device
        self._open = True
        self.span = span

    def close(self) -> None:
        opened, self._open = self._open, False
        if opened:
            self._device.let_go("cudaFree", self._device.runtime.free, self.span.address)


class CudaHostMemory:
    """See `interface.HostMemory`."""

    __slots__ = ("_device", "_open", "_view", "span")

    def __init__(self, device: CudaDevice, span: Span) -> None:
        self._device = device
        self._open = True
        self._view = memoryview((ctypes.c_ubyte * span.nbytes).from_address(span.address)).cast("B")
        self.span = span

    def write(self, place: int, data: memoryview) -> None:
        self._view[place : place + data.nbytes] = data

    def read(self, place: int, nbytes: int) -> memoryview:
        return self._view[place : place + nbytes]

    def close(self) -> None:
        opened, self._open = self._open, False
        if opened:
            self._device.let_go("cudaFreeHost", self._device.runtime.freeHost, self.span.address)


class CudaMapping:
    """See `interface.Mapping`."""

    __slots__ = ("_device", "_open", "span")

    def __init__(self, device: CudaDevice, span: Span) -> None:
        self._device = device
        self._open = True
        self.span = span

    def close(self) -> None:
        opened, self._open = self._open, False
        if opened:
            self._device.let_go("cudaIpcCloseMemHandle", self._device.runtime.ipcCloseMemHandle, self.span.address)


class CudaWords:
    """See `interface.Words`: host memory that is registered with CUDA, and its operations on memory in streams."""

    __slots__ = ("_address", "_array", "_device", "_driver", "_host")

    def __init__(self, device: CudaDevice, driver: Driver, memory: memoryview) -> None:
        self._device = device
        self._driver = driver
        self._array: Any = (ctypes.c_char * memory.nbytes).from_buffer(memory)
        self._host = ctypes.addressof(self._array)
        try:
            device.runtime.hostRegister(self._host, memory.nbytes, _REGISTER_PORTABLE | _REGISTER_MAPPED)
        except device.error as error:
            raise _failed(f"cudaHostRegister of {memory.nbytes:,} bytes", error) from error
        try:
            self._address = driver.device_pointer(self._host)
        except DeviceError:
            device.let_go("cudaHostUnregister", device.runtime.hostUnregister, self._host)
            raise

    def store(self, stream: Stream, index: int, value: int) -> None:
        self._driver.store_word(stream.handle, self._address + 8 * index, value)

    def wait(self, stream: Stream, index: int, value: int) -> None:
        self._driver.wait_for_word(stream.handle, self._address + 8 * index, value)

    def close(self) -> None:
        host, self._host = self._host, 0
        if host:
            self._device.let_go("cudaHostUnregister", self._device.runtime.hostUnregister, host)
            self._array = None


class _WaitingPlace:
    """Where one thread waits: a stream and an event of its own, which end with the thread."""

    def __init__(self, runtime: Any, stream: int, event: int) -> None:
        self._runtime = runtime
        self.stream = stream
        self.event = event

    def __del__(self) -> None:
        try:
            self._runtime.eventDestroy(self.event)
            self._runtime.streamDestroy(self.stream)
        except Exception:  # the device has failed, or the process is about to end
            pass


def _failed(call: str, error: Exception) -> DeviceError:
    return DeviceError(f"{call}: {error}")
