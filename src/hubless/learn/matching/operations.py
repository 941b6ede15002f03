"""The operations that permutations can be followed through, and the rule of each."""

from __future__ import annotations

from torch import nn

from hubless.learn.matching.equivariance import (
    Rule,
    alike,
    channel_norm,
    convolution,
    embedding,
    group_norm,
    layer_norm,
    linear,
    pooling,
    prelu,
    product,
    together,
)
from hubless.learn.matching.rearranging import joined, reduction, reshaped, turned

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d, nn.Dropout3d, nn.Softmax, nn.LogSoftmax,
)  # fmt: skip
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Upsample,
)  # fmt: skip
_CHANNEL_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d
)  # fmt: skip
_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.GroupNorm: group_norm,
    nn.PReLU: prelu,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: layer_norm,
    nn.Flatten: reshaped,
    **dict.fromkeys(_CONVOLUTIONS, convolution),
    **dict.fromkeys(_CHANNEL_NORMS, channel_norm),
    **dict.fromkeys(_ACTIVATIONS, alike),
    **dict.fromkeys(_POOLS, pooling),
}
_WORDS: dict[str, Rule] = {
    "relu relu6 leaky_relu elu selu celu gelu silu mish tanh sigmoid softplus hardtanh hardswish hardsigmoid": alike,
    "dropout softmax log_softmax abs neg exp log sqrt rsqrt square pow clamp contiguous float clone detach to": alike,
    "add iadd sub isub mul imul div truediv itruediv maximum minimum": together,
    "flatten view reshape squeeze unsqueeze": reshaped,
    "mean sum amax amin": reduction,
    "transpose permute": turned,
    "cat concat": joined,
    "matmul bmm": product,
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d": pooling,
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d interpolate": pooling,
    "linear": linear,
}
FUNCTIONS: dict[str, Rule] = {word: rule for words, rule in _WORDS.items() for word in words.split()}
