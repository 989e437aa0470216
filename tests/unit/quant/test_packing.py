"""Integers as the operators on weights in blocks store them: what is packed can be read back."""

import ml_dtypes
import numpy as np
import pytest

from onnxq.quant.packing import pack, pack_columns, unpack, unsigned


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_packed_integers_read_back(bits: int, count: int) -> None:
    integers = np.random.default_rng(count).integers(0, 2**bits, (3, count)).astype(np.uint8)
    packed = pack(integers, bits)
    assert packed.shape == (3, -(-count * bits // 8))
    assert (unpack(packed, bits, count) == integers).all()
    assert (unpack(packed, bits, packed.shape[-1] * 8 // bits)[:, count:] == 0).all()


def test_the_first_integer_of_a_byte_is_its_lowest_bits() -> None:
    byte = np.array([0b11_10_01_00], np.uint8)
    assert unpack(byte, 2, 4).tolist() == [0, 1, 2, 3]
    assert unpack(byte, 4, 2).tolist() == [0b0100, 0b1110]
    assert unpack(byte, 8, 1).tolist() == [0b11100100]


def test_a_sign_becomes_an_offset() -> None:
    assert unsigned(np.array([-128, 0, 127], np.int8), 8).tolist() == [0, 128, 255]
    assert unsigned(np.array([-8, 0, 7], ml_dtypes.int4), 4).tolist() == [0, 8, 15]
    assert unsigned(np.array([0, 15], ml_dtypes.uint4), 4).tolist() == [0, 15]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [16, 17, 40])
def test_a_column_lies_in_one_piece(bits: int, rows: int) -> None:
    rng = np.random.default_rng(rows)
    integers = rng.integers(0, 2**bits, (rows, 3)).astype(np.uint8)
    packed = pack_columns(integers, bits, 16)
    blocks = -(-rows // 16)
    assert packed.shape == (3, blocks, 16 * bits // 8)
    for column in range(3):
        filled = np.pad(integers[:, column], (0, blocks * 16 - rows))
        assert (packed[column].reshape(-1) == pack(filled, bits)).all()
