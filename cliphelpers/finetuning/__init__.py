"""Fine-tuning of any encoder: one training loop, two losses, and the way between two models."""

from cliphelpers.finetuning.losses import contrastive_loss
from cliphelpers.finetuning.training import FineTuned, FineTuneError, Recipe, Training, fine_tune
from cliphelpers.finetuning.wise_ft import interpolate

__all__ = [
    "FineTuneError", "FineTuned", "Recipe", "Training", "contrastive_loss", "fine_tune",
    "interpolate",
]  # fmt: skip
