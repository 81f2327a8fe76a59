"""PyTorch: parameter groups and initialization. Nothing is attached to tensors; everything is keyed by path."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from foretrain.errors import InvalidInput, MissingExtra
from foretrain.parameterization._parameterization import Parameterization
from foretrain.parameterization._tensors import EMBEDDING, Roles, Tensor, describe, matching

# Names that DataParallel, DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into paths.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def named_tensors(model: Any, *, trained: bool = False) -> dict[str, Any]:
    """Path to parameter, without the names that wrappers add.

    Args:
        model: A PyTorch module, wrapped or not.
        trained: Leave frozen parameters out.

    Raises:
        InvalidInput: Two parameters have the same path without wrappers.
    """
    found = {}
    for path, value in model.named_parameters():
        name = _WRAPPERS.sub("", path)
        if name in found:
            raise InvalidInput(f"parameterize: two parameters of the model are called {name!r} without wrappers.")
        if value.requires_grad or not trained:
            found[name] = value
    return found


def describe_torch(
    model: Any,
    roles: Roles,
    *,
    axes: Mapping[str, Sequence[str]] | None = None,
    outside: Sequence[str] = (),
    base: Any = None,
) -> dict[str, Tensor]:
    """The tensors of a PyTorch model, with what the types of its layers say about their axes.

    `parameterize` calls it for modules. Parameters are (outputs, inputs, kernel); those of `nn.Embedding` are (entries,
    width), those of transposed convolutions (inputs, outputs, kernel). Frozen parameters (`requires_grad=False`) are left
    out. A model on the device `"meta"` does, so that a big target need not be allocated.

    Args:
        model: A module, wrapped or not.
        roles: As for `describe`; paths are those of `named_parameters()` without wrappers' names. An `"input"` in an
            `nn.Embedding` is a table that is looked up.
        axes: As for `describe`.
        outside: As for `describe`.
        base: The same model at the base size, for messages.

    Raises:
        InvalidInput: As for `describe`; or a parameter that two layers share is not declared `"tied"`.
        MissingExtra: PyTorch is not installed.
    """
    torch = _torch()
    parameters = named_tensors(model, trained=True)
    owners = {id(value): _owners(model, value) for value in parameters.values()}
    declared, labels = {}, dict(axes or {})
    for path, value in parameters.items():
        names = owners[id(value)]
        role = _role(roles, path, tuple(value.shape))
        layers = [layer for _, layer in names]
        if len(names) > 1 and role in ("input", "output", EMBEDDING):
            raise InvalidInput(
                f"parameterize(roles): {path!r} is shared by {', '.join(name for name, _ in names)}; declare it 'tied' when it "
                f"embeds and reads out, got {role!r}."
            )
        if role == "input" and isinstance(layers[0], (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            role = EMBEDDING
        transposed = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
        if isinstance(layers[0], transposed) and value.ndim > 1 and not matching(path, labels):
            labels[path] = ("in", "out", *["in"] * (value.ndim - 2))
        declared[path] = role
    shapes = {path: tuple(value.shape) for path, value in parameters.items()}
    others = None if base is None else {path: tuple(value.shape) for path, value in named_tensors(base).items()}
    return describe(shapes, lambda path, shape: declared[path], axes=labels, outside=outside, base=others)


def param_groups(
    model: Any,
    parameterization: Parameterization,
    *,
    lr: float,
    weight_decay: float = 0.0,
    eps: float | None = None,
) -> list[dict[str, Any]]:
    r"""Parameter groups for `torch.optim`, with every tensor's own rate, epsilon and decay.

    `torch.optim.AdamW(param_groups(model, p, lr=1e-3, weight_decay=0.1), betas=(0.9, 0.95))`. Tensors with the same numbers
    share a group; a group's `paths` name its tensors, and are saved with the optimizer's state. The sole rates are those
    in the groups, so that schedulers of PyTorch, which multiply them, keep their ratios; independent decay follows the
    schedule too, $w\leftarrow w(1-\text{schedule}_t\,\lambda)$.

    Use the optimizer the parameterization was made for: `SGD` (also with momentum or Nesterov, whose `weight_decay` is the
    one in the gradient), `Adam`, `AdamW`, or a Lion whose decay is multiplied by the rate.

    Args:
        model: A module, wrapped or not, also after its state was loaded.
        parameterization: Made for it.
        lr: The rate that is tuned.
        weight_decay: The decay that is tuned, in the parameterization's form.
        eps: Adam's epsilon that is tuned (1e-8).

    Returns:
        One dictionary per group: `params`, `lr`, `weight_decay`, `paths`, and `eps` for Adam and AdamW.

    Raises:
        InvalidInput: The parameterization was made for another model; a decay for Adam; or a number below 0.

    Example:
        ```python
        def network(width):
            return torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))


        model, base = network(256), network(64)
        roles = {"0.weight": "input", "0.bias": "final_vector", "2.weight": "output", "2.bias": "output_bias"}
        p = parameterize(model, base=base, roles=roles, scheme="mup", optimizer="adamw", absorb=True)
        init_(model, p)
        optimizer = torch.optim.AdamW(param_groups(model, p, lr=0.01))
        ```
    """
    recipe = parameterization.recipe
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", 0.0 if eps is None else eps)):
        if not 0 <= float(value) < float("inf"):
            raise InvalidInput(f"param_groups({name}): expected a number >= 0, got {value!r}.")
    if recipe.optimizer == "adam" and weight_decay != 0:
        raise InvalidInput(
            "param_groups(weight_decay): Adam's decay inside the gradient has no rule that transfers; parameterize for 'adamw'."
        )
    if eps is not None and recipe.optimizer not in ("adam", "adamw"):
        raise InvalidInput(f"param_groups(eps): {recipe.optimizer!r} has no epsilon; leave it out.")
    groups: dict[tuple, dict[str, Any]] = {}
    for path, value in _trained(model, parameterization).items():
        entry = parameterization.tensors[path].entry
        rate = lr * (entry.lr if entry.lr is not None else 0.0)
        decay = weight_decay * (entry.weight_decay or 0.0)
        if recipe.decay == "independent" and recipe.optimizer in ("adamw", "lion") and decay:
            if rate == 0:
                raise InvalidInput(
                    "param_groups(lr): independent decay needs a rate > 0; PyTorch multiplies decay by it."
                )
            decay /= rate
        numbers = {"lr": rate, "weight_decay": decay}
        if entry.eps is not None and recipe.optimizer in ("adam", "adamw"):
            numbers["eps"] = entry.eps * (1e-8 if eps is None else eps)
        group = groups.setdefault(tuple(numbers.values()), {"params": [], **numbers, "paths": []})
        group["params"].append(value)
        group["paths"].append(path)
    return list(groups.values())


def init_(model: Any, parameterization: Parameterization, *, generator: Any = None) -> Any:
    """Start a PyTorch model, in place, as the parameterization says.

    Matrices are Gaussian with `Parameterization.absolute_std`; biases start at 0, gains of norms at 1 (times their factor
    when multipliers are absorbed), other vectors keep their values.

    Args:
        model: A module, wrapped or not.
        parameterization: Made for it.
        generator: A `torch.Generator`; by default PyTorch's own.

    Returns:
        The model.

    Raises:
        InvalidInput: The parameterization was made for another model.
        MissingExtra: PyTorch is not installed.
    """
    torch = _torch()
    with torch.no_grad():
        for path, value in _trained(model, parameterization).items():
            rule = parameterization.tensors[path]
            if rule.tensor.fan_in:
                value.normal_(0.0, parameterization.absolute_std(path), generator=generator)
                continue
            name, layer = _owners(model, value)[0]
            if name.rpartition(".")[2] == "bias" or rule.tensor.role == "output_bias":
                value.zero_()
            else:
                if "Norm" in type(layer).__name__:
                    value.fill_(1.0)
                value.mul_(rule.entry.init_std)
    return model


def _trained(model: Any, parameterization: Parameterization) -> dict[str, Any]:
    """Trained parameters, after shapes and paths were checked; tensors frozen since are no mistake."""
    every, trained = named_tensors(model), named_tensors(model, trained=True)
    known = {path: every[path] for path in every if path in trained or path in parameterization.tensors}
    parameterization.check({path: tuple(value.shape) for path, value in known.items()})
    return trained


def _owners(model: Any, value: Any) -> list[tuple[str, Any]]:
    """Paths and layers that hold a parameter."""
    found = []
    for name, layer in model.named_modules():
        for leaf, held in layer.named_parameters(recurse=False, remove_duplicate=False):
            if held is value:
                found.append((_WRAPPERS.sub("", f"{name}.{leaf}" if name else leaf), layer))
    return found


def _role(roles: Roles, path: str, shape: tuple[int, ...]) -> str | None:
    return roles(path, shape) if callable(roles) else matching(path, roles)


def _torch() -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("parameterize: PyTorch is not installed; run: pip install 'foretrain[torch]'") from None
    return torch
