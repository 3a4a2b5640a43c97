"""A stand-in for `kernels` that says when something is loaded from the hub, and otherwise does nothing."""

import os


def get_kernel(*arguments, **options):
    with open(os.environ["ATTACK_LOG"], "a") as log:  # noqa: PTH123
        print("kernel", arguments, options, file=log)
    raise FileNotFoundError(arguments)


def use_kernel_forward_from_hub(*_, **__):
    return lambda cls: cls


def use_kernelized_func(*_, **__):
    return lambda cls: cls


class Nothing:
    def __init__(self, *_, **__):
        pass


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Nothing
