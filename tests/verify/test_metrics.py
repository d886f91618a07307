"""How far two outputs are apart, in figures that mean what they say."""

from math import inf, isclose

import torch

from ckptool.verify.metrics import figures


def test_equal_outputs_are_at_no_distance() -> None:
    values = torch.randn(100)
    found = figures([(values, values.clone())])
    assert (found.max_abs, found.relative_l2, found.psnr, found.cosine) == (0, 0, inf, 1)


def test_the_figures_are_those_of_the_formulas() -> None:
    one, two = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([3.0, 4.0, 0.5])
    found = figures([(one, two)])
    assert found.max_abs == 0.5
    assert isclose(found.relative_l2, 0.1)
    assert isclose(found.psnr, 10 * torch.tensor(16 / (0.25 / 3)).log10().item(), rel_tol=1e-6)
    assert isclose(found.cosine, 5 / 25.25**0.5)


def test_several_outputs_count_as_one_long_one() -> None:
    one, two = torch.randn(64), torch.randn(64)
    whole = figures([(one, two)])
    parts = figures([(one[:20], two[:20]), (one[20:], two[20:])])
    assert isclose(whole.relative_l2, parts.relative_l2)
    assert isclose(whole.psnr, parts.psnr)


def test_a_number_that_is_none_is_an_infinite_difference_unless_both_have_it() -> None:
    plain, broken = torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])
    assert figures([(plain, broken)]).relative_l2 == inf
    assert figures([(broken, broken)]).max_abs == 0
    assert figures([(plain, torch.tensor([1.0, inf]))]).psnr == -inf


def test_something_where_there_was_nothing_is_an_infinite_difference() -> None:
    assert figures([(torch.zeros(3), torch.ones(3))]).relative_l2 == inf
    assert figures([(torch.zeros(3), torch.zeros(3))]).relative_l2 == 0


def test_a_tiny_difference_is_not_lost() -> None:
    one = torch.ones(1000)
    two = one.clone()
    two[7] = 1 + 2**-23
    found = figures([(one, two)])
    assert 0 < found.relative_l2 < 1e-7
    assert found.max_abs == 2**-23
