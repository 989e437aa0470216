"""Distributions that offer passes, laid out on disk as an installer does."""

from collections.abc import Callable, Iterator

import pytest

from onnxq.passmanager import registry

HEAD = """
from dataclasses import dataclass
from typing import ClassVar, Literal
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.ir.module import GraphModule
"""

PASS = '''
@dataclass(frozen=True)
class {cls}(Pass):
    """Do nothing."""

    name: ClassVar[str] = "{name}"
    effect: ClassVar[Effect] = Effect.EXACT
{fields}
    def run(self, module: GraphModule, ctx: PassContext) -> None:
        pass
'''


def pass_source(name: str, fields: str = "", cls: str = "Anything") -> str:
    """Return the source of a pass that does nothing; ``fields`` are lines without indentation."""
    indented = "".join(f"    {line.strip()}\n" for line in fields.splitlines())
    return HEAD + PASS.format(cls=cls, name=name, fields=indented)


@pytest.fixture(scope="session")
def source() -> Callable[..., str]:
    """Return ``pass_source``."""
    return pass_source


@pytest.fixture(scope="module")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Return a function that makes a distribution with these modules findable."""
    patch = pytest.MonkeyPatch()
    tmp_path = tmp_path_factory.mktemp("distributions")

    def make(distribution: str, modules: dict[str, str]) -> None:
        package = distribution.replace("-", "_")
        folder = tmp_path / distribution / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
        info = tmp_path / distribution / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{distribution} = {package}\n")
        patch.syspath_prepend(str(tmp_path / distribution))
        registry._pass_modules.cache_clear()

    yield make
    patch.undo()
    registry._pass_modules.cache_clear()
