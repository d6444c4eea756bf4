"""Which variant of a kernel computes a step: what tuning chose, or the library's default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from llamaweb.kernels import mul_mat
from llamaweb.kernels.flash_attn import FlashAttn
from llamaweb.kernels.flash_attn_vec import FlashAttnVec
from llamaweb.kernels.library import Attention
from llamaweb.kernels.mul_mat import PRECISIONS, MulMat
from llamaweb.kernels.mul_mat_vec import MulMatVec
from llamaweb.kernels.tuner import Choices, Shape, Variant
from llamaweb.planner.fusion import Step
from llamaweb.planner.plan import WeightPlan
from llamaweb.profile import DeviceProfile


@dataclass(frozen=True)
class Variants:
    """choices: what tuning found, by the shape of the kernel. precision: of PRECISIONS."""

    profile: DeviceProfile
    choices: Choices
    precision: str

    def tile(self, step: Step, weight: WeightPlan) -> MulMat:
        """Of a product of a batch with a weight, or a piece of one."""
        shape = replace(_product(step, weight), precision=self.precision)
        chosen = self._of_any_batch.get(replace(shape, n_tokens=0))
        bits = PRECISIONS[self.precision]
        default = mul_mat.default_tile(weight.format, shape.k, shape.n, shape.n_tokens, self.profile, bits)
        return chosen if isinstance(chosen, MulMat) else default

    @cached_property
    def _of_any_batch(self) -> dict[Shape, Variant]:
        """What is evaluated takes other batches than prompts, which alone are tuned, and is computed as they are."""
        return {replace(shape, n_tokens=0): chosen for shape, chosen in self.choices.items() if shape.op == "mul_mat"}

    def vec(self, step: Step, weight: WeightPlan) -> MulMatVec | None:
        """Of a product of one token; None: the default."""
        chosen = self.choices.get(_product(step, weight))
        return chosen if isinstance(chosen, MulMatVec) else None

    def attention(self, attention: Attention, n_tokens: int) -> FlashAttn | None:
        """Of the attention of a batch; None: the default."""
        chosen = self.choices.get(Shape.of_attention("flash_attn", attention, n_tokens))
        return chosen if isinstance(chosen, FlashAttn) else None

    def attention_vec(self, attention: Attention, splits: int) -> FlashAttnVec | None:
        """Of the attention of one token; None: the default."""
        chosen = self.choices.get(Shape.of_attention("flash_attn_vec", attention, 1, splits))
        return chosen if isinstance(chosen, FlashAttnVec) else None


def _product(step: Step, weight: WeightPlan) -> Shape:
    """What tuning knows a product by."""
    p = step.params
    n_tokens = 1 if step.op == "mul_mat_vec" else step.values["x"].n_tokens
    epilogue, norms = p.get("epilogue", "store"), ("eps" in p, "post_eps" in p)
    return Shape(step.op, weight.format.name, weight.pitch, weight.rows, epilogue, *norms, n_tokens)
