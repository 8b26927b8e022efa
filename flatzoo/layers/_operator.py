"""Operators of our own that `torch.compile`, `torch.export` and autograd know."""
from collections.abc import Callable

import torch

__all__ = ['register_operator']

# By schema: torch.library.custom_op looks through the source of all imported modules, which takes longer than the rest
# of `import flatzoo`.
_LIBRARY = torch.library.Library('flatzoo', 'FRAGMENT')


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError(
        'this operator of flatzoo has no second derivatives; in AM flow, implementation=\'reference\' has.')


def register_operator(
        schema: str,
        function: Callable,
        fake: Callable,
        backward: Callable = _no_second_derivative,
        setup_context: Callable | None = None,
) -> None:
    """Makes a function the operator `torch.ops.flatzoo.<name>`.

    Args:
        schema: Its name, arguments and results in torch's notation; it changes none of its arguments.
        function: Computes it, on any device.
        fake: Gives results of the same shapes and dtypes, without numbers.
        backward: Gradients, as `torch.library.register_autograd` takes them.
        setup_context: What they need, likewise.
    """
    name = 'flatzoo::' + schema.partition('(')[0]
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_kernel(name, None, function, lib=_LIBRARY)
    torch.library.impl(name, 'Meta', fake, lib=_LIBRARY)
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_LIBRARY)
