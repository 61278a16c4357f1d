"""The laws of the tree: imports go down the floors, and what is packaged is what is there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "kernels": 1, "configs": 1, "records": 1, "policy": 2, "rewards": 2, "rollout": 3, "trainer": 3, "observe": 4,
    "cluster": 5, "bench": 5, "__main__": 6,
}  # fmt: skip
ONLY_IN = {"ray": {"cluster"}, "deepspeed": {"trainer"}}
LIMITS = {"kernels": 450}
SOURCES = sorted(p for p in ROOT.glob("*.py")) + sorted(p for room in FLOORS for p in (ROOT / room).glob("*.py"))


def room_of(path: Path) -> str:
    return path.stem if path.parent == ROOT else path.parent.name


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this project that a file imports, wherever in the file the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = node.level == 1 and path.parent != ROOT
            if not inside and node.module:
                rooms.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mimosa."):
            rooms.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mimosa.")}
    return rooms


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    room = room_of(path)
    if room in ("__init__",):
        assert not imported_rooms(path)
        return
    for other in imported_rooms(path) - {room, "__init__"}:
        assert FLOORS[other] < FLOORS[room], f"{path.name} on floor {FLOORS[room]} imports {other} on {FLOORS[other]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_room(path):
    for package, rooms in ONLY_IN.items():
        if package in imported_packages(path):
            assert room_of(path) in rooms, f"{path} imports {package}, which belongs into {rooms}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_can_be_read_at_once(path):
    limit = LIMITS.get(room_of(path), 300)
    assert len(path.read_text().splitlines()) <= limit


def test_packages_are_the_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {room for room in FLOORS if (ROOT / room).is_dir()}
    assert set(settings["packages"]) == {"mimosa"} | {f"mimosa.{room}" for room in rooms}
    assert settings["package-dir"] == {"mimosa": "."}


def test_only_the_root_is_marked_as_a_package():
    marked = {
        p.relative_to(ROOT) for p in ROOT.rglob("__init__.py") if ".venv" not in p.parts and "build" not in p.parts
    }
    assert marked == {Path("__init__.py")}


def test_rewards_need_neither_torch_nor_ray():
    for path in (ROOT / "rewards").glob("*.py"):
        assert not imported_packages(path) & {"torch", "ray", "transformers", "deepspeed"}, path
