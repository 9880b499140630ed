"""The project's sessions: ``nox -s quickstart``, ``tests``, ``torch``, ``jax``, ``gpu``, ``lint``, ``types``.

And ``bench``, and those of minutes: ``nox -s soak``, ``chaos``.

``nox -s gpu`` checks the GPU side on one GPU, by CUDA 12; ``ASYNC_ADAG_CUDA=13 nox -s gpu`` by CUDA 13. Where all
that it needs is there already, ``python -m pytest tests/gpu`` does the same.
"""

from __future__ import annotations

import os

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

# Ray asks to be told about usage reports and about accelerators it does not find: neither concerns a test.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "default",
}


@nox.session
def quickstart(session: nox.Session) -> None:
    """The main job: a graph of real actors on real input, beside Ray's own compiled graph."""
    session.install("-e", ".[uvloop]", "numpy")
    session.run("python", "examples/quickstart.py", *session.posargs, env=ENVIRONMENT)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, those that await on both asyncio and uvloop."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs, env=ENVIRONMENT)


@nox.session
def torch(session: nox.Session) -> None:
    """The tests that need torch, and its own collective nodes in Ray; downloads gigabytes."""
    session.install("-e", ".[test]", "torch")
    files = ["tests/integration/test_torch.py", "tests/unit/test_strides.py"]
    session.run("python", "-m", "pytest", *files, *session.posargs, env=ENVIRONMENT)


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
    """Mypy, strict."""
    session.install("-e", ".", "mypy>=1.11", "numpy", "nox")
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Ray's compiled graph and async_adag in one run; ``nox -s bench -- --help`` for its options."""
    session.install("-e", ".[uvloop]", "numpy")
    session.run("python", "-m", "benchmarks", *session.posargs, env=ENVIRONMENT)


@nox.session
def soak(session: nox.Session) -> None:
    """The same work for ten minutes: is everything flat? Draws a plot; ``nox -s soak -- --help``."""
    _endure(session, "soak")


@nox.session
def chaos(session: nox.Session) -> None:
    """Random work and kills for ten minutes: is every result right, or a failure that had a reason?"""
    _endure(session, "chaos")


def _endure(session: nox.Session, run: str) -> None:
    session.install("-e", ".[uvloop]", "numpy", "matplotlib")
    session.run("python", "-m", "tests.soak", run, "--out", "build/soak", *session.posargs, env=ENVIRONMENT)
