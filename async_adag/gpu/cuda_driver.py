"""The NVIDIA driver's own library, libcuda: the calls that cupy does not have. They let go of the GIL."""

from __future__ import annotations

import ctypes
import uuid

from async_adag.gpu.interface import DeviceError

SUCCESS = 0


class Driver:
    """The calls. All raise a `DeviceError` that names the call which failed."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceError(f"the NVIDIA driver's library cannot be loaded: {error}") from error
        pointer, size = ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_size_t)
        self._library = library
        self._range = library.cuMemGetAddressRange_v2
        self._range.argtypes = [pointer, size, ctypes.c_uint64]
        self._launch = library.cuLaunchHostFunc
        self._launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._store = getattr(library, "cuStreamWriteValue64_v2", None) or library.cuStreamWriteValue64
        self._wait = getattr(library, "cuStreamWaitValue64_v2", None) or library.cuStreamWaitValue64
        for operation in (self._store, self._wait):
            operation.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint]
        self._pointer = library.cuMemHostGetDevicePointer_v2
        self._pointer.argtypes = [pointer, ctypes.c_void_p, ctypes.c_uint]
        self._describe = library.cuGetErrorName
        self._describe.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]

    def identity(self, ordinal: int) -> str:
        """What a device is known by on all hosts."""
        # Of cupy's properties the uuid ends at its first zero byte, wherever that is.
        ask = getattr(self._library, "cuDeviceGetUuid_v2", None) or self._library.cuDeviceGetUuid
        raw = (ctypes.c_ubyte * 16)()
        self._check("cuDeviceGetUuid", ask(raw, self._device(ordinal)))
        return f"GPU-{uuid.UUID(bytes=bytes(raw))}"

    def name(self, ordinal: int) -> str:
        """What a device is called."""
        text = ctypes.create_string_buffer(256)
        self._check("cuDeviceGetName", self._library.cuDeviceGetName(text, len(text), self._device(ordinal)))
        return text.value.decode(errors="replace")

    def allocation_of(self, address: int) -> tuple[int, int]:
        """Where the allocation around ``address`` begins, and its length in bytes."""
        base, nbytes = ctypes.c_uint64(), ctypes.c_size_t()
        status = self._range(ctypes.byref(base), ctypes.byref(nbytes), address)
        self._check("cuMemGetAddressRange", status)
        return base.value, nbytes.value

    def device_pointer(self, host: int) -> int:
        """Where the device has host memory that was registered."""
        address = ctypes.c_uint64()
        self._check("cuMemHostGetDevicePointer", self._pointer(ctypes.byref(address), host, 0))
        return address.value

    def store_word(self, stream: int, address: int, value: int) -> None:
        """Have a stream store 64 bits."""
        self._check("cuStreamWriteValue64", self._store(stream, address, value, 0))

    def wait_for_word(self, stream: int, address: int, value: int) -> None:
        """Have a stream wait until 64 bits are at least that (the flags' 0)."""
        self._check("cuStreamWaitValue64", self._wait(stream, address, value, 0))

    def launch_host_function(self, stream: int, function: int, argument: int) -> None:
        """Have a stream call a C function."""
        self._check("cuLaunchHostFunc", self._launch(stream, function, argument))

    def _device(self, ordinal: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._check("cuDeviceGet", self._library.cuDeviceGet(ctypes.byref(device), ordinal))
        return device

    def _check(self, call: str, status: int) -> None:
        if status != SUCCESS:
            name = ctypes.c_char_p()
            self._describe(status, ctypes.byref(name))
            raise DeviceError(f"{call}: {(name.value or b'error').decode()} ({status})")
