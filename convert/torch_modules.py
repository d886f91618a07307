"""Torch's own layer classes: a whole model made of nothing else can be read as the state dict that it would give.

Whole names, from torch/nn/modules; a model with a class of its author's in it depends on code and is refused.
"""

LAYERS: dict[str, tuple[str, ...]] = {
    "module": ("Module",),
    "container": ("ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"),
    "linear": ("Bilinear", "Identity", "Linear", "NonDynamicallyQuantizableLinear"),
    "conv": ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    "batchnorm": ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
    "instancenorm": ("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    "normalization": ("CrossMapLRN2d", "GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"),
    "activation": (
        "ELU", "GELU", "GLU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish",
        "MultiheadAttention", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softplus",
        "Softsign", "Tanh",
    ),
    "dropout": ("AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"),
    "sparse": ("Embedding", "EmbeddingBag"),
    "rnn": ("GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"),
    "pooling": (
        "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
        "AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d",
    ),
    "upsampling": ("Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"),
    "pixelshuffle": ("PixelShuffle", "PixelUnshuffle"),
    "padding": ("ConstantPad1d", "ConstantPad2d", "ReflectionPad1d", "ReflectionPad2d", "ZeroPad2d"),
    "flatten": ("Flatten", "Unflatten"),
    "transformer": (
        "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer",
    ),
}  # fmt: skip

NAMES: dict[tuple[str, str], str] = {
    (f"torch.nn.modules.{module}", name): name for module, names in LAYERS.items() for name in names
}
