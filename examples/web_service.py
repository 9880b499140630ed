"""A web service whose handlers await a compiled graph: a search of Python's reference, Starlette under uvicorn.

    GET /search?q=what+is+a+descriptor  ->  tokeniser.terms  ->  index.best (BM25)  ->  JSON

The program starts the service, asks it a question, puts it under real HTTP load from another process, lets clients
hang up in the middle of requests, and stops it while the load goes on. Every answer is compared with what the same
classes say without Ray. Needs: pip install starlette uvicorn uvloop httptools aiohttp
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import multiprocessing
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from heapq import nlargest
from pydoc_data.topics import topics
from typing import Any

import aiohttp
import ray
import uvicorn
import uvloop
from ray.dag import InputNode
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import async_adag

Hits = list[list[Any]]  # of each the score, the topic, and the passage


class Tokeniser:
    def terms(self, question: str) -> list[str]:
        return [word.rstrip("s") for word in re.findall(r"[a-z_]{3,}", question.lower())]


class Index:
    """The passages of Python's reference by their words, ranked by BM25."""

    def __init__(self) -> None:
        paragraphs = [(topic, part) for topic, text in topics.items() for part in re.split(r"\n\s*\n", text)]
        texts = {" ".join(part.split()): topic for topic, part in reversed(paragraphs) if len(part) > 80}
        self.passages = [(topic, text) for text, topic in texts.items()]
        found = [Counter(Tokeniser().terms(text)) for _, text in self.passages]
        mean = sum(map(Counter.total, found)) / len(found)
        self.weights: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, counts in enumerate(found):
            long = 0.25 + 0.75 * counts.total() / mean
            for term, count in counts.items():
                self.weights[term].append((number, 2.2 * count / (count + 1.2 * long)))

    def best(self, terms: list[str]) -> Hits:
        scores: dict[int, float] = defaultdict(float)
        for term in terms:
            having = self.weights.get(term, [])
            rarity = math.log(1 + (len(self.passages) - len(having) + 0.5) / (len(having) + 0.5))
            for number, weight in having:
                scores[number] += rarity * weight
        ranked = nlargest(3, scores, key=lambda number: (scores[number], -number))
        return [[round(scores[number], 3), *self.passages[number]] for number in ranked]


