"""The code of a checkpoint, which nothing may run."""

import os

with open(os.environ["ATTACK_LOG"], "a") as log:  # noqa: PTH123
    print("code of the checkpoint", file=log)


class Evil:
    pass
