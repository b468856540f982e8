"""All calls that race."""

from __future__ import annotations

from tests.races.actor import Actor
from tests.races.actors import ACTORS
from tests.races.bystanders import BYSTANDERS

EVERYBODY = {**ACTORS, **BYSTANDERS}

__all__ = ["ACTORS", "BYSTANDERS", "EVERYBODY", "Actor"]
