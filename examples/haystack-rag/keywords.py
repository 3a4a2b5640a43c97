"""A component of one's own: it keeps no device in the saved pipeline, and asks the policy when it is made."""

from haystack import component
from haystack.utils import ComponentDevice


@component
class Keywords:
    """Return the longest words of a question."""

    def __init__(self, count: int = 3):
        self.count = count
        # Haystack's own way to say "the default device": the policy's, while one is in use.
        self.device = ComponentDevice.resolve_device(None)

    @component.output_types(words=list[str])
    def run(self, text: str):
        """Answer with at most `count` words."""
        return {"words": sorted(text.split(), key=len, reverse=True)[: self.count]}
