"""A service of a small language model: prompts go in, and tokens stream out as they are made.

                                +-- half 0 --+            +-- half 0 --+
    step ---- first.forward ----+            + allreduce -+            + allreduce ---- last.next ----> tokens
              layer 1           +-- half 1 --+            +-- half 1 --+                layer 3, sampling
                                 heads of layer 2          hidden units of layer 2

The layers keep the keys and values of every request that is running. A step carries some requests: the whole
prompt of one that is new (its prefill), the last token of one that goes on. Several steps are in the pipeline at
once, each with other requests; new ones are admitted whenever a place is free, and consumers may leave when they
like. The tokens are compared with those that one process makes. The model is trained first, by
tiny_transformer.py. Needs: pip install numpy
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import ray
from ray.dag import InputNode
from tiny_transformer import Array, Layer, Span, Step, Weights, Words, sample, train, write

import async_adag
from async_adag.collectives import allreduce

STARTS = ["The", "A", "If", "An object", "This method", "When", "In", "It"]
IN_PIPELINE = 4  # steps
IN_STEP = 4  # requests, at most


Waiting = tuple[Span, list[int], asyncio.Future[int]]  # for the token that follows those


class First(Layer):
    def __init__(self, weights: Weights) -> None:
        super().__init__(weights, 0)
        self.embed = weights["embed"]

    def forward(self, step: Step) -> Array:
        return self.feed(self.attend(step, self.embed[step.tokens]))


class Last(Layer):
    def __init__(self, weights: Weights) -> None:
        super().__init__(weights, 2)
        self.weights = weights

    def next(self, step: Step, x: Array) -> list[int]:
        return sample(self.weights, step, self.feed(self.attend(step, x)))


class Model:
    """The actors, and the graph that joins them."""

    def __init__(self, weights: Weights) -> None:
        kept = ray.put(weights)
        actor = ray.remote(num_cpus=0)
        self.first, self.last = actor(First).remote(kept), actor(Last).remote(kept)
        self.halves = [actor(Layer).remote(kept, 1, rank, 2) for rank in (0, 1)]
        with InputNode() as step:
            x = self.first.forward.bind(step)
            x0, x1 = allreduce.bind([half.attend.bind(step, x) for half in self.halves])
            x0, x1 = allreduce.bind([half.feed.bind(x) for half, x in zip(self.halves, (x0, x1), strict=True)])
            self.dag = self.last.next.bind(step, x0)

    def remembered(self) -> Any:
        """Of how many requests each actor has keys and values: ordinary calls, beside the graph."""
        return ray.get([actor.requests.remote() for actor in (self.first, *self.halves, self.last)])


class Service:
    """Admits requests, and puts those that wait for a token together to steps."""

    def __init__(self, graph: async_adag.CompiledGraph, places: int) -> None:
        self._graph = graph
        self._places = asyncio.Semaphore(places)
        self._room = asyncio.Semaphore(IN_PIPELINE)
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._ended: list[int] = []

    async def generate(self, request: int, prompt: list[int], count: int) -> AsyncGenerator[int, None]:
        """The tokens that follow the prompt, as they come; to leave early, close the iterator."""
        async with self._places:
            try:
                position, tokens = 0, prompt
                for _ in range(count):
                    token = asyncio.get_running_loop().create_future()
                    self._waiting.put_nowait(((request, position, len(tokens)), tokens, token))
                    position, tokens = position + len(tokens), [await token]
                    yield tokens[0]
            finally:
                self._ended.append(request)

    async def run(self) -> None:
        """Feeds the pipeline, for as long as it is not cancelled."""
        while True:
            await self._room.acquire()
            waiting = [await self._waiting.get()]
            while len(waiting) < IN_STEP and not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
            batch = [one for one in waiting if not one[2].done()]  # the consumers of the others have left
            result = await self._submit([span for span, _, _ in batch], [tokens for _, tokens, _ in batch])
            result.add_done_callback(partial(self._hand_out, batch))

    async def forget(self) -> None:
        """A last step, which tells the actors who has left since."""
        await (await self._submit([], []))

    async def _submit(self, spans: list[Span], tokens: list[list[int]]) -> Any:
        ended, self._ended = self._ended, []
        return await self._graph.execute_async(Step(spans, list(itertools.chain(*tokens)), ended))

    def _hand_out(self, batch: list[Waiting], done: asyncio.Future[list[int]]) -> None:
        self._room.release()
        for row, (_, _, token) in enumerate(batch):
            if not token.done():  # it is, if the consumer has left
                if error := done.exception():
                    token.set_exception(error)
                else:
                    token.set_result(done.result()[row])


@asynccontextmanager
async def serve(model: Model, places: int) -> AsyncIterator[Service]:
    async with await async_adag.compile_async(model.dag) as graph, asyncio.TaskGroup() as tasks:
        service = Service(graph, places)
        runner = tasks.create_task(service.run())
        yield service
        runner.cancel()
        await service.forget()


async def show(model: Model, words: Words, prompts: list[list[int]], count: int, places: int) -> list[list[int]]:
    async with serve(model, places) as service:

        async def consume(request: int) -> list[int]:
            written = []
            async with aclosing(service.generate(request, prompts[request], count)) as tokens:
                async for token in tokens:
                    written.append(token)
                    if request == 0:
                        print(words.decode([token]), end="", flush=True)
            return written

        async def leave_early(request: int) -> None:
            """Takes a token, and goes away while the next one is made."""
            async with aclosing(service.generate(request, prompts[0], count)) as tokens:
                await anext(tokens)
                next_one = asyncio.ensure_future(anext(tokens))
                await asyncio.sleep(0)
                next_one.cancel()
                await asyncio.wait([next_one])

        print(f"the first of {len(prompts)} requests, as it comes:\n\n  {words.decode(prompts[0])}", end="")
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            consumers = [tasks.create_task(consume(request)) for request in range(len(prompts))]
            for request in range(places):
                tasks.create_task(leave_early(len(prompts) + request))
        seconds = time.perf_counter() - began
        made = len(prompts) * count
        print(f"\n\n{len(prompts)} requests, {places} of them running at once: {made / seconds:,.0f} tokens/s")
        print(f"beside them, {places} consumers that took one token and left")
    assert model.remembered() == [0, 0, 0, 0], "keys and values of requests that are over"
    return [consumer.result() for consumer in consumers]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, default=300, help="steps of it (%(default)s)")
    parser.add_argument("--requests", type=int, default=48, help="in all (%(default)s)")
    parser.add_argument("--places", type=int, default=16, help="for requests that run at once (%(default)s)")
    parser.add_argument("--tokens", type=int, default=40, help="for each request (%(default)s)")
    given = parser.parse_args()
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        began, words = time.perf_counter(), Words()
        weights, loss = train(words, given.training)
        print(
            f"trained on {len(words.text):,} characters for {time.perf_counter() - began:.0f} s: loss {loss:.2f}\n"
        )
        prompts = [words.encode(STARTS[request % len(STARTS)]) for request in range(given.requests)]
        written = asyncio.run(show(Model(weights), words, prompts, given.tokens, given.places))
        began = time.perf_counter()
        alone = write(weights, prompts, given.tokens)
        rate = given.requests * given.tokens / (time.perf_counter() - began)
        print(f"one process, with all requests in one batch: {rate:,.0f} tokens/s\n")
        for prompt, tokens in zip(prompts[1:6], written[1:6], strict=False):
            print(f"  {words.decode(prompt + tokens)!r:.110}")
        assert written == alone, "other tokens than one process makes"
    except KeyboardInterrupt:
        return 130
    finally:
        ray.shutdown()
    print(
        f"\n{given.requests} requests of {given.tokens} tokens, all of them the very tokens that one process makes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
