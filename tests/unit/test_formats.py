"""Every format of weights: its planes, its size, its bindings."""

from __future__ import annotations

import pytest

from llamaweb.kernels.formats import FORMATS, Format


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
def test_a_formats_planes_take_hardly_more_than_the_file(format: Format) -> None:
    assert sum(plane.bytes for plane in format.planes) <= 1.02 * format.block_bytes


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
def test_a_format_leaves_the_products_room_among_eight_bindings(format: Format) -> None:
    others = 4  # input, norm or batch, bias, result
    assert len(format.planes) + (format.codebook is not None) + others <= 8
