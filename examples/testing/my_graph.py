"""A graph of one's own, to be tested: it finds the words of a text that are misspelled, with advice."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import ray
from ray.dag import InputNode

Suggestions = dict[str, list[str]]


@ray.remote(num_cpus=0)
class Checker:
    """Knows words."""

    def __init__(self, words: set[str]) -> None:
        self.words = words

    def wrong(self, text: str) -> list[str]:
        if not text:
            raise ValueError("there is no text")
        return sorted(set(re.findall(r"[a-z]+", text.lower())) - self.words)


@ray.remote(num_cpus=0)
class Adviser:
    def __init__(self, words: set[str]) -> None:
        self.words = sorted(words)

    def suggest(self, wrong: list[str]) -> Suggestions:
        return {word: difflib.get_close_matches(word, self.words, n=2) for word in wrong}


@dataclass
class Speller:
    """The actors of the graph."""

    checker: Any
    adviser: Any

    @classmethod
    def start(cls, words: set[str]) -> Speller:
        return cls(Checker.remote(words), Adviser.remote(words))

    def dag(self) -> Any:
        with InputNode() as text:
            return self.adviser.suggest.bind(self.checker.wrong.bind(text))


def known_words() -> set[str]:
    """Those of Python's reference."""
    return set(re.findall(r"[a-z]+", "\n".join(topics.values()).lower()))
