"""What a container group is and may become: lifecycle, addresses, sizes. Plain functions over plain values.

May import: contract, kit.
May touch: nothing.
Must not: be `async`, know SQL, HTTP or engines.
"""
