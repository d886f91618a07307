"""A ControlNet with its UNet: what it adds to the UNet's skips, and what the UNet makes of that."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ckptool.verify.ldm_extra import Weights
from ckptool.verify.networks import Network, build
from ckptool.verify.steps import Inputs, Output, conditions, run_unet, timesteps

if TYPE_CHECKING:
    import torch

LATENT = 8
"""Pixels of the control picture for one row of a latent."""


def run_control(network: Network, inputs: Inputs, base: Weights) -> Iterator[Output]:
    """The residuals at the first step, then the UNet's predictions with them at every step."""
    channels = network.config.arguments["in_channels"]
    given = conditions(network, inputs)
    side = inputs.size * LATENT
    picture = inputs.noise("hint", 1, network.config.arguments["conditioning_channels"], side, side)
    given["controlnet_cond"] = picture.mul_(0.25).add_(0.5).clamp_(0, 1)

    def residuals(sample: "torch.Tensor", timestep: float) -> dict[str, Any]:
        import torch

        moment = torch.tensor([timestep], device=inputs.device)
        downs, middle = network.module(sample[:, :channels], moment, **given, return_dict=False)
        return {"down_block_additional_residuals": downs, "mid_block_additional_residual": middle}

    latent = inputs.noise("latent", 1, channels, inputs.size, inputs.size)
    first = residuals(latent, float(timesteps(inputs.steps)[0]))
    for number, values in enumerate(first["down_block_additional_residuals"]):
        yield Output(f"residual {number}", values)
    yield Output("residual mid", first["mid_block_additional_residual"])
    yield from run_unet(build("unet", base, inputs.device), inputs, residuals)
