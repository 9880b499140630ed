"""A small transformer in numpy, trained for some seconds on Python's reference: the model of llm_service.py.

Words are tokens; there are three layers of four heads and of a width of 64, whose attention looks back with a bias
for what is near (ALiBi). `python examples/tiny_transformer.py` trains it and prints what it writes.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import numpy as np

WIDTH, HEADS, HIDDEN, LAYERS, VOCABULARY = 64, 4, 256, 3, 2000
CONTEXT, BATCH, RATE = 48, 8, 4e-3
SLOPES = 2.0 ** -np.arange(1, 2 * HEADS, 2)[:, None, None]

Array = Any  # numpy's
Weights = dict[str, Array]
Span = tuple[int, int, int]  # the number of a request, the position of the first of its tokens, how many there are


@dataclass
class Step:
    """What goes through the model at once: the next tokens of some requests, and which others are over."""

    spans: list[Span]
    tokens: list[int]
    ended: list[int]


class Words:
    """Text to tokens and back: frequent words are a token each, others are spelled."""

    def __init__(self) -> None:
        paragraphs = re.split(r"\n\s*\n", "\n\n".join(topics.values()))
        prose = re.sub(r'"(\w+)"', r"\1", "\n".join(" ".join(part.split()) for part in paragraphs))
        sentences = re.findall(r"(?:^|(?<=[.\n]) ?)([A-Z][A-Za-z ,;:'()-]+\.)(?=[ \n])", prose)
        self.text = "\n".join(dict.fromkeys(sentences))
        letters = sorted(set(self.text))
        pieces = Counter(piece for piece in self._split(self.text) if len(piece) > 1)
        self.words = letters + [piece for piece, _ in pieces.most_common(VOCABULARY - len(letters))]
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        pieces = self._split(text)
        return [self.numbers[word] for piece in pieces for word in ([piece] if piece in self.numbers else piece)]

    def decode(self, tokens: list[int]) -> str:
        return "".join(self.words[token] for token in tokens)

    def _split(self, text: str) -> list[str]:
        return re.findall(r" ?[A-Za-z]+|.|\n", text)


class Layer:
    """A layer, or a rank's share of its heads and hidden units, with what it remembers of running requests.

    The shares of all ranks add up to what the layer gives: rank 0 adds what it was given.
    """

    def __init__(self, weights: Weights, number: int, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.heads = rank, HEADS // ranks
        columns = slice(rank * WIDTH // ranks, (rank + 1) * WIDTH // ranks)
        hidden = slice(rank * HIDDEN // ranks, (rank + 1) * HIDDEN // ranks)
        self.query, self.key, self.value = (weights[f"{number}.{name}"][:, columns] for name in ("q", "k", "v"))
        self.out = weights[f"{number}.out"][columns]
        self.up, self.down = weights[f"{number}.up"][:, hidden], weights[f"{number}.down"][hidden]
        self.slopes = SLOPES[rank * self.heads : (rank + 1) * self.heads]
        self.remembered: dict[int, tuple[Array, Array]] = {}  # keys and values: heads x tokens x depth

    def attend(self, step: Step, x: Array) -> Array:
        """Attention, for rows of x that belong to the tokens of the step."""
        n = norm(x)[0]
        query, key, value = (split(n @ weights, self.heads) for weights in (self.query, self.key, self.value))
        looked, begin = np.empty_like(query), 0
        for request, position, count in step.spans:
            rows = slice(begin, begin + count)
            keys, values = key[:, rows], value[:, rows]
            if position:
                before = self.remembered[request]
                keys, values = (np.concatenate(pair, axis=1) for pair in zip(before, (keys, values), strict=True))
            self.remembered[request] = keys, values
            looked[:, rows] = attention(query[:, rows], keys, self.slopes) @ values
            begin += count
        for request in step.ended:
            self.remembered.pop(request, None)
        return join(looked) @ self.out + (x if self.rank == 0 else 0)

    def feed(self, x: Array) -> Array:
        return np.maximum(norm(x)[0] @ self.up, 0) @ self.down + (x if self.rank == 0 else 0)

    def requests(self) -> int:
        return len(self.remembered)


def sample(weights: Weights, step: Step, x: Array, temperature: float = 0.6) -> list[int]:
    """A next token for each request: random, and the same for the same request at the same position."""
    ends = np.cumsum([count for _, _, count in step.spans], dtype=int) - 1
    logits = norm(x[ends])[0] @ weights["head"] / temperature
    for row, (request, position, count) in zip(logits, step.spans, strict=True):
        row += np.random.default_rng((request, position + count)).gumbel(size=len(row))
    return [int(token) for token in logits.argmax(axis=1)]


def norm(x: Array) -> tuple[Array, Array]:
    size = np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
    return x / size, size


def split(x: Array, heads: int) -> Array:
    """(..., tokens, width) to (..., heads, tokens, depth)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).swapaxes(-3, -2)


def join(x: Array) -> Array:
    return x.swapaxes(-3, -2).reshape(*x.shape[:-3], x.shape[-2], x.shape[-3] * x.shape[-1])


