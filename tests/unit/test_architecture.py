"""The house: imports point down only, and every name that is not ours to rely on stays in its module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import ray

import async_adag

ROOT = Path(async_adag.__file__).parent
FLOORS = ["protocol", "graph", "gpu", "channels", "collectives", "actor", "observe", "driver"]
BELOW_THE_FLOORS = {"errors", "options", "_version"}
ABOVE_THE_FLOORS = {"adapter"}
RAY_MODULES = {
    "graph.ray_dag",
    "graph.ray_collective",
    "graph.ray_transport",
    "channels.ray_objects",
    "actor.ray_runtime",
    "driver.ray_refs",
}
PUBLIC_RAY = {"ray", "ray.actor", "ray.cloudpickle", "ray.dag", "ray.exceptions"}


@dataclass
class Module:
    """A module of the package, and what it imports.

    Attributes:
        name: without the package's own name; "" is the package.
        at_import: modules that are imported along with it.
        later: modules that its functions import.
        environment: lines, outside functions, that look at the environment.
    """

    name: str
    text: str
    tree: ast.Module
    at_import: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    environment: list[int] = field(default_factory=list)

    @property
    def floor(self) -> int:
        head = self.name.partition(".")[0]
        if head == "":
            return len(FLOORS) + 2
        if head in ABOVE_THE_FLOORS:
            return len(FLOORS) + 1
        return 0 if head in BELOW_THE_FLOORS else 1 + FLOORS.index(head)

    def own(self, imports: set[str]) -> set[str]:
        """The names, without the package's own, of those imports that are of the package."""
        return {name.partition(".")[2] for name in imports if name.partition(".")[0] == "async_adag"}


class Gathering(ast.NodeVisitor):
    """Gathers imports, but for what only a type checker sees, and looks at the environment."""

    def __init__(self, module: Module, known: set[str]) -> None:
        self.module = module
        self.known = known
        self.depth = 0

    def add(self, name: str) -> None:
        (self.module.later if self.depth else self.module.at_import).add(name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"{self.module.name}: a relative import hides the floor it goes to"
        assert node.module is not None
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.add(whole if whole.removeprefix("async_adag.") in self.known else node.module)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self.depth and node.attr in ("environ", "environb", "getenv"):
            self.module.environment.append(node.lineno)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the visitor's own names


def read_package() -> dict[str, Module]:
    modules = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        text = path.read_text()
        modules[name] = Module(name, text, ast.parse(text))
    for module in modules.values():
        Gathering(module, set(modules)).visit(module.tree)
    return modules


MODULES = read_package()
each_module = pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name or "(top)")


def test_the_package_has_the_floors_it_should_have():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS)
    files = {path.stem for path in ROOT.glob("*.py")}
    assert files == BELOW_THE_FLOORS | ABOVE_THE_FLOORS | {"__init__"}


@each_module
def test_no_import_points_up(module):
    for name in module.own(module.at_import | module.later):
        assert MODULES[name].floor <= module.floor, f"{module.name} imports {name}, which is above it"


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done:
            return
        for following in sorted(MODULES[name].own(MODULES[name].at_import)):
            follow(following, (*path, name))
        done.add(name)

    for name in MODULES:
        follow(name, ())


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.split(".")[0] in ("protocol", "graph") and name not in RAY_MODULES]
)
def test_rules_and_plans_know_no_asyncio_no_os_and_no_ray(name):
    reached = [name]
    for module in reached:
        imports = MODULES[module].at_import | MODULES[module].later
        assert not {outside.partition(".")[0] for outside in imports} & {"asyncio", "os", "ray"}, module
        reached += [own for own in MODULES[module].own(imports) if own not in reached]


@each_module
def test_rays_private_and_experimental_names_stay_in_six_modules(module):
    if module.name in RAY_MODULES:
        return
    imports = {name for name in module.at_import | module.later if name.partition(".")[0] == "ray"}
    assert imports <= PUBLIC_RAY
    for chain in attribute_chains(module.tree):
        name = ".".join(chain)
        if chain[0] == "ray":
            assert chain[1] == "__version__" or not chain[1].startswith("_"), name
            is_module = isinstance(getattr(ray, chain[1], None), ModuleType)
            assert not is_module or f"ray.{chain[1]}" in PUBLIC_RAY, name
        assert not any(part.startswith(("__ray_", "_ray_", "_actor_id")) for part in chain), name


def attribute_chains(tree: ast.AST) -> Iterator[list[str]]:
    """Every dotted name, such as ray.get, each as its parts; of a chain, all its beginnings too."""
    for node in ast.walk(tree):
        parts: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        if parts:
            yield [at.id if isinstance(at, ast.Name) else "", *reversed(parts)]


@each_module
def test_cupy_is_imported_by_gpu_alone_and_no_other_gpu_library_by_anybody(module):
    def imported(names: set[str]) -> set[str]:
        return {name.partition(".")[0] for name in names}

    assert not imported(module.at_import | module.later) & {"torch", "jax"}
    if not module.name.startswith("gpu."):
        assert not imported(module.at_import | module.later) & {"cupy", "cupy_backends"}


@each_module
def test_rays_own_compiled_graph_is_named_nowhere(module):
    assert "compiled_dag_node" not in module.text


@each_module
def test_no_environment_variable_is_read_at_import(module):
    assert not module.environment
