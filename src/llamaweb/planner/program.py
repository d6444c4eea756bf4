"""Steps while rules rewrite them: who writes a value and who reads it, at every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llamaweb.operations import OPERATIONS
from llamaweb.operations.step import Step, Value, View


class Program:
    """Steps in order; one that a rule has taken out leaves its place empty. Each value is written before it is read,
    and by one step, or by several in parts of its own each, until a rule lets a step write in place."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps: list[Step | None] = list(steps)
        self._uses: dict[Value, set[int]] = {}
        for i, step in enumerate(steps):
            for view in step.values.values():
                self._uses.setdefault(view.value, set()).add(i)

    @property
    def steps(self) -> list[Step]:
        return [step for step in self._steps if step]

    def of(self, *ops: str) -> Iterator[tuple[int, Step]]:
        """Place and step of each with one of these operations, as they are when it is their turn."""
        for i in range(len(self._steps)):
            step = self._steps[i]
            if step and step.op in ops:
                yield i, step

    def at(self, i: int) -> Step:
        """The step at a place that has one."""
        step = self._steps[i]
        assert step
        return step

    def uses(self, value: Value) -> list[tuple[int, Step]]:
        found = ((i, self._steps[i]) for i in sorted(self._uses.get(value, ())))
        return [(i, step) for i, step in found if step]

    def readers(self, value: Value) -> list[tuple[int, Step]]:
        return [(i, step) for i, step in self.uses(value) if step.reads(value)]

    def reader(self, value: Value) -> tuple[int, Step] | tuple[int, None]:
        """The one step that reads a value; none if there are more."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 else (-1, None)

    def writers(self, value: Value) -> list[tuple[int, Step]]:
        return [(i, step) for i, step in self.uses(value) if step.writes(value)]

    def writer(self, value: Value) -> tuple[int, Step] | tuple[int, None]:
        """The one step that writes a value; none if there are more."""
        writers = self.writers(value)
        return writers[0] if len(writers) == 1 else (-1, None)

    def put(self, i: int, step: Step | None) -> None:
        """Replaces the step at a place, or takes it out."""
        if before := self._steps[i]:
            for view in before.values.values():
                self._uses[view.value].discard(i)
        self._steps[i] = step
        if step:
            for view in step.values.values():
                self._uses.setdefault(view.value, set()).add(i)

    def substitute(self, value: Value, view: View) -> None:
        """Whatever uses a value uses `view` in its stead."""
        for i, step in self.uses(value):
            moved = {slot: v.within(view) if v.value is value else v for slot, v in step.values.items()}
            self.put(i, replace(step, values=moved))


def reads_parts(program: Program, value: Value) -> bool:
    """Whether all that reads a value could as well read a part of a row."""
    return all(
        slot in OPERATIONS[step.op].parts
        for _, step in program.readers(value)
        for slot, view in step.values.items()
        if view.value is value
    )
