"""A search engine for Python's standard library, as a compiled graph of four Ray actors:

                        +-- shard.search --+
    reader.terms -------+                  +------- ranker.best
                        +-- shard.search --+

`python examples/quickstart.py` starts Ray on this machine by itself, and stops it at the end.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import logging
import math
import re
import sysconfig
from collections import Counter, defaultdict
from heapq import nlargest
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any

import ray
from ray.dag import InputNode
from side_by_side import event_loop, side_by_side

import async_adag

QUESTIONS = [
    "wrap a paragraph of text to a given width",
    "copy a whole directory tree",
    "shuffle a list in place",
    "difference between two sequences of lines",
    "guess the type of a file from its name",
    "the most common elements and their counts",
]

Hit = tuple[float, str, str]  # score, name, first line of the docstring


class Reader:
    """Finds the words that matter in a question."""

    def terms(self, question: str) -> list[str]:
        return words(question)


class Shard:
    """Knows its half of the library by the words in the docstrings."""

    def __init__(self, docstrings: dict[str, str]) -> None:
        self.entries = [(name, first_line(text)) for name, text in docstrings.items()]
        self.index: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, (name, text) in enumerate(docstrings.items()):
            # A word says more about a short text than about a long one, and most in the name itself.
            counts = Counter(words(text) + 2 * words(name))
            for word, count in counts.items():
                self.index[word].append((number, count / (count + 1 + len(counts) / 20)))

    def search(self, terms: list[str]) -> list[Hit]:
        scores: dict[int, float] = defaultdict(float)
        for term in terms:
            found = self.index.get(term, [])
            rarity = math.log(1 + len(self.entries) / (1 + len(found)))
            for number, weight in found:
                scores[number] += rarity * weight
        best = nlargest(3, scores.items(), key=itemgetter(1))
        return [(score, *self.entries[number]) for number, score in best]


class Ranker:
    """Keeps the best of what the shards have found."""

    def best(self, *hits: list[Hit]) -> list[Hit]:
        return nlargest(3, (hit for of_one_shard in hits for hit in of_one_shard))


async def main() -> None:
    library = docstrings()
    halves = [dict(list(library.items())[half::2]) for half in range(2)]
    reader, ranker = ray.remote(Reader).remote(), ray.remote(Ranker).remote()
    shards = [ray.remote(Shard).remote(half) for half in halves]

    def search_engine() -> Any:
        with InputNode() as question:  # Ray's own DAG API
            terms = reader.terms.bind(question)
            return ranker.best.bind(*[shard.search.bind(terms) for shard in shards])

    # Compiled once, the graph is called like any async function.
    async with async_adag.compile(search_engine()) as search:
        for question in QUESTIONS:
            print(f"\n{question}?")
            for score, name, summary in await search(question):
                print(f"  {score:5.1f}  {name:<38}  {summary:.52}")

        # Many in flight: execute_async() admits an execution, and waits only while the graph is full. These
        # questions are the first lines of docstrings: each should find what it was taken from.
        names = list(library)[::4]
        began = perf_counter()
        futures = [await search.execute_async(first_line(library[name])) for name in names]
        answers = await asyncio.gather(*futures)
        seconds = perf_counter() - began
        found = sum(name in map(itemgetter(1), answer) for name, answer in zip(names, answers, strict=True))
        print(f"\n{len(names):,} questions in {seconds:.2f} s; {found / len(names):.0%} found their docstring.")

    print("\nThe same graph, compiled by Ray and by async_adag:\n")
    print(await side_by_side(search_engine, QUESTIONS))


def docstrings() -> dict[str, str]:
    """What the library's modules say about their public functions, classes and methods, by name."""
    found: dict[str, str] = {}

    def collect(prefix: str, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                name = f"{prefix}.{node.name}"
                if text := ast.get_docstring(node):
                    found[name] = text
                if isinstance(node, ast.ClassDef):
                    collect(name, node.body)

    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*library.glob("[a-z]*.py"), *library.glob("[a-z]*/__init__.py")]):
        module = path.parent.name if path.stem == "__init__" else path.stem
        collect(module, ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def words(text: str) -> list[str]:
    """The words of a text, but for small ones, and without a plural's s. Names come apart at capitals."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower()
    return [word.rstrip("s") for word in re.findall(r"[a-z]{3,}", apart) if word not in SMALL_WORDS]


SMALL_WORDS = {"and", "are", "for", "from", "given", "its", "not", "that", "the", "their", "this", "with"}


def first_line(text: str) -> str:
    return text.partition("\n")[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
    )
    try:
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            runner.run(main())
    finally:
        ray.shutdown()
