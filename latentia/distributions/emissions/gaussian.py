"""K Gaussians, with four kinds of covariance and with missing coordinates.

log N(x; mu, S) is linear in quadratic features of x, so that all K log-densities are one matrix product, and so
are the sufficient statistics. The features are those of y = (x - center) / unit, which has about mean 0 and
variance 1; where a Gaussian is so much tighter than the data that their terms would cancel, it is computed from its
Cholesky factor instead.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from latentia.distributions.emissions.base import (
    LARGEST,
    Emissions,
    Statistics,
    check_scale,
    check_whole,
    responsibilities,
)
from latentia.errors import DataError, OptionError, check_not_negative
from latentia.kernels.blocks import block_rows, map_blocks, sum_blocks
from latentia.kernels.quadratic import expectations, flattened, plain, products, reach, squares, symmetric

LOG_2PI = math.log(2 * math.pi)
Covariance = Literal["full", "tied", "diagonal", "spherical", "common"]
KINDS = ("full", "tied", "diagonal", "spherical", "common")
LEAST = 1e-13
"""The floor where none is asked for: below it a float64 covariance has no Cholesky factor."""
NOISE = 4
"""Units in the last place by which values that should be equal may differ once their center is taken away."""
COARSE = 0.25
"""Standard deviations by which rounding to a dtype may move what a model holds before it says so."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}
"""Nats by which rounding may change a log-density, in the worst case, before the Cholesky factor is asked."""


