"""The planner: from a GGUF header and a device profile to the plan. Pure; it never sees a GPU."""

from llamaweb.planner.fusion import FUSIONS
from llamaweb.planner.model import USUAL_CONTEXT, Planner, plan_model
from llamaweb.planner.plan import Binding, Dispatch, ModelPlan, Phase
from llamaweb.profile import DESKTOP, PROFILES, DeviceProfile

__all__ = [
    "DESKTOP",
    "FUSIONS",
    "PROFILES",
    "USUAL_CONTEXT",
    "Binding",
    "DeviceProfile",
    "Dispatch",
    "ModelPlan",
    "Phase",
    "Planner",
    "plan_model",
]
