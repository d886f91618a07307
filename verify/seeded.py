"""A base model of seeded weights, for addons that are held against each other without a real one."""

from zlib import crc32

from ckptool.source import Record
from ckptool.tensor import Span, Tensor
from ckptool.verify.configs import HEAD, HEADS, Config, Unknown, divisor
from ckptool.verify.ldm_extra import Weight, Weights
from ckptool.verify.networks import bare, canonical

BLOCK = 1 << 24
"""Bytes of random numbers that all weights are cut from."""
DEVIATION = 0.03
FACTORS = (1, 2, 4, 8, 16, 32, 64)
"""Scaled-down models divide all widths by one of these."""
CONTEXT: dict[str, int] = {"sd1": 768, "sd2": 1024, "sdxl": 2048, "sdxl-refiner": 1280}
# Channels of each level, and transformer blocks in its attention.
UNETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "sd1": ((320, 640, 1280, 1280), (1, 1, 1, 0)),
    "sd2": ((320, 640, 1280, 1280), (1, 1, 1, 0)),
    "sdxl": ((320, 640, 1280), (0, 2, 10)),
    "sdxl-refiner": ((384, 768, 1536, 1536), (0, 4, 4, 0)),
}
LABELS: dict[str, int] = {"sdxl": 2816, "sdxl-refiner": 2560}
TIME_WIDTH = 256
# Width and layers: CLIP-L, OpenCLIP-H, bigG.
ENCODERS: dict[tuple[str, str], tuple[int, int]] = {
    ("sd1", "text_encoder"): (768, 12),
    ("sd2", "text_encoder"): (1024, 24),
    ("sdxl", "text_encoder"): (768, 12),
    ("sdxl", "text_encoder_2"): (1280, 32),
    ("sdxl-refiner", "text_encoder_2"): (1280, 32),
}
WORDS = 49408
POSITIONS = 77


class Noise:
    """Endless seeded bytes of F32 with the interface of a file: normal, around `center`."""

    def __init__(self, seed: str, size: int, center: float) -> None:
        self.size = size
        self.label = "the seeded base"
        self._data = block(center)
        self._start = crc32(seed.encode()) % BLOCK // 64 * 64

    def read_into(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            at = (self._start + offset + done) % BLOCK
            count = min(len(buffer) - done, BLOCK - at)
            buffer[done : done + count] = self._data[at : at + count]
            done += count

    def fileno(self) -> None:
        return None


BLOCKS: dict[float, memoryview] = {}


def block(center: float) -> memoryview:
    import torch

    if center not in BLOCKS:
        generator = torch.Generator().manual_seed(0)
        numbers = torch.randn(BLOCK // 4, generator=generator).mul_(DEVIATION).add_(center)
        BLOCKS[center] = numbers.numpy().data.cast("B")
    return BLOCKS[center]


def seeded(component: str, config: Config) -> Weights:
    """Weights for every parameter of a network."""
    module = bare(component, config)
    weights: Weights = {}
    for name, parameter in module.named_parameters():
        name, shape = canonical(name), tuple(parameter.shape)
        size = parameter.numel() * 4
        # A norm multiplies by about one; with less, nothing would reach the end of a deep network.
        center = 1.0 if "norm" in name and name.endswith("weight") and len(shape) == 1 else 0.0
        record = Record.whole(Noise(name, size, center))
        weights[name] = Weight(Tensor(name, "F32", shape, Span(record, 0, size)), shape)
    return weights


def seeded_base(base: str | None, component: str, factor: int) -> Weights:
    """One component of a base architecture, its widths divided by `factor`. Raises Unknown."""
    if component == "unet" and base in UNETS:
        return seeded(component, unet_of(base, factor))
    if base is not None and (base, component) in ENCODERS:
        return seeded(component, encoder_of(*ENCODERS[base, component], factor, component == "text_encoder_2"))
    raise Unknown("its base is not known for sure: name one with --base")


def unet_of(base: str, factor: int) -> Config:
    widths, depths = UNETS[base]
    channels = tuple(width // factor for width in widths)
    context = CONTEXT[base] // factor
    linear = base != "sd1"
    label = LABELS.get(base, 0) // factor
    arguments = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "down_block_types": tuple(f"{'CrossAttn' if depth else ''}DownBlock2D" for depth in depths),
        "up_block_types": tuple(f"{'CrossAttn' if depth else ''}UpBlock2D" for depth in reversed(depths)),
        "transformer_layers_per_block": [max(depth, 1) for depth in (*depths[:-1], max(depths[-1], depths[-2]))],
        "cross_attention_dim": context,
        "use_linear_projection": linear,
        "attention_head_dim": tuple(divisor(c, c // HEAD if linear else HEADS) for c in channels),
        "norm_num_groups": divisor(channels[0], 32),
    }
    if label:
        arguments |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_WIDTH // factor,
            "projection_class_embeddings_input_dim": label,
        }
    return Config(arguments)


def encoder_of(width: int, layers: int, factor: int, projects: bool) -> Config:
    width //= factor
    words = WORDS // factor
    arguments = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": width * 4,
        "num_hidden_layers": layers,
        "num_attention_heads": divisor(width, width // HEAD),
        "max_position_embeddings": POSITIONS,
        "projection_dim": width,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
    return Config(arguments, projects=projects)


def control_base(control: Config) -> Weights:
    """The UNet that a ControlNet was made for: its way down is the same, and the way up is its mirror."""
    own = ("conditioning_embedding_out_channels", "conditioning_channels")
    arguments = {key: value for key, value in control.arguments.items() if key not in own}
    downs = arguments["down_block_types"]
    arguments["up_block_types"] = tuple(name.replace("Down", "Up") for name in reversed(downs))
    arguments["out_channels"] = 4
    return seeded("unet", Config(arguments))
