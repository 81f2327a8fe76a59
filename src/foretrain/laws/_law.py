r"""What a law is: a formula, its parameters with ranges and starts, and its logarithm with exact derivatives.

Every law predicts a positive response (a loss, or a degradation of one). It is evaluated as $\ln\hat L$ in *coordinates*
$\theta$ in which fits are well scaled: positive parameters by their logarithm, the others as they are. Arrays of many
$\theta$ are evaluated at once.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput, nearest

Thetas = Float[np.ndarray, "starts parameters"]
Columns = Float[np.ndarray, "variables rows"]
Logs = Float[np.ndarray, "starts rows"]
Slopes = Float[np.ndarray, "starts parameters rows"]

_STEP = 1e-30  # of a complex-step derivative, which has no cancellation however small it is


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a law.

    Args:
        name: What it is called in the formula and in results.
        start: Values from which fits start; `fit` draws from the grid of all parameters' starts.
        positive: Fit its logarithm.
        low: Smallest value.
        high: Largest value.
        meaning: A few words.

    Raises:
        InvalidInput: No starts, or starts out of range.

    Example:
        >>> from foretrain.laws import Parameter
        >>> Parameter("alpha", (0.1, 0.5, 1.0), high=5.0).coordinate(1.0)
        1.0
    """

    name: str
    start: tuple[float, ...]
    positive: bool = False
    low: float = -math.inf
    high: float = math.inf
    meaning: str = ""

    def __post_init__(self) -> None:
        low = max(self.low, 0.0) if self.positive else self.low
        wrong = [s for s in self.start if not low <= s <= self.high or (self.positive and s <= 0)]
        if not self.start or wrong:
            problem = (
                "at least one start" if not self.start else f"starts from {low:g} to {self.high:g}, got {wrong[0]:g}"
            )
            raise InvalidInput(f"Parameter({self.name!r}): expected {problem}.")

    def coordinate(self, value: float) -> float:
        """The coordinate in which this value is fitted."""
        if not self.positive:
            return float(value)
        return math.log(value) if value > 0 else -math.inf

    def value(self, coordinate: Any) -> Any:
        """The value of a coordinate, or of an array of them."""
        return np.exp(coordinate) if self.positive else coordinate


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    r"""A scaling law: a positive function of the columns of a table of runs.

    Build one with `sum_of_powers` or `law_of`; the constructor is for laws that bring their own derivatives.

    Args:
        name: What `fit` calls it.
        formula: For people.
        variables: Columns it needs, in the order in which `logs` gets them.
        parameters: Its parameters, in the order of the coordinates.
        logs: $(\theta, x)\mapsto(\ln\hat L,\ \partial_\theta\ln\hat L)$ for many $\theta$ at once, with the rows last; the second is `None`
            when it is called with `slopes=False`.
        response: The column it predicts.
        source: Where it is from.
        defaults: Variables that a table or a point may lack, with what is taken then: bits that are not given are infinite, full precision.
        noise: Absolute size below which a measured response is noise and may be negative; 0 for responses that are positive. Residuals
            are those of `smoothed`, which is the logarithm above it.
        outside: Parameters by name and columns to words on why the law has no value there; empty where it has one.
        balance: Starts, columns and responses to better starts, for laws whose terms would often be absurdly large or small at first.

    Example:
        >>> from foretrain.laws import law_named
        >>> law = law_named("chinchilla")
        >>> law.formula
        'E + A / params^alpha + B / tokens^beta'
        >>> at = {"params": 1e9, "tokens": 2e10}
        >>> round(float(law.predict({"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}, at)), 4)
        2.5301
    """

    name: str
    formula: str
    variables: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    logs: Callable[..., tuple[Logs, Slopes | None]]
    response: str = "loss"
    source: str = ""
    derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, float] = dataclasses.field(default_factory=dict)
    noise: float = 0.0
    outside: Callable[[Mapping[str, Any], Columns], str] | None = None
    balance: Callable[[Thetas, Columns, np.ndarray], Thetas] | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """Variables without a default."""
        return tuple(v for v in self.variables if v not in self.defaults)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(p.name for p in self.parameters)

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " parameters"], Float[np.ndarray, " parameters"]]:
        """Smallest and largest coordinates."""
        low = np.array([p.coordinate(max(p.low, 0.0) if p.positive else p.low) for p in self.parameters])
        return low, np.array([p.coordinate(p.high) for p in self.parameters])

    def coordinates(self, values: Mapping[str, float]) -> Float[np.ndarray, " parameters"]:
        """Coordinates of parameters by name.

        Raises:
            InvalidInput: A parameter is missing, or a name is unknown.
        """
        for name in values:
            if name not in self.names:
                raise InvalidInput(
                    f"law {self.name!r}: no parameter {name!r}{nearest(name, self.names)}; it has {', '.join(self.names)}."
                )
        for name in self.names:
            if name not in values:
                raise InvalidInput(f"law {self.name!r}: parameter {name!r} is missing; it has {', '.join(self.names)}.")
        return np.array([p.coordinate(values[p.name]) for p in self.parameters])

    def values(self, theta: Float[np.ndarray, "... parameters"]) -> dict[str, Any]:
        """Parameters by name; arrays when `theta` holds many."""
        return {p.name: p.value(theta[..., i]) for i, p in enumerate(self.parameters)}

    def columns(self, at: Mapping[str, Any]) -> Columns:
        """The variables of the law, broadcast against each other, as rows of one array.

        Raises:
            InvalidInput: A variable is missing or not positive.
        """
        missing = [v for v in self.required if v not in at]
        if missing:
            raise InvalidInput(
                f"law {self.name!r}: needs {', '.join(self.required)}; {missing[0]!r} is missing"
                f"{nearest(missing[0], at)}. Given: {', '.join(at) or 'nothing'}."
            )
        given = {v: np.asarray(at.get(v, self.defaults.get(v)), dtype=np.float64) for v in self.variables}
        for name, default in self.defaults.items():
            given[name] = np.where(np.isnan(given[name]), default, given[name])
        found = np.broadcast_arrays(*given.values())
        for name, values in zip(self.variables, found, strict=True):
            if not np.all(values > 0):
                raise InvalidInput(f"law {self.name!r}: expected {name} > 0, got {np.min(values):g}.")
        return np.stack([values.reshape(-1) for values in found])

    def smoothed(self, response: np.ndarray) -> np.ndarray:
        r"""The scale on which residuals are taken: $\ln y$, or $\operatorname{arsinh}(y/2s)+\ln s$ with the noise $s$.

        The second is $\ln y$ to $s^2/y^2$ for $y\gg s$ and $y/2s+\ln s$ for $|y|\ll s$: it weighs rows above the noise by their relative
        error, rows below it by their absolute one, and needs no row to be positive.
        """
        if self.noise == 0.0:
            return np.log(response)
        return np.arcsinh(response / (2 * self.noise)) + math.log(self.noise)

    def unsmoothed(self, scaled: np.ndarray) -> np.ndarray:
        """The response at a point of that scale."""
        if self.noise == 0.0:
            return np.exp(scaled)
        return 2 * self.noise * np.sinh(scaled - math.log(self.noise))

    def predict(self, parameters: Mapping[str, float], at: Mapping[str, Any]) -> np.ndarray:
        """The response at given columns.

        Args:
            parameters: By name.
            at: Numbers or arrays for every variable.

        Raises:
            InvalidInput: Something is missing or unknown.
        """
        shape = np.broadcast_shapes(*(np.shape(at[v]) for v in self.variables if v in at))
        theta, x = self.coordinates(parameters), self.columns(at)
        self.refuse_outside(theta, x)
        return np.exp(self.logs(theta[None], x, slopes=False)[0][0]).reshape(shape)

    def refuse_outside(self, theta: Float[np.ndarray, " parameters"], x: Columns) -> None:
        """Raise where the law has no value.

        Args:
            theta: Coordinates.
            x: Columns.

        Raises:
            InvalidInput: Some rows are outside the law.
        """
        if self.outside and (words := self.outside(self.values(theta), x)):
            raise InvalidInput(f"law {self.name!r}: {words}")


