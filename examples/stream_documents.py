"""Streams documents through a compiled graph, a window of them at a time: all of Python's standard library.

               +-- reader.words ----+
    source ----+                    +---- ledger.enter
               +-- parser.shapes ---+

`compiled.map` takes a document from the disk when there is room for one, and gives the results in their order.
What cannot be parsed arrives as a result like any other, so that one bad document does not end the stream. The
ledger keeps what it has seen; it is asked at the end by an ordinary remote call. Needs: pip install rich
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import io
import keyword
import logging
import sys
import sysconfig
import time
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from heapq import nlargest
from pathlib import Path
from typing import Any

import ray
from ray.dag import InputNode
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

import async_adag

LIBRARY = Path(sysconfig.get_path("stdlib"))
BRANCHES = ast.If | ast.For | ast.While | ast.ExceptHandler | ast.BoolOp | ast.IfExp | ast.comprehension

Shapes = list[tuple[int, str]]  # of each function how many branches it has, and its name
Report = dict[str, list[tuple[Any, ...]]]


class Reader:
    def words(self, document: tuple[str, str]) -> Counter[str] | None:
        """How often each name stands there; None where that is no Python."""
        counts: Counter[str] = Counter()
        try:
            for token in tokenize.generate_tokens(io.StringIO(document[1]).readline):
                if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                    counts[token.string] += 1
        except (SyntaxError, tokenize.TokenError):
            return None
        return counts


class Parser:
    def shapes(self, document: tuple[str, str]) -> Shapes | None:
        """The functions, and how often each one branches; None where that is no Python."""
        name, text = document
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return None
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        return [
            (1 + sum(isinstance(part, BRANCHES) for part in ast.walk(node)), f"{name}:{node.lineno} {node.name}")
            for node in functions
        ]


class Ledger:
    """What was found so far."""

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()
        self.shapes: Shapes = []

    def enter(self, words: Counter[str] | None, shapes: Shapes | None) -> bool:
        """Whether the document was Python."""
        if words is None or shapes is None:
            return False
        self.words.update(words)
        self.documents.update(words.keys())
        self.shapes = nlargest(5, [*self.shapes, *shapes])
        return True

    def report(self) -> Report:
        ranked = sorted(self.words.items(), key=lambda item: (-item[1], item[0]))
        return {
            "names": [(name, count, self.documents[name]) for name, count in ranked[:12]],
            "shapes": self.shapes,
        }


class Documents:
    """The documents, read one by one when they are asked for."""

    def __init__(self, limit: int | None) -> None:
        self.paths = [path for path in sorted(LIBRARY.rglob("*.py")) if "site-packages" not in path.parts][:limit]
        self.sizes = [path.stat().st_size for path in self.paths]
        self.taken = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for path in self.paths:
            self.taken += 1
            yield str(path.relative_to(LIBRARY)), path.read_text(encoding="utf-8", errors="replace")


async def stream(dag: Any, documents: Documents, window: int) -> tuple[int, float]:
    """How many documents were no Python, and how many seconds the stream took."""
    columns = (TextColumn("documents"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bad = done = most = 0
    async with await async_adag.compile_async(dag) as compiled:
        with Progress(*columns) as progress:
            bar = progress.add_task("", total=sum(documents.sizes))
            began = time.perf_counter()
            async for good in compiled.map(documents, window=window):
                most = max(most, documents.taken - done)
                progress.advance(bar, documents.sizes[done])
                done, bad = done + 1, bad + (not good)
            seconds = time.perf_counter() - began
    assert done == len(documents.paths)
    assert most <= window, f"{most} documents were taken and not yielded"
    return bad, seconds


def in_one_process(documents: Documents) -> tuple[Report, float]:
    """The same without Ray, one document after the other."""
    reader, parser, ledger = Reader(), Parser(), Ledger()
    began = time.perf_counter()
    with warnings.catch_warnings(action="ignore"):  # of the compiler, about old code
        for document in documents:
            ledger.enter(reader.words(document), parser.shapes(document))
    return ledger.report(), time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, help="how many documents at most (all)")
    parser.add_argument("--window", type=int, default=16, help="how many are under way at once (%(default)s)")
    given = parser.parse_args()
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        documents = Documents(given.documents)
        reader, shapes, ledger = (ray.remote(num_cpus=0)(kind).remote() for kind in (Reader, Parser, Ledger))
        with InputNode() as source:
            dag = ledger.enter.bind(reader.words.bind(source), shapes.shapes.bind(source))
        bad, seconds = asyncio.run(stream(dag, documents, given.window))
        report: Report = ray.get(ledger.report.remote())
        for name, count, files in report["names"]:
            bar = "#" * round(40 * count / report["names"][0][1])
            print(f"  {name:>14} {bar:<40} {count:>7,} times in {files:>5,} files")
        print("\nfunctions with the most branches:")
        for branches, where in report["shapes"]:
            print(f"  {branches:>4}  {where}")
        expected, alone = in_one_process(documents)
        assert report == expected, f"the graph has {report}, one process {expected}"
    except KeyboardInterrupt:
        return 130
    finally:
        ray.shutdown()
    count, size = len(documents.paths), sum(documents.sizes) / 1e6
    rates = f"{count / seconds:,.0f} documents/s, {size / seconds:.1f} MB/s"
    print(f"\n{count:,} documents, {size:.1f} MB, in {seconds:.1f} s: {rates}; {bad} of them are no Python")
    print(f"The same result as in one process without Ray, which took {alone:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
