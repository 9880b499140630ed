"""The hardware suite: versions first, each step in a process of its own or skipped with a reason, a table last."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.gpu.mps import CannotShareError, shared_by_mps
from tests.gpu.runner import FAILED, RAN, SKIPPED, Outcome, run_step
from tests.gpu.step import Figures
from tests.gpu.table import table

PROBE_LIMIT = 60  # seconds: it imports torch and jax
machine_key = pytest.StashKey[Outcome]()
outcomes_key = pytest.StashKey[dict[str, Outcome]]()


def pytest_addoption(parser):
    parser.addoption("--gpu-out", metavar="FOLDER", help="where the GPU suite leaves gpu.json and gpu.md")


def pytest_asyncio_loop_factories(config, item):
    """One loop where that is not what the test is about: the suite is to stay under ten minutes."""
    return None if item.get_closest_marker("each_loop") else {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What has no need of this suite's Ray comes first: its times are taken while nothing else has the GPU."""
    items.sort(key=lambda item: "gpu_cluster" in getattr(item, "fixturenames", ()))


def pytest_report_header(config):
    return describe(find_machine(config))


def was_asked_for(config: pytest.Config) -> bool:
    """Whether the command named this suite: pytest takes in this file too late for its options otherwise."""
    return hasattr(config.option, "gpu_out")


def find_machine(config: pytest.Config) -> Outcome:
    """What the machine has, looked for once."""
    if machine_key not in config.stash:
        config.stash[machine_key] = run_step("probe", PROBE_LIMIT)
    return config.stash[machine_key]


def describe(machine: Outcome) -> list[str]:
    if machine.status != RAN:
        return [f"gpu: the probe {machine.status}: {machine.reason}"]
    versions = ", ".join(f"{name} {version}" for name, version in machine.checks["versions"].items())
    return [f"gpu: {versions}", *(f"gpu: no {name}: {reason}" for name, reason in machine.checks["lacks"].items())]


@pytest.fixture(scope="session")
def need(request) -> Callable[..., None]:
    """Skips the test, with the reason, where the machine lacks one of the things that it names."""

    def check(*names: str) -> None:
        machine = find_machine(request.config)
        assert machine.status == RAN, machine.reason
        for name in names:
            if reason := machine.checks["lacks"].get(name):
                pytest.skip(reason.partition("\n")[0])

    return check


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Each test here has its row in the table, also one that is skipped by what it shares with others."""
    outcomes = item.config.stash.setdefault(outcomes_key, {})
    outcomes[item.nodeid] = Outcome(item.name.removeprefix("test_"), SKIPPED, "was not begun")


@pytest.fixture
def outcome(request) -> Outcome:
    """The row of this test in the table."""
    return request.config.stash[outcomes_key][request.node.nodeid]


@pytest.fixture
def step(need, outcome) -> Callable[..., dict[str, Any]]:
    """Runs a step for a test, if the machine has what it needs; gives what there is to check."""

    def run(
        name: str, *needs: str, timeout: float, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        need("device", *needs)
        vars(outcome).update(vars(run_step(name, timeout, environment)), step=outcome.step)
        if outcome.status == SKIPPED:
            pytest.skip(outcome.reason)
        if outcome.status == FAILED:
            pytest.fail(outcome.reason, pytrace=False)
        checks: dict[str, Any] = outcome.checks
        return checks

    return run


@pytest.fixture(params=["in turns", "by MPS"])
def sharing(request, need) -> Iterator[dict[str, str]]:
    """The environment in which processes share the GPU one way or the other."""
    need("device")
    if request.param == "in turns":
        yield {}
        return
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(shared_by_mps())
        except CannotShareError as reason:
            pytest.skip(str(reason))
        yield environment


@pytest.fixture
def figures(outcome) -> Figures:
    """Takes the figures of a test that is its own step."""
    made = Figures()
    outcome.figures = made.rows
    return made


@pytest.fixture(scope="session")
def gpu_cluster(need) -> Iterator[None]:
    """A Ray of this suite's own, which has the GPU."""
    need("device", "ray")
    import ray

    if ray.is_initialized():
        pytest.skip("a Ray without the GPU runs in this process: run tests/gpu by itself")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or jax takes most of the GPU's memory
    ray.init(
        address="local",
        num_cpus=4,  # as many actors start at a time
        num_gpus=1,
        namespace="gpu-tests",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def pools(request, gpu_cluster) -> Iterator[Any]:
    """Actors of each library that tests ask for and that is here, shared by all of them."""
    from tests.gpu.graphs import Pools

    lacks = find_machine(request.config).checks["lacks"]
    users = [item for item in request.session.items if "pools" in getattr(item, "fixturenames", ())]
    libraries = dict.fromkeys(map(library_of, users))
    spares = 0 if "torch" in lacks else sum("doomed" in item.fixturenames for item in users)
    made = Pools((library for library in libraries if library not in lacks), spares)
    yield made
    made.close()


def library_of(item: pytest.Item) -> str:
    """The library that a test names, or torch."""
    library: str = item.callspec.params.get("library", "torch") if hasattr(item, "callspec") else "torch"
    return library


@pytest.fixture
def actors(need, request, pools) -> list[Any]:
    """Three actors that share the GPU; of the library that the test names, or torch."""
    library = library_of(request.node)
    if library != "cupy":
        need(library)
    made: list[Any] = pools.of(library)
    return made


@pytest.fixture
def doomed(need, pools) -> Iterator[Any]:
    """One more actor of torch, which looks to NCCL like another host, and which the test may kill."""
    need("torch")
    from tests.gpu.graphs import kill

    actor = pools.spare()
    yield actor
    kill([actor])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """The test has the last word on how its step went."""
    report = yield
    outcome = item.config.stash.get(outcomes_key, {}).get(item.nodeid)
    if outcome is not None:
        if report.failed:
            if outcome.status != FAILED:  # else its step has said more about it
                outcome.status, outcome.reason = FAILED, str(call.excinfo.value)
        elif report.skipped:
            outcome.status, outcome.reason = SKIPPED, str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.when == "call":
            outcome.status, outcome.reason = RAN, ""
            outcome.seconds = outcome.seconds or report.duration
    return report


def pytest_terminal_summary(terminalreporter, config):
    outcomes = list(config.stash.get(outcomes_key, {}).values())
    if not outcomes:
        return
    if not was_asked_for(config) and all(outcome.status == SKIPPED for outcome in outcomes):
        terminalreporter.write_line(f"gpu: no step ran: {outcomes[0].reason}")
        return
    machine = find_machine(config)
    lines = [*describe(machine), "", *table(outcomes)]
    terminalreporter.section("gpu")
    for line in lines:
        terminalreporter.write_line(line)
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in (RAN, SKIPPED, FAILED)}
    terminalreporter.write_line("gpu: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if folder := config.getoption("gpu_out", None):
        leave(Path(folder), machine, outcomes, lines)


def leave(folder: Path, machine: Outcome, outcomes: list[Outcome], lines: list[str]) -> None:
    """Leave the results in a folder, for programs and for docs."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine.checks, "steps": [vars(outcome) for outcome in outcomes]}
    (folder / "gpu.json").write_text(json.dumps(results, indent=1))
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")
