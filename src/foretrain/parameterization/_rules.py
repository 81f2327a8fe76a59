r"""The one table: role of a tensor × optimizer × scheme → multiplier, init, learning rate, epsilon, weight decay.

A trained tensor enters the forward pass as $aw$, starts as $w\sim\mathcal N(0,b^2)$, and is trained at rate $c$ with Adam's
$\epsilon$ and weight decay $\lambda$. Every rule is a product of powers of sizes (`docs/theory/parameterizations.md`, (PA.3) and
(PA.4)), so that ratios against a base shape are exact and are exactly 1 at the base.
"""

import dataclasses

from foretrain.errors import InvalidInput, nearest
from foretrain.parameterization._monomial import Monomial, monomial

SCHEMES = ("sp", "ntk", "mean-field", "mup", "mup-depth", "completep")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "lion")
DECAYS = ("lr-multiplied", "independent")
DECAY_RULES = ("invariant", "published")
FORMS = ("canonical", "relative")
READOUTS = ("forward", "init")

HIDDEN = ("hidden", "hidden_inner", "hidden_qk")
BRANCH_VECTORS = ("branch_vector", "branch_vector_inner")
ROLES = ("input", *HIDDEN, *BRANCH_VECTORS, "final_vector", "output", "output_bias")
ROLE_WORDS = {
    "input": "fan-in fixed, fan-out grows: first layer, embedding, positional table",
    "hidden": "fan-in and fan-out grow: the last map of a residual branch, whose multiplier carries the branch factor",
    "hidden_inner": "fan-in and fan-out grow: any other hidden map, and hidden maps outside residual branches",
    "hidden_qk": "query and key projections",
    "branch_vector": "bias or gain in a residual branch, multiplied by the branch factor",
    "branch_vector_inner": "bias or gain in a residual branch before its last map",
    "final_vector": "bias or gain of the stream outside residual branches",
    "output": "fan-in grows, fan-out fixed: readout",
    "output_bias": "no growing dimension",
}
_SGD = ("sgd", "momentum", "nesterov")
_ALPHA = {"mup-depth": 0.5, "completep": 1.0}
_ONE = monomial()


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""How one tensor scales: each part a product of powers, or `None` where the scheme defines nothing.

    Args:
        multiplier: $a$.
        init_std: $b$.
        lr: $c$.
        eps: Adam's $\epsilon$.
        weight_decay: $\lambda$.
    """

    multiplier: Monomial
    init_std: Monomial
    lr: Monomial | None
    eps: Monomial | None
    weight_decay: Monomial | None

    def parts(self) -> dict[str, Monomial | None]:
        """The five parts by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Recipe:
    r"""A scheme, an optimizer and the exponents that select a column of the table.

    Args:
        scheme: `"sp"` (standard), `"ntk"`, `"mean-field"` and `"mup"` (one class of functions), `"mup-depth"`
            ($\alpha_L=\frac12$), `"completep"` ($\alpha_L=1$).
        optimizer: `"sgd"`, `"momentum"`, `"nesterov"`, `"adam"` (no decay rule), `"adamw"`, `"lion"`.
        decay: `"lr-multiplied"`, $w\leftarrow w(1-c\lambda)$ as PyTorch and Optax do, or `"independent"`, $w\leftarrow w(1-\lambda)$.
        attention_exponent: $\alpha_A$ of the logits $q\cdot k/d_h^{\alpha_A}$; the other schemes keep $\frac12$.
        decay_rule: `"invariant"` keeps (rate × decay) at every depth; `"published"` leaves depth out of the decay of hidden
            maps, as the table of arXiv 2505.01618 prints it. They differ for $\alpha_L=\frac12$ only.

    Raises:
        InvalidInput: An unknown name, or an exponent outside [½, 1].
    """

    scheme: str
    optimizer: str = "sgd"
    decay: str = "lr-multiplied"
    attention_exponent: float = 1.0
    decay_rule: str = "invariant"

    def __post_init__(self) -> None:
        words = {"scheme": SCHEMES, "optimizer": OPTIMIZERS, "decay": DECAYS, "decay_rule": DECAY_RULES}
        for name, valid in words.items():
            value = getattr(self, name)
            if value not in valid:
                raise InvalidInput(_unknown(name, value, valid))
        if not (isinstance(self.attention_exponent, (int, float)) and 0.5 <= self.attention_exponent <= 1):
            raise InvalidInput(
                f"parameterization(attention_exponent): expected a number from 0.5 to 1, got {self.attention_exponent!r}: below, "
                "logits diverge with the head size, above, they cannot learn."
            )

    @property
    def feature_learning(self) -> bool:
        """Whether the scheme is of the muP family."""
        return self.scheme not in ("sp", "ntk")

    @property
    def depth_exponent(self) -> float | None:
        r"""$\alpha_L$, or `None` for schemes without a depth rule."""
        return _ALPHA.get(self.scheme)

    @property
    def branch_factor(self) -> Monomial:
        r"""$s=\beta_0L^{-\alpha_L}$, what multiplies the output of a residual branch; without $L$ where there is no depth rule."""
        if self.scheme == "ntk":
            return _ONE
        return monomial(branch_scale=1.0, depth=-(self.depth_exponent or 0.0))

    @property
    def attention_factor(self) -> Monomial:
        r"""What multiplies $q\cdot k$: $d_h^{-\alpha_A}$, and $d_h^{-1/2}$ outside the muP family."""
        return monomial(head_dim=-(self.attention_exponent if self.feature_learning else 0.5))


