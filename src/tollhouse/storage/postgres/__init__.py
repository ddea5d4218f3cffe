"""PostgreSQL: the engine of several instances. Hot path on asyncpg, control plane on SQLAlchemy with psycopg."""