class GaussianEmissions(Emissions):
    """p(x | z = k) = N(x; means[k], covariances[k]), x in R^D.

    Args:
        states: K.
        features: D.
        covariance: "full"; "tied", one full matrix for all; "diagonal"; "spherical", one variance each; "common",
            one variance in all.
        floor: the least variance of a component in any direction, as a fraction of the data's own
            variance: the M-step is the maximum under that constraint, so EM still never descends.
    """

    def __init__(self, states: int, features: int, covariance: Covariance = "full", floor: float = 1e-6):
        super().__init__()
        check_not_negative(floor=floor)
        if covariance not in KINDS:
            raise OptionError(f"covariance={covariance!r}: choose one of {', '.join(KINDS)}")
        if states < 1 or features < 1:
            raise OptionError(f"{states} components of {features} features: there must be at least one of each")
        self.covariance, self.floor = covariance, floor
        matrices = 1 if covariance in ("tied", "common") else states
        self.means = nn.Parameter(torch.zeros(states, features))
        self.log_scale = nn.Parameter(torch.zeros(matrices, 1 if self.round else features))
        if self.dense:
            self.below = nn.Parameter(torch.zeros(matrices, features * (features - 1) // 2))
        # statistics are those of (x - center) / unit, so that data far away, huge or tiny lose no digits
        self.center: Tensor
        self.unit: Tensor
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("unit", torch.ones(features))
        # which components the floor holds up
        self.floored: Tensor
        self.register_buffer("floored", torch.zeros(states, dtype=torch.bool))
        # which columns do not vary: of the data, so that it is not kept with the parameters
        self.constant: Tensor
        self.register_buffer("constant", torch.zeros(features, dtype=torch.bool), persistent=False)

    @property
    def round(self) -> bool:
        """Whether a component's variance is the same in all directions."""
        return self.covariance in ("spherical", "common")

    @property
    def dense(self) -> bool:
        """Whether coordinates are correlated given z."""
        return self.covariance in ("full", "tied")

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factors of the covariances, (K, D, D)."""
        return (self.unit.unsqueeze(-1) * self._tril()).expand(len(self.means), -1, -1)

    @property
    def covariances(self) -> Tensor:
        """(K, D, D)."""
        tril = self.scale_tril
        return tril @ tril.mT

    def set(self, means: Tensor, covariances: Tensor) -> None:
        """Take these means (K, D) and full covariances (K, D, D), with the features around the means' mean."""
        tril = torch.linalg.cholesky(covariances)
        rows, columns = torch.tril_indices(*tril.shape[1:], offset=-1, device=tril.device)
        self.means.data, self.log_scale.data = means.clone(), tril.diagonal(dim1=-2, dim2=-1).log()
        self.below.data = tril[:, rows, columns]
        self.center.copy_(means.mean(0))
        self.unit.copy_(covariances.diagonal(dim1=-2, dim2=-1).amax(0).sqrt())

    def free_parameters(self) -> int:
        """K D means, and the covariances' own entries."""
        return sum(parameter.numel() for parameter in self.parameters())

    # What follows is in the coordinates y = (x - center) / unit.

    def _mean(self) -> Tensor:
        """(K, D)."""
        return (self.means - self.center) / self.unit

    def _log_scale(self) -> Tensor:
        """Logarithms of standard deviations, or of the Cholesky factors' diagonals, (K or 1, D)."""
        return self.log_scale - self.unit.log()

    def _variance(self) -> Tensor:
        """Of coordinates that are independent given z, (K, D)."""
        return (2 * self._log_scale()).exp().expand_as(self.means)

    def _tril(self) -> Tensor:
        """The distinct Cholesky factors: (K, D, D), or (1, D, D) where they are tied."""
        scale = self._log_scale().exp()
        if not self.dense:
            return torch.diag_embed(scale.expand_as(self.means))
        diagonal = torch.diag_embed(scale)
        rows, columns = torch.tril_indices(*diagonal.shape[1:], offset=-1, device=diagonal.device)
        lower = torch.zeros_like(diagonal)
        lower[:, rows, columns] = self.below / self.unit[rows]
        return diagonal + lower

    # ------------------------------------------------------------------------------------------- log-densities

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mask = None if mask is None or bool(mask.all()) else mask
        if mask is not None and self.dense:
            return self._log_prob_missing(x, mask)
        natural, safe = self._prepared(x, mask)
        if torch.is_grad_enabled() or len(x) < 512:
            return self._of_features(self.features(x, mask), natural, x, mask, safe)

        def block(part: slice) -> Tensor:
            seen = None if mask is None else mask[part]
            return self._of_features(self.features(x[part], seen, reuse=True), natural, x[part], seen, safe)

        return torch.cat(map_blocks(block, len(x), block_rows(len(natural), x)))

    def features(self, x: Tensor, mask: Tensor | None, reuse: bool = False) -> Tensor:
        """Phi(x), (M, F), in which log-densities and statistics are linear. A mask only without correlations. With
        `reuse`, in memory that the next such call of this thread writes over."""
        if self.covariance == "full":
            return products(x, self.center, self.unit, reuse)
        if self.covariance == "tied":
            return torch.cat([torch.ones_like(x[:, :1]), self._standard(x)], 1)
        if mask is None:
            return squares(x, self.center, self.unit, reuse)
        seen = mask.to(x)
        away = torch.where(mask, self._standard(x), 0.0)
        return torch.cat([seen, away, away**2], 1)

    def _standard(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.unit

    def natural(self) -> Tensor:
        """eta, (F, K): log p(x | k) = Phi(x) eta_k; with a term besides that all k share where the matrix is tied."""
        means = self._mean()
        if not self.dense:
            precision = 1 / self._variance()
            constant = -0.5 * (means**2 * precision + LOG_2PI) - self.log_scale
            constant = torch.cat([constant, means * precision, -0.5 * precision], 1)
            return constant.mT
        tril = self._tril()
        precision = torch.cholesky_inverse(tril)
        log_det = self.log_scale.sum(-1)
        slope = (precision @ means.unsqueeze(-1)).squeeze(-1)
        constant = -0.5 * (means * slope).sum(-1) - log_det - 0.5 * means.shape[1] * LOG_2PI
        linear = torch.cat([constant.unsqueeze(-1), slope], 1)
        return linear.mT if self.covariance == "tied" else torch.cat([linear, -0.5 * flattened(precision)], 1).mT

    def _natural(self, mask: Tensor | None) -> Tensor:
        """eta for features with or without a mask."""
        natural = self.natural()
        if self.dense or mask is not None:
            return natural
        count = self.means.shape[1]
        return torch.cat([natural[:count].sum(0, keepdim=True), natural[count:]])

    def _prepared(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, bool]:
        """eta for these data, and whether no row of them needs the Cholesky factor."""
        natural = self._natural(mask)
        # a tied matrix adds a term of each row's own
        if self.covariance == "tied":
            return natural, False
        return natural, not len(self._doubtful(x, mask, natural.detach(), x.new_zeros(1)))

    def _of_features(self, phi: Tensor, natural: Tensor, x: Tensor, mask: Tensor | None, safe: bool) -> Tensor:
        """log p(x | k), (M, K), from Phi(x), and by the Cholesky factor where rounding would show."""
        if safe:
            return phi @ natural
        log_prob, shared = phi @ natural, phi.new_zeros(len(phi), 1)
        if self.covariance == "tied":
            white = torch.linalg.solve_triangular(self._tril()[0], self._standard(x).mT, upper=False)
            shared = 0.5 * (white**2).sum(0).unsqueeze(-1)
            log_prob = log_prob - shared
        which = self._doubtful(x, mask, natural.detach(), shared.detach())
        if len(which) == 0:
            return log_prob
        return log_prob.index_copy(1, which, self._log_normal(x, mask, which))

    def _doubtful(self, x: Tensor, mask: Tensor | None, natural: Tensor, shared: Tensor) -> Tensor:
        """The components whose log-densities rounding may change by more than the tolerance."""
        if len(x) == 0:
            return torch.zeros(0, dtype=torch.long, device=x.device)
        seen = x if mask is None else torch.where(mask, x, self.center)
        return self._beyond(reach(seen, self.center) / self.unit, mask, natural, shared)

    def _beyond(self, far: Tensor, mask: Tensor | None, natural: Tensor, shared: Tensor) -> Tensor:
        """As `_doubtful`, for rows whose |y| is at most `far`, (D,)."""
        farthest = (self.center + far * self.unit).unsqueeze(0)
        largest = self.features(farthest, None if mask is None else torch.ones_like(mask[:1])).squeeze(0)
        terms = largest.abs() @ natural.abs() + shared.amax()
        # a comparison that NaN fails, so that what overflows is doubtful too
        fine = torch.finfo(far.dtype).eps * terms <= TOLERANCE.get(far.dtype, 1e-2)
        return (~fine).nonzero().squeeze(-1)

    def _log_normal(self, x: Tensor, mask: Tensor | None, which: Tensor) -> Tensor:
        """log N(x; mu_k, S_k) for the components `which`, from differences x - mu_k."""
        away = (x.unsqueeze(0) - self.means[which].unsqueeze(1)) / self.unit
        if not self.dense:
            scale = self._log_scale().exp().expand_as(self.means)[which].unsqueeze(1)
            log_scale = self.log_scale.expand_as(self.means)[which].unsqueeze(1)
            terms = -0.5 * (away / scale) ** 2 - log_scale - 0.5 * LOG_2PI
            return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1).mT
        factors = self._tril().expand(len(self.means), -1, -1)[which]
        white = torch.linalg.solve_triangular(factors, away.mT, upper=False)
        log_det = self.log_scale.expand(len(self.means), -1)[which].sum(-1)
        return -0.5 * (white**2).sum(1).mT - log_det - 0.5 * x.shape[1] * LOG_2PI

    def _log_prob_missing(self, x: Tensor, mask: Tensor) -> Tensor:
        log_prob = x.new_zeros(len(x), len(self.means))
        for rows, seen in self._groups(mask):
            precision, log_det, _ = self._observed(seen)
            away = self._away(x[rows], seen)
            quadratic = (away * _times(precision, away)).sum(-1)
            constant = (seen * (LOG_2PI + 2 * self.unit.log())).sum(-1, keepdim=True)
            part = -0.5 * (quadratic + log_det + constant)
            log_prob = log_prob.index_copy(0, rows, part.to(log_prob))
        return log_prob

    def _away(self, x: Tensor, seen: Tensor) -> Tensor:
        """(x - mu_k) / unit of what is seen, (M, K, D), 0 elsewhere."""
        return torch.where(seen.unsqueeze(1) > 0, (x.unsqueeze(1) - self.means) / self.unit, 0.0)

    def _groups(self, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows, and what is seen of them: one pattern (1, D) that many rows share, or a pattern for each, (m, D)."""
        patterns, which, counts = torch.unique(mask, dim=0, return_inverse=True, return_counts=True)
        common = counts >= 16
        for i in common.nonzero().flatten().tolist():
            for rows in (which == i).nonzero().squeeze(-1).split(max(2**21 // self.means.numel(), 1)):
                yield rows, patterns[i : i + 1].to(self.means)
        rare = (~common[which]).nonzero().squeeze(-1)
        for rows in rare.split(max(2**21 // (len(self.means) * mask.shape[1] ** 2), 1)):
            if len(rows):
                yield rows, mask[rows].to(self.means)

    def _observed(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the seen coordinates (m, D): the inverse of their covariance, with zeros elsewhere, (m, K or 1, D, D); its
        log-determinant; and cov(x, seen) times that inverse, whose rows predict what is not seen."""
        tril = self._tril()
        covariances = tril @ tril.mT
        both = (seen.unsqueeze(-1) * seen.unsqueeze(-2)).unsqueeze(1)
        # a one on the diagonal for each coordinate that is not there leaves the rest as it is
        chosen = both * covariances + torch.diag_embed(1 - seen).unsqueeze(1)
        factor = torch.linalg.cholesky(chosen)
        precision = both * torch.cholesky_inverse(factor)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return precision, log_det, covariances @ precision

    # ----------------------------------------------------------------------------------------------- uses

    def given(self, z: Tensor) -> Distribution:
        mean = z @ self.means
        if not self.dense:
            scale = self.log_scale.exp().expand_as(self.means)
            return Normal(mean, z @ scale, validate_args=False)
        return MultivariateNormal(
            mean, scale_tril=torch.einsum("...k,kij->...ij", z, self.scale_tril), validate_args=False
        )

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Distribution:
        if not self.dense:
            return self.given(z)
        means, left = self.filled(x.reshape(-1, x.shape[-1]), mask.reshape(-1, x.shape[-1]))
        chosen = z.reshape(len(z), -1, z.shape[-1])
        mean = torch.einsum("smk,mkd->smd", chosen, means).reshape(*z.shape[:-1], -1)
        spread = torch.einsum("smk,mkde->smde", chosen, left).reshape(*mean.shape, x.shape[-1])
        # an observed coordinate has no variance left; a normal wants some
        tiny = 1e-12 * torch.diag_embed(self.covariances.diagonal(dim1=-2, dim2=-1).amin(0))
        return MultivariateNormal(mean, spread + tiny, validate_args=False)

    def filled(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | x_observed, k], (M, K, D), and the covariance that is left, (M, K, D, D)."""
        filled = x.new_zeros(len(x), *self.means.shape)
        left = x.new_zeros(len(x), *self.means.shape, x.shape[1])
        for rows, seen in self._groups(mask):
            filled[rows], left[rows] = self._completed(x[rows], seen)
        filled = torch.where(mask.unsqueeze(1), x.unsqueeze(1), filled * self.unit + self.center)
        return filled, left * self.unit.unsqueeze(-1) * self.unit

    def _completed(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """E[y | y_observed, k] for rows of which `seen`, (1, D) or (M, D), is observed, (M, K, D), and the covariance
        that is left, (1 or M, K, D, D)."""
        _, _, gain = self._observed(seen)
        hidden = 1 - seen
        predicted = self._mean() + _times(gain, self._away(x, seen))
        filled = torch.where(seen.unsqueeze(1) > 0, self._standard(x).unsqueeze(1), predicted)
        tril = self._tril().expand(len(self.means), -1, -1)
        covariances = tril @ tril.mT
        left = (covariances - gain @ covariances) * (hidden.unsqueeze(-1) * hidden.unsqueeze(-2)).unsqueeze(1)
        return filled, 0.5 * (left + left.mT)

    # ------------------------------------------------------------------------------------------- learning

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        self._set_units(x, mask, weight)
        some = _sample(weight, max(10_000, 256 * len(self.means)), generator)
        x, mask, weight = x[some], None if mask is None else mask[some], weight[some].to(x)
        standard = self._standard(x) if mask is None else torch.where(mask, self._standard(x), 0.0)
        if not len(x):
            standard, weight = self.center.new_zeros(1, len(self.center)), weight.new_ones(1)
        centers = _kmeans(standard, weight, len(self.means), generator)
        nearest = torch.cdist(standard, centers).argmin(1)
        self.means.data = self.center + centers * self.unit
        self.log_scale.data = (self.unit.amax() if self.round else self.unit).log().expand_as(self.log_scale).clone()
        if self.dense:
            self.below.data.zero_()
        if len(x):
            member = nn.functional.one_hot(nearest, len(self.means)).to(x) * weight.unsqueeze(-1)
            self.update(self.statistics(x, mask, member))

    def _set_units(self, x: Tensor, mask: Tensor | None, weight: Tensor) -> None:
        """The mean and standard deviation of what is observed, in float64; a column that does not vary, its least value
        being its largest, has its size for unit."""
        low, high = _range(x, mask, weight)
        # below the reach of squares differences are none
        seen, varies = high >= low, high - low > 1 / LARGEST
        low, span = torch.where(seen, low, 0.0), torch.where(varies, high - low, 1.0)

        def block(part: slice) -> tuple[Tensor, ...]:
            mass = weight[part].double().unsqueeze(-1) * (1.0 if mask is None else mask[part])
            # from 0 to 1, so that no digits cancel and no square overflows
            y = torch.where(mass > 0, (x[part].double() - low) / span, 0.0)
            return mass.sum(0).expand(len(low)).clone(), (mass * y).sum(0), (mass * y**2).sum(0)

        count, first, second = sum_blocks(block, len(x), block_rows(x.shape[1], x))
        mean, square = (total / torch.where(count > 0, count, 1.0) for total in (first, second))
        deviation = span * (square - mean**2).clamp(min=torch.finfo(torch.float64).eps ** 2).sqrt()
        # smaller sizes, which only data of no weight can hide from `check`, are as good as 0
        size = torch.where(low.abs() > 1 / LARGEST, low.abs(), 1.0)
        self.center.copy_(torch.where(varies, low + span * mean, low))
        unit = torch.where(varies, deviation, size)
        # one for all is that of the columns that vary, next to which the size of another may be vast
        self.unit.copy_(unit[varies if bool(varies.any()) else ~varies].amax() if self.round else unit)

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """float64 sums over the M observations, weighted by responsibility (M, K)."""
        mask = None if mask is None or bool(mask.all()) else mask
        if mask is not None and self.dense:
            return self._statistics_missing(x, mask, responsibility)

        def block(part: slice) -> tuple[Tensor, ...]:
            seen = None if mask is None else mask[part]
            return self._products(self.features(x[part], seen, reuse=True), x[part], responsibility[part], seen)

        return self._of_products(sum_blocks(block, len(x), block_rows(self._width, x)), mask is not None)

    def mixture_step(
        self, x: Tensor, mask: Tensor | None, weight: Tensor, log_prior: Tensor, hard: bool = False
    ) -> tuple[Statistics, Tensor]:
        mask = None if mask is None or bool(mask.all()) else mask
        if self.dense and mask is not None:
            whole = mask.all(1)
            if not whole.any():
                return super().mixture_step(x, mask, weight, log_prior, hard)
            holed = super().mixture_step(x[~whole], mask[~whole], weight[~whole], log_prior, hard)
            full = self.mixture_step(x[whole], None, weight[whole], log_prior, hard)
            return {name: full[0][name] + value for name, value in holed[0].items()}, full[1] + holed[1]
        if mask is None and not hard and self.covariance != "tied" and plain(x):
            found = self._whole_step(x, weight, log_prior)
            if found is not None:
                return found
        natural, safe = self._prepared(x, mask)

        def block(part: slice) -> tuple[Tensor, ...]:
            seen = None if mask is None else mask[part]
            phi = self.features(x[part], seen, reuse=True)
            log_joint = self._of_features(phi, natural, x[part], seen, safe).add_(log_prior)
            responsibility, value = responsibilities(log_joint, weight[part], hard)
            return *self._products(phi, x[part], responsibility, seen), value

        *sums, value = sum_blocks(block, len(x), block_rows(self._width, x))
        return self._of_products(tuple(sums), mask is not None), value

    def _whole_step(self, x: Tensor, weight: Tensor, log_prior: Tensor) -> tuple[Statistics, Tensor] | None:
        """`mixture_step` of rows of which all is seen, or None where it turns out that rounding would show."""
        natural = self._natural(None)
        # the first feature is 1
        folded = torch.cat([natural[:1] + log_prior, natural[1:]])
        rows = block_rows(self._width, x)
        linear, value, far = expectations(x, weight, self.center, self.unit, folded, rows)
        if len(x) and len(self._beyond(far, None, natural, x.new_zeros(1))):
            return None
        return self._of_products((linear, linear[:, 0]), False), value

    @property
    def _width(self) -> int:
        """About how many features there are."""
        count = self.means.shape[1]
        return count * (count + 1) // 2 if self.covariance == "full" else 2 * count

    def _products(self, phi: Tensor, x: Tensor, responsibility: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Sums in which the statistics are linear: responsibility^T Phi, the counts, and for a tied matrix x x^T."""
        linear = (responsibility.mT @ phi).double()
        # the first feature is 1 where nothing is missing
        each = linear[:, 0].clone() if mask is None else responsibility.sum(0, dtype=torch.float64)
        if self.covariance != "tied":
            return linear, each
        away = self._standard(x)
        square = (away * responsibility.sum(1, keepdim=True)).mT @ away
        return linear, each, square.double()

    def _of_products(self, sums: tuple[Tensor, ...], holed: bool) -> Statistics:
        count = self.means.shape[1]
        linear, each = sums[:2]
        if self.dense:
            total = linear[:, 1 : 1 + count]
            tied = self.covariance == "tied"
            square = sums[2].unsqueeze(0) if tied else symmetric(linear[:, 1 + count :], count)
            spread = torch.stack([each.sum().expand(count), total.sum(0), square.sum(0).diagonal()])
            return {"spread": spread, "count": each, "sum": total, "square": square}
        mass, total, square = linear.split([linear.shape[1] - 2 * count, count, count], 1)
        spread = torch.stack([mass.expand(-1, count).sum(0), total.sum(0), square.sum(0)])
        if holed:
            mean = self._mean().double()
            hidden = (each.unsqueeze(-1) - mass).clamp(min=0)
            total = total + hidden * mean
            square = square + hidden * (mean**2 + self._variance().double())
        square = square.sum(1, keepdim=True) if self.round else square
        square = square.sum(0, keepdim=True) if self.covariance == "common" else square
        return {"spread": spread, "count": each, "sum": total, "square": square}

    def _statistics_missing(self, x: Tensor, mask: Tensor, responsibility: Tensor) -> Statistics:
        r, mass = responsibility.double(), mask.double() * responsibility.sum(1, keepdim=True).double()
        away = torch.where(mask, self._standard(x), 0.0).double()
        # of what is observed, not expected: a floor that moved with the parameters would let EM descend
        spread = torch.stack([mass.sum(0), (mass * away).sum(0), (mass * away**2).sum(0)])
        states, count = self.means.shape
        total, square = r.new_zeros(states, count), r.new_zeros(states, count, count)
        for rows, seen in self._groups(mask):
            filled, left = (part.double() for part in self._completed(x[rows], seen))
            filled, share = filled.transpose(0, 1), r[rows].mT.unsqueeze(-1)
            total += (share * filled).sum(1)
            square += (share * filled).mT @ filled
            shared = len(left) == 1
            square += r[rows].sum(0)[:, None, None] * left[0] if shared else torch.einsum("mk,mkde->kde", r[rows], left)
        square = square.sum(0, keepdim=True) if self.covariance == "tied" else square
        return {"spread": spread, "count": r.sum(0), "sum": total, "square": square}

    def update(self, total: Statistics) -> None:
        count, present = total["count"], total["count"] > 0
        mean = total["sum"] / torch.where(present, count, 1.0).unsqueeze(-1)
        floor = max(self.floor, LEAST) * self._variance_of_all(total)
        # far from the origin a dtype has few values to choose from: variances are those around the means that it holds,
        # or that are frozen, so that the M-step is the maximum among these
        rounded = (mean * self.unit + self.center).to(self.means)
        kept = rounded if self.means.requires_grad else self.means.detach()
        held = (kept.double() - self.center) / self.unit
        if self.dense:
            check_whole(self.log_scale, self.below)
            self._set_matrices(total, mean, held, floor)
        else:
            self._set_variances(total, mean, held, floor)
        self._keep("means", rounded, present)

    def _set_variances(self, total: Statistics, mean: Tensor, held: Tensor, floor: Tensor) -> None:
        """Of statistics with these means, around those that are held."""
        count, square = total["count"].unsqueeze(-1), held * (2 * mean - held)
        if self.round:
            square, floor, count = square.sum(1, keepdim=True), floor.max(), count * mean.shape[1]
        if self.covariance == "common":
            square, count = (square * total["count"].unsqueeze(-1)).sum(0, keepdim=True), count.sum(0, keepdim=True)
            variance = (total["square"] - square) / count.clamp(min=torch.finfo(count.dtype).tiny)
        else:
            safe = torch.where(count > 0, count, 1.0)
            variance = total["square"] / safe - square * total["count"].unsqueeze(-1) / safe
        self._set_floored(((variance <= floor) & (count > 0)).any(-1))
        unit = self.unit.amax() if self.round else self.unit
        self._keep("log_scale", 0.5 * torch.maximum(variance, floor).log() + unit.log(), (count > 0).any(-1))

    def _set_matrices(self, total: Statistics, mean: Tensor, held: Tensor, floor: Tensor) -> None:
        count, present = total["count"], total["count"] > 0
        away = mean - held
        if self.covariance == "tied":
            present = present.any().unsqueeze(0)
            whole = count.sum().clamp(min=torch.finfo(count.dtype).tiny)
            between = (count.unsqueeze(-1) * mean).mT @ mean - (count.unsqueeze(-1) * away).mT @ away
            covariance = ((total["square"][0] - between) / whole).unsqueeze(0)
        else:
            safe = torch.where(present, count, 1.0)[:, None, None]
            covariance = total["square"] / safe - mean.unsqueeze(-1) * mean.unsqueeze(-2)
            covariance = covariance + away.unsqueeze(-1) * away.unsqueeze(-2)
        tril, floored = _factor(covariance, floor)
        rows, columns = torch.tril_indices(*tril.shape[1:], offset=-1, device=tril.device)
        self._set_floored(floored & present)
        self._keep("log_scale", tril.diagonal(dim1=-2, dim2=-1).log() + self.unit.log(), present)
        self._keep("below", tril[:, rows, columns] * self.unit[rows], present)

    def _set_floored(self, floored: Tensor) -> None:
        self.floored.copy_(floored.expand_as(self.floored) & self.log_scale.requires_grad)

    def reorder(self, order: Tensor) -> None:
        super().reorder(order)
        self.floored.copy_(self.floored[order])

    def concerns(self, count: Tensor) -> list[str]:
        found = []
        coarse = torch.finfo(self.means.dtype).eps * self.center.abs() > COARSE * self.unit
        if bool((coarse := coarse & ~self.constant).any()):
            found.append(
                f"column {_numbers(coarse)} lies so far from 0 that {_name(self.means.dtype)} holds few digits of how "
                "it varies: subtract an origin from it, or use float64"
            )
        if not (which := ((count > 0) & self.floored).nonzero().flatten().tolist()):
            return found
        names, flat = ", ".join(str(k) for k in which), bool(self.constant.any())
        return [
            *found,
            f"the variance of component {names} is at its floor ({max(self.floor, LEAST):g} of the data's): collapsed "
            f"onto a few points{f' or onto constant columns ({_numbers(self.constant)})' if flat else ''}; use fewer "
            f"components{', a higher floor, or drop such columns' if flat else ' or a higher floor'}",
        ]

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # as torch has it
        before, means = self.means.dtype, self.means.detach()
        spread = None if before != torch.float64 else self.covariances.detach().diagonal(dim1=-2, dim2=-1).sqrt()
        super()._apply(fn, recurse)
        if spread is not None and self.means.dtype != before and self.means.device == means.device:
            moved = ((self.means.detach().double() - means).abs() > COARSE * spread).any(0)
            if bool(moved.any()):
                warnings.warn(
                    f"{_name(self.means.dtype)} moves the means of column {_numbers(moved)} by more than {COARSE:g} "
                    "standard deviations, so far from 0 do they lie: keep the model in float64, or subtract an origin",
                    stacklevel=3,
                )
        return self

    def _variance_of_all(self, total: Statistics) -> Tensor:
        """The variance of all the data, (D,), 1 where it is zero, so that a floor exists."""
        count, first, square = total["spread"]
        count = count.clamp(min=torch.finfo(count.dtype).tiny)
        second, mean = square / count, first / count
        variance = second - mean**2
        # what rounding leaves of a constant column is noise, not a variance
        noise = (NOISE * torch.finfo(self.means.dtype).eps) ** 2
        self.constant.copy_((variance <= 1e-12 * second) | (variance <= noise))
        return torch.where(self.constant, 1.0, variance)

    def _keep(self, name: str, value: Tensor, present: Tensor) -> None:
        """Set a parameter, except where nothing belongs to a component: it keeps what it had."""
        parameter = getattr(self, name)
        value = value.to(parameter)
        parameter.data = torch.where(present.unsqueeze(-1), value, parameter.data) if value.numel() else parameter.data

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.ndim != 2 or x.shape[-1] != self.means.shape[-1]:
            raise DataError(f"the model has {self.means.shape[-1]} features, the data {tuple(x.shape[1:])}")
        check_scale(x, None if mask is None else mask.reshape(x.shape))


def _range(x: Tensor, mask: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest observed value of each column, over data of some weight, (D,) in float64; inf and -inf
    where there is none."""
    low = torch.full((x.shape[1],), torch.inf, dtype=torch.float64, device=x.device)
    high = -low
    rows = block_rows(x.shape[1], x)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        there = (weight[part] > 0).unsqueeze(-1)
        there = there if mask is None else there & mask[part]
        low = torch.minimum(low, torch.where(there, x[part], torch.inf).amin(0).double())
        high = torch.maximum(high, torch.where(there, x[part], -torch.inf).amax(0).double())
    return low, high


def _numbers(which: Tensor) -> str:
    """Columns, counted from 1, for a message."""
    return ", ".join(str(column + 1) for column in which.nonzero().flatten().tolist())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix (1 or M, K or 1, D, D) times vector (M, K, D)."""
    if len(matrix) == 1:
        return (matrix[0] @ vector.permute(1, 2, 0)).permute(2, 0, 1)
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _factor(covariance: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors of the covariances (K, D, D) with variances of at least `floor` (D,) in every direction, in
    coordinates where the floor is 1; and which had to be lifted, (K,)."""
    unit = floor.sqrt()
    relative = covariance / unit.unsqueeze(-1) / unit
    values, vectors = torch.linalg.eigh(0.5 * (relative + relative.mT))
    lifted = (vectors * values.clamp(min=1.0).unsqueeze(-2)) @ vectors.mT
    low = (values < 1).any(-1)
    relative = torch.where(low[:, None, None], lifted, relative)
    return torch.linalg.cholesky(relative) * unit.unsqueeze(-1), low


def _sample(weight: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most so many rows of some weight, at random: a starting point needs no more."""
    present = (weight > 0).nonzero().squeeze(-1)
    if len(present) <= most:
        return present
    order = torch.randint(len(present), (most,), generator=generator)
    return present[order.sort().values.to(present.device)]


def _kmeans(x: Tensor, weight: Tensor, k: int, generator: torch.Generator, steps: int = 10) -> Tensor:
    """k-means++ seeding (Arthur and Vassilvitskii 2007) and a few Lloyd steps: centers (k, D)."""
    weight = weight.to(x)
    centers = x[torch.multinomial(weight, 1, generator=generator)]
    distance = torch.cdist(x, centers).squeeze(-1) ** 2
    while len(centers) < k:
        mass = distance * weight
        mass = mass if bool(mass.sum() > 0) else weight
        centers = torch.cat([centers, x[torch.multinomial(mass, 1, generator=generator)]])
        distance = torch.minimum(distance, torch.cdist(x, centers[-1:]).squeeze(-1) ** 2)
    for _ in range(steps):
        member = nn.functional.one_hot(torch.cdist(x, centers).argmin(1), k).to(x) * weight.unsqueeze(-1)
        count = member.sum(0).unsqueeze(-1)
        centers = torch.where(count > 0, member.T @ x / count.clamp(min=torch.finfo(x.dtype).tiny), centers)
    return centers