_MATRIX_OPTIMIZERS = ("muon", "shampoo", "soap", "kfac", "lamb", "lars", "adafactor")


def _unknown(name: str, value: object, valid: tuple[str, ...]) -> str:
    if name == "optimizer" and str(value).lower() in _MATRIX_OPTIMIZERS:
        return (
            f"parameterization(optimizer): {value!r} uses statistics of whole matrices or several tensors, for which the rules and "
            f"their bookkeeping forms are not equivalent; the table covers {', '.join(valid)}."
        )
    return f"parameterization({name}): expected one of {', '.join(valid)}, got {value!r}{nearest(str(value), valid)}."


def shift(rule: Rule, theta: Monomial, recipe: Recipe) -> Rule:
    r"""The same training in other bookkeeping: $a\theta$, $b/\theta$ and the rates that go with them, (PA.2).

    The function that is trained does not change, step by step, for any $\theta>0$.

    Args:
        rule: A rule.
        theta: $\theta$.
        recipe: The optimizer and the form of its decay.
    """
    sgd = recipe.optimizer in _SGD
    if sgd or recipe.optimizer == "adam":  # L2 in the gradient
        decay = theta**2
    else:
        decay = _ONE if recipe.decay == "independent" else theta
    return Rule(
        rule.multiplier * theta,
        rule.init_std / theta,
        None if rule.lr is None else rule.lr / (theta**2 if sgd else theta),
        None if rule.eps is None else rule.eps * theta,
        None if rule.weight_decay is None else rule.weight_decay * decay,
    )


def canonical_rule(role: str, recipe: Recipe, *, branch: bool = True) -> Rule:
    r"""The rule in absolute form with $b=1$, (PA.3).

    Its quantities are `fan_in`, `width` (of the stream, $N$), `depth`, `head_dim`, `input_dim`, `richness`, `branch_scale`,
    `lr`, `eps` and `weight_decay`; the last three are what one tunes.

    Args:
        role: One of `ROLES`.
        recipe: Scheme and optimizer.
        branch: Whether the tensor sits in a residual branch; elsewhere nothing depends on depth.

    Raises:
        InvalidInput: No such role.
    """
    if role not in ROLES:
        raise InvalidInput(
            f"parameterization(role): expected one of {', '.join(ROLES)}, got {role!r}{nearest(role, ROLES)}."
        )
    inside = branch and role in (*HIDDEN, *BRANCH_VECTORS)
    maker = {"sp": _standard, "ntk": _tangent}.get(recipe.scheme, _feature_learning)
    return maker(role, recipe, inside)


def relative_rule(role: str, recipe: Recipe, *, branch: bool = True, readout: str = "forward") -> Rule:
    r"""The rule against a base shape, (PA.4): every quantity is then a ratio to its base value.

    Hidden and input tensors keep the multiplier of the base (up to the branch factor), so that their scaling sits in
    init and learning rate.

    Args:
        role: One of `ROLES`.
        recipe: Scheme and optimizer.
        branch: As for `canonical_rule`.
        readout: `"forward"` scales the readout in the forward pass; `"init"` in its init and learning rate.
    """
    if readout not in READOUTS:
        raise InvalidInput(_unknown("readout", readout, READOUTS))
    rule = canonical_rule(role, recipe, branch=branch)
    if role in HIDDEN or (role == "output" and recipe.scheme == "sp"):  # variance 1 / fan-in, as models are written
        return shift(rule, monomial(fan_in=0.5), recipe)
    if role == "output" and readout == "init":
        return shift(rule, rule.multiplier**-1, recipe)
    return rule


