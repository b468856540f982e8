"""The web program's own tables: customers with a credit limit, and their orders."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of the models below."""


class Customer(Base):
    """A customer, and what may still be bought on credit."""

    __tablename__ = "web_customers"
    __table_args__ = (CheckConstraint("credit_cents >= 0", name="within_credit"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    credit_cents: Mapped[int]


class Order(Base):
    """An order, and the task that works on it."""

    __tablename__ = "web_orders"

    order_id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(ForeignKey("web_customers.name"))
    item: Mapped[str]
    price_cents: Mapped[int]
    task_uuid: Mapped[UUID | None]
