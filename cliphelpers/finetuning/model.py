"""The model that is trained, its loss, and what lies between two models."""

import copy
import math
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from cliphelpers.encoders.encoder import see

TEMPERATURE = 0.1  # of the contrastive loss, as in Khosla et al. 2020


class Model(nn.Module):
    """Image tower, projection to the joint embedding (CLIP) and head (ML), copied."""

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, None
        projection = encoder.projection if encoder.joint else None
        self.tower, self.projection = copy.deepcopy((encoder.module, projection))
        if head:
            weight, bias = map(torch.as_tensor, head)
            self.head = nn.Linear(*weight.shape)
            self.head.load_state_dict({"weight": weight.T, "bias": bias.expand(weight.shape[1])})

    def forward(self, pictures):
        """Scores (ML) or embeddings (CS) of pictures in [0, 1]: float (B, C) or (B, D)."""
        X = self.embed(pictures)
        return self.head(X) if self.head else X

    def embed(self, pictures):
        """What the head sees of pictures in [0, 1], with a projection of length ``logit_scale``:
        float (B, D)."""
        X = see(self.encoder, self.tower, pictures).float()
        if self.projection:
            X = self.encoder.logit_scale * functional.normalize(self.projection(X), dim=-1)
        return X

    def loss(self, Z, y):
        """Cross-entropy of scores (ML), or contrast of embeddings (CS)."""
        return functional.cross_entropy(Z, y) if self.head else contrastive_loss(Z, y)

    def parts(self):
        """The encoder of these weights and the head (W, b), or None."""
        projection = self.projection or self.encoder.projection
        encoder = replace(self.encoder, module=self.tower, projection=projection, tuned=True)
        head = self.head and self.head.requires_grad_(False)
        return encoder, head and (head.weight.T.numpy(), head.bias.numpy())


def contrastive_loss(Z, y):
    """Pull embeddings of one class together and others apart, by cosine similarity.

    With the rows z of length 1, the others A(i) of the batch and those of i's class P(i):
    ``mean_i -1/|P(i)| sum_{p in P(i)} log(exp(z_i z_p / t) / sum_{a in A(i)} exp(z_i z_a / t))``
    over the i with others of their class (Khosla et al., Supervised contrastive learning, 2020,
    equation 2).

    Parameters
    ----------
    Z : float tensor, shape (B, D)
    y : int tensor, shape (B,)

    Returns
    -------
    float tensor, shape ()
        0 if there are no two of a class.
    """
    Z = functional.normalize(Z, dim=1)
    self_ = torch.eye(len(y), dtype=torch.bool, device=Z.device)
    log_p = torch.log_softmax((Z @ Z.T / TEMPERATURE).masked_fill(self_, -math.inf), dim=1)
    same = (y[:, None] == y) & ~self_
    pulled = same.sum(1)
    losses = -torch.where(same, log_p, 0.0).sum(1) / pulled.clamp(min=1)
    return losses.sum() / (pulled > 0).sum().clamp(min=1)


def interpolate(start, end, alpha):
    """Weights between two models of one architecture, encoder and head alike (WiSE-FT).

    ``(1 - alpha) start + alpha end`` for every weight (Wortsman et al., Robust fine-tuning of
    zero-shot models, 2022, section 3).

    Parameters
    ----------
    start, end : tuple of (Encoder, head)
        Zero-shot and fine-tuned; a head is a tuple (W, b), float32 (D, C) and (C,).
    alpha : float
        0 gives the start, 1 the end.

    Returns
    -------
    tuple of (Encoder, head)
    """
    model, other = Model(*start), Model(*end).state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_((1 - alpha) * value + alpha * other[name])
    encoder, head = model.parts()
    return replace(encoder, spec=""), head  # no text names it, and no run saves it
