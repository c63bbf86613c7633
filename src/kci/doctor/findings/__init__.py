"""What is wrong and what to type, decided from facts. Facts are gathered in kci.doctor.facts.

May import: provider's and stack's pure parts, vnode's node, contract, kube models, kit.
May touch: nothing.
Must not: be `async`, look at anything, know how a fact was found.
"""
