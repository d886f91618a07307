"""A file that holds nothing but averages is what the averaged model is: their names show less, and no variant."""

import pytest

from tests.identify.knowing import known, load

PREFIX = "model.diffusion_model."


@pytest.mark.parametrize("factor", [1, 8])
@pytest.mark.parametrize("alone", [False, True])
def test_sdxl_of_averages_alone_is_no_distilled_model(factor: int, alone: bool) -> None:
    manifest = {}
    for name, described in load("sdxl-base", factor).items():
        if name.startswith(PREFIX):
            manifest["model_ema.diffusion_model" + name.removeprefix(PREFIX).replace(".", "")] = described
        elif not alone:
            manifest[name] = described
    identity = known(manifest)
    assert (identity.kind, identity.base, identity.variant) == ("unet" if alone else "checkpoint", "sdxl", None)
