"""A classifier that a run has saved, as one ONNX file for other programs."""

import json
from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import normalize

from cliphelpers.cache import write_atomically
from cliphelpers.classifiers import Linear, NearestMean
from cliphelpers.encoders.encoder import EncoderError
from cliphelpers.encoders.weights import explained
from cliphelpers.finetuning.model import Model
from cliphelpers.saved import load_classifier


class Whole(nn.Module):
    """Preprocessed pictures, uint8 (B, size, size, 3) -> probabilities, float (B, C)."""

    def __init__(self, saved):
        super().__init__()
        head, T = saved.head, saved.card["temperature"]
        self.cosine = isinstance(head, NearestMean)
        W, b = (head.means_.T, 0) if self.cosine else head.heads_[0]
        self.model = Model(replace(saved.encoder, precision="fp32"), (W / T, b / T))

    def forward(self, pictures):
        X = self.model.embed(pictures.permute(0, 3, 1, 2).float() / 255)
        return torch.softmax(self.model.head(normalize(X) if self.cosine else X), dim=1)


def export(folder, file, encoder=None):
    """Write encoder, head and calibration as one ONNX file.

    Its input ``pictures`` is uint8 (B, size, size, 3), what ``classifier.encoder.preprocess`` makes
    of pictures (``preprocessing`` in ``card.json`` says how), its output ``probabilities`` float32
    (B, C), for any B; its metadata ``classes`` holds their names, in JSON. It computes in 32 bits.

    Parameters
    ----------
    folder : str or Path
        Of the classifier.
    file : str or Path
    encoder : str, optional
        See :func:`cliphelpers.saved.load_classifier`.

    Raises
    ------
    EncoderError
        The classifier cannot be loaded, is no linear one and none of class means, or cannot be
        said in ONNX; or the packages of the extra ``onnx`` are missing.
    OSError
        The file cannot be written.
    """
    saved = load_classifier(folder, encoder)
    if not isinstance(saved.head, (Linear, NearestMean)):
        kind = type(saved.head).__name__
        raise EncoderError(f"{folder} is a {kind}: only linear heads and class means are exported")
    side, device = saved.encoder.preprocess.size, saved.encoder.device
    pictures = torch.zeros(2, side, side, 3, dtype=torch.uint8, device=device)
    fault = "No ONNX file could be made. It takes packages: pip install -e '.[onnx]'"
    with explained(fault), torch.inference_mode():
        program = torch.onnx.export(
            Whole(saved).eval().to(device), (pictures,), dynamo=True, verbose=False,
            input_names=["pictures"], output_names=["probabilities"],
            dynamic_shapes=[{0: torch.export.Dim("batch")}],
        )  # fmt: skip
        program.model.metadata_props["classes"] = json.dumps([*map(str, saved.classes_)])
        content = program.model_proto.SerializeToString()
    write_atomically(file, content)
