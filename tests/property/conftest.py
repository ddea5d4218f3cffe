"""How long the properties are tried: ``HYPOTHESIS_PROFILE=long`` for many more examples."""

import os

from hypothesis import settings

settings.register_profile("long", max_examples=3000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
