"""The store: groups and addresses in SQLite, by SQLAlchemy Core on one thread of its own.

May import: domain, contract, kit.
May touch: the database file.
Must not: call the network while a session is open.
"""
