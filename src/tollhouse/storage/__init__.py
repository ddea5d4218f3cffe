"""The database: its schema, its migrations, and the group commit that makes every promise durable."""
