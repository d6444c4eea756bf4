"""Kernels that keep a state, over many tokens, against numpy in float64, on Mesa's software Vulkan."""

from __future__ import annotations

from typing import Any

import pytest

from llamaweb.kernels.kernel import Launch
from llamaweb.operations import BY_TEMPLATE
from llamaweb.operations.gated_delta_net import gated_delta_net_kernel
from llamaweb.operations.operand import Operand
from llamaweb.operations.ssm_conv import Convolution, ssm_conv_kernel
from llamaweb.operations.ssm_scan import ssm_scan_kernel
from llamaweb.profile import DeviceProfile
from tests.checked import holds
from tests.naga import Naga


def rows(**of: int) -> dict[str, Operand]:
    """By slot, how long a row of it is."""
    return {slot: Operand(slot, 0, row) for slot, row in of.items()}


def alone(*slots: str) -> dict[str, Operand]:
    """Parts of one token's row, beside y."""
    return {slot: Operand(slots[0], 400 * i) for i, slot in enumerate(slots)} | {"y": Operand("y")}


def scan(n_head: int, head_dim: int, d_state: int, n_group: int) -> Launch:
    width = n_head * head_dim
    values = rows(xbc=width + 2 * n_group * d_state, dt=n_head, y=width)
    return ssm_scan_kernel(n_head, head_dim, d_state, n_group, values)


def delta(size: int, n_key: int, n_head: int, grouped: bool) -> Launch:
    values = rows(qkv=(2 * n_key + n_head) * size, alpha=n_head, beta=n_head, y=n_head * size)
    return gated_delta_net_kernel(size, n_key, n_head, grouped, 1e-6, values)


def conv(taps: int, channels: int) -> Launch:
    return ssm_conv_kernel(taps, channels, 512, rows(x=channels, y=channels))


KERNELS = {
    "a scan": scan(2, 64, 128, 1),
    "a scan of groups, of odd sizes": scan(6, 13, 22, 3),
    "a scan of few states": scan(3, 5, 3, 1),
    "a scan of many states": scan(1, 9, 250, 1),
    "a delta net": delta(128, 1, 2, False),
    "a delta net of groups, of odd sizes": delta(30, 2, 6, True),
    "a delta net of small heads": delta(3, 2, 2, False),
    "a delta net of large heads": delta(254, 1, 1, False),
    "a convolution": conv(4, 70),
    "a convolution of more taps than a run has tokens": conv(23, 3),
}


@pytest.fixture(scope="module")
def naga() -> Naga:
    return Naga(DeviceProfile())


def at_once(launch: Launch) -> int:
    """Tokens that it takes at a time."""
    constants: dict[str, Any] = dict(launch.kernel.constants)
    return constants.get("chunk") or constants["run"]


@pytest.mark.parametrize("launch", KERNELS.values(), ids=KERNELS)
def test_a_batch_of_any_length_goes_on_where_the_last_one_ended(naga: Naga, launch: Launch) -> None:
    """Behind no token, whatever is there is no state."""
    operation: Any = BY_TEMPLATE[launch.kernel.template]
    n = at_once(launch)
    for n_tokens, n_past in ((1, 7), (2, 0), (n, 1), (3 * n + 2, 0)):
        assert holds(naga, operation.case(launch.kernel, n_tokens, n_past)), (n_tokens, n_past)


WITHIN = {
    "a scan": ssm_scan_kernel(6, 13, 22, 3, alone("xbc", "dt"), conv=Convolution(4, 210, True, ("silu", 0))),
    "a delta net": gated_delta_net_kernel(
        30, 2, 6, False, 1e-6, alone("qkv", "alpha", "beta"), Convolution(4, 300, False, ("silu", 0))
    ),
    "a delta net of groups": gated_delta_net_kernel(
        20, 2, 4, True, 1e-6, alone("qkv", "alpha", "beta"), Convolution(2, 160, True, 0)
    ),
}


@pytest.mark.parametrize("launch", WITHIN.values(), ids=WITHIN)
def test_a_convolution_of_one_token_within_a_recurrence_has_the_window_of_the_one_before_it(
    naga: Naga, launch: Launch
) -> None:
    operation: Any = BY_TEMPLATE[launch.kernel.template]
    for n_past in (0, 1, 2, 7):
        assert holds(naga, operation.case(launch.kernel, 1, n_past)), n_past


def test_workgroups_of_a_large_head_are_many() -> None:
    """A head's workgroup alone would leave a GPU idle: of these, each has some rows or columns."""
    assert [scan(48, 64, 128, 1).workgroups, delta(128, 16, 16, False).workgroups] == [(48, 8, 1), (16, 16, 1)]
    assert conv(4, 3328).workgroups == (52, 32, 1)
