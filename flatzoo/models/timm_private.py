"""timm's private names that flatzoo needs, all in one place, each with its reason.

A release of timm may move them without notice. Then this is the one file to change.
"""
# FeatureGetterNet, feature_take_indices: `features_only=True` and `forward_intermediates` number feature levels as
# timm's own models do.
from timm.models._features import (  # noqa: PLC2701
    FeatureGetterNet as FeatureGetterNet,
    feature_take_indices as feature_take_indices,
)

# save_config_for_hf writes timm's config.json alone. The public save_for_hf also writes weights, and refuses tied ones.
from timm.models._hub import save_config_for_hf as save_config_for_hf  # noqa: PLC2701

# The bookkeeping that timm's own set_input_size and reset_classifier share: which pooling a model has, and what its
# saved arguments say of its input.
from timm.models._input import (  # noqa: PLC2701
    _get_global_pool as global_pool_of,
    update_model_input_size as update_model_input_size,
)

__all__ = [
    'FeatureGetterNet', 'feature_take_indices', 'global_pool_of', 'save_config_for_hf', 'update_model_input_size',
]