def sum_of_powers(
    name: str,
    formula: str,
    variables: Sequence[str],
    parameters: Sequence[Parameter],
    terms: Sequence[Mapping[str, float | Mapping[str, float]]],
    **more: Any,
) -> Law:
    r"""A law $\hat L=\sum_k\exp(c_k)$ in which every $c_k$ is linear in the coordinates.

    Its derivatives are the softmax weights of its terms: exact, and as cheap as the law.

    Args:
        name: What `fit` calls it.
        formula: For people.
        variables: Columns it needs.
        parameters: Its parameters.
        terms: For every term the coordinates that enter $c_k$ with their factors: a number, or numbers by variable, which multiply
            ln(variable) and are added up; the name `""` stands for a constant.
        more: `response`, `source`, `derived`.

    Example:
        >>> from foretrain.laws import Parameter, sum_of_powers
        >>> law = sum_of_powers(
        ...     "mine", "E + A / params^alpha", ["params"],
        ...     [Parameter("A", (1.0, 100.0), positive=True), Parameter("alpha", (0.1, 0.5)), Parameter("E", (1.0,), positive=True)],
        ...     [{"A": 1.0, "alpha": {"params": -1.0}}, {"E": 1.0}],
        ... )
        >>> float(law.predict({"A": 10.0, "alpha": 0.5, "E": 1.0}, {"params": 100.0}))
        2.0
    """
    index = {p.name: i for i, p in enumerate(parameters)}
    column = {v: i for i, v in enumerate(variables)}

    def logs(theta: Thetas, x: Columns, *, slopes: bool = True) -> tuple[Logs, Slopes | None]:
        lnx = np.log(x)

        def factor_of(f: float | Mapping[str, float]) -> Any:
            return f if isinstance(f, (int, float)) else sum(n * lnx[column[v]] if v else n for v, n in f.items())

        factors = [[(index[name], factor_of(f)) for name, f in term.items()] for term in terms]
        exponents = []
        for factor in factors:
            exponent = np.zeros((len(theta), x.shape[1]))
            for i, f in factor:
                exponent += theta[:, i, None] * f
            exponents.append(exponent)
        top = exponents[0]
        for exponent in exponents[1:]:
            top = np.maximum(top, exponent)
        parts = [np.exp(exponent - top) for exponent in exponents]
        total = parts[0].copy()
        for part in parts[1:]:
            total += part
        log = np.log(total) + top
        if not slopes:
            return log, None
        jacobian = np.zeros((len(theta), len(index), x.shape[1]))
        for factor, part in zip(factors, parts, strict=True):
            part /= total
            for i, f in factor:
                jacobian[:, i] += part * f
        return log, jacobian

    return Law(name, formula, tuple(variables), tuple(parameters), logs, **more)