def _decay(rule_lr: Monomial | None, role: str, recipe: Recipe) -> Monomial | None:
    """Keeps (rate × decay) fixed, so that the time over which weights are forgotten does not depend on size."""
    if rule_lr is None or role in ("final_vector", "output_bias") or recipe.optimizer == "adam":
        return None
    independent = recipe.optimizer not in _SGD and recipe.decay == "independent"
    base = monomial(weight_decay=1.0)
    if independent or (role in BRANCH_VECTORS and recipe.optimizer not in _SGD):
        return base
    kept = base * monomial(lr=1.0) / rule_lr
    published = recipe.decay_rule == "published" and recipe.optimizer not in _SGD
    return kept.without("depth") if published else kept


def _feature_learning(role: str, recipe: Recipe, inside: bool) -> Rule:
    sgd, alpha = recipe.optimizer in _SGD, recipe.depth_exponent if inside else None
    branch = recipe.branch_factor if inside else _ONE
    per_output = monomial(richness=-1.0, width=-1.0)  # size of df/d(stream), per coordinate
    qk = _ONE if role != "hidden_qk" else monomial(head_dim=recipe.attention_exponent - 1)
    multiplier = {
        "input": monomial(input_dim=-0.5),
        "hidden": branch * monomial(fan_in=-0.5),
        "hidden_inner": monomial(fan_in=-0.5),
        "hidden_qk": monomial(fan_in=-0.5),
        "branch_vector": branch,
        "output": monomial(richness=-1.0, fan_in=-1.0),
    }.get(role, _ONE)
    eta = monomial(lr=1.0)
    if role == "output_bias":
        lr = eta
    elif sgd:
        growth = monomial(fan_in=1.0) if role == "output" else monomial(width=1.0)
        lr = eta * monomial(richness=2.0) * growth * qk**2
        lr = lr if alpha is None else lr * monomial(depth=2 * alpha - 1)
    else:
        lr = eta * (monomial(fan_in=-0.5) if role in HIDDEN else _ONE) * qk
        lr = lr if alpha is None else lr * monomial(depth=alpha - 1)
    # Adam compares epsilon with the gradient, df/dw = a x (what flows back to this tensor) x O(1).
    carried = branch if role not in ("hidden", "branch_vector") else _ONE
    gradient = {"output": multiplier, "output_bias": _ONE}.get(role, multiplier * carried * per_output / qk)
    return Rule(multiplier, _ONE, lr, _epsilon(gradient, recipe), _decay(lr, role, recipe))


def _tangent(role: str, recipe: Recipe, inside: bool) -> Rule:
    sgd, vector = recipe.optimizer in _SGD, role in (*BRANCH_VECTORS, "final_vector")
    multiplier = {"input": monomial(input_dim=-0.5), "output_bias": _ONE}.get(
        role, _ONE if vector else monomial(fan_in=-0.5)
    )
    eta, lr = monomial(lr=1.0), None
    if sgd or role == "output_bias":
        lr = eta
    elif not vector:
        fan_in = 0.0 if role == "input" else -0.5
        width = 0.0 if role == "output" else -0.5
        lr = eta * monomial(fan_in=fan_in, width=width)
    gradient = {"output": multiplier, "output_bias": _ONE}.get(role, multiplier * monomial(width=-0.5))
    eps = None if lr is None else _epsilon(gradient, recipe)
    return Rule(multiplier, _ONE, lr, eps, _decay(lr, role, recipe))


def _standard(role: str, recipe: Recipe, inside: bool) -> Rule:
    """Variance 1 / fan-in and one global rate, brought to the form with unit variance."""
    fan_in = {"input": monomial(input_dim=-0.5), "output": monomial(fan_in=-0.5)}
    init = fan_in.get(role, monomial(fan_in=-0.5) if role in HIDDEN else _ONE)
    branch = recipe.branch_factor if inside and role in ("hidden", "branch_vector") else _ONE
    eta, decay = monomial(lr=1.0), monomial(weight_decay=1.0)
    forgets = role in ("final_vector", "output_bias") or recipe.optimizer == "adam"
    plain = Rule(branch, init, eta, _epsilon(_ONE, recipe), None if forgets else decay)
    return shift(plain, init, recipe)


def _epsilon(gradient: Monomial, recipe: Recipe) -> Monomial | None:
    return monomial(eps=1.0) * gradient if recipe.optimizer in ("adam", "adamw") else None
