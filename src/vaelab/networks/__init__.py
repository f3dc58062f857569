"""Networks: tensors in, tensors out. Encoder and decoder of a kind stand together in one file."""

from vaelab.networks.conv import ConvDecoder, ConvEncoder
from vaelab.networks.mlp import MLPDecoder, MLPEncoder
from vaelab.networks.resnet import ResNetDecoder, ResNetEncoder

__all__ = ["ConvDecoder", "ConvEncoder", "MLPDecoder", "MLPEncoder", "ResNetDecoder", "ResNetEncoder"]
