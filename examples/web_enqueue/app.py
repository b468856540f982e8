"""A FastAPI program: an order and the workflow that delivers it are one transaction.

    PYTHONPATH=examples uvicorn web_enqueue.app:create_app --factory

If the transaction fails after the task was created, there is neither an order nor a task, and no worker ever saw one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from tasker import OrchestrationCore, Tasker
from web_enqueue.tables import Base, Customer, Order
from web_enqueue.workflow import Placed, placed

CREDIT_CENTS = 10_000
"""What a customer may buy, without paying."""


class NewOrder(BaseModel):
    """The body of ``POST /orders``."""

    customer: str
    item: str
    price_cents: int = Field(gt=0)


def create_app(core: OrchestrationCore | None = None) -> FastAPI:
    """The program.

    Args:
        core: what it works with; by default what the settings say, from start to shutdown.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        mine = core if core is not None else await run_in_threadpool(OrchestrationCore.from_settings)
        app.state.engine = mine.database.engine
        app.state.tasker = Tasker(mine.database)
        await run_in_threadpool(mine.templates.register, placed)
        await run_in_threadpool(Base.metadata.create_all, app.state.engine)
        yield
        if core is None:
            await run_in_threadpool(mine.close)

    app = FastAPI(title="Orders", lifespan=lifespan)

    @app.post("/orders", status_code=202)
    def place(new: NewOrder) -> dict[str, Any]:
        """Place an order: it is delivered if and only if it is committed."""
        try:
            with Session(app.state.engine) as session, session.begin():
                if session.get(Customer, new.customer) is None:
                    session.add(Customer(name=new.customer, credit_cents=CREDIT_CENTS))
                order = Order(**new.model_dump())
                session.add(order)
                session.flush()  # gives the order its number
                task = app.state.tasker.create(
                    placed.namespace,
                    placed.name,
                    Placed(order_id=order.order_id, **new.model_dump()),
                    identity_key=f"order-{order.order_id}",
                    connection=session,
                )
                order.task_uuid = task.task_uuid
                # The constraint on the credit speaks last, when the task is already in the queue.
                session.execute(
                    update(Customer)
                    .where(Customer.name == new.customer)
                    .values(credit_cents=Customer.credit_cents - new.price_cents)
                )
                return {"order_id": order.order_id, "task_uuid": str(task.task_uuid)}
        except IntegrityError as error:
            raise HTTPException(409, f"{new.customer} has not enough credit left") from error

    @app.get("/orders/{order_id}")
    def look(order_id: int) -> dict[str, Any]:
        """An order, and how far its delivery is."""
        with Session(app.state.engine) as session:
            order = session.get(Order, order_id)
            if order is None or order.task_uuid is None:
                raise HTTPException(404, f"there is no order {order_id}")
            state = app.state.tasker.get(order.task_uuid, connection=session).state
            return {"order_id": order_id, "customer": order.customer, "item": order.item, "delivery": state}

    return app
