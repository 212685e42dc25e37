"""What Alembic runs for every migration: on the connection that `schema` opened, inside its transaction."""

from alembic import context

from controlplane.store import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables.METADATA)
context.run_migrations()
