"""What every package needs and no domain owns: tasks, clock, backoff, work queue, settings, logs.

May import: nothing of ours.
May touch: the event loop, the clock, the environment (settings only).
Must not: know a noun of ours.
"""
