"""Shows declarations and examples in the API pages as a user writes them.

A field is made by a function that knows what it accepts, `width: float = number(low=0.0, default=1.0)`. Readers want
`width: float = 1.0`. A section `Example:` is prose to the parser, which makes quotations and links of `>>>` and `x[0][1]`;
`Examples:` is code.
"""

import re

import griffe

_EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)

_MAKERS = {
    "number",
    "integer",
    "choice",
    "flag",
    "text",
    "vector",
    "custom",
    "_samples",
    "_whole",
    "_scheme",
    "_richness",
    "field",
}


class Fields(griffe.Extension):
    """Replaces the call that makes a field by the default that it states, if any; and marks examples as code."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        """Runs once for everything that is read from the source."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)

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
