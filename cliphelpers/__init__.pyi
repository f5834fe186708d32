# The public names, in the order of the data's way. lazy_loader reads this file.
from .parameters import begin
from .index import classes, index_images, prompt_names, summary, targets
from .images import read_image
from .encoders.preprocess import Preprocess
from .encoders.encoder import Encoder, joint, random_twin, raw_pixels
from .encoders.weights import read_state
from .encoders.load import load_clips, load_encoders
from .upsampling import quality, upsampled, with_upsampling
from .features import extract_features
from .splits import few_shot_fold, make_splits, test_rows, training_rows
from .classifiers import (
    KNearest,
    Linear,
    Logistic,
    NearestMean,
    Ridge,
    TipAdapter,
    fit_chosen,
    text_weights,
)
from .finetuning.augmentation import choose_augmentation
from .finetuning.model import contrastive_loss, interpolate
from .finetuning.training import Recipe, Training, augmented_features, fine_tune
from .evaluation import (
    calibration,
    confusions,
    cross_temperatures,
    doubtful_labels,
    fit_temperature,
    top_k,
)
from .study import Study, in_words, read_results
from .saved import load_classifier
from .plots import (
    RIGHT,
    WRONG,
    confusion_matrix,
    curves,
    dots,
    feature_map,
    picture_grid,
    save_fig,
)
from .progress import live
from .widgets.prompts import prompt_widget
from .widgets.shots import shots_widget
from .widgets.probes import probe_widget
from .widgets.alpha import alpha_widget
from .widgets.pictures import before_after_widget
