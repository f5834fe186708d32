"""The loss of CS: supervised contrast by cosine similarity."""

import math

import torch
from torch.nn import functional

TEMPERATURE = 0.1  # as in Khosla et al. 2020


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
