# The public names, in the order of the data's way. lazy_loader reads this file.
from .parameters import begin
from .index import classes, index_images, prompt_names, shared_names, summary, targets
from .splits import few_shot, few_shot_fold, make_splits, test_rows, training_rows
from .images import read_image
from .encoders import (
    Encoder,
    Preprocess,
    joint,
    load_clips,
    load_encoder,
    random_twin,
    raw_pixels,
    read_state,
)
from .upsampling import enlarged_again, quality, with_upsampling
from .features import extract_features
from .classifiers import (
    Linear,
    Logistic,
    NearestMean,
    Ridge,
    TipAdapter,
    fit_chosen,
    text_weights,
)
from .finetuning import Recipe, Training, contrastive_loss, fine_tune, interpolate
from .evaluation import bootstrap, confusions, per_class, top_k
from .study import Study
from .plots import RIGHT, WRONG, confusion_matrix, curves, dots, picture_grid, save_fig, zoomed
from .progress import live, progress
from .widgets import (
    alpha_widget,
    before_after_widget,
    probe_widget,
    prompt_widget,
    shots_widget,
)
