"""Runs the migrations on the connection that storage/migrate.py hands over."""

from alembic import context

from tollhouse.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
