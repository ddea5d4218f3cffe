"""What keeps one provider's trouble from becoming everybody's: breakers, bulkheads, resting keys, load shedding.

All of it is this instance's own, in memory, and used from its event loop alone, so that nothing needs a lock.
"""
