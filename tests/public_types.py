"""Whether all that is public has a type of its own: ``python -m tests.public_types``, in ``nox -s types``.

Pyright looks at every module of the package (``pyright --verifytypes``); what users can reach is looked at here.
"""

from __future__ import annotations

import json
import subprocess
import sys

PUBLIC = (
    "async_adag.adapter.",
    "async_adag.collectives.binding.",
    "async_adag.driver.compile.",
    "async_adag.driver.graph.",
    "async_adag.driver.results.",
    "async_adag.errors.",
    "async_adag.gpu.awaiting.completed",
    "async_adag.gpu.interface.DeviceError",
    "async_adag.observe.stats.",
    "async_adag.options.",
)


def main() -> int:
    command = ["pyright", "--pythonpath", sys.executable, "--ignoreexternal", "--verifytypes", "async_adag"]
    said = subprocess.run([*command, "--outputjson"], capture_output=True, text=True, check=False)
    try:
        report = json.loads(said.stdout)["typeCompleteness"]
    except (ValueError, KeyError):
        print(said.stdout, said.stderr, sep="\n")
        return 1
    if not report.get("pyTypedPath"):
        print("py.typed is missing")
        return 1
    public = [symbol for symbol in report["symbols"] if symbol["name"].startswith(PUBLIC)]
    wrong = 0
    for symbol in public:
        for diagnostic in symbol["diagnostics"]:
            # "Partially unknown" is what has an internal class among its parameters, such as a constructor.
            if "partially unknown" not in diagnostic["message"]:
                wrong += 1
                print(f"{symbol['name']}: {diagnostic['message']}")
    print(f"{len(public)} public names, {wrong} without a type of their own")
    return 1 if wrong or not public else 0


if __name__ == "__main__":
    sys.exit(main())
