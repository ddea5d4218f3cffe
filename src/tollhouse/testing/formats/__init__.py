"""The wire formats from the provider's side: read a request, write an answer, events or an error as the vendor does.

They are written from the vendors' documentation and recorded traffic, apart from the service's own adapters: code
shared by the two sides would repeat a misreading on both.
"""
