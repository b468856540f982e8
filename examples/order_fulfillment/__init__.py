"""Orders of a small shop, from validation to notification, as one durable workflow over four namespaces.

``process_order.yaml`` is the graph; ``fulfillment``, ``inventory``, ``payments`` and ``notifications`` hold its
handlers, ``schema.sql`` the tables they work on, ``checks`` what must be true at the end. ``tasker demo`` runs it all.
"""
