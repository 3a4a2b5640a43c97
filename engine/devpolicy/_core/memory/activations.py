"""Bytes that a device needs beside weights and KV cache: the values, and what of them depends on what it runs.

Owns the two values, `Activations` and `Runs`, and their sum on a device. How many scalars a model holds is read by
`devpolicy._core.model.activations`.
"""

from __future__ import annotations

from typing import NamedTuple


class Activations(NamedTuple):
    """Bytes that a device needs beside weights and KV cache, once it executes anything."""

    each: int
    """On each device."""
    head: int = 0
    """On the device of the head besides: the logits, where they are on no other."""
    first: int = 0
    """On the device of the first layer besides."""
    copies: int = 0
    """On each device besides, while several accelerators work on micro-batches at once."""
    embedded: int = 0
    """On the device of the first layer besides, where that is the embedding's too."""
    several: int = 0
    """On a device, other than the first layer's, with several layers besides."""
    parted: int = 0
    """On a device, other than the first layer's, that begins with or behind a layer on several devices besides."""
    joined: int = 0
    """On an accelerator that computes the last matrix of experts, of which others are elsewhere, besides."""
    narrow: int = 0
    """How much less on an accelerator that computes gates of experts alone: see `behind_gates`."""
    narrow_head: int = 0
    """On such a one that has the head, in place of `head`."""
    row: int = 0
    """What each of the rows takes that a device holds besides whose parts of layers rules have scattered."""
    scores: int = 0
    """On each device besides, where rules part the attention of a layer: llama.cpp takes no flash attention then."""

    def on(self, runs: Runs, *, pipelined: bool) -> int:
        """Return those of one device, by what it runs and whether several work at once."""
        if runs.first:
            layers = self.first + self.embedded * runs.embedding
        elif runs.narrow:
            layers = 0
        else:
            layers = self.several * runs.several + self.parted * runs.parted
        each, head = (self.each - self.narrow, self.narrow_head) if runs.narrow else (self.each, self.head)
        rows = 0 if runs.narrow else runs.scattered + 2 * (runs.apart and self.head > 0)
        layers += self.joined * runs.joined + self.row * rows
        return each + head * runs.head + layers + self.scores * runs.cut + self.copies * pipelined


class Runs(NamedTuple):
    """What a device runs that its activations depend on."""

    head: bool = False
    first: bool = False
    """The first layer."""
    embedding: bool = False
    several: bool = False
    """More than one layer: see `rows_of`."""
    parted: bool = False
    """What comes from a part of a layer: see `rows_of`."""
    joined: bool = False
    """The last matrix of experts, and another device a matrix before it."""
    narrow: bool = False
    """Of experts no matrix but gates: see `behind_gates`."""
    scattered: bool = False
    """Of a layer of its own a matrix of experts that goes with their gates, and another device these gates."""
    apart: bool = False
    """The head, and layers or parts of them, of which none is the last layer."""
    cut: bool = False
    """Whatever it is, beside attention that is in parts on several devices."""
