"""What the package says of itself in several places is the same everywhere."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import async_adag
from async_adag.driver.compile import NEWEST_RAY, OLDEST_RAY
from async_adag.options import Options

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = re.compile(r"@nox.session\(python=(\[.*\])\)\n@nox.parametrize\(\"ray\", (\[.*\])\)")
SESSION = VERSIONS.search((ROOT / "noxfile.py").read_text())


def test_the_supported_pythons_are_those_that_nox_runs():
    classifiers = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert SESSION is not None
    assert classifiers == re.findall(r"3\.\d+", SESSION[1])
    assert PROJECT["requires-python"] == f">={classifiers[0]}"


def test_the_supported_rays_are_those_that_nox_runs():
    oldest, newest, too_new = (
        f"{major}.{minor}" for major, minor in (OLDEST_RAY, NEWEST_RAY, (NEWEST_RAY[0], NEWEST_RAY[1] + 1))
    )
    assert SESSION is not None
    assert re.findall(r"\d\.\d+", SESSION[2]) == [oldest, newest]
    assert f"ray>={oldest},<{too_new}" in PROJECT["dependencies"]
    assert f"Ray {oldest} to {newest}" in (ROOT / "README.md").read_text()


def test_type_checkers_may_look_at_it():
    assert files("async_adag").joinpath("py.typed").is_file()


def test_all_that_is_public_is_in_the_reference():
    reference = (ROOT / "docs" / "reference.rst").read_text()
    described = set(re.findall(r"^\.\. auto\w+:: async_adag\.(\w+)", reference, re.MULTILINE))
    assert described >= set(async_adag.__all__) - {"__version__"}


def test_every_option_and_error_is_in_the_api_page():
    page = (ROOT / "docs" / "api.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    errors = {name for name in async_adag.__all__ if is_error(getattr(async_adag, name))}
    assert rows >= {field.name for field in fields(Options)}
    assert rows >= errors - {"AdagError"}


def is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, async_adag.AdagError)
