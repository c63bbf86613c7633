"""Runs a command in a pod over SPDY, straight at a node, as an older API server does: a program of its own,
because it runs inside the network namespace of the line.

Arguments: address and port, path with query, and the files of CA, certificate and key. Standard input is
the command's, half-closed at its end; its output comes out, and its status as JSON on standard error.
"""

import asyncio
import ssl
import sys

from fakes import spdy_peers


async def main(address, path, ca_file, certificate, key):
    context = ssl.create_default_context(cafile=ca_file)
    context.load_cert_chain(certificate, key)
    connecting = spdy_peers.upgraded(
        f"https://{address}", path, context=context, protocols=("v4.channel.k8s.io",)
    )
    async with connecting as peer:
        error, stdin, stdout = [await peer.open(streamType=kind) for kind in ("error", "stdin", "stdout")]
        await stdin.send(await asyncio.to_thread(sys.stdin.buffer.read))
        await stdin.end()
        sys.stdout.buffer.write(await stdout.read(60))
        sys.stderr.buffer.write(await error.read(60))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