class Service:
    """The web application, and what it has counted."""

    def __init__(self, dag: Any) -> None:
        self.dag = dag
        self.accepted = self.answered = self.gone = 0
        self.app = Starlette(
            routes=[Route("/search", self.search)],
            lifespan=self.lifespan,
            exception_handlers={ClientDisconnect: self.hung_up},
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with await async_adag.compile_async(self.dag) as self.graph:
            yield {"ask": self.graph.options(timeout=30)}  # is there as request.state.ask

    async def search(self, request: Request) -> Response:
        question = request.query_params.get("q", "")
        return JSONResponse(await while_connected(request, request.state.ask(question)))

    async def hung_up(self, _: Request, __: Exception) -> Response:
        self.gone += 1
        return Response(status_code=499)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Counts requests, around the application."""
        self.accepted += scope["type"] == "http"
        await self.app(scope, receive, send)
        self.answered += scope["type"] == "http"


async def while_connected(request: Request, call: Awaitable[Any]) -> Any:
    """Await ``call``, but cancel that when the client hangs up: Starlette leaves it to the handler."""
    task = asyncio.ensure_future(call)
    await request.body()  # so that the next message can only be that the client is gone
    watch = asyncio.ensure_future(request.receive())
    watch.add_done_callback(lambda _: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if watch.done():
            raise ClientDisconnect from None
        raise
    finally:
        watch.cancel()


@dataclass
class Outcome:
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)  # of right answers, seconds each
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # no connection, or closed before anything came back


def put_under_load(url: str, connections: int, seconds: float) -> Outcome:
    """What a process of clients sees; ends early when there is no service any more."""
    index, outcome = Index(), Outcome()
    questions = [" ".join(text.split()[:8]) for _, text in index.passages[:: len(index.passages) // 200]]
    expected = {question: index.best(Tokeniser().terms(question)) for question in questions}

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        for turn in range(sys.maxsize):
            question, began = questions[(turn * connections + number) % len(questions)], time.perf_counter()
            if began > until:
                return
            try:
                async with session.get(url, params={"q": question}) as response:
                    if response.status != 200 or await response.json() != expected[question]:
                        outcome.wrong.append(f"{response.status} for {question!r}")
                    outcome.times.append(time.perf_counter() - began)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                outcome.refused.append(repr(error))
                return

    async def clients() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(client(session, number) for number in range(connections)))

    began = time.perf_counter()
    until = began + seconds
    uvloop.run(clients())
    outcome.seconds = time.perf_counter() - began
    return outcome


async def hang_up(port: int, clients: int) -> None:
    """Clients that send a request, and are gone before there can be an answer."""
    for _ in range(clients):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /search?q=what+is+a+descriptor HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.close()


async def show(service: Service, others: Executor, connections: int, seconds: float) -> None:
    server = uvicorn.Server(uvicorn.Config(service, port=0, lifespan="on", log_level="warning", access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/search"

    async def ask(question: str) -> Hits:
        async with aiohttp.ClientSession() as session, session.get(url, params={"q": question}) as response:
            hits: Hits = await response.json()
            return hits

    def load(seconds: float) -> asyncio.Future[Outcome]:
        return asyncio.get_running_loop().run_in_executor(others, put_under_load, url, connections, seconds)

    print(f"{url}?q=when+is+a+finally+clause+executed\n")
    for score, topic, passage in await ask("when is a finally clause executed"):
        print(f"  {score:6.2f}  {topic:<16} {passage:.78}")

    seen = await load(seconds)
    assert not seen.wrong, f"wrong answers: {seen.wrong[:3]}"
    assert not seen.refused, f"refused without reason: {seen.refused[:3]}"
    times = sorted(seen.times)
    p50, p99 = (times[int(len(times) * share)] * 1e3 for share in (0.5, 0.99))
    print(f"\nload: {connections} connections for {seen.seconds:.1f} s: {len(times):,} requests, 0 errors")
    print(f"  {len(times) / seen.seconds:,.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms")

    await hang_up(port, 200)
    assert await ask("descriptors"), "the service goes on"
    print(f"hanging up: 200 clients went, which cancelled {service.gone} awaits; the next request is answered")

    before, ends = service.answered, load(600.0)
    while service.answered < before + 20 * connections:  # noqa: ASYNC110 - in an example, simple
        await asyncio.sleep(0.01)
    print(f"stopping under load: {service.accepted - service.answered} requests have no answer yet, ", end="")
    server.should_exit = True  # what uvicorn does on SIGTERM
    await serving
    last = await ends
    assert not last.wrong, f"wrong answers: {last.wrong[:3]}"
    assert service.accepted == service.answered
    assert len(last.times) == service.answered - before, (
        "clients have an answer to every request that was accepted"
    )
    print(f"and get one; in the end all {len(last.times):,} have")
    print(f"\n{len(times) + len(last.times):,} right answers, none lost; the service is down: {service.graph!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the load lasts (%(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="that ask all the time (%(default)s)")
    given = parser.parse_args()
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        actor = ray.remote(num_cpus=0)
        tokeniser, index = actor(Tokeniser).remote(), actor(Index).remote()
        with InputNode() as question:
            service = Service(index.best.bind(tokeniser.terms.bind(question)))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), ignore_ctrl_c) as others:
            uvloop.run(show(service, others, given.connections, given.seconds))
    except KeyboardInterrupt:
        return 130
    finally:
        ray.shutdown()
    return 0


def ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the clients end when the service does


if __name__ == "__main__":
    sys.exit(main())
