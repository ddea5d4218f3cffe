"""``tollhouse doctor``: everything the service needs, looked at without changing or paying for anything."""
