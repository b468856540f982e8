"""Workflows that show what a pool can do, and cannot: taking memory, sleeping past a timeout, never coming back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tasker import Retry, StepContext, workflow
from tests.e2e.workflows import NAMESPACE

hungry = workflow(NAMESPACE, "hungry", version="1.0.0")


@hungry.step
def eat(ctx: StepContext) -> dict[str, Any]:
    return {"bytes": len(b"\1" * (ctx.context["megabytes"] * 2**20))}


sleepy = workflow(NAMESPACE, "sleepy", version="1.0.0")


@sleepy.step(timeout_seconds=0.3, retry=Retry(max_attempts=1))
def sleep(ctx: StepContext) -> None:
    began = time.monotonic()
    try:
        time.sleep(ctx.context["seconds"])
    finally:
        Path(ctx.context["told"]).write_text(str(time.monotonic() - began))


stubborn = workflow(NAMESPACE, "stubborn", version="1.0.0")


@stubborn.step(timeout_seconds=0.3, retry=Retry(max_attempts=1))
def stay(ctx: StepContext) -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:  # whatever is thrown at it
            continue
