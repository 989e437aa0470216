"""Facts by fingerprint, that were measured somewhere else: nothing more is measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxq.errors import CalibrationError
from onnxq.ir.fingerprint import fingerprints
from onnxq.ir.module import GraphModule, name_of
from onnxq.quant.facts import Facts, Need, Place, meets


class UnmeasuredError(CalibrationError):
    """A value would have to be measured, and here that is not done."""


@dataclass(frozen=True)
class Known:
    """What one process measured, for builds in another.

    Args:
        facts: By fingerprint.

    """

    facts: Mapping[str, Facts]

    def of(self, module: GraphModule, needs: Sequence[Need]) -> dict[str, Facts]:
        """Return, by name, facts that meet ``needs``, as ``Measurements`` does.

        Raises:
            UnmeasuredError: Something is not known.

        """
        prints = prints_of(module, needs)
        if missing := unmet(self.facts, prints, needs):
            raise UnmeasuredError("it has not been measured", where=f"value {missing[0].value!r}")
        return asked(self.facts, prints, needs)

    def require(self, digest: str) -> None:
        """Require nothing: whoever measured what is known has made sure that it is the right data."""


def prints_of(module: GraphModule, needs: Iterable[Need]) -> dict[str, str]:
    """Return the fingerprints of the values that ``needs`` name, by name."""
    names = {need.value for need in needs}
    return {
        name_of(value): print_
        for value, print_ in fingerprints(module.model).items()
        if name_of(value) in names
    }


def unmet(facts: Mapping[str, Facts], prints: Mapping[str, str], needs: Iterable[Need]) -> list[Need]:
    """Return the needs that ``facts``, by fingerprint, do not meet."""

    def met(need: Need) -> bool:
        found = facts.get(prints.get(need.value, ""))
        return found is not None and meets({need.value: found}, need)

    return [need for need in needs if not met(need)]


def asked(facts: Mapping[str, Facts], prints: Mapping[str, str], needs: Iterable[Need]) -> dict[str, Facts]:
    """Return what ``needs`` ask for and nothing else, by name."""
    places: dict[str, set[Place]] = {name: set() for name in prints}
    for need in needs:
        places.get(need.value, set()).update(need.places)
    return {name: facts[print_].only(places[name]) for name, print_ in prints.items() if print_ in facts}
