"""The shape of the repository: who may import whom, who owns which third party, what the top-level folders hold."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP_LEVEL = ("challenge", "evaluation", "baselines", "docker", "data_specs", "tests")
PACKAGES = {
    "landmark_challenge": ROOT / "challenge" / "landmark_challenge",
    "landmark_evaluation": ROOT / "evaluation" / "landmark_evaluation",
    "landmark_baselines": ROOT / "baselines" / "landmark_baselines",
}
ALLOWED = {
    "landmark_challenge": {"landmark_challenge"},
    "landmark_evaluation": {"landmark_challenge", "landmark_evaluation"},
    "landmark_baselines": {"landmark_challenge", "landmark_baselines"},
}
# Third party -> the only package or file, below the root, that may import it.
OWNERS = {
    "torch": "baselines/landmark_baselines/",
    "safetensors": "baselines/landmark_baselines/",
    "lightning_fabric": "baselines/landmark_baselines/",
    "pandas": "evaluation/landmark_evaluation/",
    "grand_challenge_metrics": "evaluation/landmark_evaluation/",
    "scipy": "evaluation/landmark_evaluation/",
    "jinja2": "evaluation/landmark_evaluation/",
    "SimpleITK": "challenge/landmark_challenge/images.py",
    "docker": "challenge/landmark_challenge/containers.py",
}
MODULES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))


def imported(source: str) -> set[str]:
    """The top-level packages that Python text imports, wherever in it, relative imports left out.

    >>> sorted(imported("import torch.nn\\nfrom docker import types\\nfrom .x import y"))
    ['docker', 'torch']
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 20 and all(any(folder in path.parents for path in MODULES) for folder in PACKAGES.values())


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_one_way_and_third_parties_have_one_owner(path: Path) -> None:
    names = imported(path.read_text())
    package = next(name for name, folder in PACKAGES.items() if folder in path.parents)
    sideways = {name for name in names if name in PACKAGES} - ALLOWED[package]
    assert not sideways, f"{package} must not import {sideways}"
    for third_party, owner in OWNERS.items():
        if third_party in names:
            assert relative(path).startswith(owner), f"{third_party} belongs to {owner}"
    assert "sys.path.insert" not in path.read_text() and "sys.path.append" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "wanted a docstring"


def test_top_level_folders_are_no_packages() -> None:
    for folder in TOP_LEVEL:
        assert not (ROOT / folder / "__init__.py").exists(), folder


def test_the_docker_folder_does_not_shadow_the_docker_sdk() -> None:
    assert not list((ROOT / "docker").rglob("*.py"))
    import docker

    assert ROOT not in Path(docker.__file__).parents or ".venv" in Path(docker.__file__).parts


def test_no_generic_package_is_installed() -> None:
    """Folder name is import name: nothing called challenge, evaluation, baselines, docker or tests comes from here."""
    for name in ("challenge", "evaluation", "baselines", "data_specs"):
        module = sys.modules.get(name)
        assert module is None or getattr(module, "__file__", None) is None


def test_no_generic_module_names() -> None:
    generic = {"utils", "models", "helpers", "misc", "common", "util"}
    assert not [relative(path) for path in MODULES if path.stem in generic or path.parent.name in generic]
