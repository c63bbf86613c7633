"""What makes the store's wishes true: looks at the store, acts on the engine, may be repeated without harm.

May import: app and what it may import.
May touch: the engine, through its port.
Must not: know HTTP, or take input other than "look again".
"""
