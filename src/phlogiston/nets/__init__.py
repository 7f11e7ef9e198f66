"""Networks of amortised guides: plain ``torch.nn`` modules, a tensor in and tensors out."""

from phlogiston.nets.bodies import Bag, Images, Perceptron
from phlogiston.nets.encoder import Encoder, Standardise

__all__ = ["Bag", "Encoder", "Images", "Perceptron", "Standardise"]