def law_of(
    name: str,
    formula: str,
    function: Callable[..., Any],
    variables: Sequence[str],
    parameters: Sequence[Parameter],
    **more: Any,
) -> Law:
    r"""A law from a plain function; its derivatives are taken by complex steps, exact to rounding.

    Args:
        name: What `fit` calls it.
        formula: For people.
        function: Called with every variable and parameter by name, as arrays that broadcast; returns the response. It must be made of
            operations that take complex numbers (`+ - * / **`, `np.exp`, `np.log`, `np.sqrt`, `np.expm1`; not `abs`, `max`, comparisons).
        variables: Columns it needs.
        parameters: Its parameters.
        more: `response`, `source`, `derived`.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import Parameter, law_of
        >>> law = law_of(
        ...     "saturating", "E + A (1 - exp(-R / epochs))",
        ...     lambda epochs, A, R, E: E + A * -np.expm1(-R / epochs), ["epochs"],
        ...     [Parameter("A", (0.1, 1.0), positive=True), Parameter("R", (1.0, 10.0), positive=True), Parameter("E", (1.0,), positive=True)],
        ... )
        >>> float(law.predict({"A": 1.0, "R": 1e-9, "E": 2.0}, {"epochs": 1.0}))
        2.000000001
    """
    kept = tuple(parameters)

    def call(theta: np.ndarray, x: Columns) -> np.ndarray:
        values = {p.name: np.exp(theta[:, i, None]) if p.positive else theta[:, i, None] for i, p in enumerate(kept)}
        return np.log(function(**{v: x[i][None] for i, v in enumerate(variables)}, **values))

    def logs(theta: Thetas, x: Columns, *, slopes: bool = True) -> tuple[Logs, Slopes | None]:
        with np.errstate(all="ignore"):
            log = np.broadcast_to(call(theta, x), (len(theta), x.shape[1]))
            if not slopes:
                return log, None
            jacobian = np.empty((len(theta), len(kept), x.shape[1]))
            for i in range(len(kept)):
                stepped = theta.astype(complex)
                stepped[:, i] += 1j * _STEP
                jacobian[:, i] = np.imag(call(stepped, x)) / _STEP
        return log, jacobian

    return Law(name, formula, tuple(variables), kept, logs, **more)
