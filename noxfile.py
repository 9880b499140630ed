"""The project's sessions.

``nox -s quickstart``, ``examples``, ``tests``, ``compiled``, ``hosts``, ``torch``, ``jax``, ``gpu``, ``lint``,
``types``, ``docs``, ``bench``.

And those of minutes: ``nox -s versions``, ``soak``, ``chaos``.

``nox -s gpu`` checks the GPU side on one GPU, by CUDA 12; ``ASYNC_ADAG_CUDA=13 nox -s gpu`` by CUDA 13. Where all
that it needs is there already, ``python -m pytest tests/gpu`` does the same.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

# Ray asks to be told about usage reports and about accelerators it does not find: neither concerns a test. Its own
# compiled graph, beside which ours is tested, gives a result ten seconds, and slow machines need those to begin.
ENVIRONMENT = {
    "RAY_CGRAPH_get_timeout": "100",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "default",
}

# Two processes, each with a Ray of its own, as tests of real actors wait for much of their time. A file goes to
# one of them as a whole: its tests share actors. The order is that of names, so that the small files of tests/unit
# come last, and both processes are done at about the same time.
SIDE_BY_SIDE = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
QUICK = ["adapter", "arguments", "async_actors", "errors", "graph_shapes", "map", "object_refs"]


@nox.session
def quickstart(session: nox.Session) -> None:
    """The main job: a graph of real actors on real input, beside Ray's own compiled graph."""
    session.install("-e", ".[uvloop]", "numpy")
    session.run("python", "examples/quickstart.py", *session.posargs, env=ENVIRONMENT)


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, with small arguments; ``nox -s examples -- web_service --seconds 60`` for one."""
    session.install("-e", ".[examples]")
    # Warnings stay at Python's default: what other people's packages warn about is no matter of an example.
    env = ENVIRONMENT | {"PYTHONWARNINGS": ""}
    runs = {
        "quickstart": [],
        "web_service": ["--seconds", "3"],
        "stream_documents": ["--documents", "200"],
        "llm_service": ["--training", "150", "--requests", "24"],
        "moving_over": ["--times", "1"],
        "two_hosts": ["--seconds", "0.3"],
        "tensor_parallel": [],
        "gpu_pipeline": [],
    }
    wanted, arguments = session.posargs[:1], session.posargs[1:]
    for name, small in runs.items():
        if not wanted or wanted == [name]:
            session.run("python", f"examples/{name}.py", *(arguments or small), env=env)
    if not wanted or wanted == ["testing"]:
        session.run("python", "-m", "pytest", "examples/testing", *arguments, env=env)
    if wanted and wanted[0] not in (*runs, "testing"):
        session.error(f"there is no example {wanted[0]!r}: {', '.join([*runs, 'testing'])}")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, those that await on both asyncio and uvloop; ``nox -s tests -- -n 0`` for one process."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *SIDE_BY_SIDE, *session.posargs, env=ENVIRONMENT)


@nox.session
def compiled(session: nox.Session) -> None:
    """The tests once more, with the modules on the path of an execution compiled to C; takes a C compiler."""
    _install_compiled(session, "test")
    parts = session.posargs or [
        f"tests/{part}" for part in ("unit", "channels", "engine", "faults", "integration")
    ]
    session.run("python", "-m", "pytest", *SIDE_BY_SIDE, *parts, env=ENVIRONMENT)


@nox.session
def hosts(session: nox.Session) -> None:
    """The tests of real actors again, spread over two Ray nodes on this machine, each as a host of its own."""
    session.install("-e", ".[test]")
    parts = session.posargs or ["tests/integration", "tests/hosts"]
    session.run("python", "-m", "pytest", "--hosts", "2", *parts, env=ENVIRONMENT)


@nox.session(python=["3.11", "3.12", "3.13"])
@nox.parametrize("ray", ["2.50", "2.60"])
def versions(session: nox.Session, ray: str) -> None:
    """A quick part of the tests, on each supported Python that is here, with the oldest and the newest Ray."""
    session.install("-e", ".[test]", f"ray=={ray}.*")
    parts = session.posargs or ["tests/unit", *(f"tests/integration/test_{name}.py" for name in QUICK)]
    # Ray 2.50 leaves files and processes of its own to the garbage collector, which warns of them.
    lenient = ["-W", "ignore::ResourceWarning"] if ray == "2.50" else []
    session.run("python", "-m", "pytest", *lenient, *parts, env=ENVIRONMENT)


@nox.session
def torch(session: nox.Session) -> None:
    """The tests that need torch, and its own collective nodes in Ray; downloads gigabytes."""
    session.install("-e", ".[test]", "torch")
    files = [
        "integration/test_torch.py",
        "unit/test_torch_tensors.py",
        "unit/test_strides.py",
        "unit/test_gpu_borders.py",
        "channels/test_staged.py",
    ]
    session.run("python", "-m", "pytest", *(f"tests/{file}" for file in files), *session.posargs, env=ENVIRONMENT)


@nox.session
def jax(session: nox.Session) -> None:
    """The tests that need jax, on the CPU."""
    session.install("-e", ".[test]", "jax")
    session.run("python", "-m", "pytest", "tests/unit/test_jax.py", *session.posargs, env=ENVIRONMENT)


@nox.session
def gpu(session: nox.Session) -> None:
    """What one GPU can show; a step that cannot run is skipped and says why. Leaves its table in build/gpu."""
    cuda = os.environ.get("ASYNC_ADAG_CUDA", "12")
    if cuda not in ("12", "13"):
        session.error(f"ASYNC_ADAG_CUDA is 12 or 13, not {cuda!r}")
    session.install("-e", ".[test,gpu]" if cuda == "12" else ".[test,gpu13]")
    if os.path.exists("/dev/nvidiactl"):  # gigabytes, and without a GPU what needs them is skipped anyway
        session.install("torch", f"jax[cuda{cuda}]")
    session.run("python", "-m", "pytest", "tests/gpu", "--gpu-out", "build/gpu", *session.posargs, env=ENVIRONMENT)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("ruff>=0.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict; and whether all that is public has a type of its own, which pyright knows."""
    session.install("-e", ".", "mypy>=1.11", "numpy", "nox", "pyright[nodejs]>=1.1.400")
    session.run("mypy")
    session.run("python", "-m", "tests.public_types")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into build/site; a link that leads nowhere, or any other warning, is an error."""
    session.install("-e", ".[docs]")
    strict = ["-W", "-n", "--keep-going"]
    session.run("sphinx-build", *strict, "docs", "build/site", *session.posargs, env=ENVIRONMENT)


@nox.session
def bench(session: nox.Session) -> None:
    """Ray's compiled graph and async_adag in one run, its record and its plots; ``nox -s bench -- --help``.

    With ``ASYNC_ADAG_COMPILED=1`` in the environment, of the compiled package.
    """
    environment, options = ENVIRONMENT, session.posargs
    if os.environ.get("ASYNC_ADAG_COMPILED"):
        environment = ENVIRONMENT | {"PYTHONPATH": str(_install_compiled(session, "uvloop"))}
        if "--out" not in options:
            options = [*options, "--out", str(Path(__file__).parent / "build" / "bench")]
    else:
        session.install("-e", ".[uvloop]")
    session.install("numpy", "matplotlib", "pyzmq")
    session.run("python", "-m", "benchmarks", *options, env=environment)


@nox.session
def soak(session: nox.Session) -> None:
    """The same work for ten minutes: is everything flat? Draws a plot; ``nox -s soak -- --help``."""
    _endure(session, "soak")


@nox.session
def chaos(session: nox.Session) -> None:
    """Random work and kills for ten minutes: is every result right, or a failure that had a reason?"""
    _endure(session, "chaos")


def _install_compiled(session: nox.Session, extra: str) -> Path:
    """Install the package compiled, and go to a copy of the project that has all but the package: that directory.

    The build leaves what it compiled beside the sources, where an editable install would find it later on.
    """
    source, wheels = (Path(session.virtualenv.location).absolute() / name for name in ("source", "wheels"))
    for directory in (source, wheels):
        shutil.rmtree(directory, ignore_errors=True)
    leave_out = shutil.ignore_patterns(".*", "build", "*.so", "__pycache__")
    shutil.copytree(Path(__file__).parent, source, ignore=leave_out)
    session.install("pip")
    pip = ("python", "-m", "pip", "wheel", "--no-deps", "-w", str(wheels), str(source))
    session.run(*pip, env={"HATCH_BUILD_HOOK_ENABLE_MYPYC": "1"})
    (wheel,) = wheels.iterdir()
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"{wheel}[{extra}]")
    for leftover in (source / "async_adag", *source.glob("*.so")):
        (shutil.rmtree if leftover.is_dir() else os.unlink)(leftover)
    session.chdir(source)
    return source


def _endure(session: nox.Session, run: str) -> None:
    session.install("-e", ".[uvloop]", "numpy", "matplotlib")
    session.run("python", "-m", "tests.soak", run, "--out", "build/soak", *session.posargs, env=ENVIRONMENT)
