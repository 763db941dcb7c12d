"""Where float32 ends, asked of float32 itself."""

import numpy as np
import torch

from gradviz.record import float32


def test_the_ends_of_float32_are_those_of_numpy_and_what_lies_beyond_is_zero_or_infinite():
    limits = np.finfo(np.float32)
    assert float32.SMALLEST == limits.smallest_subnormal and float32.SMALLEST_NORMAL == limits.smallest_normal
    assert (float32.LARGEST, float32.RESOLUTION) == (limits.max, limits.eps)
    assert np.float32(float32.ZERO) == 0 < np.float32(1.001 * float32.ZERO)
    assert np.float32(1 + float32.RESOLUTION) > 1 == np.float32(1 + 0.49 * float32.RESOLUTION)


def test_adam_takes_no_step_where_its_average_of_squares_is_said_to_overflow():
    for share, moves in ((0.99, True), (1.02, False)):
        weight = torch.zeros(1, requires_grad=True)
        weight.grad = torch.full((1,), share * float32.ADAM_OVERFLOW)
        torch.optim.Adam([weight]).step()
        assert bool(weight != 0) is moves


def test_adam_s_eps_is_the_one_that_torch_takes():
    assert torch.optim.Adam([torch.zeros(1)]).defaults["eps"] == float32.ADAM_EPS
