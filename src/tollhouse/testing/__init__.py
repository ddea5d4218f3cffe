"""For the tests of whoever builds on Tollhouse: a fake of all its providers, over real HTTP, with receipts.

>>> from tollhouse.testing import Behaviour, FakeProvider
>>> with FakeProvider() as fake:
...     fake.behave(Behaviour(status=429, retry_after_s=2))
...     base_url = fake.base_url("openai")
"""

from tollhouse.testing.behaviour import Behaviour, Receipt, ToolCall
from tollhouse.testing.fake import FakeProvider

__all__ = ["Behaviour", "FakeProvider", "Receipt", "ToolCall"]
