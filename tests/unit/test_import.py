"""What importing the package does to a process: next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import async_adag

# Imports the package in a process of its own, where every attempt to import a GPU library and every look at the
# environment is noted, with the files that led to it. Libraries that are there before it are not its business.
WATCHED = """
import json, os, sys, threading

import anyio, ray, ray.cloudpickle, ray.dag, ray.exceptions, ray.experimental.compiled_dag_ref  # noqa

imports, looks = [], []

def askers():
    frame, files = sys._getframe(2), []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    return files

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cupy", "torch", "jax"):
            imports.append([name, askers()])

sys.meta_path.insert(0, Finder())
for name in [n for n in sys.modules if n.partition(".")[0] in ("cupy", "torch", "jax")]:
    del sys.modules[name]

Environ = type(os.environ)
look = Environ.__getitem__

def noted(self, key):
    looks.append([key, askers()])
    return look(self, key)

Environ.__getitem__ = noted
threads = threading.active_count()
fds = set(os.listdir("/proc/self/fd"))
os.environ.get("HOME")
try:
    import torch
except ImportError:
    pass

import async_adag

print(json.dumps({
    "imports": imports,
    "looks": looks,
    "package": os.path.dirname(async_adag.__file__),
    "threads": threading.active_count() - threads,
    "fds": len(set(os.listdir("/proc/self/fd")) - fds),
    "ray": ray.is_initialized(),
}))
"""


@pytest.fixture(scope="module")
def facts():
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    # The watch itself works: it saw the look and the import that the script makes on purpose.
    assert any(name == "HOME" for name, _ in found["looks"])
    assert any(name == "torch" for name, _ in found["imports"])
    return found


def by_the_package(facts, notes):
    return [(name, files) for name, files in notes if any(file.startswith(facts["package"]) for file in files)]


def test_no_gpu_library_is_imported(facts):
    assert by_the_package(facts, facts["imports"]) == []


def test_no_environment_variable_is_read(facts):
    assert by_the_package(facts, facts["looks"]) == []


def test_no_thread_is_started_no_descriptor_opened_and_ray_is_left_alone(facts):
    assert (facts["threads"], facts["fds"], facts["ray"]) == (0, 0, False)


WORKER = """
import sys
import ray._private.worker as worker

worker.global_worker.set_mode(worker.WORKER_MODE)
import async_adag.actor.install

assert "async_adag.driver.compile" not in sys.modules
assert set(async_adag.__all__) <= set(dir(async_adag))
print(async_adag.compile.__module__, async_adag.GraphBroken.__name__)
"""


def test_a_worker_imports_what_runs_in_an_actor_and_the_rest_when_it_is_asked_for():
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["async_adag.driver.compile", "GraphBroken"]


def test_everything_that_is_exported_has_a_home():
    homes = [name for names in async_adag._HOMES.values() for name in names]
    assert sorted([*homes, "__version__"]) == sorted(async_adag.__all__)
