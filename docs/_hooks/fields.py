"""Shows the fields of declarations in the API pages as a user writes them.

A field is made by a function that knows what it accepts, `width: float = number(low=0.0, default=1.0)`. Readers want
`width: float = 1.0`.
"""

import griffe

_MAKERS = {"number", "integer", "choice", "flag", "text", "vector", "custom", "_samples", "_whole", "_scheme", "_richness", "field"}


class Fields(griffe.Extension):
    """Replaces the call that makes a field by the default that it states, if any."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs) -> None:
        """Runs once for every attribute that is read from the source."""
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or str(call.function).rsplit(".", 1)[-1] not in _MAKERS:
            return
        if attr.parent is None or not attr.parent.is_class:
            return
        name = str(call.function)
        stated = [a.value for a in call.arguments if isinstance(a, griffe.ExprKeyword) and a.name == "default"]
        if name == "_samples":  # one maker for all protocols, with its default inside
            stated = ["None"]
        elif name == "_richness":
            stated = ["1.0"]
        elif name in ("_whole", "_scheme"):
            stated = [call.arguments[-1]]
        attr.value = stated[0] if stated else None
