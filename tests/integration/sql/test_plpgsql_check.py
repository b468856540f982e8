"""Every PL/pgSQL function passes plpgsql_check, with warnings, on the server of this machine that offers it.

The embedded server carries no extensions; the local one gets it from its distribution (``.ci/run`` sees to that).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasker.testing.servers import databases_at, local_server_url, why_not_local
from tests.sql_kit import Core

CHECK = """
SELECT p.proname, c.message
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'tasker'
JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
CROSS JOIN LATERAL plpgsql_check_function(p.oid, format => 'text', fatal_errors => false, extra_warnings => true,
                                          performance_warnings => false) AS c(message)
"""
# It cannot see what dynamic SQL returns, and says so.
NOT_KNOWABLE = ("is maybe unmodified", "cannot to determine result of dynamic SQL")


@pytest.fixture
def local_core() -> Iterator[Core]:
    if (why := why_not_local()) is not None:
        pytest.skip(why)
    with databases_at(local_server_url()) as databases:
        url = databases.create()
        core = Core(url)
        yield core
        core.close()
        databases.drop(url)


def test_every_function_passes_plpgsql_check(local_core: Core) -> None:
    offered = local_core.one("SELECT count(*) FROM pg_available_extensions WHERE name = 'plpgsql_check'")
    if not offered:
        pytest.skip("the local PostgreSQL does not offer plpgsql_check (Debian: postgresql-15-plpgsql-check)")
    local_core.rows_affected("CREATE EXTENSION plpgsql_check")
    functions = local_core.one(
        "SELECT count(*) FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang "
        "WHERE p.pronamespace = 'tasker'::regnamespace AND l.lanname = 'plpgsql'"
    )
    assert functions > 40
    found = [row for row in local_core.rows(CHECK) if not any(text in row[1] for text in NOT_KNOWABLE)]
    assert found == [], found
