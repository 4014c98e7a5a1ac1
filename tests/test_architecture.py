"""The map of rooms, held to: who may import whom, what ships, how long a file may be."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRONT = "fedloom"
MAY_IMPORT = {
    "core": set(),
    "protos": set(),
    "security": {"core"},
    "codecs": {"core"},
    "backbones": {"core"},
    "results": {"core"},
    "strategies": {"core"},
    "tuning": {"core", "backbones"},
    "client": {"core", "protos", "security", "codecs", "backbones", "tuning"},
    "server": {
        *("core", "protos", "security", "codecs", "backbones", "results", "tuning"),
        "strategies",
    },
    "simulation": {"core", "codecs", "backbones", "results", "tuning", "strategies", "server"},
    "fedloom": {
        *("core", "protos", "security", "codecs", "backbones", "results", "tuning", "strategies"),
        *("client", "server", "simulation"),
    },
}
GENERATED = "protos"
WITHOUT_TORCH = ("core", "security", "codecs", "strategies")
# Of the server, the simulator needs the round and the course of rounds only.
SIMULATION_SEES = {"round", "course", "judged", "memories"}
# Where what is heavy, or speaks of a wire, may be imported: elsewhere it is seen through our types.
ONLY_IN = {
    "executorch": ("tuning/executorch_program.py",),
    "flwr": ("fedloom/flower/", "strategies/flower/"),
    "google": (
        *("client/span_stream.py", "server/messages.py", "server/wire.py"),
        "fedloom/flower/",
    ),
    "grpc": (
        *("client/channel.py", "server/describing.py", "server/enrolment.py", "server/listen.py"),
        *("server/refusing.py", "server/service.py", "server/split_service.py"),
        "fedloom/load_client.py",
    ),
    "matplotlib": ("fedloom/",),
    "onnxruntime": ("backbones/onnx/runner.py",),
    "peft": ("tuning/bridged_model.py", "tuning/peft_bridge.py"),
    "rich": ("fedloom/",),
    "transformers": ("backbones/huggingface.py", "tuning/module_words.py"),
}
ROOMS = sorted(MAY_IMPORT.keys() - {FRONT})
SOURCES = sorted(
    {
        path
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*.py")
        if room != GENERATED or path.name == "__init__.py"
    }
)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_by(path: Path) -> set[str]:
    """Every dotted name that a file imports, wherever in it."""
    return names_in(ast.walk(tree_of(path)))


def loaded_by(path: Path) -> set[str]:
    """The same without what is only there for types."""
    parts = (node for node in tree_of(path).body if not is_for_types(node))
    return names_in(inner for node in parts for inner in ast.walk(node))


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def names_in(nodes: Iterable[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def rooms_imported_by(path: Path) -> set[str]:
    parts = (name.split(".") for name in imported_by(path))
    return {p[1] for p in parts if p[0] == FRONT and len(p) > 1 and p[1] in ROOMS}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_is_on_the_map() -> None:
    on_disk = {init.parent.name for init in ROOT.glob("*/__init__.py")}
    assert on_disk == set(MAY_IMPORT)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_follow_the_map(path: Path) -> None:
    room = room_of(path)
    assert rooms_imported_by(path) - {room} <= MAY_IMPORT[room]


def test_the_map_has_no_circle() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()  # raises `CycleError`


def test_no_files_load_each_other() -> None:
    modules = {module_of(path): path for path in SOURCES if path.name != "__init__.py"}
    graph = {name: loaded_by(path) & modules.keys() for name, path in modules.items()}
    TopologicalSorter(graph).prepare()


def module_of(path: Path) -> str:
    parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
    return ".".join(parts if parts[0] == FRONT else [FRONT, *parts])


def test_the_simulator_sees_only_the_round_of_the_server() -> None:
    names = {n for p in SOURCES if room_of(p) == "simulation" for n in imported_by(p)}
    seen = {n.split(".")[2] for n in names if n.startswith("fedloom.server.")}
    assert "fedloom.server" not in names
    assert seen == SIMULATION_SEES


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_seen_only_where_it_is_wrapped(library: str) -> None:
    found = {
        name_of(path)
        for path in SOURCES
        if library in {name.partition(".")[0] for name in imported_by(path)}
    }
    assert not [name for name in found if not name.startswith(ONLY_IN[library])]
    assert not [place for place in ONLY_IN[library] if not any(n.startswith(place) for n in found)]


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_some_rooms_know_no_torch(room: str) -> None:
    names = {name for p in SOURCES if room_of(p) == room for name in imported_by(p)}
    assert not [name for name in names if name.partition(".")[0] in ("torch", "transformers")]


RUNS_WHAT_IT_READS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def unsafe_calls(path: Path) -> list[str]:
    """Calls that would run what they read, or might."""
    calls = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
    found = []
    for node in calls:
        name = ast.unparse(node.func)
        said = {word.arg: ast.unparse(word.value) for word in node.keywords}
        unsafe = {
            "torch.load": said.get("weights_only") != "True",
            "np.load": said.get("allow_pickle") != "False",
            "eval": True,
            "exec": True,
        }
        if unsafe.get(name, False):
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imported_by(path)} & RUNS_WHAT_IT_READS
    assert unsafe_calls(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_fits_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree_of(path)) if isinstance(node, functions)]
    lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in found}
    assert {name: count for name, count in lines.items() if count > 60} == {}


def test_every_package_ships_and_is_linked() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = [init for room in MAY_IMPORT for init in (ROOT / room).rglob("__init__.py")]
    folders = {init.parent.relative_to(ROOT).parts for init in inits if not is_link(init)}
    on_disk = {".".join([FRONT, *(p for p in parts if p != FRONT)]) for parts in folders}
    assert set(config["packages"]) == on_disk
    assert sorted(config["package-dir"]) == [FRONT, *(f"{FRONT}.{room}" for room in ROOMS)]
    assert all((ROOT / FRONT / room).resolve() == ROOT / room for room in ROOMS)


def is_link(path: Path) -> bool:
    return path.resolve() != path


def test_only_fedloom_is_installed_at_the_top() -> None:
    ours = {name for name, found in packages_distributions().items() if FRONT in found}
    assert {name for name in ours if not name.startswith("__editable__")} <= {FRONT}


def test_the_version_is_in_the_changelog() -> None:
    code = "import fedloom; print(fedloom.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"## [{done.stdout.strip()}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
