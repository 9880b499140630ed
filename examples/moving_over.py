"""A program that was written for Ray's compiled graph, moved over by an import and a call, and then to asyncio.

The program reads the modules of Python's standard library, makes of each a fingerprint, and finds which others are
most like it; two actors know half of the library each:

                         +-- half.nearest --+
    prints.of(text) -----+                  +---- one list from each half
                         +-- half.nearest --+

It runs as it was, with `async_adag.experimental_compile(dag)` in place of `dag.experimental_compile()`, with
asyncio by the same call, and last in the form that async_adag has of its own. All have to give the same. (Ray's
own graph with asyncio is left out: with two outputs and several executions in flight it stood still, Ray 2.60.)
Needs: pip install numpy
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import sys
import sysconfig
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag

IN_FLIGHT = 8  # Ray's graph takes ten at most, and raises beyond that
WIDTH = 4096

Array = Any  # numpy's
Near = list[tuple[float, str]]
Results = list[list[Near]]  # of each module what each half of the library says


class Prints:
    def __init__(self, rarity: Array) -> None:
        self.rarity = rarity

    def of(self, text: str) -> Array:
        """A text's fingerprint: which words stand there, each at a place that a hash gives; rare ones say more."""
        print_ = np.log1p(counts(text)) * self.rarity
        return print_ / max(float(np.linalg.norm(print_)), 1e-9)


class Half:
    def __init__(self, texts: dict[str, str], rarity: Array) -> None:
        self.names = list(texts)
        self.prints = np.array([Prints(rarity).of(text) for text in texts.values()])

    def nearest(self, print_: Array) -> Near:
        likeness = self.prints @ print_
        best = np.argsort(-likeness, kind="stable")[:3]
        return [(round(float(likeness[number]), 6), self.names[number]) for number in best]


def counts(text: str) -> Array:
    places = [zlib.crc32(word.encode()) % WIDTH for word in re.findall(r"[A-Za-z_]{4,}", text)]
    return np.bincount(places, minlength=WIDTH)


def as_it_was(dag: Any, texts: list[str]) -> Results:
    compiled = dag.experimental_compile()
    return run_blocking(compiled, texts)


def by_an_import_and_a_call(dag: Any, texts: list[str]) -> Results:
    compiled = async_adag.experimental_compile(dag)
    return run_blocking(compiled, texts)


def run_blocking(compiled: Any, texts: list[str]) -> Results:
    """The program itself: not a word of it is changed."""
    results: Results = []
    waiting: list[Any] = []
    for text in texts:
        if len(waiting) == IN_FLIGHT:
            results.append(ray.get(waiting.pop(0)))
        waiting.append(compiled.execute(text))
    results += [ray.get(refs) for refs in waiting]
    compiled.teardown()
    return results


def with_asyncio_by_a_call(dag: Any, texts: list[str]) -> Results:
    compiled = async_adag.experimental_compile(dag, enable_asyncio=True)
    return asyncio.run(run_async(compiled, texts))


async def run_async(compiled: Any, texts: list[str]) -> Results:
    results: Results = []
    waiting: list[Any] = []
    for text in texts:
        if len(waiting) == IN_FLIGHT:
            results.append([await future for future in waiting.pop(0)])
        waiting.append(await compiled.execute_async(text))
    results += [[await future for future in futures] for futures in waiting]
    compiled.teardown()
    return results


def at_home(dag: Any, texts: list[str]) -> Results:
    async def run() -> Results:
        async with async_adag.compile(dag) as compiled:
            return [lists async for lists in compiled.map(texts)]

    return asyncio.run(run())


WAYS: dict[str, Callable[[Any, list[str]], Results]] = {
    "Ray, blocking": as_it_was,
    "async_adag, blocking": by_an_import_and_a_call,
    "async_adag, asyncio": with_asyncio_by_a_call,
    "async_adag, map": at_home,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=150, help="how many to look at (%(default)s)")
    parser.add_argument("--times", type=int, default=3, help="how often to look at all of them (%(default)s)")
    given = parser.parse_args()
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in paths if path.stat().st_size > 4000}
    texts = dict(list(texts.items())[: given.modules])
    having = sum(counts(text) > 0 for text in texts.values())
    rarity = np.log(len(texts) / np.maximum(having, 1))
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        prints = ray.remote(num_cpus=0)(Prints).remote(rarity)
        parts = [dict(list(texts.items())[half::2]) for half in range(2)]
        halves = [ray.remote(num_cpus=0)(Half).remote(part, rarity) for part in parts]

        def new_dag() -> Any:  # Ray compiles a DAG but once
            with InputNode() as text:
                fingerprint = prints.of.bind(text)
                return MultiOutputNode([half.nearest.bind(fingerprint) for half in halves])

        found: dict[str, Results] = {}
        seconds: dict[str, float] = {}
        for way, run in WAYS.items():
            began = time.perf_counter()
            found[way] = run(new_dag(), list(texts.values()) * given.times)
            seconds[way] = time.perf_counter() - began
        results = found["Ray, blocking"]
        assert all(other == results for other in found.values()), "the ways do not agree"
    except KeyboardInterrupt:
        return 130
    finally:
        ray.shutdown()

    alike = {}
    for name, lists in zip(texts, results, strict=False):
        likeness, other = max(near for nears in lists for near in nears if near[1] != name)
        alike[frozenset((name, other))] = (likeness, name, other)
    for likeness, name, other in sorted(alike.values(), reverse=True)[:8]:
        print(f"{name:>16} is like {other:<16} {likeness:4.0%}")
    count = len(results)
    print(f"\n{count} texts, from compiling to teardown:")
    for way, time_ in seconds.items():
        print(f"  {way:<22} {time_:6.2f} s   {time_ / count * 1e3:6.2f} ms each")
    print(f"\nThe same {count} results four times; what changed between Ray's and async_adag's is one line.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
