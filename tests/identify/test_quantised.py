"""Files that are quantised already are told by their names, and others are not taken for such."""

import pytest

from ckptool.identify.quantised import ENDINGS, quantised
from fixtures import manifests
from fixtures.families import NETWORKS, of
from tests.identify.knowing import load, plan_of

W = "blocks.0.attn.q.weight"
QUANTISED = [
    {"scaled_fp8": (0,), W: (4, 4)},
    {"model.diffusion_model.scaled_fp8": (0,)},
    {W: (4, 4), "blocks.0.attn.q.scale": ()},
    *({W: (4, 4), f"blocks.0.attn.q{ending}": (1,)} for ending in ENDINGS),
]


@pytest.mark.parametrize("shapes", QUANTISED)
def test_scales_tell_a_quantised_file(shapes: dict[str, tuple[int, ...]]) -> None:
    reason = quantised(plan_of(of(shapes)))
    assert reason is not None
    assert any(name.rpartition(".")[0] in reason for name in shapes)


@pytest.mark.parametrize("name", manifests.names())
def test_no_published_layout_is_taken_for_quantised(name: str) -> None:
    assert quantised(plan_of(load(name))) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_the_scales_of_norms_are_none_of_weights(name: str) -> None:
    assert quantised(plan_of(of(NETWORKS[name][2]))) is None


def test_fp8_without_scales_is_no_quantised_file() -> None:
    assert quantised(plan_of(of({W: (4, 4)}, dtype="F8_E4M3"))) is None
