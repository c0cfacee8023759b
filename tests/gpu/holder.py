"""Holds memory of the first card until its standard input ends: ``holder.py MIB``.

Through the driver's own library, so that neither a toolkit nor a framework is needed.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *args: Any) -> None:
        code = getattr(cuda, name)(*args)
        if code:
            sys.exit(f"{name} failed with {code}")

    call("cuInit", 0)
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(int(sys.argv[1]) << 20))
    print("holding", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
