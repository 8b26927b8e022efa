"""Operators of our own that `torch.compile`, `torch.export` and autograd know."""
from collections.abc import Callable

import torch

__all__ = ['register_operator']

# Operators are defined by their schema. torch.library.custom_op would search the source of all imported modules, which
# takes longer than the rest of `import flatzoo`.
_LIBRARY = torch.library.Library('flatzoo', 'FRAGMENT')


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError(
        'this operator of flatzoo has no second derivatives. In AM Flow, implementation=\'reference\' has them.')


def register_operator(
        schema: str,
        function: Callable,
        fake: Callable,
        backward: Callable = _no_second_derivative,
        setup_context: Callable | None = None,
) -> None:
    """Makes a function the operator `torch.ops.flatzoo.<name>`.

    Args:
        schema: Name, arguments and results in torch's notation. The operator must not change its arguments.
        function: Computes the results, on any device.
        fake: Makes results of the same shapes and dtypes without computing them.
        backward: Gradients, as `torch.library.register_autograd` takes them.
        setup_context: Saves what the gradients need, as `torch.library.register_autograd` takes it.
    """
    name = 'flatzoo::' + schema.partition('(')[0]
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_kernel(name, None, function, lib=_LIBRARY)
    torch.library.impl(name, 'Meta', fake, lib=_LIBRARY)
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_LIBRARY)
