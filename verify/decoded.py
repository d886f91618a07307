"""What the VAEs of both files make of the latents that their UNets denoised."""

from typing import Any

from ckptool.identify.identify import identify
from ckptool.tensor import Plan
from ckptool.verify.configs import Unknown
from ckptool.verify.denoise import ComponentResult, Settings, exactly
from ckptool.verify.ldm_extra import components_of
from ckptool.verify.networks import build
from ckptool.verify.pictures import Pictures, every_picture
from ckptool.verify.steps import SCALING, SCALINGS, WIDE_SCALING


def decoded(
    original: Plan, candidate: Plan, results: dict[str, ComponentResult], settings: Settings
) -> dict[str, tuple[Any, Any]]:
    """Component -> the two pictures, numpy arrays; nothing where there is no latent, or a VAE does not fit it."""
    made: dict[str, tuple[Any, Any]] = {}
    base = identify(original).base
    for name in ("unet", "control"):
        result = results.get(name)
        if result is None or result.original is None or result.candidate is None:
            continue
        try:
            pair = [
                decode(plan, latent, base, settings)
                for plan, latent in ((original, result.original), (candidate, result.candidate))
            ]
        except Unknown:
            continue
        made[name] = pair[0], pair[1]
    return made


def pictures_between(
    original: Plan, candidate: Plan, results: dict[str, ComponentResult], settings: Settings
) -> dict[str, Pictures]:
    """Of each component that was run: of latents what the VAEs of both files make of them, else a preview."""
    base = identify(original).base
    return every_picture(results, base, decoded(original, candidate, results, settings))


def decode(plan: Plan, latent: Any, base: str | None, settings: Settings) -> Any:
    """The picture of a latent [1, channels, rows, columns] by the file's own VAE. Raises Unknown."""
    import torch

    weights = components_of(plan).get("vae")
    if weights is None:
        raise Unknown("it has no VAE")
    with torch.inference_mode(), exactly(torch.get_num_threads()):
        network = build("vae", weights, settings.device)
        channels = network.config.arguments["latent_channels"]
        if latent.ndim != 4 or latent.shape[1] != channels:
            raise Unknown(f"its VAE takes {channels:,} channels")
        scaling = SCALINGS.get(base or "", SCALING if channels == 4 else WIDE_SCALING)
        values = torch.from_numpy(latent).to(settings.device) / scaling
        try:
            picture = network.module.decode(values, return_dict=False)[0]
        except RuntimeError as error:
            raise Unknown(f"its VAE cannot run: {str(error)[:200]}") from error
        network.maps.check_unchanged()
        made: Any = picture.float().cpu().numpy()
        return made
