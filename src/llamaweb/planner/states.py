"""Where recurrent states lie: one region beside the cache, and as many copies of it as are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llamaweb.operations.step import State, Step
from llamaweb.planner.memory import align
from llamaweb.planner.plan import Binding
from llamaweb.profile import DeviceProfile

_MOST_COPIES = 8
_MOST_BYTES = 256 << 20  # of all copies

REGION, COPIES = "state.0", "state.copies"


@dataclass(frozen=True)
class StateLayout:
    """places: of each state in the region, which takes `size` bytes."""

    places: dict[State, Binding]
    size: int

    def copies(self, room: int | None) -> int:
        """How many are kept where there is room for so many bytes; one at least."""
        if not self.size:
            return 0
        most = min(_MOST_COPIES, _MOST_BYTES // self.size)
        return max(1, most if room is None else min(most, room // self.size))

    def regions(self, copies: int) -> dict[str, int]:
        sizes = {REGION: self.size, COPIES: copies * self.size}
        return {region: size for region, size in sizes.items() if size}


def lay_out_states(steps: Iterable[Step], profile: DeviceProfile) -> StateLayout:
    places: dict[State, Binding] = {}
    at = 0
    for state in dict.fromkeys(state for step in steps for state in step.states.values()):
        places[state] = Binding(REGION, at, state.bytes)
        at = align(at + state.bytes, profile.min_storage_buffer_offset_alignment)
    return StateLayout(places, at)
