"""The seeded inputs of every network, and the sampler: a few DDIM steps, so that errors add up as in real use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ckptool.verify.networks import Network

if TYPE_CHECKING:
    import torch

TIMESTEPS = 1000
# Source: the schedule of every Stable Diffusion, scaled linear.
BETA_FIRST, BETA_LAST = 0.00085, 0.012
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA, RHO = 0.002, 80.0, 0.5, 7.0
"""Of EDM, as Playground 2.5 was trained."""
TIME_IDS = (1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0)
REFINER_TIME_IDS = (1024.0, 1024.0, 0.0, 0.0, 6.0)
NOISE_LEVEL = 20
"""Of the upscaler: how noisy the small picture is."""
SCALINGS: dict[str, float] = {"sdxl": 0.13025, "sdxl-refiner": 0.13025}
"""What latents are multiplied by before the UNet sees them, where it is not SCALING."""
SCALING = 0.18215
WIDE_SCALING = 0.3611
"""Of latents with more than four channels."""
WORDS = 60
"""Tokens of the seeded prompt; the rest is padding."""

Predict = Callable[["torch.Tensor", float], "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What both files are given alike."""

    steps: int
    size: int
    """Rows and columns of a latent."""
    seed: int
    device: str
    prediction: str
    """epsilon, v or edm."""
    base: str | None

    def noise(self, purpose: str, *shape: int) -> "torch.Tensor":
        """Normal noise that depends on seed, purpose and shape only, on every device the same."""
        import torch

        generator = torch.Generator().manual_seed(crc32(f"{self.seed}:{purpose}".encode()))
        return torch.randn(shape, generator=generator).to(self.device)


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """One output that is compared."""

    name: str
    values: Any


def run_unet(network: Network, inputs: Inputs, residuals: Any = None) -> Iterator[Output]:
    """The prediction at each step, and last the latent."""
    import torch

    module, config = network.module, network.config
    channels = config.arguments["out_channels"]
    spare = config.arguments["in_channels"] - channels
    beside = inputs.noise("beside", 1, max(spare, 0), inputs.size, inputs.size)
    given = conditions(network, inputs)
    outputs: list[Output] = []

    def predict(latent: torch.Tensor, timestep: float) -> torch.Tensor:
        sample = torch.cat([latent, beside], 1)[:, : config.arguments["in_channels"]]
        more = residuals(sample, timestep) if residuals else {}
        moment = torch.tensor([timestep], device=inputs.device)
        result: torch.Tensor = module(sample, moment, **given, **more, return_dict=False)[0]
        outputs.append(Output(f"t={timestep:g}", result))
        return result

    latent = inputs.noise("latent", 1, channels, inputs.size, inputs.size)
    sampler = edm_steps if inputs.prediction == "edm" else ddim_steps
    for step in sampler(latent, predict, inputs):
        yield outputs.pop()
        latent = step
    yield Output("latent", latent)


def conditions(network: Network, inputs: Inputs) -> dict[str, Any]:
    """Text, and whatever else this network is told."""
    import torch

    config = network.config
    given: dict[str, Any] = {
        "encoder_hidden_states": inputs.noise("text", 1, 77, config.arguments["cross_attention_dim"])
    }
    if config.time_ids:
        ids = TIME_IDS if config.time_ids == len(TIME_IDS) else REFINER_TIME_IDS
        given["added_cond_kwargs"] = {
            "text_embeds": inputs.noise("pooled", 1, config.pooled),
            "time_ids": torch.tensor([ids], device=inputs.device),
        }
    elif config.pooled:
        given["class_labels"] = inputs.noise("picture", 1, config.pooled)
    elif "num_class_embeds" in config.arguments:
        level = min(NOISE_LEVEL, config.arguments["num_class_embeds"] - 1)
        given["class_labels"] = torch.tensor([level], device=inputs.device)
    return given


def timesteps(steps: int) -> list[int]:
    """Spread over the schedule, the noisiest first: 999, 749, 499, 249 for four."""
    return [round(TIMESTEPS - i * TIMESTEPS / steps) - 1 for i in range(steps)]


def ddim_steps(latent: "torch.Tensor", predict: Predict, inputs: Inputs) -> "Iterator[torch.Tensor]":
    """Deterministic DDIM (eta 0) for epsilon and v."""
    import torch

    betas = torch.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    kept = [float(a) for a in torch.cumprod(1 - betas, 0)]
    moments = timesteps(inputs.steps)
    for moment, after in zip(moments, [*moments[1:], -1], strict=True):
        signal, noise = kept[moment] ** 0.5, (1 - kept[moment]) ** 0.5
        answer = predict(latent, float(moment))
        if inputs.prediction == "v":
            clean, error = signal * latent - noise * answer, signal * answer + noise * latent
        else:
            clean, error = (latent - noise * answer) / signal, answer
        left = kept[after] if after >= 0 else 1.0
        latent = left**0.5 * clean + (1 - left) ** 0.5 * error
        yield latent


def edm_steps(latent: "torch.Tensor", predict: Predict, inputs: Inputs) -> "Iterator[torch.Tensor]":
    """Euler steps over the sigmas of Karras et al. (arXiv 2206.00364), for networks that were trained so."""
    steep, flat = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    sigmas = [(steep + i / max(inputs.steps - 1, 1) * (flat - steep)) ** RHO for i in range(inputs.steps)]
    latent = latent * sigmas[0]
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        whole = sigma**2 + SIGMA_DATA**2
        answer = predict(latent / whole**0.5, log(sigma) / 4)
        clean = SIGMA_DATA**2 / whole * latent + sigma * SIGMA_DATA / whole**0.5 * answer
        latent = clean + (latent - clean) * (after / sigma)
        yield latent


def run_vae(network: Network, inputs: Inputs) -> Iterator[Output]:
    """A picture encoded, and a latent decoded."""
    arguments = network.config.arguments
    side = inputs.size * 2 ** (len(arguments["block_out_channels"]) - 1)
    picture = inputs.noise("picture", 1, arguments["in_channels"], side, side).mul_(0.5).clamp_(-1, 1)
    yield Output("encode", network.module.encode(picture).latent_dist.parameters)
    channels = arguments["latent_channels"]
    scaling = SCALINGS.get(inputs.base or "", SCALING if channels == 4 else WIDE_SCALING)
    latent = inputs.noise("decoded", 1, channels, inputs.size, inputs.size) / scaling
    yield Output("decode", network.module.decode(latent, return_dict=False)[0])


def run_text(network: Network, inputs: Inputs) -> Iterator[Output]:
    """A prompt of seeded tokens."""
    import torch

    arguments = network.config.arguments
    vocabulary, length = arguments["vocab_size"], arguments["max_position_embeddings"]
    tokens = torch.full((1, length), vocabulary - 1)
    generator = torch.Generator().manual_seed(inputs.seed)
    words = min(WORDS, length - 2)
    if words > 0:
        tokens[0, 1 : 1 + words] = torch.randint(0, vocabulary - 2, (words,), generator=generator)
    tokens[0, 0] = vocabulary - 2
    result = network.module(tokens.to(inputs.device), output_hidden_states=True)
    # SD1 takes the last layer, SD2 and SDXL the one before it.
    yield Output("last", result.last_hidden_state)
    yield Output("penultimate", result.hidden_states[-2])
    yield Output("pooled", result.text_embeds if network.config.projects else result.pooler_output)
