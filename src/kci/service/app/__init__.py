"""Use cases of the API, and who may do them: another tenant's group looks exactly like a missing one.

May import: store, domain, contract, link, the engine port, kit.
May touch: the world only through those.
Must not: know HTTP or an engine.
"""
