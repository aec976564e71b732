"""Promotion policies: rules that a candidate must meet to be promoted, and the decision on them."""

from __future__ import annotations

from searchlora.eval.policy.decide import SAME_POLICY, UNCHANGED, Facts, RuleResult, decide
from searchlora.eval.policy.policy import Policy, read_policy

__all__ = ["SAME_POLICY", "UNCHANGED", "Facts", "Policy", "RuleResult", "decide", "read_policy"]
