"""Which part of a model a tensor belongs to, by its name."""

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "ema", "control", "training", "other")

# In front of every name of some files; they say nothing.
WRAPPERS = frozenset({"module", "_orig_mod", "net", "model"})
MAX_WRAPPERS = 4

# The first part of a name, wrappers left aside. A diffusers folder gives the names of its components.
FIRST: dict[str, str] = {
    "diffusion_model": "unet", "unet": "unet", "transformer": "unet", "transformer_2": "unet", "prior": "unet",
    "first_stage_model": "vae", "vae": "vae",
    "cond_stage_model": "text_encoder", "text_encoder": "text_encoder",
    # There is no third component: T5 stands with the second encoder.
    "text_encoder_2": "text_encoder_2", "text_encoder_3": "text_encoder_2",
    "control_model": "control", "controlnet": "control", "lora_controlnet": "control", "difference": "control",
    "model_ema": "ema", "ema_model": "ema", "ema": "ema", "state_dict_ema": "ema", "params_ema": "ema",
    "unet_ema": "ema", "transformer_ema": "ema",
    "optimizer_states": "training", "optimizer": "training", "optimizers": "training", "lr_schedulers": "training",
    "callbacks": "training", "loops": "training", "loss": "training", "embedding_manager": "training",
    # Schedule buffers, markers, and networks beside the three: some loaders read them, so they are no leftovers.
    "betas": "other", "alphas_cumprod": "other", "alphas_cumprod_prev": "other", "sqrt_alphas_cumprod": "other",
    "sqrt_one_minus_alphas_cumprod": "other", "log_one_minus_alphas_cumprod": "other",
    "sqrt_recip_alphas_cumprod": "other", "sqrt_recipm1_alphas_cumprod": "other", "posterior_variance": "other",
    "posterior_log_variance_clipped": "other", "posterior_mean_coef1": "other", "posterior_mean_coef2": "other",
    "lvlb_weights": "other", "logvar": "other", "scale_factor": "other", "denoiser": "other",
    "v_pred": "other", "ztsnr": "other", "edm_mean": "other", "edm_std": "other", "edm_vpred": "other",
    "depth_model": "other", "embedder": "other", "noise_augmentor": "other", "image_encoder": "other",
    "image_noising_scheduler": "other", "safety_checker": "other", "scaled_fp8": "other",
}  # fmt: skip

SECOND_ENCODERS = frozenset({"clip_g", "t5xxl", "mt5xl", "umt5xxl", "llama", "qwen25_7b"})

# Which component a file of this kind is, where no name says more.
WHOLE: dict[str, str] = {
    "unet": "unet", "hypernetwork": "unet", "vae": "vae", "text-encoder": "text_encoder",
    "textual-inversion": "text_encoder", "controlnet": "control", "control-lora": "control", "t2i-adapter": "control",
    "ip-adapter": "control",
}  # fmt: skip

# The module that an adapter changes, by the beginning of its name.
ADAPTED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lora_te2_", "lora_te3_", "text_encoder_2.", "text_encoder_3.", "text_encoders.clip_g.", "clip_g."),
     "text_encoder_2"),
    (("lora_te_", "lora_te1_", "text_encoder.", "text_encoders.", "clip_l.", "text_model.", "text_model_",
      "lycoris_text_model_", "bundle_emb."), "text_encoder"),
    (("lora_vae_", "vae.", "first_stage_model."), "vae"),
)  # fmt: skip
PEFT = "base_model.model."


def component_of(name: str, kind: str) -> str:
    """The component, one of COMPONENTS, that tensor `name` of a file of this kind belongs to.

    Of an adapter's tensor it is the component that the adapter's module changes.
    """
    if kind in ("lora", "lycoris"):
        return adapted(name)
    name = unwrapped(name)
    first, _, rest = name.partition(".")
    if first == "conditioner":
        return conditioner(rest)
    if first == "text_encoders":
        return "text_encoder_2" if rest.partition(".")[0] in SECOND_ENCODERS else "text_encoder"
    if first == "transformer" and kind == "text-encoder":
        return "text_encoder"  # OpenCLIP's own name; elsewhere it is what takes the noise away
    if first == "clip_g" and kind == "textual-inversion":
        return "text_encoder_2"
    if first == "first_stage_model" and rest.startswith("loss."):
        return "training"
    return FIRST.get(first) or WHOLE.get(kind, "other")


def unwrapped(name: str) -> str:
    """A name without the few wrappers that may stand before it."""
    for _ in range(MAX_WRAPPERS):
        first, _, rest = name.partition(".")
        if first not in WRAPPERS or not rest:
            break
        name = rest
    return name


def conditioner(name: str) -> str:
    """A part of the conditioner of SDXL and SVD, whose text encoders are numbered; the others read images and sizes."""
    if name.startswith(("embedders.0.transformer.", "embedders.0.model.")):
        return "text_encoder"
    return "text_encoder_2" if name.startswith(("embedders.1.model.", "embedders.1.transformer.")) else "other"


def adapted(name: str) -> str:
    """The component of an adapter's module or of a tensor of it."""
    name = unwrapped(name).removeprefix(PEFT)
    return next((component for beginnings, component in ADAPTED if name.startswith(beginnings)), "unet")
