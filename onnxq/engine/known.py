"""Facts by fingerprint, that were measured somewhere else: nothing more is measured here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.autodiff import losses
from onnxq.errors import CalibrationError
from onnxq.ir.fingerprint import fingerprints, futures
from onnxq.ir.module import GraphModule, name_of
from onnxq.quant.facts import Facts, Need, joined, meets

Subject = tuple[str, bool]
"""A value's name, and whether its gradients are meant."""
Prints = Mapping[Subject, str]
"""Fingerprints of subjects."""


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


def prints_of(module: GraphModule, needs: Iterable[Need]) -> dict[Subject, str]:
    """Return the fingerprints of what ``needs`` name.

    What gradients tell of a value depends on what is computed of it as well.
    """
    needs = list(needs)
    found = _by_name(fingerprints(module.model), {need.value for need in needs}, gradients=False)
    of_gradients = {need.value for need in needs if need.of_gradients.stats}
    if of_gradients:
        ends = {one.value: f"{one.head} {number}" for number, one in enumerate(losses(module))}
        found |= _by_name(futures(module.model, ends), of_gradients, gradients=True)
    return found


def _by_name(prints: Mapping[ir.Value, str], names: Container[str], *, gradients: bool) -> dict[Subject, str]:
    return {(name_of(value), gradients): one for value, one in prints.items() if name_of(value) in names}


def parted(needs: Iterable[Need]) -> Iterator[tuple[Need, Subject]]:
    """Yield what each need asks of values, and of gradients, each with what a fingerprint is known by."""
    for need in needs:
        yield need.of_values, (need.value, False)
        if need.of_gradients.stats:
            yield need.of_gradients, (need.value, True)


def unmet(facts: Mapping[str, Facts], prints: Prints, needs: Iterable[Need]) -> list[Need]:
    """Return the parts of needs that ``facts``, by fingerprint, do not meet."""

    def met(need: Need, subject: Subject) -> bool:
        found = facts.get(prints.get(subject, ""))
        return found is not None and meets({need.value: found}, need)

    return [need for need, subject in parted(needs) if not met(need, subject)]


def asked(facts: Mapping[str, Facts], prints: Prints, needs: Iterable[Need]) -> dict[str, Facts]:
    """Return what ``needs`` ask for and nothing else, by name."""
    found: dict[str, Facts] = {}
    for need, subject in parted(needs):
        known = facts.get(prints.get(subject, ""))
        if known is not None:
            found = joined(found, {need.value: known.only(need.places)})
    return found
