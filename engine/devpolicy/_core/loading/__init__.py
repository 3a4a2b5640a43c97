"""How Transformers loads a checkpoint: which dtypes its tensors get and which implementations run.

Owns the rules of Transformers 5 that decide what is held beside what is stored. It works on configurations, headers and
modules that others have read; it reads no file and knows no devices.
"""

from devpolicy._core.loading.value import Loading

__all__ = ["Loading"]
