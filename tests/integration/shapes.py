"""Graphs of every basic shape. Each value is made of the parents' values, so that a lost or doubled input shows."""

from __future__ import annotations

from tasker import StepContext, workflow

Value = dict[str, int]

NAMESPACE = "shapes"

# -- linear: start → double → increment → square --------------------------------------------------------------

linear = workflow(NAMESPACE, "linear_workflow", version="1.0.0")


@linear.step
def start(ctx: StepContext) -> Value:
    return {"value": ctx.context["n"]}


@linear.step
def double(ctx: StepContext, start: Value) -> Value:
    return {"value": start["value"] * 2}


@linear.step
def increment(ctx: StepContext, double: Value) -> Value:
    return {"value": double["value"] + 1}


@linear.step
def square(ctx: StepContext, increment: Value) -> Value:
    return {"value": increment["value"] ** 2}


# -- diamond: top → left, right → bottom ----------------------------------------------------------------------

diamond = workflow(NAMESPACE, "diamond_workflow", version="1.0.0")


@diamond.step
def top(ctx: StepContext) -> Value:
    return {"value": ctx.context["n"]}


@diamond.step
def left(ctx: StepContext, top: Value) -> Value:
    return {"value": top["value"] + 10}


@diamond.step
async def right(ctx: StepContext, top: Value) -> Value:
    return {"value": top["value"] + 100}


@diamond.step
def bottom(ctx: StepContext, left: Value, right: Value) -> Value:
    return {"value": left["value"] * right["value"]}


# -- tree: 1 → 2 → 4 → 1 --------------------------------------------------------------------------------------

tree = workflow(NAMESPACE, "tree_workflow", version="1.0.0")


@tree.step
def root(ctx: StepContext) -> Value:
    return {"value": ctx.context["n"]}


@tree.step
def branch_a(ctx: StepContext, root: Value) -> Value:
    return {"value": root["value"] + 1}


@tree.step
def branch_b(ctx: StepContext, root: Value) -> Value:
    return {"value": root["value"] + 2}


@tree.step
def leaf_aa(ctx: StepContext, branch_a: Value) -> Value:
    return {"value": branch_a["value"] * 3}


@tree.step
def leaf_ab(ctx: StepContext, branch_a: Value) -> Value:
    return {"value": branch_a["value"] * 5}


@tree.step
async def leaf_ba(ctx: StepContext, branch_b: Value) -> Value:
    return {"value": branch_b["value"] * 7}


@tree.step
async def leaf_bb(ctx: StepContext, branch_b: Value) -> Value:
    return {"value": branch_b["value"] * 11}


@tree.step
def gather(ctx: StepContext, leaf_aa: Value, leaf_ab: Value, leaf_ba: Value, leaf_bb: Value) -> Value:
    return {"value": leaf_aa["value"] + leaf_ab["value"] + leaf_ba["value"] + leaf_bb["value"]}


# -- mixed: init → west, east → validate (both), transform (west), analyze (east) → finalize -------------------

mixed = workflow(NAMESPACE, "mixed_dag_workflow", version="1.0.0")


@mixed.step
def init(ctx: StepContext) -> Value:
    return {"value": ctx.context["n"]}


@mixed.step
def west(ctx: StepContext, init: Value) -> Value:
    return {"value": init["value"] + 1}


@mixed.step
def east(ctx: StepContext, init: Value) -> Value:
    return {"value": init["value"] + 2}


@mixed.step
def validate(ctx: StepContext, west: Value, east: Value) -> Value:
    return {"value": west["value"] * east["value"]}


@mixed.step
def transform(ctx: StepContext, west: Value) -> Value:
    return {"value": -west["value"]}


@mixed.step
async def analyze(ctx: StepContext, east: Value) -> Value:
    return {"value": east["value"] ** 2}


@mixed.step
def finalize(ctx: StepContext, validate: Value, transform: Value, analyze: Value) -> Value:
    return {"value": validate["value"] + transform["value"] + analyze["value"]}
