"""Places of tokens in the padded grid, against loops."""

import pytest
import torch

from userclue.nn.layout import Layout

LENGTHS = [(3,), (2, 2, 2), (0, 0), (0, 5, 1), (4, 1, 3, 0)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_positions_count_from_the_end_and_ur_is_last(histories, packed, lengths):
    layout = Layout.of(packed(histories(*lengths)))
    expected = [place for length in lengths for place in range(length, -1, -1)]
    assert layout.from_end.tolist() == expected
    assert layout.last.tolist() == [place for place, count in enumerate(expected) if count == 0]
    assert (layout.size, layout.longest) == (len(lengths), max(lengths) + 1)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_pad_puts_each_token_into_its_row_and_unpad_takes_it_back(histories, packed, lengths):
    layout = Layout.of(packed(histories(*lengths)))
    x = torch.arange(1.0, 1 + 3 * sum(length + 1 for length in lengths)).view(-1, 3)
    grid = layout.pad(x)
    expected = torch.zeros(len(lengths), max(lengths) + 1, 3)
    token = 0
    for row, length in enumerate(lengths):
        for column in range(length + 1):
            expected[row, column] = x[token]
            token += 1
    assert torch.equal(grid, expected)
    assert torch.equal(layout.unpad(grid), x)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_bias_hides_the_padding_and_nothing_else(histories, packed, lengths):
    layout = Layout.of(packed(histories(*lengths)))
    if len(set(lengths)) == 1:
        assert layout.bias is None
        assert layout.cells is None
        return
    assert layout.bias.shape == (len(lengths), 1, 1, max(lengths) + 1)
    for row, length in enumerate(lengths):
        assert torch.equal(layout.bias[row, 0, 0, : length + 1], torch.zeros(length + 1))
        assert torch.isneginf(layout.bias[row, 0, 0, length + 1 :]).all()
