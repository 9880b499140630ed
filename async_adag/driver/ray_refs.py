"""The base of our refs, so that ``ray.get`` takes them.

One of the modules that know names which Ray does not promise to keep: ``ray.get`` recognises the refs of Ray's own
compiled graph by their class and calls their ``get`` (Ray 2.60). Where that class is gone, refs work by
themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:

    class RefBase:
        """What ``ray.get`` recognises."""
else:
    try:
        from ray.experimental.compiled_dag_ref import CompiledDAGRef as RefBase
    except ImportError:

        class RefBase:
            """Stands in where Ray has no such class."""
