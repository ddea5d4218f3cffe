"""``tollhouse demo``: the whole service on this machine, with a real model behind it, told step by step."""
