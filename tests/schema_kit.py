"""What a database's schema is, as text: for comparing two of them, as pg_dump would, without pg_dump."""

from __future__ import annotations

import psycopg

_QUERIES = {
    "columns": """
        SELECT table_name, column_name, data_type, udt_name, is_nullable, column_default, is_identity,
               generation_expression
        FROM information_schema.columns WHERE table_schema = 'tasker' ORDER BY table_name, column_name""",
    "tables": """
        SELECT relname, relkind, relpersistence, reloptions, relispartition, pg_get_expr(relpartbound, oid),
               obj_description(oid, 'pg_class')
        FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
        ORDER BY relname""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')
        FROM pg_constraint WHERE connamespace = 'tasker'::regnamespace ORDER BY 1, 2, 3""",
    "indexes": """
        SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'tasker' ORDER BY indexname""",
    "functions": """
        SELECT oid::regprocedure::text, pg_get_functiondef(oid), obj_description(oid, 'pg_proc')
        FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace AND prokind = 'f' ORDER BY 1""",
    "views": """
        SELECT viewname, definition FROM pg_views WHERE schemaname = 'tasker' ORDER BY viewname""",
    "column comments": """
        SELECT c.relname, a.attname, col_description(c.oid, a.attnum) FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'tasker'::regnamespace AND col_description(c.oid, a.attnum) IS NOT NULL ORDER BY 1, 2""",
    "rights on tables": """
        SELECT n.nspname, c.relname, a.grantee::regrole::text, a.privilege_type
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS a
        WHERE n.nspname IN ('tasker', 'pgmq') ORDER BY 1, 2, 3, 4""",
    "rights on functions": """
        SELECT p.oid::regprocedure::text, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
        WHERE p.pronamespace = 'tasker'::regnamespace ORDER BY 1, 2""",
    "queues": "SELECT queue_name FROM pgmq.meta ORDER BY queue_name",
    "bookkeeping": """
        SELECT 'revision', version_num, '' FROM tasker.alembic_version
        UNION ALL SELECT 'release', release, '' FROM tasker.schema_releases
        UNION ALL SELECT name, digest, array_to_string(signatures, '; ') FROM tasker.schema_functions ORDER BY 1, 2""",
}


def schema_of(url: str) -> list[str]:
    """Everything about schema ``tasker`` in the database at ``url``, a line each."""
    with psycopg.connect(url, autocommit=True) as connection:
        return [
            f"{what}: {row}"
            for what, query in _QUERIES.items()
            for row in connection.execute(query).fetchall()  # type: ignore[arg-type]
        ]