def attention(query: Array, keys: Array, slopes: Array) -> Array:
    """How much each of the last tokens looks at each one up to itself."""
    new, seen = query.shape[-2], keys.shape[-2]
    back = np.arange(seen - new, seen, dtype=query.dtype)[:, None] - np.arange(seen, dtype=query.dtype)
    scores = query @ keys.swapaxes(-1, -2) / query.shape[-1] ** 0.5 - slopes.astype(query.dtype) * back
    scores[..., back < 0] = -np.inf
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def train(words: Words, steps: int) -> tuple[Weights, float]:
    """The weights after some steps of Adam, and the loss of the last ones, in nats for each token."""
    random = np.random.default_rng(0)
    shapes = {"embed": (len(words.words), WIDTH), "head": (WIDTH, len(words.words))}
    for number in range(LAYERS):
        shapes |= {f"{number}.{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "out")}
        shapes |= {f"{number}.up": (WIDTH, HIDDEN), f"{number}.down": (HIDDEN, WIDTH)}
    scale = {"embed": 1.0, "head": 0.5 / WIDTH**0.5}
    weights = {
        name: random.standard_normal(shape, dtype=np.float32) * np.float32(scale.get(name, shape[0] ** -0.5))
        for name, shape in shapes.items()
    }
    moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
    text, losses = np.array(words.encode(words.text)), []
    for step in range(1, steps + 1):
        starts = random.integers(0, len(text) - CONTEXT - 1, (BATCH, 1)) + np.arange(CONTEXT)
        loss, gradients = learn(weights, text[starts], text[starts + 1])
        losses.append(loss)
        rate = RATE * min(1, step / 20, 1.1 - step / steps)
        for name, gradient in gradients.items():
            mean, square = moments[name]
            mean += 0.1 * (gradient - mean)
            square += 0.02 * (gradient * gradient - square)
            weights[name] -= rate * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.98**step)) + 1e-8)
    return {name: w.astype(np.float64) for name, w in weights.items()}, float(np.mean(losses[-20:]))


def learn(w: Weights, tokens: Array, targets: Array) -> tuple[float, Weights]:
    """The loss, and its gradients: forwards through the layers, and back."""
    x, kept = w["embed"][tokens], []
    for i in range(LAYERS):
        n, size = norm(x)
        query, key, value = (split(n @ w[f"{i}.{name}"], HEADS) for name in ("q", "k", "v"))
        shares = attention(query, key, SLOPES)
        looked = join(shares @ value)
        x = x + looked @ w[f"{i}.out"]
        n2, size2 = norm(x)
        hidden = np.maximum(n2 @ w[f"{i}.up"], 0)
        x = x + hidden @ w[f"{i}.down"]
        kept.append((n, size, query, key, value, shares, looked, n2, size2, hidden))
    n, size = norm(x)
    logits = n @ w["head"]
    d = np.exp(logits - logits.max(axis=-1, keepdims=True))
    d /= d.sum(axis=-1, keepdims=True)
    right = np.take_along_axis(d, targets[..., None], axis=-1)
    loss = float(-np.log(right).mean())
    np.put_along_axis(d, targets[..., None], right - 1, axis=-1)
    d /= targets.size

    g = {"head": product(n, d)}
    d = norm_back(d @ w["head"].T, n, size)
    for i in reversed(range(LAYERS)):
        n, size, query, key, value, shares, looked, n2, size2, hidden = kept[i]
        g[f"{i}.down"] = product(hidden, d)
        inner = (d @ w[f"{i}.down"].T) * (hidden > 0)
        g[f"{i}.up"] = product(n2, inner)
        d = d + norm_back(inner @ w[f"{i}.up"].T, n2, size2)
        g[f"{i}.out"] = product(looked, d)
        back = split(d @ w[f"{i}.out"].T, HEADS)
        of_shares = back @ value.swapaxes(-1, -2)
        of_scores = (
            shares * (of_shares - (of_shares * shares).sum(axis=-1, keepdims=True)) / query.shape[-1] ** 0.5
        )
        parts = {
            "q": of_scores @ key,
            "k": of_scores.swapaxes(-1, -2) @ query,
            "v": shares.swapaxes(-1, -2) @ back,
        }
        inner = np.zeros_like(d)
        for name, part in parts.items():
            g[f"{i}.{name}"] = product(n, join(part))
            inner += join(part) @ w[f"{i}.{name}"].T
        d = d + norm_back(inner, n, size)
    g["embed"] = np.zeros_like(w["embed"])
    np.add.at(g["embed"], tokens, d)
    return loss, g


def product(left: Array, right: Array) -> Array:
    """The gradient of the weights between what came in and what is to change."""
    return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])


def norm_back(d: Array, n: Array, size: Array) -> Array:
    return (d - n * (d * n).mean(axis=-1, keepdims=True)) / size


def write(weights: Weights, prompts: list[list[int]], count: int) -> list[list[int]]:
    """What the model writes after each prompt, computed here, all prompts in one batch."""
    layers = [Layer(weights, number) for number in range(LAYERS)]
    written: list[list[int]] = [[] for _ in prompts]
    spans = [(number, 0, len(prompt)) for number, prompt in enumerate(prompts)]
    tokens = [token for prompt in prompts for token in prompt]
    for _ in range(count):
        step = Step(spans, tokens, [])
        x = weights["embed"][tokens]
        for layer in layers:
            x = layer.feed(layer.attend(step, x))
        tokens = sample(weights, step, x)
        for so_far, token in zip(written, tokens, strict=True):
            so_far.append(token)
        spans = [(number, position + length, 1) for number, position, length in spans]
    return written


if __name__ == "__main__":
    began, words = time.perf_counter(), Words()
    weights, loss = train(words, 300)
    print(f"trained for {time.perf_counter() - began:.0f} s, loss {loss:.2f}\n")
    for tokens in write(weights, [words.encode("The")] * 3, 60):
        print(f"The{words.decode(tokens)}\n")
