"""Finding passes: entry points name packages of passes, and a module in one is a pass.

A distribution that offers passes says so in its pyproject.toml::

    [project.entry-points."onnxq.passes"]
    my-distribution = "my_package.passes"

Then ``my_package/passes/insert_clip.py`` is the pass ``insert-clip``. A pass's module is imported
when the pass is asked for, and no other.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pkgutil import iter_modules

from onnxq.errors import PassError, PipelineError, UnknownPassError, did_you_mean
from onnxq.passmanager.base import Effect, Pass
from onnxq.passmanager.options import Option, options_of

GROUP = "onnxq.passes"


@dataclass(frozen=True)
class PassModule:
    """Where a pass lies, known without importing it.

    Args:
        name: The pass's name, kebab-case.
        module: Its module's full name.
        distribution: The distribution that offers it.

    """

    name: str
    module: str
    distribution: str


@dataclass(frozen=True)
class PassInfo:
    """One installed pass, for listings.

    Args:
        name: What pipelines call it.
        effect: Its promise about numbers.
        summary: The first line of its module's docstring.
        options: Its options, in order.
        distribution: The distribution that offers it.

    """

    name: str
    effect: Effect
    summary: str
    options: tuple[Option, ...]
    distribution: str


def pass_names() -> list[str]:
    """Return the names of all installed passes, sorted; none of them is imported."""
    return sorted(_pass_modules())


def find_pass(name: str, *, text: str = "", at: int = 0) -> type[Pass]:
    """Return the class of the pass called ``name``, importing its module only.

    Args:
        name: The pass's name.
        text: The pipeline text that asks for it, to point at in errors.
        at: Where in ``text`` the name starts.

    Raises:
        UnknownPassError: No installed distribution has it, or none has any.
        PipelineError: Two distributions have it.
        PassError: Its module cannot be imported, or does not hold one pass of that name.

    """
    return _class_in(_locate(name, text, at))


def installed_passes() -> list[PassInfo]:
    """Return all installed passes by name; this imports every one of them."""
    return [_info(_locate(name)) for name in pass_names()]


def _locate(name: str, text: str = "", at: int = 0) -> PassModule:
    known = _pass_modules()
    if not known:
        raise UnknownPassError("no passes are installed", hint="in a checkout, run: pip install -e .")
    if name not in known:
        hint = did_you_mean(name, known) or "list them with: onnxq passes"
        raise UnknownPassError(f"unknown pass {name!r}", text=text, at=at, length=len(name), hint=hint)
    found = known[name]
    if len(found) > 1:
        owners = " and ".join(sorted(f"{place.distribution} ({place.module})" for place in found))
        message = f"pass {name!r} is offered twice, by {owners}"
        raise PipelineError(message, text=text, at=at, length=len(name), hint="uninstall one of them")
    return found[0]


@cache
def _pass_modules() -> dict[str, list[PassModule]]:
    """Return the places of all passes by name."""
    found: dict[str, list[PassModule]] = {}
    for package, distribution in sorted(_packages().items()):
        spec = find_spec(package)
        for module in iter_modules(spec.submodule_search_locations if spec else []):
            if not module.name.startswith("_"):
                name = module.name.replace("_", "-")
                place = PassModule(name, f"{package}.{module.name}", distribution)
                found.setdefault(name, []).append(place)
    return found


def _packages() -> dict[str, str]:
    """Return the distributions by the package of passes that each names."""
    return {point.value: point.dist.name if point.dist else "?" for point in entry_points(group=GROUP)}


@cache
def _class_in(place: PassModule) -> type[Pass]:
    """Return the class of a pass; a search asks for the same ones a thousand times."""
    try:
        module = import_module(place.module)
    except Exception as error:
        reason = f"it cannot be imported: {type(error).__name__}: {error}"
        raise PassError(reason, where=f"{place.module} of {place.distribution}") from error
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Pass) and not inspect.isabstract(value)
        if value.__module__ == place.module
    ]
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes) or "none"
        raise PassError(f"a pass's module holds exactly one pass; this has {names}", where=place.module)
    if getattr(classes[0], "name", None) != place.name:
        raise PassError(
            f"class {classes[0].__name__} is called {getattr(classes[0], 'name', None)!r}, "
            f"its module wants {place.name!r}",
            where=place.module,
            hint="the pass's name is its file's name with dashes",
        )
    return classes[0]


def _info(place: PassModule) -> PassInfo:
    cls = _class_in(place)
    document = inspect.getdoc(import_module(place.module)) or inspect.getdoc(cls) or ""
    summary = document.partition("\n")[0]
    return PassInfo(place.name, cls.effect, summary, tuple(options_of(cls).values()), place.distribution)
